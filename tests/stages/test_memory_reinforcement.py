"""Memory reinforcement as a stage: what it scores is what it drew, and it trains, replays and resumes like others."""

import json
import os
import signal
from dataclasses import replace
from functools import lru_cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compilations import count_compilations
from flax import nnx
from planted import TOKENIZER, SavedShare, conversations, tiny_config
from small import small_model, small_recipe

from rxt_jax import run as runs
from rxt_jax import run_stage
from rxt_jax.losses import AdvantageConfig, make_algorithm
from rxt_jax.model import CriticConfig, SamplingConfig
from rxt_jax.nn.parameters import flat_parameters
from rxt_jax.recipe import StageRun, lengthening_runs
from rxt_jax.run import run_recipe
from rxt_jax.run_folder import load
from rxt_jax.sharding import MeshConfig, batch_shardings, make_mesh, state_shardings
from rxt_jax.stages import MemoryReinforcement
from rxt_jax.stages.episode_strategy import EpisodeStrategy, make_strategy
from rxt_jax.stages.kl_budget import KlBudget, next_weight
from rxt_jax.stages.memory_resets import MemoryResets, draw_memories
from rxt_jax.stages.reinforcement_plans import curriculum_steps, unfreeze_plan
from rxt_jax.stages.replay import ReplayConfig
from rxt_jax.stages.rollout import RolloutConfig
from rxt_jax.stages.trajectory_metrics import Drawn, trajectory_metrics
from rxt_jax.train.acting import make_acting
from rxt_jax.train.loop import LoopConfig
from rxt_jax.train.optimizer import OptimizerConfig, make_optimizer
from rxt_jax.train.state import make_train_state
from rxt_jax.train.step import make_train_step, rebuilder

ROWS = 4


@lru_cache(maxsize=4)
def split(config):
    return nnx.split(small_model(config))


def make(stage, config=None, seed=0, **options):
    graphdef, params = split(config or tiny_config(critic=CriticConfig()))
    optimizer = make_optimizer(
        OptimizerConfig(learning_rate=1e-2, **options),
        params,
        total_updates=100,
        trainable=stage.trainable,
        unfreeze=stage.unfreeze,
    )
    batch = conversations(rows=ROWS)
    state = make_train_state(params, optimizer, stage, graphdef=graphdef, tokenizer=TOKENIZER, batch=batch)
    step = make_train_step(graphdef, stage, optimizer, seed=seed)
    return state, make_acting(graphdef, stage, TOKENIZER, seed=seed), step, graphdef


def mean(metrics, name):
    value, count = metrics[name]
    return float(value) / max(float(count), 1e-9)


IMPO = MemoryReinforcement(reward=SavedShare())
SAMPLED = RolloutConfig(sampling=SamplingConfig(temperature=0.7, top_k=8), soft_warmup=True)
STAGES = {
    "impo": IMPO,
    "resets, warm-up, filters": replace(IMPO, rollout=SAMPLED, resets=MemoryResets(ratio=0.4)),
    "collected": replace(IMPO, log_probs_source="collect"),
    "a window per interaction": replace(IMPO, memory_gradient_steps=1, interactions_per_update=1),
}


QUICK = [("impo", "learned")]
CASES = [(name, initial) for name in STAGES for initial in ("learned", "standard")]


@pytest.mark.parametrize(
    ("name", "initial"), [case if case in QUICK else pytest.param(*case, marks=pytest.mark.slow) for case in CASES]
)
def test_with_unchanged_parameters_the_ratio_is_one_and_no_divergence(name, initial):
    stage = STAGES[name]
    config = tiny_config(critic=CriticConfig(), initial_memory=initial)
    state, act, _, graphdef = make(stage, config)
    for update in range(2):
        made = act(state, conversations(update), update)
        state = replace(state, carry=stage.next_carry(state.carry, made, {}, jnp.int32(update + 1)))
        _, metrics = jax.jit(
            lambda params, made: stage.objective(rebuilder(graphdef, params)({}), made, None, stage.label_counts(made))
        )(state.params, made)
    assert float(metrics["policy/ratio"][1]) > 10
    np.testing.assert_allclose(mean(metrics, "policy/ratio"), 1.0, atol=1e-5)
    np.testing.assert_allclose(mean(metrics, "policy/approximate_kl"), 0.0, atol=1e-9)
    np.testing.assert_allclose(mean(metrics, "policy/reference_kl"), 0.0, atol=1e-9)
    assert mean(metrics, "policy/clip_fraction") == 0.0
    if name == "resets, warm-up, filters":
        assert not np.allclose(made.behaviour_log_probs, made.old_log_probs)
        assert not bool(jnp.any(made.is_fresh))


BRANCHES = MemoryReinforcement(
    reward=SavedShare(),
    rollout=RolloutConfig(group_size=4, group="branch", continuation="best", answer_length=4),
    policy=make_algorithm("grpo").policy,
    advantage=make_algorithm("grpo").advantage,
    memory_gradient_steps=1,
    remat="none",
)


@lru_cache(maxsize=1)
def branches():
    """A state, a rollout with it of whole conversations, and the structure of the model."""
    state, act, _, graphdef = make(BRANCHES, tiny_config())
    return state, act(state, conversations(ragged=False), 0), graphdef


@pytest.mark.slow
def test_answers_of_a_branch_group_share_memory_and_the_best_one_is_remembered():
    _, made, _ = branches()
    assert made.ids.shape[1] == 4 * ROWS and made.actions.shape[-1] == 4
    written = made.written_ids.reshape(4, ROWS, 4, -1)
    np.testing.assert_array_equal(written, np.broadcast_to(written[:, :, :1], written.shape))
    rewards = np.where(made.answered, made.rewards, -1).reshape(4, ROWS, 4)
    best = rewards.argmax(-1)
    asked = made.answered.reshape(4, ROWS, 4).all(-1)
    assert asked.sum() > 4
    answers = made.ids.reshape(4, ROWS, 4, -1)
    assert len({tuple(each) for each in answers[1, 0].tolist()}) > 1
    for i, b in zip(*np.nonzero(asked), strict=True):
        np.testing.assert_array_equal(written[i, b, 0], answers[i, b, best[i, b]])
    sums = np.where(made.answered, made.advantages, 0.0).reshape(4, ROWS, 4).sum(-1)
    np.testing.assert_allclose(sums[asked], 0.0, atol=1e-5)


@pytest.mark.slow
def test_the_loss_of_an_answer_reaches_the_writes_before_it_and_no_further_than_asked():
    state, made, graphdef = branches()
    # The last answer alone is to be learnt from.
    alone = jnp.arange(4)[:, None] == 3
    made = made._replace(answered=made.answered & alone)

    def size(stage):
        def loss(memory):
            model = nnx.merge(graphdef, state.params)
            given = made._replace(memory=memory, is_fresh=jnp.zeros_like(made.is_fresh))
            return stage.objective(model, given, None, stage.label_counts(given))[0]

        return float(jnp.sum(jnp.abs(jax.jit(jax.grad(loss))(made.memory))))

    assert size(replace(BRANCHES, memory_gradient_steps=None)) > 1e-6
    assert size(BRANCHES) == 0.0


REPLAYED = replace(
    IMPO,
    kl_budget=KlBudget(target=1e-6),
    replay=ReplayConfig(size=2, update_size=1, max_age=2),
    resets=MemoryResets(ratio=0.5),
    update_epochs=2,
    minibatches=3,
    target_kl=None,
    remat="none",
)


@pytest.mark.slow
def test_updates_learn_in_passes_replay_the_best_and_compile_once():
    state, act, step, _ = make(REPLAYED, clip_groups=(("critic",),))
    before = state.carry["reference"]["decoder/head/kernel"].copy()
    found, scores = [], []
    for update in range(3):
        with count_compilations() as acting:
            made = act(state, conversations(update), update)
        new = np.asarray(jnp.sum(made.rewards * made.answered, 0) / jnp.sum(made.answered, 0))[:ROWS]
        scores.append(new)
        if not update:
            assert not np.any(made.valid[:, ROWS:])
        else:
            assert np.all(np.any(made.answered[:, ROWS:], axis=0))
        with count_compilations() as programs:
            state, metrics = step(state, made)
        compiled = [each for each in acting if "act" in each], [each for each in programs if "step" in each]
        found.append((compiled, metrics))
        kept = np.sort(np.asarray(state.carry["replay"].scores))
        if not update:
            np.testing.assert_allclose(kept, np.sort(new)[-2:], rtol=1e-5)
    assert all(found[0][0]) and not any(found[2][0]), "a rollout or an update was compiled again"
    metrics = found[-1][1]
    assert float(metrics["passes/made"][0]) == 2.0
    assert 0.0 < mean(metrics, "reward/total") < 1.0 and mean(metrics, "critic/loss") > 0.0
    assert {"reward/total/interaction_3", "answer/ended", "critic/explained", "turn"} <= metrics.keys()
    assert mean(metrics, "policy/approximate_kl") > 0.0
    # At first the policy is the reference, and the weight shrinks; then it has left it by more than was allowed.
    weights = [mean(each, "policy/reference_weight") for _, each in found]
    np.testing.assert_allclose(weights, [0.05, 0.05 * 0.98, 0.05 * 0.98 * 1.02], rtol=1e-5)
    assert mean(metrics, "policy/reference_kl") > 0.0
    np.testing.assert_array_equal(state.carry["reference"]["decoder/head/kernel"], before)
    assert float(jnp.abs(state.carry["memory"]).sum()) > 0.0


def test_the_weight_of_the_divergence_follows_its_budget_within_bounds():
    budget = KlBudget(target=0.1, rate=1.0, lowest=0.01, highest=1.0)
    divergences = jnp.array([0.0, 0.05, 0.1, 0.11, 5.0])
    moved = next_weight(budget, jnp.float32(0.5), divergences)
    np.testing.assert_allclose(moved, 0.5 * np.array([0.8, 0.8, 1.0, 1.1, 1.2]), rtol=1e-6)
    assert next_weight(budget, jnp.float32(0.011), jnp.float32(0.0)) == pytest.approx(0.01)
    assert next_weight(budget, jnp.float32(0.99), jnp.float32(9.0)) == pytest.approx(1.0)
    for bad in ({"target": 0.0}, {"rate": 5.0}, {"lowest": 0.0}):
        with pytest.raises(ValueError, match=next(iter(bad))):
            KlBudget(**bad)
    with pytest.raises(ValueError, match="kl_budget moves the weight"):
        replace(IMPO, reference="none", kl_budget=budget)


def test_the_chance_of_a_fresh_memory_follows_its_schedule():
    resets = MemoryResets(start=10, schedule=((10, 1.0), (110, 0.0)))
    np.testing.assert_allclose([resets.ratio_at(u) for u in (0, 10, 60, 110, 500)], [1.0, 1.0, 0.5, 0.0, 0.0])
    assert not resets.always_fresh and MemoryResets(schedule=((0, 1.0),)).always_fresh
    model = small_model(tiny_config(initial_memory="standard"))
    left = jnp.zeros((1, 6, 4, 16))
    memory, fresh = draw_memories(resets, model, 6, left, jnp.int32(200), jax.random.key(0), shared=3)
    assert not fresh.any() and not memory.any()
    memory, fresh = draw_memories(resets, model, 6, left, jnp.int32(9), jax.random.key(0), shared=3)
    assert fresh.all()
    np.testing.assert_array_equal(memory[:, :3], np.broadcast_to(memory[:, :1], memory[:, :3].shape))
    assert not np.array_equal(memory[:, 0], memory[:, 3])
    with pytest.raises(ValueError, match="each update once"):
        MemoryResets(schedule=((5, 1.0), (1, 0.0)))


def test_recall_is_of_the_answers_that_were_asked_for_a_value():
    answered = jnp.array([[False, False], [True, True], [True, False]])
    asked = jnp.array([[0.0, 0.0], [2.0, 0.0], [1.0, 5.0]])
    exact = jnp.array([[0.0, 0.0], [0.5, 0.0], [1.0, 1.0]])
    components = {"facts/asked": asked, "facts/exact": exact}
    nothing = jnp.zeros((3, 2))
    metrics = trajectory_metrics(Drawn(nothing, answered, jnp.ones((3, 2, 4), bool), nothing > 0, components))
    assert mean(metrics, "facts/recall") == pytest.approx(0.75) and mean(metrics, "facts/exact") == pytest.approx(0.5)
    shown = set(MemoryReinforcement.watched)
    assert {"facts/recall", "reward/total", "policy/reference_kl", "answer/length", "held_out/total"} <= shown


def test_later_runs_of_a_curriculum_go_on_with_the_critic():
    run = StageRun(stage=IMPO, updates=1, batch_size=1)
    runs = lengthening_runs("rl", run, (2, 4))
    assert [(name, each.max_interactions) for name, each in runs.items()] == [("rl-2", 3), ("rl-4", 5)]
    _, params = split(tiny_config(critic=CriticConfig()))
    flat = {path: variable[...] for path, variable in flat_parameters(params).items()}
    changed = [
        [path for path, value in each.stage.first_params(flat).items() if value is not flat[path]]
        for each in runs.values()
    ]
    assert len(changed[0]) > 5 and not changed[1]
    with pytest.raises(ValueError, match="different numbers"):
        lengthening_runs("rl", run, (2, 2))


def test_bad_options_say_what_is_wrong():
    with pytest.raises(ValueError, match="group_size to 2 or more"):
        replace(IMPO, advantage=AdvantageConfig(kind="rloo"))
    with pytest.raises(ValueError, match="put 'critic' among"):
        replace(IMPO, trainable=("decoder",))
    with pytest.raises(ValueError, match="another distribution"):
        replace(IMPO, log_probs_source="collect", rollout=SAMPLED)
    with pytest.raises(ValueError, match="set group='branch'"):
        RolloutConfig(continuation="best", group_size=2)
    with pytest.raises(ValueError, match="learns from a batch once"):
        replace(IMPO, policy=make_algorithm("reinforce").policy, update_epochs=2)
    with pytest.raises(ValueError, match="reward something"):
        EpisodeStrategy(first="none", middle="none", last="none")
    with pytest.raises(ValueError, match="the model has none"):
        state, act, _, _ = make(IMPO, tiny_config())
        act(state, conversations(), 0)
    with pytest.raises(ValueError, match="episodes need 2 interactions"):
        state, act, _, _ = make(BRANCHES, tiny_config())
        act(state, conversations(interactions=1, ragged=False), 0)


@pytest.mark.parametrize(
    ("name", "modes", "saved", "history"),
    [
        ("multi_step", [0, 0, 0, 0], [0, 1, 2, 3], [-1, 0, 1, 2]),
        ("long_range", [1, 0, 0, 2], [0, 1, 2, 0], [-1, -1, 1, 2]),
        ("long_term_retention", [0, 0, 0, 2], [0, 1, 2, 0], [-1, 0, 1, 2]),
    ],
)
def test_the_table_of_modes_says_what_each_answer_is_held_against(name, modes, saved, history):
    strategy = make_strategy(name)
    plans = [strategy.step(jnp.int32(number), jnp.array([number == 4])) for number in range(1, 5)]
    assert [int(plan.mode[0]) for plan in plans] == modes
    assert [int(plan.saved[0]) for plan in plans] == saved
    assert [int(plan.history[0]) for plan in plans] == history
    assert [bool(plan.is_rewarded[0]) for plan in plans] == [name != "long_term_retention"] * 3 + [True]


def test_a_curriculum_grows_as_asked_and_a_plan_never_goes_back():
    assert curriculum_steps("linear", 5) == (2, 3, 4, 5)
    assert curriculum_steps("exponential", 16) == (2, 4, 8, 16)
    assert curriculum_steps("custom", 16, first=1) == (1, 2, 3, 4, 6, 8, 12, 16)
    assert unfreeze_plan() == ()
    plan = unfreeze_plan(critic=5, update=3, everything=9)
    assert [start for start, _ in plan] == [5, 5, 5, 9] and "embedding" in plan[-1][1]


@pytest.mark.slow
@pytest.mark.parametrize(
    "mesh", [MeshConfig(data=8), MeshConfig(data=2, fsdp=2, tensor=2, replicate_indivisible=("kv_heads",))], ids=str
)
def test_eight_devices_act_and_learn_as_one(mesh):
    def train(devices, config):
        mesh = make_mesh(config, jax.devices()[:devices])
        stage = replace(REPLAYED, replay=None, minibatches=2, interactions_per_update=2)
        state, _, _, graphdef = make(stage)
        act = make_acting(graphdef, stage, TOKENIZER, seed=0, mesh=mesh)
        optimizer = make_optimizer(
            OptimizerConfig(learning_rate=1e-3), state.params, total_updates=100, trainable=stage.trainable
        )
        batch = conversations(rows=8)
        state = make_train_state(state.params, optimizer, stage, graphdef=graphdef, tokenizer=TOKENIZER, batch=batch)
        shardings = state_shardings(state, flat_parameters(state.params), mesh, config.replicate_indivisible)
        state = jax.device_put(state, shardings)
        step = make_train_step(graphdef, stage, optimizer, seed=0, state_shardings=shardings)
        found = []
        for update in range(2):
            batch = jax.tree.map(jnp.asarray, conversations(update, rows=8))
            placed = jax.device_put(batch, batch_shardings(batch, mesh, 1))
            made = act(state, placed, update)
            # Rows come back split as those of any batch.
            for leaf, place in zip(*map(jax.tree.leaves, (made, batch_shardings(made, mesh, 1))), strict=True):
                assert leaf.sharding.is_equivalent_to(place, leaf.ndim)
            state, metrics = step(state, made)
            found.append([mean(metrics, name) for name in ("loss", "reward/total", "policy/entropy")])
        return found

    np.testing.assert_allclose(train(8, mesh), train(1, MeshConfig()), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_a_run_that_was_stopped_goes_on_as_if_it_had_not_been(tmp_path, monkeypatch):
    """Trajectories, replay, memories, reference, critic and their moments included."""
    monkeypatch.setattr(runs, "make_mesh", lambda config: make_mesh(config, jax.devices()[:1]))
    stage = replace(REPLAYED, minibatches=2, update_epochs=1, rollout=RolloutConfig(answer_length=4))
    recipe = small_recipe(tmp_path / "whole", {"reinforced": stage})
    loop = LoopConfig(log_every=1, evaluate_every=2, sample_every=2)
    recipe = replace(
        recipe,
        model=tiny_config(max_length=40, critic=CriticConfig()),
        stages={name: replace(each, loop=loop) for name, each in recipe.stages.items()},
    )
    # Replayed rows are learnt from beside the new ones: 8 + 2 rows in 2 minibatches.
    assert run_recipe(recipe, quiet=True)
    cut = replace(recipe, folder=str(tmp_path / "cut"))
    original, stopped = run_stage.make_acting, []

    def make(*arguments, **options):
        act = original(*arguments, **options)

        def acted(state, batch, update):
            if update == 1 and not stopped:
                stopped.append(update)
                os.kill(os.getpid(), signal.SIGTERM)
            return act(state, batch, update)

        return acted

    with monkeypatch.context() as patch:
        patch.setattr(run_stage, "make_acting", make)
        assert not run_recipe(cut, quiet=True)
    assert run_recipe(cut, quiet=True)
    whole, again = (flat_parameters(nnx.split(load(tmp_path / name).model)[1]) for name in ("whole", "cut"))
    for path, variable in whole.items():
        np.testing.assert_array_equal(variable[...], again[path][...], err_msg=path)
    lines = [
        [
            {k: v for k, v in json.loads(line).items() if "second" not in k and not k.startswith("time/")}
            for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()
        ]
        for name in ("whole", "cut")
    ]
    assert len(lines[0]) == 6 and all("reward/total" in line for line in lines[0])
    assert lines[0][-1] == lines[1][-1]
    # The same conversations every time, and what is interrupted writes them as well.
    names = ["update-000002.txt", "update-000004.txt"]
    texts = [
        [(tmp_path / name / "samples" / "reinforced" / file).read_text() for file in names] for name in ("whole", "cut")
    ]
    assert texts[0] == texts[1] and all("\nmodel  " in text and "(reward " in text for text in texts[0])
    assert texts[0][0].splitlines()[1:3] == texts[0][1].splitlines()[1:3]
