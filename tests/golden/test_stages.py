"""Training steps of stages 1-4 against the published trainers: losses, gradients, weights after.

The published behaviour is asked for by options; `case.facts["notes"]` says what a case contains.
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from stage_case import StageCase, components, flat, stage_cases, trainer_of

from rxt_jax.compatibility import PretrainingCompatibility
from rxt_jax.stages import JointPretraining, MemoryAware, MemoryPretraining
from rxt_jax.stages.memory_pretraining import TargetDraws
from rxt_jax.train.optimizer import OptimizerConfig, make_optimizer
from rxt_jax.train.schedule import ScheduleConfig
from rxt_jax.train.state import make_train_state
from rxt_jax.train.step import make_train_step
from rxt_jax.types import EpisodeBatch, RowBatch


@pytest.fixture
def case(request):
    return StageCase(request.param)


def published_optimizer(case: StageCase, stage: Any) -> Any:
    given = case.config["optimizer"]
    assert given["type"].startswith("AdamW") and given["type"].endswith("on every tensor)")
    config = OptimizerConfig(
        learning_rate=given["lr"],
        b1=given["betas"][0],
        b2=given["betas"][1],
        eps=given["eps"],
        decay="all",
        weight_decay=given["weight_decay"],
        clip_norm=given["clip_global_norm"],
        schedule=ScheduleConfig(kind=given["schedule"], warmup_share=0.0),
    )
    return make_optimizer(config, case.params, total_updates=10, trainable=stage.trainable)


def train(case: StageCase, stage: Any, batch: Any, **options: Any) -> tuple[nnx.State, dict]:
    optimizer = published_optimizer(case, stage)
    step = make_train_step(case.graphdef, stage, optimizer, seed=0, **options)
    state, metrics = step(make_train_state(case.params, optimizer), batch)
    return state.params, {name: (float(v), float(c)) for name, (v, c) in metrics.items()}


def gradients(case: StageCase, stage: Any, batch: Any) -> dict[str, np.ndarray]:
    batch = jax.tree.map(jnp.asarray, batch)

    def loss(params: nnx.State) -> jax.Array:
        return stage.objective(nnx.merge(case.graphdef, params), batch, None, stage.label_counts(batch))[0]

    return flat(jax.jit(jax.grad(loss))(case.params))


def check_gradients(case: StageCase, stage: Any, batch: Any) -> None:
    expected = case.expected_gradients(0)
    for path, value in gradients(case, stage, batch).items():
        if path.split("/")[0] in case.prefixes:
            case.close(value, expected[path], "g", path)


# ---------------------------------------------------------------------------------------- stages 1, 2


@dataclass(frozen=True, kw_only=True)
class RecordedJoint(JointPretraining):
    """Stage 1 with the recorded disturbance of the encoder states."""

    recorded: Any = None

    def perturb(self, encoded, key):
        if self.recorded is None:
            return encoded
        keep, noise = self.recorded
        return encoded * keep[..., None] + noise


def joint_rows(case: StageCase, step: int) -> RowBatch:
    i = {k.removeprefix(f"step{step}."): np.asarray(v) for k, v in case.i.items()}
    mlm_mask, ids = i["encoder_labels"] != -100, i["decoder_input_ids"]
    masked = i["encoder_input_ids"]
    np.testing.assert_array_equal(masked, np.where(mlm_mask, 4, ids))
    real = i["attention_mask"] > 0
    targets = (i["decoder_targets"] != -100) & real
    return RowBatch(ids.astype(np.int32), real, targets, mlm_mask, masked_ids=masked.astype(np.int32))


def joint_stage(case: StageCase) -> RecordedJoint:
    trainer = case.config["trainer"]
    recorded = None
    if "step0.memory_noise" in case.i:
        recorded = (case.i["step0.memory_keep_mask"].astype(jnp.float32), case.i["step0.memory_noise"])
    return RecordedJoint(
        encoder_loss_scale=trainer["encoder_loss_scale"],
        decoder_loss_scale=trainer["decoder_loss_scale"],
        balance_loss_scale=trainer["moe_aux_loss_scale"] or 0.0,
        compatibility=PretrainingCompatibility(loss_on_padding=not trainer["is_sft"], read_padding=True),
        recorded=recorded,
    )


@stage_cases(
    lambda config: trainer_of(config).get("gradient_accumulation_steps") == 1 and "is_sft" in config["trainer"],
    slow=lambda facts: facts["config"]["decoder_config"].get("use_moe", False),
)
def test_joint_pretraining(case):
    stage, batch = joint_stage(case), joint_rows(case, 0)
    check_gradients(case, stage, batch)
    params, metrics = train(case, stage, batch)
    case.close(ratio(metrics, "masked_language/loss"), case.o["step0.encoder_loss"], "out.loss", "encoder")
    answer = ratio(metrics, "answer/loss") + stage.balance_loss_scale * ratio(metrics, "router/balance")
    case.close(answer, case.o["step0.decoder_loss"], "out.loss", "decoder")
    case.close(metrics["gradient/norm"][0], case.o["opt0.grad_norm"], "out.grad_norm", "norm")
    case.check_weights(params)


def ratio(metrics: dict, name: str) -> float:
    value, count = metrics[name]
    return value / max(count, 1.0)


@stage_cases(
    lambda config: "is_sft" in trainer_of(config) and config["trainer"]["gradient_accumulation_steps"] > 1,
    slow=lambda _: True,  # accumulation is also among the quick tests of the train step
)
def test_accumulated_interaction_sft(case):
    stage, count = joint_stage(case), case.config["trainer"]["gradient_accumulation_steps"]
    micro = [joint_rows(case, step) for step in range(count)]
    interleaved = jax.tree.map(lambda *leaves: np.stack(leaves, 1).reshape(-1, *leaves[0].shape[1:]), *micro)
    params, metrics = train(case, stage, interleaved, accumulation=count, normalise="batches")
    case.close(metrics["gradient/norm"][0], case.o["opt0.grad_norm"], "out.grad_norm", "norm")
    case.check_weights(params)


@stage_cases(lambda config: components(config) == {"encoder", "mlm_head"})
def test_encoder_alone(case):
    ids, labels = np.asarray(case.i["step0.input_ids"]), np.asarray(case.i["step0.labels"])
    mlm_mask = labels != -100
    restored = np.where(mlm_mask, labels, ids).astype(np.int32)
    real = np.asarray(case.i["step0.attention_mask"]) > 0
    stage = RecordedJoint(decoder_loss_scale=0.0, trainable=("embedding", "encoder", "masked_language_head"))
    batch = RowBatch(restored, real, real & False, mlm_mask, masked_ids=np.where(mlm_mask, 4, ids).astype(np.int32))
    params, metrics = train(case, stage, batch)
    case.close(ratio(metrics, "masked_language/loss"), case.o["step0.loss"], "out.loss", "loss")
    case.close(metrics["gradient/norm"][0], case.o["opt0.grad_norm"], "out.grad_norm", "norm")
    case.check_weights(params)


# ------------------------------------------------------------------------------------------- stage 3


@dataclass(frozen=True, kw_only=True)
class RecordedMemoryPretraining(MemoryPretraining):
    """Stage 3 that starts from the recorded memory and uses the recorded draws."""

    case: Any = None

    def begin(self, model, batch_size, key):
        return self.case.i["stm_init"]

    def draws(self, key, index, encoded_shape, memory_shape):
        case = self.case
        if "step0.input_noise" not in case.i:
            return MemoryPretraining.draws(self, None, index, encoded_shape, memory_shape)
        draws = jnp.array(case.facts["expected_scalars"]["label_weight_draws"])
        factor = case.config["trainer"]["label_weights_random_factor"]

        def noise(side: str) -> jax.Array:
            # Recorded with standard deviation 1.
            level = case.config["trainer"]["noise_levels_input_label"][side == "label"]
            return level * jnp.stack([case.i[f"step{n}.{side}_noise"] for n in range(len(draws))])[index]

        return TargetDraws(draws[index, 0] * factor, draws[index, 1] > 0.5, noise("input"), noise("label"))


@stage_cases(lambda config: "label_weights_accumulated_new" in trainer_of(config))
def test_memory_pretraining(case):
    trainer = case.config["trainer"]
    stage = RecordedMemoryPretraining(
        case=case,
        new_weights=tuple(new for _, new in trainer["label_weights_accumulated_new"]),
        change_penalty=trainer["stm_diff_factor"] or 0.0,
    )
    batch = case.episode()
    params, metrics = train(case, stage, batch)
    losses = sum(float(case.o[f"step{n}.loss"]) for n in range(len(batch.ids)))
    case.close(metrics["loss"][0], losses, "out.loss", "sum of losses")
    norms = sum(float(case.o[f"opt{n}.grad_norm"]) for n in range(len(batch.ids)))
    case.close(metrics["gradient/norm"][0], norms, "out.grad_norm", "sum of norms")
    case.check_weights(params)


# ------------------------------------------------------------------------------------------- stage 4


@dataclass(frozen=True, kw_only=True)
class RecordedMemoryAware(MemoryAware):
    """Stage 4 that starts from the recorded memory."""

    case: Any = None

    def begin(self, model, batch_size, key):
        return jnp.broadcast_to(self.case.i[self.name], (self.shape[0], batch_size, *self.shape[2:]))

    @property
    def name(self) -> str:
        return "stm_init" if "stm_init" in self.case.i else "stm"

    @property
    def shape(self) -> tuple[int, ...]:
        return self.case.i[self.name].shape


READER = ("embedding", "decoder", "cross_attention")


def memory_aware_stage(case: StageCase) -> RecordedMemoryAware:
    trainer = case.config["trainer"]
    options: dict[str, Any] = {"balance_loss_scale": trainer.get("moe_aux_loss_scale") or 0.0}
    if whole_episode_gradient(case.facts):
        options["normalisation"] = "interaction_sum"
    elif trainer["gradient_accumulation_steps"] > 1:
        options |= {"memory_gradient_steps": 1, "normalisation": "interaction_mean"}
    else:
        options |= {"memory_gradient_steps": 1, "interactions_per_update": 1}
    if trainer.get("unfreeze_epochs_memory_encoder"):  # epoch 0; the embedding is the encoder's as well
        options["trainable"] = READER[1:]
    elif trainer.get("train_only_decoder"):
        options["trainable"] = READER
    return RecordedMemoryAware(case=case, **options)


def whole_episode_gradient(facts: dict) -> bool:
    return trainer_of(facts["config"]).get("memory_gradient") == "through every update of the episode"


def is_memory_aware(config: dict) -> bool:
    return components(config) >= {"encoder", "decoder", "memory_attention"}


def updates_once(facts: dict) -> bool:
    trainer = facts["config"]["trainer"]
    return whole_episode_gradient(facts) or trainer["gradient_accumulation_steps"] > 1


@stage_cases(is_memory_aware, slow=updates_once)  # the chain of the whole episode's gradient is a quick test below
def test_memory_aware(case):
    stage, batch = memory_aware_stage(case), case.episode()
    params, metrics = train(case, stage, batch)
    count, windows = len(batch.ids), stage.interactions_per_update is not None
    losses = sum(float(case.o[f"step{n}.loss"]) for n in range(count))
    scale = 1.0 / count if stage.normalisation == "interaction_mean" else 1.0
    case.close(metrics["loss"][0], losses * scale, "out.loss", "sum of losses")
    norms = sum(float(case.o[f"opt{n}.grad_norm"]) for n in range(count if windows else 1))
    case.close(metrics["gradient/norm"][0], norms, "out.grad_norm", "sum of norms")
    case.check_weights(params)
    if not windows:
        check_gradients(case, stage, batch)


@stage_cases(lambda config: "memory_gradient" in trainer_of(config))
def test_memory_chain(case):
    """The memory after every interaction, walked without training."""
    batch, stage = case.episode(), memory_aware_stage(case)

    @jax.jit
    def read_next(params, memory, interaction):
        counts = stage.label_counts(EpisodeBatch(*interaction[:4]))
        return stage.window_objective(nnx.merge(case.graphdef, params), memory, interaction, None, counts)[1][0]

    memory = stage.begin(nnx.merge(case.graphdef, case.params), batch.ids.shape[1], None)
    interactions = stage.interactions(jax.tree.map(jnp.asarray, batch))
    for number in range(len(batch.ids)):
        memory = read_next(case.params, memory, jax.tree.map(lambda leaf, n=number: leaf[n : n + 1], interactions))
        case.close(memory, case.o[f"step{number}.stm"], "out.stm", f"memory of step {number}")


@stage_cases(lambda config: components(config) == {"decoder"})
def test_decoder_alone_with_frozen_cross_attention(case):
    """A decoder that reads a fixed memory is one interaction of stage 4 whose every token is a target."""
    assert "cross-attention" in case.config["trainer"]["frozen"]
    ids, real = np.asarray(case.i["step0.input_ids"], np.int32), np.asarray(case.i["step0.attention_mask"]) > 0
    batch = EpisodeBatch(ids[None], real[None], np.ones((1, *ids.shape), bool), np.ones((1, len(ids)), bool))
    stage = RecordedMemoryAware(case=case, trainable=("embedding", "decoder"), balance_loss_scale=0.0)
    params, metrics = train(case, stage, batch)
    case.close(metrics["loss"][0], case.o["step0.loss"], "out.loss", "loss")
    case.close(metrics["gradient/norm"][0], case.o["opt0.grad_norm"], "out.grad_norm", "norm")
    case.check_weights(params)
