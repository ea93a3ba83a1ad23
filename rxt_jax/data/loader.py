"""Batches by number: element u is the batch of update u, whatever came before and whoever makes it.

Order is a function of (seed, epoch), every random draw of (seed, batch) or (seed, visit), how `subword_sampling`
cuts words included; a run resumes by starting at its update. `data.read_ahead` prepares them in time; with several
hosts each makes its rows of the global batch. Batches are NumPy. Source: docs/method.md §13.9.
"""

import json
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import asdict
from typing import Any, ClassVar, TypeVar

import numpy as np

from rxt_jax.data.config import DataConfig, changed_settings
from rxt_jax.data.episode_source import EpisodeSource
from rxt_jax.data.order import Shard, make_order, order_fingerprint
from rxt_jax.data.packing import PackingPlan, stack_packed
from rxt_jax.data.row_reader import Alternatives, Item, Recent, RowReader
from rxt_jax.data.rows import Row, RowEncoder, stack_rows, weigh_values
from rxt_jax.data.special_tokens import ABSENT, CONTROL_PIECES
from rxt_jax.types import EpisodeBatch, PreferenceBatch, RowBatch

__all__ = [
    "Batches",
    "ConversationBatches",
    "EpisodeBatches",
    "InteractionBatches",
    "PreferenceBatches",
    "Shard",
    "TextBatches",
    "make_episode_batch",
    "make_preference_batch",
]

_ENDLESS = 1 << 40

T = TypeVar("T")


def make_episode_batch(
    episodes: list[list[Row]], encoder: RowEncoder, num_interactions: int, length: int | None = None
) -> EpisodeBatch:
    """Stack encoded episodes to `[I B T]`, interactions that an episode does not have as filler behind it."""
    filler, length = _filler(encoder), length or encoder.config.max_length
    padded = [rows + [filler] * (num_interactions - len(rows)) for rows in episodes]
    by_interaction = [rows[i] for i in range(num_interactions) for rows in padded]
    stacked = stack_rows(by_interaction, length, encoder.special.pad)
    shape = (num_interactions, len(episodes), length)
    ids, token_mask, loss_mask = (leaf.reshape(shape) for leaf in stacked)
    valid = np.array([row.valid for row in by_interaction]).reshape(shape[:2])
    weights = None
    if encoder.config.value_weight != 1.0:
        weights = weigh_values(by_interaction, length, encoder.config.value_weight).reshape(shape)
    return EpisodeBatch(ids, token_mask, loss_mask, valid, weights)


def make_preference_batch(
    episodes: list[Alternatives],
    encoder: RowEncoder,
    num_interactions: int,
    length: int | None = None,
    reference: np.ndarray | None = None,
) -> PreferenceBatch:
    """Stack encoded preference episodes to three batches of one shape."""
    chosen, rejected, neutral = (
        make_episode_batch(list(rows), encoder, num_interactions, length) for rows in zip(*episodes, strict=True)
    )
    return PreferenceBatch(chosen, rejected, neutral, reference)


class Batches(ABC):
    """What all kinds have in common: order, rows of this process, state."""

    batch_axis: ClassVar[int] = 1

    def __init__(
        self,
        source: EpisodeSource,
        encoder: RowEncoder,
        *,
        batch_size: int,
        seed: int,
        shard: Shard | None = None,
    ):
        self._encoder, self._batch_size, self._seed = encoder, batch_size, seed
        self._reader = RowReader(source, encoder, seed)
        self._order = make_order(source, seed, batch_size)
        self._shard = shard or Shard()
        elsewhere = ("source", "evaluation_source", "preference_evaluation_source", "workers")
        settings = {name: value for name, value in asdict(encoder.config).items() if name not in elsewhere}
        self._settings = json.loads(json.dumps(settings))

    @property
    def report(self) -> Any:
        """What was read and what did not fit."""
        return self._encoder.report

    @property
    def _config(self) -> DataConfig:
        return self._encoder.config

    def __len__(self) -> int:
        return _ENDLESS

    @abstractmethod
    def __getitem__(self, update: int) -> Any: ...

    def state(self, update: int) -> dict[str, Any]:
        """Say, in JSON, where update `update` stands in the data, and which order that is a place of."""
        return {
            "source": self._reader.source.fingerprint,
            "order": order_fingerprint(self._order),
            "settings": self._settings,
            "update": update,
            "epoch": self._order.epoch(update * self._batch_size),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a state; one of other data or of another order is an error."""
        mine = self.state(0)
        for part, meaning in (("source", "other data"), ("order", "the same data in another order")):
            if state[part] != mine[part]:
                raise ValueError(
                    f"the run was trained on {meaning} (fingerprint {state[part]}, these have {mine[part]}), so it "
                    f"cannot go on from update {state['update']}. Use the old data, or another --folder."
                )
        for name, old, new in changed_settings(state["settings"], mine["settings"]):
            raise ValueError(
                f"the run was trained with data.{name} = {old!r}, this one has {new!r}, so it cannot go on from update "
                f"{state['update']}. Use the old value, or another --folder."
            )

    def _visits(self, number: int, count: int) -> list[int]:
        return [self._order.visit(position) for position in range(number * count, (number + 1) * count)]

    def _draw_pool(self, number: int, draw: Callable[[int], T], size: Callable[[T], tuple[int, ...]]) -> list[list[T]]:
        """Draw `sort_pool` batches of episodes at once and sort them by size, batches in random order."""
        rows, count = self._batch_size, self._config.sort_pool
        drawn = [draw(visit) for visit in self._visits(number, rows * count)]
        if count == 1:
            return [drawn]
        drawn.sort(key=size)
        batches = [drawn[start : start + rows] for start in range(0, len(drawn), rows)]
        order = np.random.default_rng((self._seed, 1, number)).permutation(count)
        return [batches[i] for i in order]


class EpisodeBatches(Batches):
    """Conversations, for history reading and stages 3 and 4.

    With `window` every episode shows that many interactions, drawn by (seed, visit), with everything before
    them: the window is the last `window` interactions of the batch, what comes before has no targets, and
    shorter pasts have their filler in front.
    """

    def __init__(self, source: EpisodeSource, encoder: RowEncoder, *, window: int | None = None, **common: Any):
        super().__init__(source, encoder, **common)
        if window is not None and not 1 <= window <= encoder.config.max_interactions:
            raise ValueError(f"window must be 1 to max_interactions = {encoder.config.max_interactions}, got {window}.")
        self._window = window
        self._pool = Recent(self._sorted_pool)

    def __getitem__(self, update: int) -> EpisodeBatch:
        pool, config = self._config.sort_pool, self._config
        episodes = self._pool(update // pool)[update % pool]
        before = max(before for _, before, _ in episodes)
        length = None
        if config.length_buckets:
            length = _bucket(max(item.length for _, _, item in episodes), config.length_buckets, config.max_length)
        if self._window is None:
            used = max(min(count, config.max_interactions) for count, _, _ in episodes)
            total = _bucket(used, config.interaction_buckets, config.max_interactions)
            lead = 0
        else:
            total = _bucket(before + self._window, config.interaction_buckets, config.max_interactions)
            lead = total - self._window
        filler, rows = _filler(self._encoder), []
        for count, before, item in self._shard.of(episodes):
            if self._window is None and len(item.rows) < count:
                self.report.shortened(count - len(item.rows))
            rows.append([filler] * (lead - before if lead else 0) + item.rows)
        batch = make_episode_batch(rows, self._encoder, total, length)
        batch.loss_mask[:lead] = False
        return batch

    def _sorted_pool(self, number: int) -> list[list[tuple[int, int, Item]]]:
        """An episode is how many interactions it has, how many of them are shown before its window, and its rows."""
        return self._draw_pool(number, self._episode, self._size)

    def _episode(self, visit: int) -> tuple[int, int, Item]:
        record, most = self._reader.record(visit), self._config.max_interactions
        if self._window is None:
            return record.count, 0, record.item(slice(0, most))
        window = self._window
        start = int(np.random.default_rng((self._seed, 4, visit)).integers(max(record.count - window, 0) + 1))
        before = min(start, most - window)
        return record.count, before, record.item(slice(start - before, start + window))

    def _size(self, episode: tuple[int, int, Item]) -> tuple[int, ...]:
        count, before, item = episode
        config = self._config
        if self._window is not None:
            count = before + self._window
        if not config.length_buckets:
            return (count,)
        interactions = _bucket(count, config.interaction_buckets, config.max_interactions)
        return interactions, _bucket(item.length, config.length_buckets, config.max_length), count


class _Rows(Batches):
    """Independent rows: one item of a visit is a row, or with packing one of several in a row."""

    batch_axis = 0
    _restores_masked: ClassVar[bool] = True  # an encoder has to restore masked tokens

    def __init__(self, source: EpisodeSource, encoder: RowEncoder, **common: Any):
        super().__init__(source, encoder, **common)
        if self._restores_masked and encoder.special.mask == ABSENT:
            raise ValueError(
                f"this tokenizer has no {CONTROL_PIECES['mask']}, but the stage that reads these rows restores masked "
                f"tokens. Leave out joint_pretraining and interaction_sft, or use a tokenizer that has it: "
                f"`rxt tokenizer train` makes one."
            )
        self._pool = Recent(self._sorted_pool)
        self._plan = None
        if self._config.packing is not None:
            if self._config.length_buckets:
                raise ValueError("packing fills rows of one length; it cannot go with length_buckets. Choose one.")
            self._order = make_order(source, self._seed)
            self._plan = PackingPlan(
                self._packed_item,
                self._order.epoch,
                self._config.packing,
                batch_size=self._batch_size,
                length=self._row_length,
                seed=self._seed,
                drop=self._drop,
                published=self._config.compatibility.packed_documents_see_each_other,
            )

    @property
    @abstractmethod
    def _row_length(self) -> int:
        """Tokens of a row."""

    @abstractmethod
    def _item(self, visit: int, rng: np.random.Generator) -> Item:
        """Open the row of a visit; `rng` is the visit's own."""

    def __getitem__(self, update: int) -> RowBatch:
        length, pad = self._row_length, self._encoder.special.pad
        documents = None
        if self._plan is not None and self._config.packing is not None:
            bins = [[item.rows[0] for item in each] for each in self._shard.of(self._plan.batch(update))]
            published = self._config.compatibility.packed_documents_see_each_other
            *stacked, documents = stack_packed(bins, length, self._encoder.special, published=published)
        else:
            pool = self._config.sort_pool if self._config.length_buckets else 1
            items = self._pool(update // pool)[update % pool]
            if self._config.length_buckets:
                length = _bucket(max(item.length for item in items), self._config.length_buckets, length)
            stacked = stack_rows([item.rows[0] for item in self._shard.of(items)], length, pad)
        ids, token_mask, loss_mask = stacked
        # Drawn for the whole batch, so that the number of processes changes nothing.
        draw = np.random.default_rng((self._seed, 2, update)).random((self._batch_size, length))
        draw = draw if self._shard.rows is None else draw[list(self._shard.rows)]
        mlm_mask = (draw < self._config.mask_probability) & token_mask
        masked_ids = None
        if self._restores_masked:
            masked_ids = np.where(mlm_mask, np.int32(self._encoder.special.mask), ids)
        return RowBatch(ids, token_mask, loss_mask, mlm_mask, documents, masked_ids)

    def state(self, update: int) -> dict[str, Any]:
        """Say where an update stands; packed data also say where its buffer begins."""
        state = super().state(update)
        return state if self._plan is None else state | {"packing": self._plan.state(update)}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a state; packed data do not have to be walked through again."""
        super().restore(state | {"packing": None})
        if self._plan is not None and state.get("packing") is not None:
            self._plan.restore(state["packing"])

    def _sorted_pool(self, number: int) -> list[list[Item]]:
        count = self._config.sort_pool if self._config.length_buckets else 1
        batches = []
        for update in range(number * count, (number + 1) * count):
            rng = np.random.default_rng((self._seed, 3, update))
            batches.append([self._item(visit, rng) for visit in self._visits(update, self._batch_size)])
        if count == 1:
            return batches
        items = sorted((item for batch in batches for item in batch), key=lambda item: item.length)
        batches = [items[start : start + self._batch_size] for start in range(0, len(items), self._batch_size)]
        order = np.random.default_rng((self._seed, 1, number)).permutation(count)
        return [batches[i] for i in order]

    def _packed_item(self, position: int) -> Item:
        visit = self._order.visit(position)
        return self._item(visit, np.random.default_rng((self._seed, 3, visit)))

    def _drop(self, item: Item, reason: str) -> None:
        if not item.is_read:
            self.report.row(dropped=reason)
        elif item.rows[0].valid:
            self.report.drop(reason)


class TextBatches(_Rows):
    """Plain text, for stage 1."""

    @property
    def _row_length(self) -> int:
        return self._config.text_length

    def _item(self, visit: int, rng: np.random.Generator) -> Item:
        return self._reader.text(visit)


class InteractionBatches(_Rows):
    """Interactions without their past, for stage 2: one of each episode drawn."""

    @property
    def _row_length(self) -> int:
        return self._config.max_length

    def _item(self, visit: int, rng: np.random.Generator) -> Item:
        record = self._reader.record(visit)
        number = record.first + int(rng.integers(record.count - record.first))
        return record.item(slice(number, number + 1))


class ConversationBatches(_Rows):
    """Whole conversations as one row each, for the stateless baseline."""

    _restores_masked = False

    @property
    def _row_length(self) -> int:
        return self._config.conversation_length

    def _item(self, visit: int, rng: np.random.Generator) -> Item:
        return self._reader.conversation(visit)


class PreferenceBatches(Batches):
    """Conversations with several answers to a query, for the preference stage.

    `reference[item, i, k]` are log-probabilities of the answers under a reference model, in the order of the source
    (`rxt_jax.stages.precomputed_reference`).
    """

    def __init__(
        self, source: EpisodeSource, encoder: RowEncoder, *, reference: np.ndarray | None = None, **common: Any
    ):
        super().__init__(source, encoder, **common)
        self._reference = reference
        self._pool = Recent(self._sorted_pool)

    def __getitem__(self, update: int) -> PreferenceBatch:
        config = self._config
        drawn = self._pool(update // config.sort_pool)[update % config.sort_pool]
        length = None
        if config.length_buckets:
            longest = max(_longest(rows) for _, rows in drawn)
            length = _bucket(longest, config.length_buckets, config.max_length)
        most = max(len(chosen) for _, (chosen, _, _) in drawn)
        total = _bucket(most, config.interaction_buckets, config.max_interactions)
        mine = self._shard.of(drawn)
        reference = None
        if self._reference is not None:
            items = [visit % len(self._reference) for visit, _ in mine]
            reference = np.moveaxis(self._reference[items, :total], 0, 1)
        return make_preference_batch([rows for _, rows in mine], self._encoder, total, length, reference)

    def _sorted_pool(self, number: int) -> list[list[tuple[int, Alternatives]]]:
        return self._draw_pool(number, lambda visit: (visit, self._reader.preferences(visit)), self._size)

    def _size(self, episode: tuple[int, Alternatives]) -> tuple[int, ...]:
        chosen, rejected, _ = episode[1]
        pairs = sum(row.valid for row in rejected)
        sizes = (_bucket(_longest(episode[1]), self._config.length_buckets, self._config.max_length), len(chosen))
        return (*(sizes if self._config.length_buckets else sizes[1:]), pairs)


def _longest(rows: Alternatives) -> int:
    return max(len(row.ids) for kind in rows for row in kind)


def _bucket(size: int, sizes: tuple[int, ...], full: int) -> int:
    """Return the smallest of the sizes that holds `size`, at most `full`; without sizes always `full`."""
    return next((each for each in sizes if size <= each < full), full)


def _filler(encoder: RowEncoder) -> Row:
    return Row([encoder.special.pad], 1, valid=False)
