"""The analytic count of operations: against the lowered program, and where scaling laws say what must come out."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import pytest
from flax import nnx
from small import mixture_config, small_config

from rxt_jax.compile_check.example_batch import example_batch
from rxt_jax.data.config import DataConfig
from rxt_jax.model import ReactiveTransformer, presets
from rxt_jax.model.operation_count import count_operations, device_peak, episode_operations
from rxt_jax.nn.attention import AttentionConfig
from rxt_jax.nn.feed_forward import FeedForwardConfig
from rxt_jax.nn.mixture_of_experts import MixtureConfig
from rxt_jax.stages import (
    ConversationSft,
    DirectMemoryPreference,
    HistoryReading,
    JointPretraining,
    MemoryAware,
    MemoryPretraining,
)

LENGTH, SLOTS = 64, 48


def wide_config():
    """One layer of each kind: a loop body that is counted once is counted right. Wide: products are most of it."""
    attention = AttentionConfig(num_query_heads=4, num_kv_heads=2, head_dim=32)
    feed_forward = FeedForwardConfig(mlp_dim=512)
    config = small_config(embed_dim=256, num_layers=1, num_slots=SLOTS, max_length=LENGTH)
    layer = replace(config.memory_attention.layer, attention=attention)
    return replace(
        config,
        encoder=replace(config.encoder, attention=attention, feed_forward=feed_forward),
        decoder=replace(config.decoder, attention=attention, cross_attention=attention, feed_forward=feed_forward),
        memory_attention=replace(config.memory_attention, layer=layer),
    )


def lowered_operations(function, *shapes) -> float:
    """Count what XLA would be given, element-wise work included."""
    cost = jax.jit(function).lower(*shapes).cost_analysis()
    assert cost is not None
    return cost["flops"]


@pytest.mark.parametrize("part", ["encode", "write", "read"])
def test_the_count_is_that_of_the_lowered_program(part):
    config = wide_config()
    graphdef, params = nnx.split(nnx.eval_shape(lambda: ReactiveTransformer(config, rngs=nnx.Rngs(0))))
    ids, mask = jax.ShapeDtypeStruct((1, LENGTH), jnp.int32), jax.ShapeDtypeStruct((1, LENGTH), jnp.bool_)
    memory = jax.ShapeDtypeStruct((1, 1, SLOTS, 256), jnp.float32)
    encoded = jax.ShapeDtypeStruct((1, 1, LENGTH, 256), jnp.float32)
    functions = {
        "encode": (lambda p, i, m: nnx.merge(graphdef, p).encode(i, m), ids, mask),
        "write": (lambda p, s, e, m: nnx.merge(graphdef, p).update_memory(s, e, m), memory, encoded, mask),
        "read": (lambda p, i, m, s: nnx.merge(graphdef, p).decode_hidden(i, m, s)[0], ids, mask, memory),
    }
    function, *shapes = functions[part]
    expected = getattr(count_operations(config, LENGTH), part)
    if part == "read":
        # XLA computes the half that a causal mask hides.
        expected += 2.0 * LENGTH**2 * 4 * 32
    assert expected <= lowered_operations(function, params, *shapes) <= 1.06 * expected


def test_the_head_is_counted_where_something_is_scored():
    config = small_config()
    assert count_operations(config, 8).head == 2 * config.embed_dim * config.vocab_size
    size = {"rows": 2, "interactions": 3, "length": 8}
    without = episode_operations(config, **size, scored_tokens=0)
    head = episode_operations(config, **size, scored_tokens=10) - without
    # Forward and backward, ten tokens, two operations per weight.
    assert head == pytest.approx(3 * 10 * 2 * config.embed_dim * config.vocab_size)


def test_the_last_interaction_is_not_written_and_a_frozen_writer_has_no_gradient():
    config = small_config()
    one = count_operations(config, 8)
    alone = episode_operations(config, rows=1, interactions=1, length=8, scored_tokens=0)
    assert alone == 3 * one.read
    three = {"rows": 1, "interactions": 3, "length": 8, "scored_tokens": 0}
    trained = episode_operations(config, **three)
    assert trained == pytest.approx(9 * one.read + 6 * (one.encode + one.write))
    assert trained - episode_operations(config, **three, writer_trains=False) == pytest.approx(
        4 * (one.encode + one.write)
    )


def test_a_token_meets_the_experts_that_it_goes_to():
    config = mixture_config()
    mixture = config.decoder.feed_forward
    assert isinstance(mixture, MixtureConfig)
    more = replace(mixture, num_experts=2 * mixture.num_experts)
    wider = replace(config, decoder=replace(config.decoder, feed_forward=more))
    # Only the router grows: D weights for each new expert, in every layer that reads memory.
    router = 2.0 * config.embed_dim * mixture.num_experts * config.num_layers * 8
    assert count_operations(wider, 8).read - count_operations(config, 8).read == pytest.approx(router)


def test_micro_needs_what_was_worked_out_by_hand():
    """Per token of 256, half of them scored: about 8.9 million."""
    one = count_operations(presets.rxt_alpha_micro(), 256)
    assert (one.encode + one.write + one.read + 128 * one.head) / 256 == pytest.approx(8.9e6, rel=0.01)


def test_a_baseline_reads_and_projects_and_nothing_else():
    config = presets.baseline_like(small_config(), max_length=16)
    one, tied = count_operations(config, 16), count_operations(replace(config, tie_embeddings=True), 16)
    assert one.encode == one.write == one.masked_language_head == 0.0
    assert tied == one
    assert count_operations(config, 8).read < one.read / 2


def test_encoder_states_in_place_of_memory_cost_what_they_are():
    config = small_config()
    attention = config.decoder.cross_attention
    one, two = count_operations(config, 8, 16), count_operations(config, 8, 32)
    keys_and_values = 2.0 * 2 * config.embed_dim * attention.num_kv_heads * attention.head_dim
    scores = 4.0 * 8 * attention.output_heads * attention.head_dim
    assert two.read - one.read == pytest.approx(16 * config.num_layers * (keys_and_values + scores))
    assert two._replace(read=0.0) == one._replace(read=0.0)


def stage_operations(stage, config=None, **changes):
    """Count a stage's update on four interactions of two rows, half of every row an answer."""
    batch = example_batch(stage, DataConfig(max_length=8, text_length=8, max_interactions=4, **changes), 2)
    return stage.operations(config or small_config(), batch)


def test_every_stage_says_what_its_update_needs():
    config, heads = small_config(), 3 * 4 * 2 * 4
    one = count_operations(config, 8)
    answers = heads * one.head
    writes, reads = 3 * 2 * (one.encode + one.write), 4 * 2 * one.read
    assert stage_operations(MemoryAware()) == pytest.approx(3 * writes + 3 * reads + answers)
    assert stage_operations(MemoryAware(trainable=("decoder",))) == pytest.approx(writes + 3 * reads + answers)
    # A window of two: two interactions before it are written without a gradient, one within it with one.
    windowed = 2 * 2 * (one.encode + one.write) + 3 * 2 * (one.encode + one.write) + 3 * 2 * 2 * one.read
    assert stage_operations(MemoryAware(window=2)) == pytest.approx(windowed + answers)
    assert stage_operations(MemoryPretraining()) == pytest.approx(4 * 2 * (one.encode + 3 * one.write))
    history = count_operations(config, 8, 3 * 8)
    expected = 3 * (3 * 2 * one.encode + 4 * 2 * history.read) + answers
    assert stage_operations(HistoryReading()) == pytest.approx(expected)
    pairs = 3 * writes + 3 * 2 * reads + 2 * answers
    assert stage_operations(DirectMemoryPreference(reference="none")) == pytest.approx(pairs)
    frozen = 2 * reads + 2 * answers / 3
    assert stage_operations(DirectMemoryPreference()) == pytest.approx(pairs + frozen)
    assert stage_operations(DirectMemoryPreference(reference="full")) == pytest.approx(pairs + frozen + writes)
    joint = count_operations(config, 8, 8)
    masked = stage_operations(JointPretraining(), mask_probability=1.0 - 1e-9)
    assert masked == pytest.approx(3 * 2 * (one.encode + joint.read + 8 * one.masked_language_head + 4 * one.head))
    baseline = presets.baseline_like(config, max_length=16)
    alone = count_operations(baseline, 8)
    assert stage_operations(ConversationSft(), baseline, conversation_length=8) == pytest.approx(
        3 * 2 * (alone.read + 4 * alone.head)
    )


def test_only_known_devices_have_a_peak():
    assert device_peak("TPU v5 lite") == 197e12
    assert device_peak("NVIDIA H100 80GB HBM3") == 989e12
    assert device_peak("cpu") is None
