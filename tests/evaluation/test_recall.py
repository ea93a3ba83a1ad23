"""The measurement measures what it says."""

import io
import json

import jax
import jax.numpy as jnp
import pytest
from flax import nnx
from rich.console import Console
from small import dialogue_tokenizer, small_config, small_model

from rxt_jax.data.config import DataConfig, DialogueData
from rxt_jax.data.rows import RowEncoder
from rxt_jax.data.sources import open_source
from rxt_jax.data.value_tokens import find_value_tokens
from rxt_jax.evaluation import EvaluationConfig, Report, evaluate_split
from rxt_jax.evaluation.evaluate import recalls_in_rows
from rxt_jax.evaluation.recall import Recall, bucket_of, chance_level, contains_value


@pytest.mark.parametrize(
    ("text", "value", "found"),
    [
        ("Your cat is called Tom.", "Tom", True),
        ("Your cat is called tom!", "Tom", True),
        ("Your cat is called Tommy.", "Tom", False),
        ("You live at 71 Saint Peter, I think", "71 Saint Peter", True),
        ("You live at 71 Saint Paul", "71 Saint Peter", False),
        ("", "Tom", False),
    ],
)
def test_a_value_is_found_as_whole_words(text, value, found):
    assert contains_value(text, value) is found


def test_buckets_cover_every_distance():
    assert [bucket_of(d) for d in (1, 2, 3, 4, 5, 8, 9, 16, 17, 99)] == [
        "1", "2", "3-4", "3-4", "5-8", "5-8", "9-16", "9-16", "17+", "17+",
    ]  # fmt: skip
    with pytest.raises(ValueError, match="at least 1"):
        bucket_of(0)


@pytest.mark.parametrize("conditions", [(), ("asleep",)])
def test_conditions_are_known_and_at_least_one(conditions):
    with pytest.raises(ValueError, match=r"conditions must .*memory, zeroed"):
        EvaluationConfig(conditions=conditions)


def test_chance_is_the_most_frequent_value_of_each_slot():
    asked = [("cat", "Tom"), ("cat", "Tom"), ("cat", "Ida"), ("home", "Rome")]
    recalls = [Recall(0, 0, slot, value, 1) for slot, value in asked]
    assert chance_level(recalls) == 0.75
    assert chance_level([]) == 0.0


def test_the_last_place_of_a_value_counts():
    spelled = [b"", b" To", b"m", b" cat", b'"To', b'm"', b"my"]
    assert find_value_tokens([1, 2, 3, 1, 2, 3], 0, "Tom", spelled) == range(3, 5)
    assert find_value_tokens([1, 2, 0, 3], 2, "Tom", spelled) is None
    assert find_value_tokens([1, 2, 6], 0, "Tom", spelled) is None  # Tommy
    assert find_value_tokens([1, 2, 0, 3], 0, "tom", spelled) == range(0, 2)  # control tokens part words
    assert find_value_tokens([3, 4, 5], 0, "Tom", spelled) == range(1, 3)  # other ids, same word
    assert find_value_tokens([3, 1, 2, 3], 0, "cat tom CAT", spelled) == range(0, 4)


def test_a_report_of_an_untrained_model_is_complete_and_near_zero(tmp_path):
    tokenizer = dialogue_tokenizer()
    model = small_model(small_config(vocab_size=tokenizer.vocab_size, max_length=40))
    config = EvaluationConfig(episodes=8, batch_size=4, max_new_tokens=6)
    result = evaluate_split(
        model, tokenizer, open_source(DialogueData(split="iid")), DataConfig(max_length=40, max_interactions=10), config
    )
    report = Report({"iid": result})
    report.save(tmp_path)
    saved = json.loads((tmp_path / "recall.json").read_text())["iid"]
    assert (tmp_path / "recall.png").stat().st_size > 1000
    assert set(saved["conditions"]) == {"memory", "zeroed", "shuffled", "frozen"}
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(Report({"unseen_phrasings": result}).table())
    table = console.export_text()
    assert "…" not in table
    assert {"unseen_phrasings", "memory", "zeroed", "shuffled", "frozen", "chance"} <= set(table.split())
    for summary in saved["conditions"].values():
        assert summary["recall"] < 0.2
        assert summary["answer_perplexity"] > 50
        assert sum(summary["asked_by_distance"].values()) > 0
    assert 0.0 < saved["chance"] <= 1.0


class Oracle(nnx.Module):
    """Stands in for a model: memory is the last real token of the interaction before, and the answer names it."""

    def __init__(self, vocab_size: int, end: int):
        self.vocab_size, self.end = vocab_size, end

    def initial_memory(self, batch, key=None):
        return jnp.zeros((1, batch, 1, 1))

    def encode(self, ids, token_mask, *, key=None):
        del key
        last = jnp.maximum(jnp.sum(token_mask, axis=1) - 3, 0)  # the value stands before the full stop and [EOS]
        return jnp.take_along_axis(ids, last[:, None], axis=1)[None, :, :, None].astype(jnp.float32)

    def update_memory(self, memory, encoded, token_mask, *, key=None):
        del memory, token_mask, key
        return encoded

    def decode_hidden(self, ids, token_mask, memory, **_):
        del token_mask
        return jnp.broadcast_to(memory[0, :, :, :1], (*ids.shape, 1)), 0.0

    def logits(self, hidden):
        return jax.nn.one_hot(hidden[..., 0].astype(int), self.vocab_size) * 9.0

    def project_memory(self, memory):
        return memory

    def empty_cache(self, batch, length):
        del length
        return jnp.zeros(batch, jnp.int32)  # tokens generated

    def decode_cached(self, ids, positions, token_mask, cache, memory, *, logits_at=None):
        del positions, token_mask, logits_at
        token = jnp.where(cache == 0, memory[0, :, 0, 0].astype(int), self.end)
        return jax.nn.one_hot(token, self.vocab_size) * 9.0, cache + 1


class TwoConversations:
    """Values that the oracle can know at distance 1 and cannot know at distance 2."""

    size = 4

    def episode(self, index):
        name, other = ("Tom", "Ida", "Max", "Eva")[index], ("Ida", "Max", "Eva", "Tom")[index]
        return {
            "interactions": [
                {"query": "x", "answer": f"called {name}."},
                {"query": "y", "answer": f"called {name}.", "recall": [{"slot": "cat", "value": name, "distance": 1}]},
                {"query": "z", "answer": f"called {other}."},
                {"query": "y", "answer": f"called {name}.", "recall": [{"slot": "cat", "value": name, "distance": 2}]},
            ]
        }

    def text(self, index):
        return f"called {self.episode(index)} . x y z Tom Ida Max Eva"


def test_an_oracle_of_the_last_interaction_recalls_distance_1_and_nothing_else():
    from rxt_jax.data.tokenizer_training import TokenizerConfig, train_tokenizer

    texts = [f"called {name}." for name in ("Tom", "Ida", "Max", "Eva")] * 50
    tokenizer = train_tokenizer(texts, TokenizerConfig(vocab_size=400))
    assert all(len(tokenizer.encode(name)) == 1 for name in ("Tom", "Ida", "Max", "Eva"))
    oracle = Oracle(tokenizer.vocab_size, tokenizer.special.eos)
    result = evaluate_split(
        oracle,
        tokenizer,
        TwoConversations(),
        DataConfig(max_length=16, max_interactions=4),
        EvaluationConfig(episodes=4, batch_size=4, max_new_tokens=4),
    )
    assert result.conditions["memory"].by_distance == {1: [4, 4], 2: [0, 4]}
    assert result.conditions["shuffled"].by_distance[1] == [0, 4]
    assert result.conditions["zeroed"].by_distance[1] == [0, 4]
    assert result.conditions["memory"].correct_value_tokens == 4
    assert result.chance == 0.25


def test_values_of_dropped_interactions_are_not_asked_for_and_counted():
    tokenizer = dialogue_tokenizer()
    recall = [{"slot": "cat", "value": "Tom", "distance": 1}]
    long, short = ({"query": "word " * size, "answer": "Tom", "recall": recall} for size in (40, 1))
    episode = {"system": "Be brief.", "interactions": [short, long, short]}
    for use_system_prompt in (False, True):
        data = DataConfig(max_length=24, use_system_prompt=use_system_prompt)
        encoder = RowEncoder(tokenizer, data)
        rows = encoder.episode(episode)
        recalls, dropped = recalls_in_rows([episode], [rows], encoder)
        assert dropped == 1
        assert [each.turn - use_system_prompt for each in recalls] == [0, 2]
        for each in recalls:
            assert find_value_tokens(rows[each.turn].ids, rows[each.turn].prompt_length, "Tom", tokenizer.token_bytes)
