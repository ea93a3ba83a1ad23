"""Walking in one scan, in chunks and over a mesh finds what plain loops find."""

from dataclasses import dataclass, replace
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st
from small import dialogue_tokenizer, random_conversations, small_config, small_model

from rxt_jax.data.config import DataConfig, DialogueData
from rxt_jax.data.sources import open_source
from rxt_jax.evaluation import EvaluationConfig, evaluate_split
from rxt_jax.evaluation.answering import AnswerRows, ReadAnswers
from rxt_jax.evaluation.config import CONDITIONS
from rxt_jax.evaluation.groups import group_rows, ungroup
from rxt_jax.evaluation.walk import Findings, place_model, read_batch, split_rows, walk
from rxt_jax.sharding import MeshConfig

INTERACTIONS, ROWS, LENGTH, NEW = 4, 5, 8, 3
WHOLE = EvaluationConfig()
UNEVEN = EvaluationConfig(tokens_per_call=3 * LENGTH)  # of 5 rows the first comes again
ON_A_MESH = EvaluationConfig(tokens_per_call=LENGTH, mesh=MeshConfig(data=2, fsdp=2))  # row by row
BOTH_WAYS = pytest.mark.parametrize("config", [WHOLE, ON_A_MESH], ids=["whole", "mesh"])


def plain_memories(model, batch):
    """The memory that every interaction reads, `[C I B L S D]`, interaction by interaction."""
    graphdef, params = nnx.split(model)

    @jax.jit
    def write(params, memory, ids, token_mask, valid):
        model = nnx.merge(graphdef, params)
        new = model.update_memory(memory, model.encode(ids, token_mask), token_mask)
        return jnp.where(valid[None, :, None, None], new, memory)

    memories = [model.initial_memory(batch.ids.shape[1])]
    for turn in range(len(batch.ids) - 1):
        memories.append(write(params, memories[-1], batch.ids[turn], batch.token_mask[turn], batch.valid[turn]))
    own = np.stack([np.moveaxis(np.asarray(memory), 1, 0) for memory in memories])
    neighbours = own[:, [row - 1 for row in range(own.shape[1])]]
    frozen = np.stack([own[0], *[own[1]] * (len(own) - 1)])
    return {"memory": own, "zeroed": np.zeros_like(own), "shuffled": neighbours, "frozen": frozen}


@dataclass(frozen=True)
class ReadMemories:
    """Finds the memories themselves, and for rows that ask something a number that tells them apart."""

    answers_per_row: ClassVar[int] = 1

    def __call__(self, model, memories, rows, groups):
        del model, rows
        return Findings(jnp.moveaxis(memories, 1, 2), jnp.zeros((*groups.shape[:1], groups[0].size * len(memories))))


def found_memories(model, batch, config):
    rows = np.zeros(batch.valid.shape)
    return read_batch(place_model(model, config), batch, rows, batch.valid, ReadMemories(), config).rows


@BOTH_WAYS
def test_memories_are_those_of_a_plain_loop_under_every_condition(config):
    model, batch = small_model(), random_conversations(2, rows=ROWS)
    found, plain = found_memories(model, batch, config), plain_memories(model, batch)
    assert {name: found[number].shape for number, name in enumerate(CONDITIONS)} == {
        name: each.shape for name, each in plain.items()
    }
    for number, name in enumerate(CONDITIONS):
        np.testing.assert_allclose(found[number], plain[name], atol=1e-5, err_msg=name)
    apart = np.abs(found[CONDITIONS.index("shuffled")] - found[CONDITIONS.index("memory")])[1:].max(axis=(-1, -2, -3))
    assert apart.min() > 1e-4  # no row reads its own


def test_memory_holds_nothing_of_the_interaction_that_reads_it():
    model, batch = small_model(), random_conversations(2, rows=ROWS)
    changed = batch.ids.copy()
    changed[2] = 9
    first, second = (found_memories(model, each, WHOLE)[0] for each in (batch, batch._replace(ids=changed)))
    np.testing.assert_array_equal(first[:3], second[:3])
    assert np.abs(first[3] - second[3])[0].max() > 1e-4


def test_a_random_initial_memory_belongs_to_the_conversation():
    model, batch = small_model(small_config(initial_memory="standard")), random_conversations(2, rows=ROWS)
    whole = found_memories(model, batch, WHOLE)
    np.testing.assert_allclose(found_memories(model, batch, UNEVEN), whole, atol=1e-5)
    rest = jax.tree.map(lambda leaf: leaf[:, 2:], batch)  # all of these have ended before row 0 has
    placed, config = place_model(model, WHOLE), replace(WHOLE, conditions=("memory",))
    found = read_batch(placed, rest, np.zeros(rest.valid.shape), rest.valid, ReadMemories(), config, first=2)
    assert not rest.valid[2:].any() and batch.valid[2:].any()
    np.testing.assert_allclose(found.rows[0], whole[0, :, 2:], atol=1e-5)
    assert np.abs(whole[0, 0, 0] - whole[0, 0, 1]).max() > 0.1


def test_a_single_conversation_has_no_other_memory_to_read():
    batch = jax.tree.map(lambda leaf: leaf[:, :1], random_conversations())
    with pytest.raises(ValueError, match="at least 2 conversations"):
        found_memories(small_model(), batch, WHOLE)


def wanted_rows(batch, seed=0):
    """Prompts of at least two tokens, and questions in about half of the interactions."""
    rng = np.random.default_rng(seed)
    lengths = np.minimum(rng.integers(2, 5, batch.valid.shape), batch.token_mask.sum(-1)).astype(np.int32)
    asked = batch.valid & (rng.random(batch.valid.shape) < 0.6)
    return AnswerRows(batch.ids, batch.token_mask, batch.loss_mask & batch.valid[..., None], lengths), asked


@BOTH_WAYS
def test_tokens_and_answers_are_those_of_rows_read_one_by_one(config):
    model, batch = small_model(), random_conversations(3, rows=ROWS)
    rows, asked = wanted_rows(batch)
    end = 7
    read = ReadAnswers(width=6, max_new_tokens=NEW, end_id=end, pad_id=0)
    found = read_batch(place_model(model, config), batch, rows, asked, read, config)
    plain = plain_memories(model, batch)
    graphdef, params = nnx.split(model)

    @jax.jit
    def decode(params, ids, mask, memory):
        return jax.nn.log_softmax(nnx.merge(graphdef, params).decode(ids, mask, memory)[0])

    assert 4 < asked.sum() < asked.size
    for number, turn, row in np.ndindex(len(CONDITIONS), INTERACTIONS, ROWS):
        name = CONDITIONS[number]
        memory = plain[name][turn, row][:, None]
        ids, mask = batch.ids[turn, row], batch.token_mask[turn, row]
        log_probs = np.asarray(decode(params, ids[None], mask[None], memory))
        scored = np.flatnonzero(rows.scored[turn, row])
        np.testing.assert_allclose(
            found.rows.log_probs[number, turn, row][scored], log_probs[scored - 1, ids[scored]], atol=2e-5
        )
        np.testing.assert_array_equal(
            found.rows.correct[number, turn, row][scored], log_probs[scored - 1].argmax(-1) == ids[scored]
        )
        assert not found.rows.log_probs[number, turn, row][~rows.scored[turn, row]].any()
        made = []
        prompt = ids[: rows.prompt_length[turn, row]]
        while asked[turn, row] and len(made) < NEW and end not in made:
            text = np.zeros(LENGTH + NEW, np.int32)
            text[: len(prompt) + len(made)] = [*prompt, *made]
            real = np.arange(len(text)) < len(prompt) + len(made)
            made.append(int(np.argmax(decode(params, text[None], real[None], memory)[len(prompt) + len(made) - 1])))
        assert found.groups[number, turn, row].tolist() == made + [0] * (NEW - len(made))


@pytest.mark.slow
def test_a_split_measures_the_same_however_it_is_computed():
    tokenizer = dialogue_tokenizer()
    model = small_model(small_config(vocab_size=tokenizer.vocab_size, max_length=40))
    source, data = open_source(DialogueData(split="iid")), DataConfig(max_length=40, max_interactions=10)
    config = EvaluationConfig(episodes=8, batch_size=4, max_new_tokens=4)
    ways = (config, replace(config, tokens_per_call=40, mesh=MeshConfig(data=2)))
    first, second = (evaluate_split(model, tokenizer, source, data, each) for each in ways)
    assert (first.interactions, first.chance) == (second.interactions, second.chance)
    for name, one in first.conditions.items():
        found = second.conditions[name]
        assert found.loss == pytest.approx(one.loss, rel=1e-5)
        assert replace(found, loss=0.0) == replace(one, loss=0.0)
        assert one.asked() > 10 and one.tokens > 100


def test_what_it_takes_does_not_grow_with_the_conversation():
    model = small_model()
    read = ReadAnswers(width=6, max_new_tokens=NEW, end_id=7, pad_id=0)

    def scratch(interactions):
        batch = random_conversations(3, interactions, ROWS)
        rows, asked = wanted_rows(batch)
        placed = place_model(model, WHOLE)
        given = (
            jax.tree.map(lambda leaf: leaf[:, [4, 0, 1, 2, 3, 4]], batch),
            rows,
            group_rows(asked, 1, 1),
            np.arange(6),
        )
        lowered = walk.lower(
            placed.graphdef, placed.params, *given, read=read, conditions=CONDITIONS, parts=placed.parts
        )
        return lowered.compile().memory_analysis().temp_size_in_bytes

    config = model.config
    one_memory = 4 * config.num_layers * ROWS * config.num_slots * config.embed_dim
    assert scratch(24) - scratch(4) < 3 * one_memory  # ids and what was found, never twenty more memories


@settings(deadline=None, max_examples=50)
@given(st.data())
def test_rows_that_ask_come_back_to_their_places(data):
    parts, per_part, size, conditions = (data.draw(st.integers(1, high)) for high in (3, 5, 4, 3))
    rows = parts * per_part
    asked = np.array(data.draw(st.lists(st.lists(st.booleans(), min_size=rows, max_size=rows), min_size=1, max_size=3)))
    groups = group_rows(asked, parts, size)
    assert groups.shape == (len(asked), -(-per_part // size), parts, size)
    # Every row gives its number, shifted by the condition.
    numbers = np.where(groups >= 0, groups + np.arange(parts)[:, None] * per_part, -1)
    given = numbers[:, :, :, None] + 100 * np.arange(conditions)[:, None]
    back = ungroup(given.reshape(*groups.shape[:2], -1), groups, conditions, rows)
    expected = np.where(asked, np.arange(rows) + 100 * np.arange(conditions)[:, None, None], 0)
    np.testing.assert_array_equal(back, expected)


@settings(deadline=None)
@given(st.integers(1, 40), st.integers(1, 64), st.sampled_from([1, 2, 4]))
def test_chunks_have_every_row_and_one_size(count, tokens, parts):
    chunks = split_rows(count, replace(WHOLE, tokens_per_call=tokens), 8, parts)
    assert {chunk.shape for chunk in chunks} == {chunks[0].shape}
    assert chunks[0].shape[0] == parts and chunks[0].shape[1] <= max(tokens // 8, 1)
    assert set(np.concatenate(chunks, axis=None).tolist()) == set(range(count))
    assert sum(chunk.size for chunk in chunks) < count + parts * len(chunks)


def test_a_mesh_of_devices_that_are_not_there_is_refused():
    with pytest.raises(ValueError, match="needs 16 devices"):
        place_model(small_model(), EvaluationConfig(mesh=MeshConfig(data=16)))
