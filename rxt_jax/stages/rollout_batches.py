"""Conversations to be led, with the values that their questions ask for where the reward looks for them."""

import dataclasses
from typing import Any, NamedTuple

import numpy as np

from rxt_jax.data.loader import EpisodeBatches
from rxt_jax.data.row_reader import Item
from rxt_jax.rewards import AbstentionReward, FactReward, Facts, LearnedReward, Reward, annotated_values, encode_facts
from rxt_jax.stages.episode_strategy import EpisodeStrategy
from rxt_jax.stages.stage import Reading
from rxt_jax.types import ShapedArray

__all__ = ["RolloutBatch", "RolloutBatches", "needs_abstentions", "needs_facts", "needs_score", "rollout_batches"]

_LOOKED_AT = 64  # episodes among which one has to have an annotation where the reward looks for values


class RolloutBatch(NamedTuple):
    """An `EpisodeBatch` with the values that every interaction asks for, and the other values of its conversation.

    `left_out` counts the values that did not fit into `facts`.
    """

    ids: ShapedArray  # int32 [I B T]
    token_mask: ShapedArray  # bool [I B T]
    loss_mask: ShapedArray  # bool [I B T]
    valid: ShapedArray  # bool [I B]
    loss_weights: ShapedArray | None = None  # float32 [I B T]
    facts: Facts | None = None  # [I B F P W]
    other_facts: Facts | None = None  # [I B F P W]
    left_out: ShapedArray | None = None  # float32 [I B]


class RolloutBatches(EpisodeBatches):
    """Conversations; with `facts` their recall annotations (docs/data.md) as token ids.

    An episode of fewer than `min_interactions` is an error.
    """

    def __init__(self, *arguments: Any, facts: bool = False, min_interactions: int | None = None, **common: Any):
        super().__init__(*arguments, **common)
        self._facts, self._least = facts, min_interactions or 1
        if facts:
            self._require_annotations()

    def __getitem__(self, update: int) -> RolloutBatch:
        batch, pool = super().__getitem__(update), self._config.sort_pool
        episodes = self._shard.of(self._pool(update // pool)[update % pool])
        for count, _, item in episodes:
            if count < self._least:
                raise ValueError(
                    f"an episode has {count} interactions, but min_interactions asks for {self._least} (item "
                    f"{item.visit} of the data, counted from 0 over all epochs). Leave such episodes out of the data, "
                    f"or set min_interactions to None: then an episode is led as far as it goes."
                )
        if not self._facts:
            return RolloutBatch(*batch)
        items = [item for _, _, item in episodes]
        asked = [self._values(item, len(batch.ids)) for item in items]
        every = [list(dict.fromkeys(value for values in rows for value in values)) for rows in asked]
        others = [[[v for v in every[b] if v not in values] for values in rows] for b, rows in enumerate(asked)]
        facts, left_out = self._encode(asked)
        return RolloutBatch(*batch, facts, self._encode(others)[0], left_out)

    def _require_annotations(self) -> None:
        source = self._reader.source
        for position in range(_LOOKED_AT):
            visit = self._order.visit(position)
            if source.stored_episode(visit) is not None:
                return  # refused where its values are wanted
            if any(annotated_values(interaction) for interaction in source.episode(visit).get("interactions", ())):
                return
        raise ValueError(
            f"the reward looks for values of recall annotations, but none of {_LOOKED_AT} episodes has any. Give their "
            f"interactions a 'recall' (docs/data.md), or take a reward that needs none, such as NewContentReward."
        )

    def _values(self, item: Item, count: int) -> list[list[str]]:
        """List the values that each row of an episode asks for."""
        assert item.visit is not None
        source = self._reader.source
        if source.stored_episode(item.visit) is not None:
            raise ValueError(
                "the reward looks for values of recall annotations, which prepared rows do not have. Train on the "
                "files that they were prepared from."
            )
        episode = source.episode(item.visit)
        lead = [[] for _ in range(self._encoder.leading_rows(episode))]
        values = [*lead, *(annotated_values(interaction) for interaction in episode["interactions"])]
        return [*values[:count], *[[] for _ in range(count - len(values))]]

    def _encode(self, values: list[list[list[str]]]) -> tuple[Facts, np.ndarray]:
        """Encode the values of B episodes of I rows as `[I B …]`; also count what did not fit."""
        shape = (len(values[0]), len(values))
        flat = [values[b][i] for i in range(shape[0]) for b in range(shape[1])]
        facts = encode_facts(flat, self._encoder.tokenizer).facts
        held = np.any(facts.mask, axis=(2, 3)).sum(axis=1)
        left_out = np.array([len(set(each)) for each in flat], np.float32) - held
        return Facts(*(leaf.reshape(*shape, *leaf.shape[1:]) for leaf in facts)), left_out.reshape(shape)


def rollout_batches(
    reading: Reading, reward: Reward, strategy: EpisodeStrategy, *, min_interactions: int | None = None
) -> RolloutBatches:
    """Make the batches of a stage that leads conversations; what the reward or the strategy cannot find is an error."""
    most = reading.encoder.config.max_interactions
    if min_interactions is not None and not 2 <= min_interactions <= most:
        raise ValueError(
            f"min_interactions must be None or 2 to max_interactions = {most}, got {min_interactions}: the first "
            f"interaction is written and the others are answered."
        )
    if strategy.saved_lag >= most:
        raise ValueError(
            f"saved_lag = {strategy.saved_lag} holds an answer against an interaction that far back, but episodes "
            f"have at most {most}. Raise max_interactions, or lower saved_lag."
        )
    if strategy.first == "negative" and most < 3:
        raise ValueError(
            f"the strategy rewards the first answer for leaving a topic and a later one for coming back to it, which "
            f"takes 3 interactions, but episodes have at most {most}. Raise max_interactions."
        )
    found = reading.batches(RolloutBatches, facts=needs_facts(reward), min_interactions=min_interactions)
    assert isinstance(found, RolloutBatches)
    return found


def needs_facts(reward: Reward) -> bool:
    """Tell whether a reward, or a part of it, looks for annotated values."""
    return _holds(reward, FactReward) or needs_abstentions(reward)


def needs_abstentions(reward: Reward) -> bool:
    """Tell whether a reward, or a part of it, looks for words that say that something is not known."""
    return _holds(reward, AbstentionReward)


def needs_score(reward: Reward) -> bool:
    """Tell whether a reward, or a part of it, is the score of a reward model."""
    return _holds(reward, LearnedReward)


def _holds(value: Any, kind: type[Reward]) -> bool:
    """Tell whether a config is of a kind of reward, or holds one."""
    if isinstance(value, tuple | list):
        return any(_holds(each, kind) for each in value)
    if isinstance(value, kind):
        return True
    if dataclasses.is_dataclass(value):
        return any(_holds(getattr(value, each.name), kind) for each in dataclasses.fields(value))
    return False
