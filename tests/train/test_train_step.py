"""The train step on a miniature model: windows, groups left in peace, schedules, accumulation."""

import functools
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conversation import MiniatureModel, NoisyModel, random_episodes, random_rows
from flax import nnx

from rxt_jax.nn.parameters import flat_parameters, with_parameters
from rxt_jax.stages import JointPretraining, MemoryAware, MemoryPretraining
from rxt_jax.train.groups import assign_groups, matrix_axes
from rxt_jax.train.optimizer import OptimizerConfig, make_optimizer
from rxt_jax.train.schedule import ScheduleConfig, learning_rate_factor
from rxt_jax.train.state import make_train_state
from rxt_jax.train.step import make_train_step, step_root
from rxt_jax.types import EpisodeBatch, RowBatch

GRAPHDEF, PARAMS = nnx.split(MiniatureModel())
_STEPS: dict[str, tuple] = {}
CONSTANT = ScheduleConfig(kind="constant", warmup_share=0.0)


def flat(params) -> dict[str, np.ndarray]:
    return {path: np.array(variable[...]) for path, variable in flat_parameters(params).items()}


def arrays(tree) -> list[np.ndarray]:
    return [np.array(leaf) for leaf in jax.tree.leaves(tree)]


def train(stage, batches, *, config=None, accumulation=1, unfreeze=(), normalise="tokens", trainable=None, seed=0):
    """Run a few updates; returns the last state, the metrics of every update, and the state before the last."""
    config = config or OptimizerConfig(learning_rate=1e-2, schedule=CONSTANT)
    trainable = stage.trainable if trainable is None else trainable
    # Runs of equal settings share their compiled step.
    settings = repr((stage, config, accumulation, unfreeze, normalise, trainable, seed))
    if settings not in _STEPS:
        optimizer = make_optimizer(config, PARAMS, total_updates=100, trainable=trainable, unfreeze=unfreeze)
        step = make_train_step(GRAPHDEF, stage, optimizer, seed=seed, accumulation=accumulation, normalise=normalise)
        _STEPS[settings] = optimizer, step
    optimizer, step = _STEPS[settings]
    state, history = make_train_state(PARAMS, optimizer), []
    for batch in batches:
        state, metrics = step(state, batch)
        history.append({name: float(total) for name, (total, _) in metrics.items()})
    return state, history


def rows_of(batch, rows):
    axis = 0 if isinstance(batch, RowBatch) else 1
    return jax.tree.map(lambda leaf: np.take(leaf, rows, axis=axis), batch)


def assert_close(actual: dict, expected: dict, **tolerance) -> None:
    for path, value in expected.items():
        np.testing.assert_allclose(actual[path], value, **({"atol": 2e-5} | tolerance), err_msg=path)


SGD_LIKE = OptimizerConfig(learning_rate=1e-3, eps=1.0, weight_decay=0.0, schedule=CONSTANT)
"""Adam with a large eps is nearly linear in the gradient, so that small differences stay small."""


@pytest.mark.parametrize(
    ("stage", "batch"),
    [
        (JointPretraining(), random_rows(rows=8)),
        (MemoryAware(balance_loss_scale=0.0), random_episodes(rows=8)),
        pytest.param(
            MemoryAware(normalisation="interaction_mean", balance_loss_scale=0.0),
            random_episodes(rows=8, ragged=False),
            marks=pytest.mark.slow,
        ),
        (MemoryPretraining(interactions_per_update=None), random_episodes(rows=8)),
    ],
)
def test_accumulation_is_one_batch(stage, batch):
    if isinstance(stage, JointPretraining):
        stage = replace(stage, balance_loss_scale=0.0)
    whole, [one] = train(stage, [batch], config=SGD_LIKE)
    parts, [many] = train(stage, [batch], config=SGD_LIKE, accumulation=4)
    assert one["loss"] == pytest.approx(many["loss"], rel=1e-5)
    assert_close(flat(parts.params), flat(whole.params), atol=1e-7)


def test_published_accumulation_is_the_mean_of_means():
    stage, batch = JointPretraining(), random_rows(rows=4, seed=3)
    _, [many] = train(stage, [batch], config=SGD_LIKE, accumulation=2, normalise="batches")
    halves = [train(stage, [rows_of(batch, rows)], config=SGD_LIKE)[1][0]["loss"] for rows in ([0, 2], [1, 3])]
    assert many["loss"] == pytest.approx(np.mean(halves), rel=1e-5)


def test_micro_batches_must_divide_the_batch():
    with pytest.raises(ValueError, match="multiple"):
        train(JointPretraining(), [random_rows(rows=4)], accumulation=3)
    with pytest.raises(ValueError, match="interactions_per_update"):
        train(MemoryAware(interactions_per_update=1), [random_episodes()], accumulation=2)


def windows_by_hand(stage, batch: EpisodeBatch, size: int, graphdef=GRAPHDEF, key=None, numbered=True):
    """Cut an episode into windows and update after each, memory going on without gradient.

    Without `numbered` every window draws as the first one does.
    """
    optimizer = make_optimizer(SGD_LIKE, PARAMS, total_updates=100, trainable=stage.trainable)
    interactions = stage.interactions(batch)

    @functools.partial(jax.jit, static_argnames="first")
    def slopes(trained, memory, window, start, first):
        def loss(trained):
            model = nnx.merge(graphdef, with_parameters(PARAMS, trained))
            begun = stage.begin(model, batch.ids.shape[1], key) if first else memory
            counts = stage.label_counts(window)
            value, (after, _) = stage.window_objective(model, begun, window, key, counts, start=start)
            return value, after

        return jax.value_and_grad(loss, has_aux=True)(trained)

    apply = jax.jit(optimizer.apply)
    trained, state, memory = optimizer.trained(PARAMS), optimizer.init(PARAMS), None
    for start in range(0, len(batch.ids), size):
        window = jax.tree.map(lambda leaf, s=start: leaf[s : s + size], interactions)
        (_, memory), slope = slopes(trained, memory, window, start if numbered else 0, first=start == 0)
        trained, state, _ = apply(slope, state, trained, jnp.float32(0.0))
    return trained


@pytest.mark.parametrize(("size", "length"), [(1, 3), pytest.param(2, 5, marks=pytest.mark.slow)])
@pytest.mark.parametrize("make", [MemoryAware, MemoryPretraining])
def test_windows_update_in_the_middle_of_the_episode(make, size, length):
    stage = make(interactions_per_update=size)
    batch = random_episodes(interactions=length)
    state, _ = train(stage, [batch], config=SGD_LIKE)
    assert_close(flat(state.params), windows_by_hand(stage, batch, size), atol=1e-6)


@pytest.mark.slow
def test_every_window_of_an_update_draws_keys_of_its_own():
    stage, batch = MemoryAware(interactions_per_update=1), random_episodes(interactions=3)
    graphdef = nnx.split(NoisyModel())[0]
    optimizer = make_optimizer(SGD_LIKE, PARAMS, total_updates=100, trainable=stage.trainable)
    step = make_train_step(graphdef, stage, optimizer, seed=3, stream=1)
    state, _ = step(make_train_state(PARAMS, optimizer), batch)
    key = jax.random.fold_in(step_root(3, 1), 0)
    found = flat(state.params)
    assert_close(found, windows_by_hand(stage, batch, 1, graphdef, key), atol=1e-6)
    repeated = windows_by_hand(stage, batch, 1, graphdef, key, numbered=False)
    assert max(np.abs(found[path] - value).max() for path, value in repeated.items()) > 1e-5


@pytest.mark.slow
def test_one_window_over_the_episode_is_the_whole_episode():
    batch = random_episodes()
    whole, _ = train(MemoryAware(), [batch], config=SGD_LIKE)
    window, _ = train(MemoryAware(interactions_per_update=4), [batch], config=SGD_LIKE)
    assert_close(flat(window.params), flat(whole.params), atol=1e-7)


def test_frozen_groups_keep_weights_and_have_no_moments():
    config = OptimizerConfig(schedule=CONSTANT, frozen=("embedding",))
    stage = MemoryAware()
    state, history = train(stage, [random_episodes()] * 2, config=config)
    before, after = flat(PARAMS), flat(state.params)
    np.testing.assert_array_equal(after["embedding/table"], before["embedding/table"])
    np.testing.assert_array_equal(after["masked_language_head/kernel"], before["masked_language_head/kernel"])
    assert not np.array_equal(after["encoder/kernel"], before["encoder/kernel"])
    assert {"embedding", "masked_language_head"} & set(state.opt_state) == set()
    assert "gradient/embedding" not in history[0]


def test_a_group_without_gradient_stands_still_weights_moments_and_count():
    """The first window of an episode of one interaction never writes memory: encoder and memory attention are out."""
    stage = MemoryAware()
    full, alone = random_episodes(ragged=False), random_episodes(interactions=1, ragged=False)
    first, _ = train(stage, [full])
    second, _ = train(stage, [full, alone])
    for group, path in (("encoder", "encoder/kernel"), ("memory_attention", "memory_attention/kernel")):
        np.testing.assert_array_equal(flat(second.params)[path], flat(first.params)[path])
        for kept, was in zip(arrays(second.opt_state[group]), arrays(first.opt_state[group]), strict=True):
            np.testing.assert_array_equal(kept, was)
    assert not np.array_equal(flat(second.params)["decoder/self_kernel"], flat(first.params)["decoder/self_kernel"])


def test_groups_thaw_at_their_update():
    unfreeze = ((2, ("encoder",)),)
    states = [train(MemoryAware(), [random_episodes(ragged=False)] * n, unfreeze=unfreeze)[0] for n in (2, 3)]
    before = flat(PARAMS)["encoder/kernel"]
    np.testing.assert_array_equal(flat(states[0].params)["encoder/kernel"], before)
    assert not np.array_equal(flat(states[1].params)["encoder/kernel"], before)
    assert all(not leaf.any() for leaf in arrays(states[0].opt_state["encoder"]))


def test_a_broken_batch_moves_nothing_and_is_counted():
    class Broken(MemoryAware):
        def objective(self, model, batch, key, counts):
            loss, metrics = super().objective(model, batch, key, counts)
            return loss * jnp.where(jnp.any(batch.ids[0, 0] == 15), jnp.nan, 1.0), metrics

    good = random_episodes(seed=1)
    good = good._replace(ids=np.where(good.ids == 15, 14, good.ids).astype(np.int32))
    bad = good._replace(ids=np.where(np.arange(4)[:, None, None] == 0, 15, good.ids).astype(np.int32))
    one, _ = train(Broken(), [good])
    two, history = train(Broken(), [good, bad])
    assert_close(flat(two.params), flat(one.params), atol=0, rtol=0)
    for kept, was in zip(arrays(two.opt_state), arrays(one.opt_state), strict=True):
        np.testing.assert_array_equal(kept, was)
    assert [h["optimizer/skipped"] for h in history] == [0.0, 1.0]
    assert int(two.update) == 2


def test_equal_seeds_give_equal_runs_and_other_seeds_do_not():
    stage = JointPretraining(memory_noise=0.5)
    runs = [train(stage, [random_rows()] * 2, seed=seed)[1][-1]["loss"] for seed in (0, 0, 1)]
    assert runs[0] == runs[1] != runs[2]


@pytest.mark.parametrize("name", ["adamw", "muon", "lion", "adafactor"])
def test_every_optimizer_lowers_the_loss(name):
    rate = 3e-3 if name == "lion" else 2e-2
    config = OptimizerConfig(name=name, learning_rate=rate, schedule=CONSTANT, weight_decay=0.0)
    _, history = train(JointPretraining(), [random_rows()] * 40, config=config)
    assert history[-1]["loss"] < 0.8 * history[0]["loss"]


@pytest.mark.slow
def test_group_rates_scale_the_step_of_a_group():
    config = OptimizerConfig(learning_rate=1e-3, schedule=CONSTANT, weight_decay=0.0, clip_norm=None)
    batch = [random_episodes(ragged=False)]
    plain = flat(train(MemoryAware(), batch, config=config)[0].params)
    tenth = flat(train(MemoryAware(), batch, config=replace(config, group_rates={"encoder": 0.1}))[0].params)
    before = flat(PARAMS)
    np.testing.assert_allclose(
        tenth["encoder/kernel"] - before["encoder/kernel"],
        0.1 * (plain["encoder/kernel"] - before["encoder/kernel"]),
        atol=2e-7,
    )
    np.testing.assert_allclose(tenth["embedding/table"], plain["embedding/table"], atol=1e-7)


def test_decay_spares_what_is_no_matrix():
    decayed, spared = (
        make_optimizer(OptimizerConfig(decay=kind), PARAMS, total_updates=1).decayed for kind in ("all", "matrices")
    )
    assert "embedding/table" in decayed
    assert spared == {p for p in decayed if p.startswith(("encoder", "decoder", "memory_attention"))}


def test_clipping_bounds_the_norm():
    config = OptimizerConfig(learning_rate=1.0, eps=1e6, weight_decay=0.0, clip_norm=1e-3, schedule=CONSTANT)
    state, [metrics] = train(MemoryAware(), [random_episodes()], config=config)
    assert metrics["gradient/norm"] > 1e-3
    # With eps this large Adam's direction is the clipped gradient divided by eps.
    moved = np.sqrt(sum(np.sum((flat(state.params)[p] - v) ** 2) for p, v in flat(PARAMS).items()))
    assert moved <= 1e-3


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (ScheduleConfig(kind="cosine", warmup_share=0.1), {0: 0.1, 9: 1.0, 10: 1.0, 55: 0.5, 100: 0.0, 150: 0.0}),
        (ScheduleConfig(kind="cosine", warmup_share=0.1, warmup_from_zero=True), {0: 0.0, 5: 0.5, 10: 1.0}),
        (ScheduleConfig(kind="cosine", warmup_share=0.0, final_ratio=0.2), {0: 1.0, 50: 0.6, 100: 0.2, 400: 0.2}),
        (ScheduleConfig(kind="wsd", warmup_share=0.1, decay_share=0.2), {0: 0.1, 50: 1.0, 80: 1.0, 90: 0.5, 100: 0.0}),
        (ScheduleConfig(kind="constant", warmup_share=0.1), {0: 0.1, 4: 0.5, 50: 1.0, 200: 1.0}),
        (ScheduleConfig(kind="constant", warmup_share=0.0), {0: 1.0, 200: 1.0}),
    ],
)
def test_schedules(config, expected):
    factor = functools.partial(learning_rate_factor, config, total=100)
    for update, value in expected.items():
        assert float(factor(update)) == pytest.approx(value, abs=1e-6), update


@pytest.mark.parametrize("changes", [{"warmup_share": 5}, {"kind": "wsd", "warmup_share": 0.9}])
def test_impossible_schedules_are_refused(changes):
    with pytest.raises(ValueError, match="share"):
        ScheduleConfig(**changes)


def test_every_parameter_has_a_group_and_strangers_are_named():
    groups = assign_groups(flat_parameters(PARAMS))
    assert groups["decoder/cross_attention/kernel"] == "cross_attention"
    assert groups["decoder/self_kernel"] == "decoder"
    assert groups["learned_memory/slots"] == "learned_memory"
    with pytest.raises(ValueError, match="stranger/kernel"):
        assign_groups(["stranger/kernel"])
    with pytest.raises(ValueError, match="unknown parameter groups"):
        OptimizerConfig(frozen=("nonsense",))


def test_layers_are_not_a_side_of_a_matrix():
    parameters = flat_parameters(PARAMS)
    assert matrix_axes(parameters["encoder/kernel"]) == ((1,), (2,))
    for path in ("embedding/table", "masked_language_head/kernel", "learned_memory/slots"):
        assert matrix_axes(parameters[path]) is None


def test_muon_moves_every_layer_by_a_nearly_orthogonal_matrix():
    config = OptimizerConfig(name="muon", learning_rate=1e-2, schedule=CONSTANT, weight_decay=0.0)
    state, _ = train(MemoryAware(), [random_episodes(ragged=False)], config=config)
    moved = flat(state.params)["encoder/kernel"] - flat(PARAMS)["encoder/kernel"]
    for layer in moved:
        singular = np.linalg.svd(layer, compute_uv=False)
        assert singular.max() < 2.5 * singular.min()


@pytest.mark.slow
def test_what_muon_leaves_to_adam_has_a_rate_of_its_own():
    config = OptimizerConfig(name="muon", learning_rate=1e-2, schedule=CONSTANT, group_rates={"learned_memory": 0.5})
    batch, before = [random_episodes(ragged=False)], flat(PARAMS)

    def moved(**changes):
        after = flat(train(MemoryAware(), batch, config=replace(config, **changes))[0].params)
        return {path: after[path] - value for path, value in before.items()}

    same, own = moved(), moved(adam_learning_rate=1e-3)
    assert_close(moved(adam_learning_rate=1e-2), same, atol=1e-7)
    for path, step in same.items():
        share = 1.0 if path.startswith(("encoder", "decoder", "memory_attention")) else 0.1
        np.testing.assert_allclose(own[path], share * step, atol=1e-6, err_msg=path)
    for changes in ({"name": "adamw", "adam_learning_rate": 1e-3}, {"name": "muon", "adam_learning_rate": 0.0}):
        with pytest.raises(ValueError, match="adam_learning_rate"):
            OptimizerConfig(**changes)
