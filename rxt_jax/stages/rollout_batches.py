"""Conversations to be led, with the values that their questions ask for where the reward looks for them."""

import dataclasses
from typing import Any, NamedTuple

import numpy as np

from rxt_jax.data.loader import EpisodeBatches
from rxt_jax.data.row_reader import Item
from rxt_jax.rewards import FactReward, Facts, Reward, annotated_values, encode_facts
from rxt_jax.types import ShapedArray

__all__ = ["RolloutBatch", "RolloutBatches", "needs_facts"]


class RolloutBatch(NamedTuple):
    """An `EpisodeBatch` with the values that every interaction asks for, and the other values of its conversation.

    `left_out` counts the values that did not fit into `facts`.
    """

    ids: ShapedArray  # int32 [I B T]
    token_mask: ShapedArray  # bool [I B T]
    loss_mask: ShapedArray  # bool [I B T]
    valid: ShapedArray  # bool [I B]
    facts: Facts | None = None  # [I B F P W]
    other_facts: Facts | None = None  # [I B F P W]
    left_out: ShapedArray | None = None  # float32 [I B]


class RolloutBatches(EpisodeBatches):
    """Conversations; with `facts` their recall annotations (docs/data.md) as token ids."""

    def __init__(self, *arguments: Any, facts: bool = False, **common: Any):
        super().__init__(*arguments, **common)
        self._facts = facts

    def __getitem__(self, update: int) -> RolloutBatch:
        batch = super().__getitem__(update)
        if not self._facts:
            return RolloutBatch(*batch)
        pool = self._config.sort_pool
        items = [item for _, _, item in self._shard.of(self._pool(update // pool)[update % pool])]
        asked = [self._values(item, len(batch.ids)) for item in items]
        every = [list(dict.fromkeys(value for values in rows for value in values)) for rows in asked]
        others = [[[v for v in every[b] if v not in values] for values in rows] for b, rows in enumerate(asked)]
        facts, left_out = self._encode(asked)
        return RolloutBatch(*batch, facts, self._encode(others)[0], left_out)

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


def needs_facts(reward: Reward) -> bool:
    """Tell whether a reward, or a part of it, looks for annotated values."""
    if isinstance(reward, FactReward):
        return True
    return any(_holds_facts(getattr(reward, each.name)) for each in dataclasses.fields(reward))


def _holds_facts(value: Any) -> bool:
    if isinstance(value, tuple | list):
        return any(_holds_facts(each) for each in value)
    if isinstance(value, Reward):
        return needs_facts(value)
    if dataclasses.is_dataclass(value):
        return any(_holds_facts(getattr(value, each.name)) for each in dataclasses.fields(value))
    return False
