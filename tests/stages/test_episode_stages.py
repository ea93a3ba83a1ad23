"""Stage 4 and history reading: no answer leaks, filler and padding never matter, gradients reach as far as told."""

import functools
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conversation import VOCABULARY, MiniatureModel, random_episodes
from flax import nnx

from rxt_jax.losses import answer_cross_entropy
from rxt_jax.model.episode import with_previous
from rxt_jax.nn.parameters import flat_parameters
from rxt_jax.stages import HistoryReading, MemoryAware
from rxt_jax.types import EpisodeBatch

STAGES = {"memory_aware": MemoryAware(), "history_reading": HistoryReading()}
MODEL = MiniatureModel()
GRAPHDEF, PARAMS = nnx.split(MODEL)


@functools.partial(jax.jit, static_argnums=0)
def score(stage, batch: EpisodeBatch, params=PARAMS, key=None):
    """Loss of a batch under its own counts."""
    model = nnx.merge(GRAPHDEF, params)
    return stage.objective(model, batch, key, stage.label_counts(batch))


_slopes = jax.jit(jax.grad(lambda params, stage, batch: score(stage, batch, params)[0]), static_argnums=1)


def gradients(stage, batch: EpisodeBatch, params=PARAMS) -> dict[str, np.ndarray]:
    slopes = _slopes(params, stage, batch)
    return {path: np.asarray(variable[...]) for path, variable in flat_parameters(slopes).items()}


def assert_same_gradients(actual: dict, expected: dict, **tolerance) -> None:
    for path, slope in expected.items():
        np.testing.assert_allclose(actual[path], slope, **({"atol": 2e-6, "rtol": 1e-5} | tolerance), err_msg=path)


def losses_by_interaction(stage, batch: EpisodeBatch) -> list[float]:
    """Loss sums of the interactions, by scoring one at a time."""
    found = []
    for number in range(len(batch.ids)):
        chosen = np.zeros_like(batch.loss_mask)
        chosen[number] = batch.loss_mask[number]
        _, metrics = score(stage, batch._replace(loss_mask=chosen))
        found.append(float(metrics["answer/loss"][0]))
    return found


def batch_of(rows: list[int], batch: EpisodeBatch) -> EpisodeBatch:
    return jax.tree.map(lambda leaf: leaf[:, rows], batch)


@pytest.mark.parametrize("name", STAGES)
@pytest.mark.parametrize("changed", range(4))
def test_an_interaction_is_read_after_it_is_over_never_before(name, changed):
    """New words in interaction c reach the losses after c, none before; in c, its own labels alone."""
    batch = random_episodes(ragged=False)
    ids = batch.ids.copy()
    first_label = batch.loss_mask[changed].argmax(axis=1)
    rows = np.arange(ids.shape[1])
    last = batch.token_mask[changed].sum(axis=1) - 1
    ids[changed, rows, last] = 5 + (ids[changed, rows, last] - 4) % (VOCABULARY - 5)
    before = losses_by_interaction(STAGES[name], batch)
    after = losses_by_interaction(STAGES[name], batch._replace(ids=ids))
    assert (last >= first_label).all()
    np.testing.assert_array_equal(after[:changed], before[:changed])
    for later in range(changed + 1, 4):
        assert abs(after[later] - before[later]) > 1e-5


@pytest.mark.parametrize("name", STAGES)
def test_the_scored_answer_is_not_in_memory(name):
    """Of an answer token that is changed, only its own label and the tokens after it hear."""
    stage, batch = STAGES[name], random_episodes(ragged=False)
    last = batch.token_mask[2].sum(axis=1) - 1
    rows = np.arange(len(last))
    ids = batch.ids.copy()
    ids[2, rows, last] = 5 + (ids[2, rows, last] - 4) % (VOCABULARY - 5)
    labels = np.zeros_like(batch.loss_mask)
    labels[2] = batch.loss_mask[2]
    labels[2, rows, last] = False  # every label of the interaction but the changed one
    before, after = (score(stage, batch._replace(ids=i, loss_mask=labels)) for i in (batch.ids, ids))
    np.testing.assert_array_equal(*(np.asarray(m["answer/loss"][0]) for _, m in (before, after)))


@pytest.mark.parametrize("name", STAGES)
def test_padding_never_matters(name):
    stage, batch = STAGES[name], random_episodes()
    loss, slopes = score(stage, batch)[0], gradients(stage, batch)
    other = batch._replace(ids=np.where(batch.token_mask, batch.ids, 9).astype(np.int32))
    wider = EpisodeBatch(*(np.pad(leaf, [(0, 0), (0, 0), (0, 5)]) for leaf in batch[:3]), batch.valid)
    for padded in (other, wider):
        np.testing.assert_allclose(score(stage, padded)[0], loss, rtol=1e-6)
        assert_same_gradients(gradients(stage, padded), slopes)


@pytest.mark.parametrize("name", STAGES)
def test_filler_interactions_never_matter(name):
    stage, batch = STAGES[name], random_episodes()
    loss, metrics = score(stage, batch)
    slopes = gradients(stage, batch)
    noise = random_episodes(seed=5, ragged=False)
    keep = batch.valid[..., None]
    scribbled = EpisodeBatch(*(np.where(keep, a, b) for a, b in zip(batch[:3], noise[:3], strict=True)), batch.valid)
    longer = jax.tree.map(lambda leaf: np.pad(leaf, [(0, 3)] + [(0, 0)] * (leaf.ndim - 1)), batch)
    for filled in (scribbled, longer):
        other, other_metrics = score(stage, filled)
        np.testing.assert_allclose(other, loss, rtol=1e-6)
        for measure, (total, count) in metrics.items():
            np.testing.assert_allclose(other_metrics[measure][0], total, rtol=1e-5, atol=1e-6, err_msg=measure)
            np.testing.assert_allclose(other_metrics[measure][1], count, err_msg=measure)
        assert_same_gradients(gradients(stage, filled), slopes)


@pytest.mark.parametrize("name", STAGES)
def test_a_batch_is_the_mean_of_its_rows_by_tokens(name):
    stage, batch = replace(STAGES[name], balance_loss_scale=0.0), random_episodes()
    singles = [batch_of([row], batch) for row in range(4)]
    counts = [float(stage.label_counts(single)["answer"]) for single in singles]
    expected = sum(count * score(stage, single)[0] for count, single in zip(counts, singles, strict=True)) / sum(counts)
    np.testing.assert_allclose(score(stage, batch)[0], expected, rtol=1e-5)


@pytest.mark.parametrize("name", STAGES)
@pytest.mark.parametrize("together", [pytest.param(1, marks=pytest.mark.slow), 3])
def test_a_target_counts_as_much_as_it_weighs(name, together):
    """The loss is the weighted mean of what the targets cost one at a time; what is measured does not change."""
    stage = replace(STAGES[name], balance_loss_scale=0.0, interactions_per_call=together)
    batch = random_episodes()
    heavy = np.random.default_rng(1).random(batch.ids.shape) < 0.4
    parts = [score(stage, batch._replace(loss_mask=batch.loss_mask & part)) for part in (heavy, ~heavy)]
    (heavy_sum, heavy_count), (light_sum, light_count) = (metrics["answer/loss"] for _, metrics in parts)
    loss, metrics = score(stage, batch._replace(loss_weights=np.where(heavy, np.float32(3.0), np.float32(1.0))))
    np.testing.assert_allclose(loss, (3 * heavy_sum + light_sum) / (3 * heavy_count + light_count), rtol=1e-5)
    plain, plain_metrics = score(stage, batch)
    for measure, value in plain_metrics.items():
        np.testing.assert_allclose(metrics[measure], value, rtol=1e-6, err_msg=measure)
    alike = batch._replace(loss_weights=np.full(batch.ids.shape, np.float32(2.5)))
    np.testing.assert_allclose(score(stage, alike)[0], plain, rtol=1e-6)
    assert_same_gradients(gradients(stage, alike), gradients(stage, batch))


def test_remat_changes_nothing():
    batch = random_episodes()
    kept, again = (MemoryAware(remat=remat) for remat in ("none", "full"))
    np.testing.assert_allclose(score(kept, batch)[0], score(again, batch)[0], rtol=1e-6)
    assert_same_gradients(gradients(kept, batch), gradients(again, batch))


@pytest.mark.parametrize("name", STAGES)
def test_how_many_interactions_share_a_call_changes_nothing(name):
    """Of five interactions three leave a call that is filled up; a router's loss stays that of an interaction."""
    batch = random_episodes(interactions=5)
    alone, shared = (replace(STAGES[name], interactions_per_call=size) for size in (1, 3))
    (loss, metrics), (other, other_metrics) = score(alone, batch), score(shared, batch)
    np.testing.assert_allclose(other, loss, rtol=1e-6)
    for measure, (total, count) in metrics.items():
        np.testing.assert_allclose(other_metrics[measure][0], total, rtol=1e-5, atol=1e-6, err_msg=measure)
        np.testing.assert_allclose(other_metrics[measure][1], count, err_msg=measure)
    assert_same_gradients(gradients(shared, batch), gradients(alone, batch))


def unrolled_loss(params, batch: EpisodeBatch, steps: int | None):
    """Stage 4 by hand, one interaction after the other; detaches where `steps` writes have been crossed."""
    model = nnx.merge(GRAPHDEF, params)
    memory = model.initial_memory(batch.ids.shape[1], jax.random.key(0))
    total, count = 0.0, 0.0
    for i in range(len(batch.ids)):
        if i > 0:
            if steps is not None and i > 1 and (i - 1) % steps == 0:
                memory = jax.lax.stop_gradient(memory)
            encoded = model.encode(batch.ids[i - 1], batch.token_mask[i - 1])
            updated = model.update_memory(memory, encoded, batch.token_mask[i - 1])
            memory = jnp.where((batch.valid[i - 1] & batch.valid[i])[None, :, None, None], updated, memory)
        logits = model.decode(batch.ids[i], batch.token_mask[i], memory)
        scored = batch.loss_mask[i] & batch.valid[i][:, None]
        answer = answer_cross_entropy(logits, jnp.asarray(batch.ids[i]), jnp.asarray(scored))
        total, count = total + answer.loss, count + answer.count
    return total / count


@pytest.mark.parametrize("steps", [1, pytest.param(2, marks=pytest.mark.slow), None])
def test_the_gradient_crosses_as_many_writes_as_told(steps):
    stage = MemoryAware(memory_gradient_steps=steps, balance_loss_scale=0.0)
    batch = random_episodes()
    value, slopes = jax.jit(jax.value_and_grad(lambda p: unrolled_loss(p, batch, steps)))(PARAMS)
    np.testing.assert_allclose(score(stage, batch)[0], value, rtol=1e-5)
    expected = {path: np.asarray(variable[...]) for path, variable in flat_parameters(slopes).items()}
    assert_same_gradients(gradients(stage, batch), expected, rtol=1e-4)


def test_a_learned_initial_memory_gets_a_gradient_even_across_one_write():
    batch = random_episodes(ragged=False)
    slopes = gradients(MemoryAware(memory_gradient_steps=1), batch)
    assert np.abs(slopes["learned_memory/slots"]).max() > 1e-6


def test_the_last_interaction_is_never_written():
    """Its tokens reach no gradient through the encoder."""
    batch = random_episodes(interactions=1, ragged=False)
    slopes = gradients(MemoryAware(), batch)
    assert not slopes["encoder/kernel"].any()
    assert not slopes["memory_attention/kernel"].any()


def test_without_a_trainable_writer_memory_is_written_without_gradient():
    frozen = replace(MemoryAware(), trainable=("embedding", "decoder", "cross_attention"))
    slopes = gradients(frozen, random_episodes(ragged=False))
    assert not slopes["encoder/kernel"].any()
    assert not slopes["memory_attention/kernel"].any()
    assert slopes["decoder/self_kernel"].any()


def test_an_untrained_first_interaction_is_written_and_not_scored():
    stage, batch = MemoryAware(train_first_interaction=False), random_episodes(ragged=False)
    expected = batch.loss_mask[1:, :, 1:].sum()
    assert float(stage.label_counts(batch)["answer"]) == expected
    assert float(score(stage, batch)[1]["answer/loss"][1]) == expected


@pytest.mark.parametrize("normalisation", ["tokens", "interaction_mean", "interaction_sum"])
def test_losses_of_interactions_join_as_told(normalisation):
    stage = MemoryAware(normalisation=normalisation, balance_loss_scale=0.0)
    batch = random_episodes(ragged=False)
    sums = np.array(losses_by_interaction(MemoryAware(), batch))
    counts = batch.loss_mask[..., 1:].sum(axis=(1, 2))
    expected = {
        "tokens": sums.sum() / counts.sum(),
        "interaction_mean": (sums / counts).mean(),
        "interaction_sum": (sums / counts).sum(),
    }
    np.testing.assert_allclose(score(stage, batch)[0], expected[normalisation], rtol=1e-5)


def test_forgetting_keeps_the_previous_interaction():
    """Dropped rows start from the initial memory and still write what was just said."""
    batch = random_episodes(interactions=3, ragged=False)
    stage = MemoryAware(memory_dropout=0.999999, balance_loss_scale=0.0)
    forgetful = score(stage, batch, key=jax.random.key(1))[0]
    pairs = [
        EpisodeBatch(*(leaf[start : start + 2] for leaf in batch[:3]), batch.valid[start : start + 2])
        for start in (0, 1)
    ]
    last = [losses_by_interaction(MemoryAware(), pair)[1] for pair in pairs]
    first = losses_by_interaction(MemoryAware(), batch)[0]
    np.testing.assert_allclose(forgetful, (first + sum(last)) / batch.loss_mask[..., 1:].sum(), rtol=1e-5)


def test_detached_history_trains_the_reader_alone():
    batch = random_episodes(ragged=False)
    assert gradients(HistoryReading(), batch)["encoder/kernel"].any()
    assert not gradients(HistoryReading(detach_encoder_states=True), batch)["encoder/kernel"].any()


def test_the_previous_interaction_travels_with_its_successor():
    batch = random_episodes(ragged=False)
    shifted = with_previous(batch)
    assert not shifted.previous_valid[0].any()
    assert shifted.previous_valid[1:].all()
    np.testing.assert_array_equal(shifted.previous_ids[1:], batch.ids[:-1])
    np.testing.assert_array_equal(shifted.previous_token_mask[1:], batch.token_mask[:-1])


@pytest.mark.parametrize("dropped", range(4))
def test_what_was_said_before_a_dropped_interaction_is_written_all_the_same(dropped):
    batch = random_episodes(ragged=False)
    kept = [number for number in range(4) if number != dropped]
    valid = np.ones_like(batch.valid)
    valid[dropped] = False
    without = jax.tree.map(lambda leaf: leaf[kept], batch)
    for stage in STAGES.values():
        expected = score(stage, without)[0]
        np.testing.assert_allclose(score(stage, batch._replace(valid=valid))[0], expected, rtol=1e-6)
