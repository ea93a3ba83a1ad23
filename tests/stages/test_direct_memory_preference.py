"""DMPO: what a score may depend on, what changes nothing, how far gradients reach, and that it learns."""

import warnings
from dataclasses import replace
from functools import lru_cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conversation import MiniatureModel, NoisyModel, random_episodes
from flax import nnx
from small import call, mixture_config, random_conversations, small_config, small_model

from rxt_jax.compatibility import PreferenceCompatibility
from rxt_jax.losses import PreferenceConfig
from rxt_jax.nn.parameters import flat_parameters
from rxt_jax.sharding import MeshConfig, batch_shardings, make_mesh, state_shardings
from rxt_jax.stages import DirectMemoryPreference
from rxt_jax.train.optimizer import OptimizerConfig, make_optimizer
from rxt_jax.train.state import make_train_state
from rxt_jax.train.step import make_train_step
from rxt_jax.types import PreferenceBatch

SINGLE = MeshConfig()
STAGE = DirectMemoryPreference(preference=PreferenceConfig(beta=0.3), anchor_weight=0.1)


def conversations(seed=0, rows=4, interactions=4, make=random_episodes) -> PreferenceBatch:
    """Queries of their own for every kind: what matters here is only which row is which. Some pairs are missing."""
    chosen, rejected, neutral = (make(seed + 50 * k, interactions, rows) for k in range(3))
    rng = np.random.default_rng(seed)
    paired = chosen.valid & (rng.random(chosen.valid.shape) < 0.7)
    paired[:2, 0] = True
    return PreferenceBatch(
        chosen,
        rejected._replace(valid=paired, ids=np.where(chosen.loss_mask, rejected.ids, chosen.ids)),
        neutral._replace(valid=paired & (rng.random(paired.shape) < 0.6)),
    )


@lru_cache(maxsize=8)
def scorer(stage):
    graphdef = nnx.split(MiniatureModel())[0]

    @jax.jit
    def score(params, reference, batch):
        model, frozen = nnx.merge(graphdef, params), nnx.merge(graphdef, reference)
        answers = stage.interactions(batch)
        memory = stage.begin(model, batch.chosen.ids.shape[1], None, reference=frozen)
        counts = stage.label_counts(batch)
        loss, (memory, metrics) = stage.window_objective(model, memory, answers, None, counts, reference=frozen)
        scores = stage.reference_scores(model, batch)[..., : 3 if stage.anchor_weight else 2]
        return loss, memory.policy, metrics, scores

    return lambda batch: score(*(nnx.split(MiniatureModel(seed))[1] for seed in (0, 1)), batch)


def edited(batch, kind, place, value=7):
    part = getattr(batch, kind)
    ids = part.ids.copy()
    ids[place] = np.where(ids[place] == value, value + 1, value)
    return batch._replace(**{kind: part._replace(ids=ids)})


def test_later_interactions_and_rejected_answers_change_no_earlier_score_and_no_memory():
    batch = conversations()
    _, memory, _, scores = scorer(STAGE)(batch)
    _, _, _, later = scorer(STAGE)(edited(batch, "chosen", (slice(2, None),)))
    np.testing.assert_array_equal(later[:2], scores[:2])
    assert not np.allclose(later[2:], scores[2:])
    _, same, _, other = scorer(STAGE)(edited(batch, "rejected", (1,)))
    np.testing.assert_array_equal(same, memory)
    np.testing.assert_array_equal(other[..., 0], scores[..., 0])
    np.testing.assert_array_equal(np.delete(other, 1, axis=0), np.delete(scores, 1, axis=0))


def test_an_answer_is_not_in_the_memory_that_scores_it():
    """The chosen answer of interaction t changes its own score through itself alone, and later ones by memory."""
    batch = conversations()
    changed = edited(batch, "chosen", (1,))
    _, _, _, before = scorer(STAGE)(batch)
    _, _, _, after = scorer(STAGE)(changed)
    np.testing.assert_array_equal(after[1, :, 1], before[1, :, 1])  # the rejected answer reads the same memory
    assert np.any(after[2:, :, 1] != before[2:, :, 1])
    leaking = replace(STAGE, compatibility=PreferenceCompatibility(memory_rule="published"))
    assert leaking.interactions(batch).interaction.previous_valid[1].any()


def test_padding_the_order_and_the_split_of_the_batch_change_nothing():
    batch = conversations(rows=4)
    loss, memory, metrics, _ = scorer(STAGE)(batch)
    order = np.array([2, 0, 3, 1])
    shuffled, mixed, _, _ = scorer(STAGE)(jax.tree.map(lambda leaf: leaf[:, order], batch))
    np.testing.assert_allclose(shuffled, loss, rtol=1e-5)
    np.testing.assert_allclose(mixed, memory[:, order], rtol=1e-4, atol=1e-5)

    def pad(part):
        junk = jax.tree.map(lambda leaf: np.pad(leaf, ((0, 1), (0, 0), (0, 2))[: leaf.ndim]), part)
        return junk._replace(ids=np.where(junk.token_mask, junk.ids, 9))

    padded, kept, found, _ = scorer(STAGE)(PreferenceBatch(*(pad(part) for part in batch[:3])))
    np.testing.assert_allclose(padded, loss, rtol=1e-5)
    np.testing.assert_allclose(kept, memory, rtol=1e-4, atol=1e-5)
    for name, (total, count) in metrics.items():
        np.testing.assert_allclose(found[name], (total, count), rtol=1e-4, atol=1e-4, err_msg=name)


@pytest.mark.slow
def test_how_many_interactions_are_scored_at_once_changes_nothing():
    batch = conversations(interactions=5)
    loss = scorer(STAGE)(batch)[0]
    for together in (1, 3, 5):
        np.testing.assert_allclose(scorer(replace(STAGE, interactions_per_call=together))(batch)[0], loss, rtol=1e-5)


def test_a_row_without_neutral_answers_adds_nothing_to_the_anchor():
    batch = conversations()
    without = batch._replace(neutral=batch.neutral._replace(valid=np.zeros_like(batch.neutral.valid)))
    plain = scorer(replace(STAGE, anchor_weight=0.0))(batch)[0]
    np.testing.assert_allclose(scorer(STAGE)(without)[0], plain, rtol=1e-5)
    assert scorer(STAGE)(batch)[0] > plain + 1e-3


def gradients(stage, batch):
    graphdef, params = nnx.split(MiniatureModel())
    frozen = None if stage.reference == "none" else MiniatureModel(1)

    @jax.jit
    def slopes(params):
        def loss(params):
            model = nnx.merge(graphdef, params)
            return stage.objective(model, batch, None, stage.label_counts(batch), reference=frozen)[0]

        return jax.grad(loss)(params)

    return {path: np.asarray(v[...]) for path, v in flat_parameters(slopes(params)).items()}


def test_gradients_reach_encoder_and_memory_attention_and_steps_bound_how_far():
    """Scored is interaction 3 alone, so that every gradient of a writer has crossed memory."""
    batch = jax.tree.map(jnp.asarray, conversations(interactions=4, rows=3))
    whole = jnp.ones_like(batch.chosen.valid)
    last = whole & (jnp.arange(4) == 3)[:, None]
    batch = PreferenceBatch(
        batch.chosen._replace(valid=whole), batch.rejected._replace(valid=last), batch.neutral._replace(valid=last)
    )
    stage = replace(STAGE, balance_loss_scale=0.0)  # which every interaction adds to
    full = gradients(stage, batch)
    one = gradients(replace(stage, memory_gradient_steps=1), batch)
    many = gradients(replace(stage, memory_gradient_steps=3), batch)
    for part in ("encoder", "memory_attention", "learned_memory"):
        names = [path for path in full if path.startswith(part)]
        assert any(np.abs(full[path]).max() > 1e-7 for path in names), part
        if part != "learned_memory":
            assert any(not np.allclose(full[path], one[path], rtol=1e-3) for path in names), part
        for path in names:
            np.testing.assert_allclose(many[path], full[path], rtol=1e-4, atol=1e-6, err_msg=path)
    # One write back is all that a gradient may cross: the memory before it is out of reach.
    assert all(np.abs(one[path]).max() == 0 for path in one if path.startswith("learned_memory"))
    for path in full:
        if path.startswith("decoder"):
            np.testing.assert_allclose(one[path], full[path], rtol=1e-4, atol=1e-6)


def train(stage, batch, updates, mesh=SINGLE, devices=1, accumulation=1):
    graphdef, params = nnx.split(small_model())
    optimizer = make_optimizer(OptimizerConfig(learning_rate=3e-3), params, total_updates=40, trainable=stage.trainable)
    state = make_train_state(params, optimizer, stage)
    placed = make_mesh(mesh, jax.devices()[:devices])
    shardings = state_shardings(state, flat_parameters(params), placed)
    state = jax.device_put(state, shardings)
    step = make_train_step(graphdef, stage, optimizer, seed=0, state_shardings=shardings, accumulation=accumulation)
    batch = jax.device_put(batch, batch_shardings(batch, placed, 1))
    history = []
    for _ in range(updates):
        state, metrics = step(state, batch)
        history.append({name: float(total) / max(float(count), 1e-9) for name, (total, count) in metrics.items()})
    return history, state


@pytest.mark.slow
@pytest.mark.parametrize("reference", ["decoder", "full", "none"])
def test_training_prefers_what_was_chosen_and_the_reference_stays(reference):
    stage = replace(STAGE, reference=reference, anchor_weight=0.0)
    history, state = train(stage, conversations(make=random_conversations), 25)
    assert history[-1]["rewards/accuracies"] == 1.0 and history[-1]["loss"] < 0.7 * history[0]["loss"]
    fresh = flat_parameters(nnx.split(small_model())[1])
    assert bool(state.carry) == (reference != "none")
    assert any(path.startswith("encoder") for path in state.carry) == (reference == "full")
    for path, value in state.carry.items():
        np.testing.assert_array_equal(value, fresh[path][...], err_msg=path)
    if reference != "none":
        assert history[0]["rewards/margins"] == pytest.approx(0.0, abs=1e-5)  # the copy is the policy itself


@pytest.mark.slow
def test_devices_and_micro_batches_change_nothing():
    batch = conversations(rows=8, make=random_conversations)
    single, _ = train(STAGE, batch, 3)
    split, _ = train(STAGE, batch, 3, MeshConfig(data=8), 8)
    parts, _ = train(STAGE, batch, 3, accumulation=2)
    for one, two, three in zip(single, split, parts, strict=True):
        for name in ("loss", "rewards/margins", "logps/chosen", "anchor"):
            np.testing.assert_allclose([two[name], three[name]], one[name], rtol=2e-4, atol=1e-5, err_msg=name)


@pytest.mark.slow
def test_the_reference_moves_towards_the_policy_when_it_is_due():
    stage = replace(STAGE, reference_sync_every=2, reference_sync_rate=1.0)
    _, early = train(stage, conversations(make=random_conversations), 1)
    _, due = train(stage, conversations(make=random_conversations), 2)
    before, now = flat_parameters(nnx.split(small_model())[1]), flat_parameters(due.params)
    for path, value in early.carry.items():
        np.testing.assert_array_equal(value, before[path][...])
        np.testing.assert_allclose(due.carry[path], now[path][...], rtol=1e-6, atol=1e-7)


@pytest.mark.slow
def test_updates_inside_the_episode_walk_it_once():
    stage = replace(STAGE, interactions_per_update=1, memory_gradient_steps=1)
    history, _ = train(stage, conversations(make=random_conversations), 4)
    assert history[-1]["loss"] < history[0]["loss"] and history[0]["optimizer/skipped"] == 0.0


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"preference": PreferenceConfig(loss="aot")}, "sorts the pairs"),
        ({"preference": PreferenceConfig(loss="ipo"), "logprob_reduction": "mean"}, "divides by the length"),
        ({"memory_gradient_steps": 0}, "at least 1"),
        ({"anchor_weight": -1.0}, "negative"),
        ({"logprob_reduction": "median"}, "must be one of"),
        ({"preference": PreferenceConfig(loss="hinge", label_smoothing=0.1)}, "no label smoothing"),
        ({"length_desensitisation": 1.5}, "lie in"),
        ({"reference": "precomputed", "reference_sync_every": 2}, "cannot be synchronised"),
    ],
)
def test_impossible_options(fields, message):
    with pytest.raises(ValueError, match=message):
        DirectMemoryPreference(**fields)


def test_the_sigmoid_loss_is_smoothed_where_smoothing_is_asked_for():
    smoothed = {loss: PreferenceConfig(loss=loss, label_smoothing=0.2) for loss in ("sigmoid", "conservative")}
    found = {loss: DirectMemoryPreference(preference=config).losses for loss, config in smoothed.items()}
    assert found["sigmoid"] == found["conservative"] == ((smoothed["conservative"], 1.0),)
    assert DirectMemoryPreference().losses == ((PreferenceConfig(), 1.0),)


def test_means_with_a_small_beta_are_warned_about():
    with pytest.warns(UserWarning, match="hardly prefers anything"):
        DirectMemoryPreference(logprob_reduction="mean")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        DirectMemoryPreference(logprob_reduction="mean", preference=PreferenceConfig(beta=2.0))


@pytest.mark.slow
def test_a_precomputed_reference_is_the_full_one_computed_before():
    """With the parameters of another model as the reference, so that ratios are not zero."""
    batch = conversations()
    frozen = MiniatureModel(1)
    full = replace(STAGE, reference="full")
    precomputed = replace(STAGE, reference="precomputed")
    kept = batch._replace(reference=np.asarray(jax.jit(lambda b: full.reference_scores(frozen, b))(batch)))

    @jax.jit
    def loss(batch):
        model = MiniatureModel()
        return precomputed.objective(model, batch, None, precomputed.label_counts(batch))

    value, metrics = loss(kept)
    expected, _, found, _ = scorer(full)(batch)
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    np.testing.assert_allclose(metrics["anchor"], found["anchor"], rtol=1e-4)
    with pytest.raises(ValueError, match="carry the reference's"):
        loss(batch)


@pytest.mark.slow
def test_the_routers_of_the_encoder_count_as_well():
    """A loss of nothing but router losses sends a gradient into the encoder's and the decoder's routers."""
    mixture = mixture_config().decoder.feed_forward
    config = small_config(num_layers=1)
    encoder, decoder = (replace(part, feed_forward=mixture) for part in (config.encoder, config.decoder))
    config = replace(config, encoder=encoder, decoder=decoder)
    graphdef, params = nnx.split(small_model(config))
    stage = DirectMemoryPreference(
        preference=PreferenceConfig(beta=1e-9), reference="none", balance_loss_scale=1.0, anchor_weight=0.0
    )
    batch = jax.tree.map(jnp.asarray, conversations(interactions=2, rows=2, make=random_conversations))

    @jax.jit
    def slopes(params):
        def loss(params):
            return stage.objective(nnx.merge(graphdef, params), batch, None, stage.label_counts(batch))[0]

        return jax.grad(loss)(params)

    found = {path: float(jnp.abs(v[...]).max()) for path, v in flat_parameters(slopes(params)).items()}
    for part in ("encoder", "decoder"):
        assert any(size > 1e-5 for path, size in found.items() if path.startswith(part) and "router" in path), part
    assert max(size for path, size in found.items() if path.startswith("decoder/head")) < 1e-6


def test_a_memory_of_fewer_rows_is_read_by_neighbours():
    model = small_model()
    ids = jnp.asarray(np.random.default_rng(0).integers(5, 40, (6, 8)))
    mask, memory = (
        jnp.ones(ids.shape, bool),
        model.initial_memory(2, jax.random.key(0)) + jnp.arange(2.0)[:, None, None],
    )
    shared = call(model, "decode_hidden", ids, mask, memory)[0]
    copied = call(model, "decode_hidden", ids, mask, jnp.repeat(memory, 3, axis=1))[0]
    np.testing.assert_allclose(shared, copied, rtol=1e-5, atol=1e-5)
    with pytest.raises(ValueError, match="evenly"):
        model.decode_hidden(ids[:5], mask[:5], memory)


@pytest.mark.slow
def test_every_window_draws_fresh_dropout():
    """The same interaction, first of its window, in other windows of one update."""
    stage = DirectMemoryPreference(reference="none")
    parts = (random_episodes(seed, interactions=1, ragged=False) for seed in range(3))
    answers = stage.interactions(PreferenceBatch(*parts))
    model, counts = NoisyModel(), stage.label_counts(answers)
    memory = stage.begin(model, 4, None)

    def loss(start, key):
        return float(stage.window_objective(model, memory, answers, key, counts, start=start)[0])

    key = jax.random.key(0)
    assert loss(0, key) == loss(0, key) != loss(1, key)
    assert loss(0, None) == loss(1, None)
