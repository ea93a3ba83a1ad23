"""Conversations to be led bring the values that their questions ask for."""

from types import SimpleNamespace

import numpy as np
import pytest
from small import dialogue_tokenizer

from rxt_jax.data import EpisodeSource
from rxt_jax.data.config import DataConfig, DialogueData
from rxt_jax.data.rows import RowEncoder
from rxt_jax.data.sources import open_source
from rxt_jax.losses import make_algorithm
from rxt_jax.rewards import AbstentionReward, FactReward, RewardSum, RewardTerm, published_retention
from rxt_jax.stages import MemoryReinforcement
from rxt_jax.stages.episode_strategy import EpisodeStrategy, make_strategy
from rxt_jax.stages.rollout import RolloutConfig
from rxt_jax.stages.rollout_batches import needs_abstentions, needs_facts
from rxt_jax.stages.stage import Reading


def batches_of(reward, source=None, stage=None, **config):
    source = source or open_source(DialogueData())
    encoder = RowEncoder(dialogue_tokenizer(), DataConfig(max_length=64, **{"max_interactions": 6, **config}))
    stage = MemoryReinforcement(reward=reward, policy=make_algorithm("reinforce").policy, **stage or {})
    return stage.batches(Reading(source, encoder, batch_size=4, seed=1)), source


@pytest.mark.parametrize("sort_pool", [1, 3])
def test_facts_are_the_annotated_values_of_their_interaction(sort_pool):
    batches, source = batches_of(FactReward(), sort_pool=sort_pool)
    found = 0
    for update in range(3):
        batch = batches[update]
        for row in range(4):
            visits = [visit for visit in range(12) if _rows_match(batches, batch, row, visit)]
            assert visits, "the rows of a batch belong to no episode"
            episode = source.episode(batches._order.visit(visits[0]))
            told = {str(each["value"]) for turn in episode["interactions"][:6] for each in turn.get("recall") or ()}
            for turn, interaction in enumerate(episode["interactions"][: len(batch.ids)]):
                values = [str(each["value"]) for each in interaction.get("recall") or ()]
                held = _texts(batch.facts, turn, row)
                assert held <= set(values) and len(held) + batch.left_out[turn, row] == len(set(values))
                assert _texts(batch.other_facts, turn, row) <= told - set(values)
                found += len(held)
    assert found > 5


def _rows_match(batches, batch, row, visit):
    rows = batches._reader.record(batches._order.visit(visit)).item(slice(0, 6)).rows
    return list(batch.ids[0, row][batch.token_mask[0, row]]) == list(rows[0].ids[: batch.ids.shape[-1]])


def _texts(facts, turn, row):
    """Decode the first spelling of every value."""
    tokenizer = dialogue_tokenizer()
    ids, mask = facts.ids[turn, row, :, 0], facts.mask[turn, row, :, 0]
    return {tokenizer.decode(each[there].tolist()) for each, there in zip(ids, mask, strict=True) if np.any(there)}


def test_only_rewards_that_look_for_values_get_them_and_prepared_rows_have_none():
    assert not needs_facts(published_retention())
    assert needs_facts(AbstentionReward())
    assert needs_abstentions(RewardSum(terms=(RewardTerm(reward=AbstentionReward()),)))
    assert not needs_abstentions(FactReward())
    assert needs_facts(RewardSum(terms=(RewardTerm(reward=published_retention()), RewardTerm(reward=FactReward()))))
    batches, _ = batches_of(published_retention())
    assert batches[0].facts is None
    batches, _ = batches_of(FactReward())
    item = batches._pool(0)[0][0][2]
    batches._reader.source = SimpleNamespace(stored_episode=lambda visit: "rows")
    with pytest.raises(ValueError, match="prepared rows do not have"):
        batches._values(item, 4)


class Unannotated(EpisodeSource):
    """Conversations of three interactions that recall nothing."""

    fingerprint = "unannotated"

    def episode(self, visit):
        return {"id": str(visit), "interactions": [{"query": "hello", "answer": "hi"}] * 3}

    def text(self, visit):
        return "hello"


def test_what_the_data_lack_is_said_before_anything_trains():
    plain = published_retention()
    with pytest.raises(ValueError, match="none of 64 episodes has any"):
        batches_of(FactReward(), Unannotated())
    batches, _ = batches_of(plain, Unannotated(), {"min_interactions": 4})
    with pytest.raises(ValueError, match=r"has 3 interactions, but min_interactions asks for 4 \(item \d+ of the data"):
        batches[0]
    batches, _ = batches_of(plain, Unannotated(), {"min_interactions": 3})
    assert batches[0].valid.sum() == 12
    with pytest.raises(ValueError, match="min_interactions must be None or 2 to max_interactions = 6, got 7"):
        batches_of(plain, stage={"min_interactions": 7})
    with pytest.raises(ValueError, match="saved_lag = 6 holds an answer"):
        batches_of(plain, stage={"rollout": RolloutConfig(strategy=EpisodeStrategy(saved_lag=6))})
    with pytest.raises(ValueError, match="takes 3 interactions"):
        batches_of(plain, stage={"rollout": RolloutConfig(strategy=make_strategy("long_range"))}, max_interactions=2)
