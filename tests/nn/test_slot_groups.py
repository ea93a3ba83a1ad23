"""Slots that take turns: what an interaction is written into, what stays, and in which order."""

import itertools
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st
from small import random_batch, small_config, small_model

from rxt_jax.data.config import DataConfig
from rxt_jax.model.initial_memory import beginning_memory
from rxt_jax.nn.residual_gates import ResidualGateConfig
from rxt_jax.nn.slot_groups import begin_ages, put_back, spread, take_oldest
from rxt_jax.recipe import Recipe, StageRun
from rxt_jax.stages import MemoryPretraining

ROWS, GROUPS, PLACES, WIDTH = 2, 3, 2, 8
GATES = {
    "replace": ResidualGateConfig(kind="replace"),
    "shut": ResidualGateConfig(kind="static", activation="sigmoid", initial=-40.0),
    "half": ResidualGateConfig(kind="static", activation="sigmoid", initial=0.0),
}


def grouped_config(gate: str = "replace", **changes):
    config = small_config(num_slots=GROUPS * PLACES)
    layer = replace(config.memory_attention.layer, slot_groups=GROUPS, gate=GATES[gate])
    return replace(config, memory_attention=replace(config.memory_attention, layer=layer), **changes)


def conversation(config, turns: int):
    """Write random interactions and return the memory before each of them and the last one, as groups."""
    model, memories = small_model(config), []
    memory = beginning_memory(model, ROWS, None)
    write = jax.jit(lambda memory, ids, mask: model.update_memory(memory, model.encode(ids, mask), mask))
    for turn in range(turns):
        memories.append(memory)
        memory = write(memory, *random_batch(turn, ROWS))
    memories.append(memory)
    return [np.asarray(each).reshape(config.num_layers, ROWS, GROUPS, PLACES, -1) for each in memories]


def test_groups_are_written_in_turn_and_what_is_not_written_stays_as_it_is():
    memories = conversation(grouped_config(), 2 * GROUPS + 1)
    for turn, (before, after) in enumerate(itertools.pairwise(memories)):
        changed = np.any(before[..., :-1] != after[..., :-1], axis=(0, 1, 3, 4))
        np.testing.assert_array_equal(changed, np.arange(GROUPS) == turn % GROUPS)


def test_a_memory_holds_the_last_interactions_as_they_were_written():
    """Each group is what its interaction makes of it, whatever was written before and elsewhere."""
    config = grouped_config()
    model = small_model(config)
    memory = conversation(config, GROUPS)[-1]
    for turn in range(GROUPS):
        ids, mask = random_batch(turn, ROWS)
        start = beginning_memory(model, ROWS, None)
        layers = start.reshape(config.num_layers, ROWS, GROUPS, PLACES, -1)
        # Nothing written yet, and this group is the oldest.
        alone = layers.at[..., -1].set(0.0).at[:, :, turn, :, -1].set(1.0)
        written = model.update_memory(alone.reshape(start.shape), model.encode(ids, mask), mask)
        written = np.asarray(written).reshape(memory.shape)
        np.testing.assert_allclose(written[:, :, turn, :, :-1], memory[:, :, turn, :, :-1], atol=1e-5)


def test_what_is_not_worth_keeping_costs_no_place():
    """A gate that stays shut leaves contents and ages alone, so the next interaction meets the same group."""
    memories = conversation(grouped_config("shut"), 2)
    np.testing.assert_allclose(memories[0], memories[2], atol=1e-6)


def test_what_is_written_by_half_is_half_as_old():
    before, after = conversation(grouped_config("half"), 1)
    ages = [each[..., 0, -1] for each in (before, after)]
    expected = ages[0] + 0.5 / GROUPS
    expected[..., 0] *= 0.5
    np.testing.assert_allclose(ages[1], expected, atol=1e-6)
    for each in (before, after):
        np.testing.assert_array_equal(each[..., -1], np.broadcast_to(each[..., :1, -1], each.shape[:-1]))


@given(st.lists(st.lists(st.floats(0.0, 1.0, width=32), min_size=ROWS, max_size=ROWS), min_size=1, max_size=12))
@settings(max_examples=40, deadline=None)
def test_the_oldest_group_is_always_the_one_that_is_written(strengths):
    slots = begin_ages(jnp.zeros((ROWS, GROUPS * PLACES, WIDTH)), GROUPS)
    for number, strength in enumerate(strengths, 1):
        ages = np.asarray(slots[:, ::PLACES, -1])
        old, chosen = take_oldest(slots, GROUPS)
        np.testing.assert_array_equal(np.argmax(chosen, axis=1), np.argmax(ages, axis=1))
        assert np.all(np.sum(chosen, axis=1) == 1)
        marked = old.at[..., 0].set(float(number))
        slots = put_back(slots, chosen, marked, jnp.asarray(strength))
        now = np.asarray(slots.reshape(ROWS, GROUPS, PLACES, WIDTH))
        np.testing.assert_array_equal(np.all(now[..., 0] == number, axis=2), chosen)
        kept = np.where(chosen, 1.0 - np.asarray(strength)[:, None], 1.0)
        np.testing.assert_allclose(now[..., 0, -1], kept * (ages + np.asarray(strength)[:, None] / GROUPS), atol=1e-6)


def test_values_of_a_group_are_shown_at_its_slots():
    slots = begin_ages(jnp.zeros((ROWS, GROUPS * PLACES, WIDTH)), GROUPS).at[1, :PLACES, -1].set(0.0)
    _, chosen = take_oldest(slots, GROUPS)
    shown = spread(chosen, jnp.ones((ROWS, PLACES, 5)))
    assert shown.shape == (ROWS, GROUPS * PLACES, 5)
    np.testing.assert_array_equal(np.any(shown > 0, axis=-1), [[1, 1, 0, 0, 0, 0], [0, 0, 1, 1, 0, 0]])


def test_a_watched_write_shows_the_group_that_is_written():
    config = grouped_config("half")
    model, (ids, mask) = small_model(config), random_batch(0, ROWS)
    memory = beginning_memory(model, ROWS, None)
    seen = model.watch_writing(memory, model.encode(ids, mask), mask)
    assert seen.gate is not None
    np.testing.assert_allclose(seen.gate, np.broadcast_to(0.5 * (np.arange(GROUPS * PLACES) < PLACES), seen.gate.shape))
    np.testing.assert_allclose(jnp.sum(seen.weights, -1), 2 * seen.gate, atol=1e-6)


@pytest.mark.parametrize("kind", ["learned", "standard", "zeros"])
def test_every_memory_begins_with_ages_and_nothing_else_changes(kind):
    grouped = grouped_config(initial_memory=kind)
    plain = replace(grouped.memory_attention.layer, slot_groups=1)
    plain = replace(grouped, memory_attention=replace(grouped.memory_attention, layer=plain))
    # Parameters differ, the draws of a memory do not.
    memories = [small_model(each).initial_memory(ROWS, jax.random.key(3)) for each in (grouped, plain)]
    ages = np.repeat(1.0 - np.arange(GROUPS) / GROUPS, PLACES)
    np.testing.assert_allclose(memories[0][..., -1], np.broadcast_to(ages, memories[0].shape[:-1]), rtol=1e-6)
    if kind != "learned":
        np.testing.assert_array_equal(memories[0][..., :-1], memories[1][..., :-1])


def test_gradients_reach_every_interaction_that_memory_still_holds():
    config = grouped_config()
    graphdef, params = nnx.split(small_model(config))

    def last_memory(embedded):
        model = nnx.merge(graphdef, params)
        memory = beginning_memory(model, ROWS, None)
        for turn, each in enumerate(embedded):
            mask = random_batch(turn, ROWS)[1]
            memory = model.update_memory(memory, model.encode(each, mask), mask)
        return jnp.sum(jnp.square(memory[..., :-1]))

    embedded = [small_model(config).embed(random_batch(turn, ROWS)[0]) for turn in range(GROUPS)]
    sizes = [float(jnp.max(jnp.abs(each))) for each in jax.jit(jax.grad(last_memory))(embedded)]
    assert min(sizes) > 1e-3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"slot_groups": 0}, "slot_groups must be at least 1, got 0"),
        ({"gate": ResidualGateConfig()}, "needs a gate that replaces a share"),
        ({"gate": ResidualGateConfig(kind="static")}, "got 'static' and 'tanh'"),
        ({"variant": "self", "inner_attention": "attention"}, "slot_groups = 3 needs the simple variant, got 'self'"),
    ],
)
def test_layers_that_cannot_take_turns_are_refused(changes, message):
    layer = grouped_config("half").memory_attention.layer
    if "inner_attention" in changes:
        changes = changes | {"inner_attention": layer.attention}
    with pytest.raises(ValueError, match=message):
        replace(layer, **changes)


def test_slots_divide_into_groups_and_memory_pretraining_has_no_targets_for_them():
    with pytest.raises(ValueError, match=r"num_slots = 7 must be a multiple of .*slot_groups, got 3"):
        replace(grouped_config(), num_slots=7)
    with pytest.raises(ValueError, match="needs slot_groups = 1, got 3"):
        Recipe(
            name="x",
            model=grouped_config(),
            data=DataConfig(max_length=12, text_length=12),
            stages={"memory_pretraining": StageRun(stage=MemoryPretraining(), updates=1, batch_size=1)},
        )
