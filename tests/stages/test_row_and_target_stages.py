"""Stages 1-3 on a miniature model: terms, masks, perturbation, and the targets of memory pre-training."""

import functools
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conversation import LAYERS, SLOTS, WIDTH, MiniatureModel, random_episodes, random_rows
from flax import nnx

from rxt_jax.compatibility import PretrainingCompatibility
from rxt_jax.stages import InteractionSft, JointPretraining, MemoryAware, MemoryPretraining
from rxt_jax.stages.joint_pretraining import perturb_states

MODEL = MiniatureModel()
GRAPHDEF, PARAMS = nnx.split(MODEL)


@functools.partial(jax.jit, static_argnums=0)
def _score(stage, batch, key):
    return stage.objective(nnx.merge(GRAPHDEF, PARAMS), batch, key, stage.label_counts(batch))


def score(stage, batch, key=None):
    loss, metrics = _score(stage, jax.tree.map(jnp.asarray, batch), key)
    return float(loss), {name: (float(total), float(count)) for name, (total, count) in metrics.items()}


def test_the_joint_loss_is_the_sum_of_its_scaled_terms():
    batch = random_rows()
    stage = JointPretraining(encoder_loss_scale=0.7, decoder_loss_scale=0.3, balance_loss_scale=0.5)
    loss, found = score(stage, batch)
    assert found["masked_language/loss"][1] == batch.mlm_mask.sum()
    assert found["answer/loss"][1] == batch.loss_mask[:, 1:].sum()
    terms = {
        name: found[name][0] / found[name][1] for name in ("masked_language/loss", "answer/loss", "router/balance")
    }
    expected = 0.7 * terms["masked_language/loss"] + 0.3 * (terms["answer/loss"] + 0.5 * terms["router/balance"])
    assert loss == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("mask_id", [4, 15])
def test_the_masked_language_loss_by_hand(mask_id):
    """Whatever id the tokenizer has for `[MASK]`: the encoder reads that one, and has to restore what was there."""
    batch = random_rows()
    usual = score(JointPretraining(), batch)[1]["masked_language/loss"][0]
    batch = batch._replace(masked_ids=np.where(batch.mlm_mask, np.int32(mask_id), batch.ids))
    encoded = MODEL.encode(batch.masked_ids, batch.token_mask)
    surprise = -jax.nn.log_softmax(MODEL.masked_language_logits(encoded[-1]))
    rows, places = np.nonzero(batch.mlm_mask)
    expected = np.asarray(surprise)[rows, places, batch.ids[rows, places]].sum()
    found = score(JointPretraining(), batch)[1]["masked_language/loss"][0]
    assert found == pytest.approx(expected, rel=1e-5)
    assert (abs(found - usual) < 1e-4) == (mask_id == 4)


def test_the_decoder_reads_the_states_of_the_masked_row():
    batch = random_rows()
    encoded = MODEL.encode(batch.masked_ids, batch.token_mask)
    logits = MODEL.decode(batch.ids, batch.token_mask, encoded, memory_mask=batch.token_mask)
    surprise = -jax.nn.log_softmax(logits[:, :-1])
    rows, places = np.nonzero(batch.loss_mask[:, 1:])
    expected = np.asarray(surprise)[rows, places, batch.ids[rows, places + 1]].sum()
    assert score(JointPretraining(), batch)[1]["answer/loss"][0] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("stage", [JointPretraining(), InteractionSft()])
def test_padding_of_rows_never_matters(stage):
    batch = random_rows()
    other = batch._replace(ids=np.where(batch.token_mask, batch.ids, 9).astype(np.int32))
    wider = jax.tree.map(lambda leaf: np.pad(leaf, [(0, 0), (0, 3)]), batch)
    expected = score(stage, batch)[0]
    assert score(stage, other)[0] == pytest.approx(expected, rel=1e-6)
    assert score(stage, wider)[0] == pytest.approx(expected, rel=1e-6)


def test_the_published_padding_is_a_target():
    batch = random_rows()
    counts = JointPretraining(compatibility=PretrainingCompatibility(loss_on_padding=True)).label_counts(batch)
    assert float(counts["answer"]) == (batch.loss_mask | ~batch.token_mask)[:, 1:].sum()


def test_states_are_perturbed_in_training_only():
    encoded = jnp.ones((2, 50, 20, 4))
    np.testing.assert_array_equal(perturb_states(encoded, None, noise=1.0, masking=0.5), encoded)
    dropped = np.asarray(perturb_states(encoded, jax.random.key(0), masking=0.25))
    assert set(np.unique(dropped)) == {0.0, 1.0}
    assert (dropped == dropped[..., :1]).all()  # whole states
    assert abs((dropped == 0).mean() - 0.25) < 0.05
    noisy = np.asarray(perturb_states(encoded, jax.random.key(0), noise=0.3))
    assert abs((noisy - 1).std() - 0.3) < 0.01


def memories_by_hand(batch, new_weights):
    """Stage 3, interaction by interaction: losses by row and the memories that are carried on."""
    memory = MODEL.initial_memory(batch.ids.shape[1], jax.random.key(0))
    total, rows = 0.0, 0
    for i, new in enumerate(new_weights[: len(batch.ids)]):
        encoded = MODEL.encode(batch.ids[i], batch.token_mask[i])
        updated = np.asarray(MODEL.update_memory(memory, encoded, batch.token_mask[i]))
        target = (1 - new) * np.asarray(memory) + new * np.asarray(encoded[:, :, :SLOTS])
        norms = np.linalg.norm(updated, axis=-1) * np.linalg.norm(target, axis=-1)
        cosine = ((updated * target).sum(-1) / norms).mean(axis=(0, 2))
        total += -cosine[batch.valid[i]].sum()
        rows += batch.valid[i].sum()
        memory = jnp.where(batch.valid[i][None, :, None, None], updated, memory)
    return total / rows


@pytest.mark.parametrize("weights", [None, (0.8, 0.6, 0.1, 0.3)])
def test_memory_pretraining_by_hand(weights):
    batch = random_episodes(length=SLOTS)
    expected = memories_by_hand(batch, weights or (0.9, 0.5, 0.45, 0.4))
    stage = MemoryPretraining(new_weights=weights, interactions_per_update=None)
    assert score(stage, batch)[0] == pytest.approx(expected, rel=1e-5)


def test_memory_pretraining_has_no_gradient_into_encoder_or_past():
    batch, stage = random_episodes(), MemoryPretraining()

    def loss(model):
        return stage.objective(model, batch, None, stage.label_counts(batch))[0]

    slopes = jax.jit(jax.grad(lambda params: loss(nnx.merge(GRAPHDEF, params))))(PARAMS)
    assert np.asarray(slopes["memory_attention"]["kernel"][...]).any()
    for part, name in (("encoder", "kernel"), ("embedding", "table"), ("learned_memory", "slots")):
        assert not np.asarray(slopes[part][name][...]).any(), part


def test_filler_never_matters_for_memory_pretraining():
    batch = random_episodes()
    noise = random_episodes(seed=4, ragged=False)
    keep = batch.valid[..., None]
    filled = type(batch)(*(np.where(keep, a, b) for a, b in zip(batch[:3], noise[:3], strict=True)), batch.valid)
    stage = MemoryPretraining(change_penalty=0.3)
    assert score(stage, filled)[0] == pytest.approx(score(stage, batch)[0], rel=1e-6)


def test_draws_are_off_without_a_key_and_bounded_with_one():
    stage = MemoryPretraining(weight_shift=0.15, input_noise=0.2, label_noise=0.1)
    shape = (LAYERS, 4, SLOTS, WIDTH)
    off = stage.draws(None, jnp.int32(0), shape, shape)
    assert all(not np.asarray(leaf).any() for leaf in off)
    shifts = [float(stage.draws(jax.random.key(k), jnp.int32(0), shape, shape).shift) for k in range(30)]
    assert 0 <= min(shifts) < 0.05 < 0.1 < max(shifts) <= 0.15


@pytest.mark.parametrize("padding", ["keep", "accumulated", "ignore"])
def test_slots_over_padding_hold_what_they_are_told(padding):
    batch = random_episodes(length=SLOTS, interactions=1)
    token_mask = batch.token_mask.copy()
    token_mask[..., -1] = False
    batch = batch._replace(token_mask=token_mask)
    stage = MemoryPretraining(target_padding=padding, new_weights=(1.0,))
    memory = MODEL.initial_memory(4, jax.random.key(0))
    encoded = MODEL.encode(batch.ids[0], batch.token_mask[0])
    updated = np.asarray(MODEL.update_memory(memory, encoded, batch.token_mask[0]))
    target = np.asarray(encoded).copy()
    if padding == "accumulated":
        target[:, :, -1] = np.asarray(memory)[:, :, -1]
    slots = slice(None) if padding != "ignore" else slice(0, -1)
    cosine = (updated * target).sum(-1) / np.linalg.norm(updated, axis=-1) / np.linalg.norm(target, axis=-1)
    assert score(stage, batch)[0] == pytest.approx(-cosine[:, :, slots].mean(), rel=1e-5)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MemoryAware(memory_gradient_steps=0), "memory_gradient_steps"),
        (lambda: MemoryAware(memory_dropout=1.0), "memory_dropout"),
        (lambda: MemoryPretraining(new_weights=(1.2,)), "new_weights"),
        (lambda: MemoryPretraining(interactions_per_update=0), "interactions_per_update"),
        (lambda: JointPretraining(memory_masking=1.0), "memory_masking"),
        (lambda: score(MemoryPretraining(new_weights=(0.9,)), random_episodes()), "cover every interaction"),
    ],
)
def test_impossible_options_say_what_is_wrong(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_options_are_values():
    assert replace(MemoryAware(), remat="none") == MemoryAware(remat="none")
    assert hash(MemoryAware()) == hash(MemoryAware())


def test_rows_without_masked_ids_are_refused():
    with pytest.raises(ValueError, match="masked_ids"):
        score(JointPretraining(), random_rows()._replace(masked_ids=None))
