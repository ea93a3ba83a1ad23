"""The companion: the toy's lessons for a wider and deeper model, broader data, and far more conversations.

    rxt train configs/companion.py
    rxt export runs/companion runs/companion_deeds --average-with runs/companion/stages/memory_aware_values

The second command makes the mean of before and after the last stage, which knows what both know. Eight minutes on an
H100 (`--model.dtype bfloat16 --data.workers 10 --stages.memory-aware-values.data.workers 10`) and an hour on one CPU
core; about forty hours on two CPU cores alone.
The model that the package ships went on from here (configs/companion_scenes.py). Its card, rxt_jax/companion/README.md,
says how it was made and what it can do.
"""

import runpy
from dataclasses import replace
from pathlib import Path

from rxt_jax.data.config import DialogueData
from rxt_jax.evaluation.config import EvaluationConfig
from rxt_jax.model import presets
from rxt_jax.nn.residual_gates import ResidualGateConfig
from rxt_jax.nn.rotary import RotaryConfig
from rxt_jax.recipe import Recipe, StageRun
from rxt_jax.stages import InteractionSft
from rxt_jax.train.loop import LoopConfig

toy: Recipe = runpy.run_path(str(Path(__file__).with_name("toy.py")))["recipe"]
loop = LoopConfig(log_every=50)

# It learns all this with 64 slots that every turn writes. Its last part, configs/companion_turns.py, gives it the
# memory that it ships with, which nobody has tried from the start.
shipped = presets.companion()
layer = replace(
    shipped.memory_attention.layer,
    gate=ResidualGateConfig(kind="elementwise", activation="sigmoid"),
    rotary=RotaryConfig(),
    slot_identity=0.5,
    slot_groups=1,
    in_order=False,
)
model = replace(shipped, num_slots=64, memory_attention=replace(shipped.memory_attention, layer=layer))

# What people do, how they are and what they jot down beside the toy's facts, and more questions for what was not told.
assert isinstance(toy.data.source, DialogueData) and toy.data.source.spec is not None
spec = replace(toy.data.source.spec, everyday_share=0.35, absence_share=0.1)
data = replace(toy.data, source=DialogueData(spec=spec), max_length=64, text_length=64)
# Then more turns with more facts among which to find the right one. Most of what is left to learn are the values: they
# are an eighth of the tokens of answers. At first they cannot be known, and their weight would only be noise.
longer = replace(
    data,
    source=DialogueData(spec=replace(spec, interactions=(12, 12), facts=(3, 9), max_distance=11)),
    max_interactions=12,
    value_weight=3.0,
)
# Then what people type that the topics above do not have: any deed, any part of it asked for, in capitals and notes.
broader = replace(
    spec,
    everyday_share=0.3,
    deeds_share=0.45,
    unusual_values=0.15,
    several_facts_share=0.2,
    indirect_share=0.2,
    capitals_share=0.06,
    terse_share=0.08,
)


def _run(name: str, updates: int, batch_size: int) -> StageRun:
    return replace(toy.stages[name], updates=updates, batch_size=batch_size, loop=loop)


def _memory_aware(updates: int, learning_rate: float, **schedule: object) -> StageRun:
    run = _run("memory_aware", updates, 64)
    optimizer = replace(
        run.optimizer, learning_rate=learning_rate, schedule=replace(run.optimizer.schedule, **schedule)
    )
    # For an accelerator: nothing is computed twice, and all interactions share a call. A CPU is faster without.
    stage = replace(run.stage, interactions_per_call=12, remat="none")
    return replace(run, optimizer=optimizer, stage=stage)


recipe = replace(
    toy,
    name="companion",
    model=model,
    data=data,
    evaluation=EvaluationConfig(),
    stages={
        "joint_pretraining": _run("joint_pretraining", 400, 64),
        # The shipped one hid nothing of the text at hand in this stage; the toy has learnt since to hide half.
        "interaction_sft": replace(_run("interaction_sft", 900, 64), stage=InteractionSft()),
        "history_reading": _run("history_reading", 800, 32),
        "memory_aware": _memory_aware(1500, 1e-2, kind="constant", warmup_share=0.03),
        "memory_aware_values": replace(_memory_aware(10_100, 8e-3, warmup_share=0.01, final_ratio=0.01), data=longer),
        # Small batches and a setting for CPUs: this one is an hour on one core.
        "memory_aware_deeds": replace(
            _memory_aware(2100, 3e-3, kind="cosine", warmup_share=0.03, final_ratio=0.02),
            stage=toy.stages["memory_aware"].stage,
            batch_size=8,
            data=replace(data, source=DialogueData(spec=broader), value_weight=2.0),
        ),
    },
)
