"""What holds for every model: padding, batches, caches, depth, dropout, initial memories."""

import functools
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from small import call, convolving, mixture_config, random_batch, random_memory, small_config, small_model

from rxt_jax.cli.inspect import count_parameters
from rxt_jax.compatibility import Compatibility
from rxt_jax.model import ReactiveTransformer, presets
from rxt_jax.nn.residual_gates import ResidualGateConfig

CONFIGS = {"dense": small_config(), "mixture": mixture_config(), "convolving": convolving(mixture_config())}


@pytest.fixture(params=list(CONFIGS))
def model(request):
    return small_model(CONFIGS[request.param])


@functools.partial(jax.jit, static_argnums=0)
def _interact(graphdef, params, ids, mask, memory):
    model = nnx.merge(graphdef, params)
    encoded = model.encode(ids, mask)
    return model.decode(ids, mask, memory), model.update_memory(memory, encoded, mask)


def interact(model, *given):
    return _interact(*nnx.split(model), *given)


def test_what_padding_holds_never_matters(model):
    ids, mask = random_batch()
    memory = random_memory(model.config, len(ids))
    logits, written = interact(model, ids, mask, memory)
    other_logits, other_written = interact(model, jnp.where(mask, ids, 7), mask, memory)
    np.testing.assert_allclose(other_logits[mask], logits[mask], atol=1e-5)
    np.testing.assert_allclose(other_written, written, atol=1e-5)


def test_how_much_padding_there_is_never_matters(model):
    ids, mask = random_batch()
    memory = random_memory(model.config, len(ids))
    logits, written = interact(model, ids, mask, memory)
    wide = tuple(jnp.pad(leaf, ((0, 0), (0, 4))) for leaf in (ids, mask))
    wide_logits, wide_written = interact(model, *wide, memory)
    np.testing.assert_allclose(wide_logits[:, : ids.shape[1]][mask], logits[mask], atol=1e-5)
    np.testing.assert_allclose(wide_written, written, atol=1e-5)


def test_a_batch_is_its_rows(model):
    ids, mask = random_batch()
    memory = random_memory(model.config, len(ids))
    logits, written = interact(model, ids, mask, memory)
    for row in range(len(ids)):
        one = slice(row, row + 1)
        alone, alone_written = interact(model, ids[one], mask[one], memory[:, one])
        np.testing.assert_allclose(alone[mask[one]], logits[one][mask[one]], atol=1e-5)
        np.testing.assert_allclose(alone_written, written[:, one], atol=1e-5)


def test_the_decoder_is_causal(model):
    ids, _ = random_batch()
    mask = jnp.ones(ids.shape, bool)
    memory = random_memory(model.config, len(ids))
    logits = call(model, "decode", ids, mask, memory)
    changed = call(model, "decode", ids.at[:, 5].set(9), mask, memory)
    np.testing.assert_allclose(changed[:, :5], logits[:, :5], atol=1e-5)
    assert float(jnp.abs(changed[:, 5:] - logits[:, 5:]).max()) > 1e-3


def test_the_cache_changes_nothing(model):
    """A prompt and then token by token, rows of different length, equals one pass."""
    ids, mask = random_batch(length=6)
    memory = random_memory(model.config, len(ids))
    new = jnp.array([[9, 10, 11], [12, 13, 14], [15, 16, 17]])
    lengths = jnp.sum(mask, axis=1)
    cache, projection = model.empty_cache(len(ids), 9), call(model, "project_memory", memory)
    positions = jnp.broadcast_to(jnp.arange(6), ids.shape)
    logits, cache = call(model, "decode_cached", ids, positions, mask, cache, projection, logits_at=lengths - 1)
    stepwise = [logits]
    for step in range(3):
        at, one = (lengths + step)[:, None], jnp.ones((3, 1), bool)
        logits, cache = call(model, "decode_cached", new[:, step : step + 1], at, one, cache, projection)
        stepwise.append(logits[:, 0])
    whole, places = np.zeros((3, 9), np.int32), np.arange(9)
    for row, length in enumerate(lengths.tolist()):
        whole[row, : length + 3] = np.concatenate([ids[row, :length], new[row]])
    expected = call(model, "decode", jnp.asarray(whole), places < lengths[:, None] + 3, memory)
    for row, length in enumerate(lengths.tolist()):
        actual = jnp.stack([logits[row] for logits in stepwise])
        np.testing.assert_allclose(actual, expected[row, length - 1 : length + 3], atol=1e-4)


def test_hidden_slots_are_not_read():
    model = small_model()
    ids, mask = random_batch()
    memory = random_memory(model.config, len(ids))
    seen = jnp.array([True, False, True, True])
    memory_mask = jnp.broadcast_to(seen, (len(ids), 4))
    logits = call(model, "decode", ids, mask, memory, memory_mask=memory_mask)
    spoilt = call(model, "decode", ids, mask, memory.at[:, :, 1].set(100.0), memory_mask=memory_mask)
    np.testing.assert_allclose(spoilt, logits, atol=1e-5)
    without = call(model, "decode", ids, mask, memory[:, :, jnp.array([0, 2, 3])])
    np.testing.assert_allclose(without, logits, atol=1e-5)


def test_depth_adds_no_code():
    def size(layers: int) -> int:
        config = small_config(num_layers=layers)
        graphdef, params = nnx.split(nnx.eval_shape(lambda: ReactiveTransformer(config, rngs=nnx.Rngs(0))))
        ids, mask = random_batch()
        memory = random_memory(config, len(ids))

        def run(params, memory):
            return interact(nnx.merge(graphdef, params), ids, mask, memory)

        return len(jax.jit(run).lower(params, memory).as_text())

    assert size(12) < 1.05 * size(3)


def test_dropout_follows_its_key_and_differs_by_layer():
    config = small_config()
    dropped = replace(config.encoder, feed_forward=replace(config.encoder.feed_forward, dropout=0.5))
    model = small_model(replace(config, encoder=dropped))
    ids, mask = random_batch()
    plain = call(model, "encode", ids, mask)
    first, again, other = (call(model, "encode", ids, mask, key=jax.random.key(seed)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert float(jnp.abs(first - other).max()) > 1e-3
    assert float(jnp.abs(first - plain).max()) > 1e-3


@pytest.mark.parametrize("kind", ["standard", "normal", "uniform", "zeros", "ones"])
def test_random_initial_memories(kind):
    model = small_model(small_config(initial_memory=kind))
    memory = np.asarray(model.initial_memory(64, jax.random.key(0)))
    mean, std = {"standard": (0, 1), "normal": (0, 0.01), "uniform": (0.005, 0.01 / 12**0.5)}.get(kind, (0, 0))
    mean = 1.0 if kind == "ones" else mean
    np.testing.assert_allclose(memory.mean(), mean, atol=0.05 * std + 1e-7)
    np.testing.assert_allclose(memory.std(), std, rtol=0.05, atol=1e-7)


def test_memory_of_the_first_models_starts_with_the_spread_they_had():
    config = small_config(initial_memory="normal", compatibility=Compatibility(small_initial_memory=True))
    memory = np.asarray(small_model(config).initial_memory(64, jax.random.key(0)))
    assert abs(memory.std() - 0.02) < 0.001


def test_learned_initial_memory_is_shared_by_rows_and_gets_a_gradient():
    graphdef, params = nnx.split(small_model())
    ids, mask = random_batch()

    def loss(params):
        model = nnx.merge(graphdef, params)
        memory = model.initial_memory(len(ids), jax.random.key(0))
        return jnp.sum(model.decode(ids, mask, memory) ** 2)

    memory = nnx.merge(graphdef, params).initial_memory(3)
    np.testing.assert_array_equal(memory[:, 0], memory[:, 1])
    assert float(jnp.abs(jax.jit(jax.grad(loss))(params)["learned_memory"]["slots"][...]).max()) > 0.0


@pytest.mark.parametrize("kind", ["learned_slot", "learned_channel"])
def test_learned_gates_start_as_open_as_told_and_interpolate(kind):
    from rxt_jax.nn.residual_gates import ResidualGate

    config = ResidualGateConfig(kind=kind, activation="sigmoid", initial=-30.0)
    old, new = random_memory(small_config(), 2)[0], random_memory(small_config(), 2, seed=1)[0]
    closed = ResidualGate(4, 16, config, rngs=nnx.Rngs(0))(old, new)
    np.testing.assert_allclose(closed, old, atol=1e-5)
    opened = ResidualGate(4, 16, replace(config, initial=30.0), rngs=nnx.Rngs(0))(old, new)
    np.testing.assert_allclose(opened, new, atol=1e-5)


PUBLISHED_MILLIONS = {  # docs/method.md §20.1: decoder and encoder count the shared embedding
    "rxt_alpha_micro": {"decoder": 9.46, "encoder": 2.05, "memory_attention": 1.19, "masked_language_head": 0.98},
    "rxt_alpha_micro_plus": {"decoder": 22.40},
    "rxt_alpha_mini": {"decoder": 57.8},
    "rxt_beta_3b_a190m": {
        "decoder": 2842.0,
        "encoder": 96.96,
        "memory_attention": 22.3,
        "masked_language_head": 33.88,
    },
}


@pytest.mark.parametrize("name", list(PUBLISHED_MILLIONS))
def test_presets_have_the_published_number_of_parameters(name):
    counts, _ = count_parameters(presets.PRESETS[name]())
    for part, millions in PUBLISHED_MILLIONS[name].items():
        shared = counts["embedding"] if part in ("decoder", "encoder") else 0
        digits = len(str(millions).split(".")[1]) if millions < 1000 else 0
        assert round((counts[part] + shared) / 1e6, digits) == millions, part


@pytest.mark.parametrize(
    ("name", "millions"), [("dense_300m", 313), ("dense_1b", 948), ("experts_300m", 293), ("experts_1b", 926)]
)
def test_presets_for_accelerators_are_as_large_as_they_are_called_and_have_sizes_that_matrix_units_want(name, millions):
    config = presets.PRESETS[name]()
    counts, _ = count_parameters(config)
    assert round(sum(counts.values()) / 1e6) == millions
    feed_forward = config.decoder.feed_forward
    widths = (config.embed_dim, config.vocab_size, config.num_slots, feed_forward.mlp_dim, config.max_length)
    assert all(width % 256 == 0 for width in widths)
    attentions = (config.encoder.attention, config.decoder.cross_attention, config.memory_attention.layer.attention)
    assert {attention.head_dim for attention in attentions} == {128}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_layers": 0}, "num_layers must be at least 1"),
        ({"memory_attention": replace(small_config().memory_attention, num_groups=2)}, "grouped_self_interlayer"),
    ],
)
def test_impossible_configs_say_what_is_wrong(changes, message):
    with pytest.raises(ValueError, match=message):
        small_config(**changes)
