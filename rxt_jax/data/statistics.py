"""What a model would see of a file: lengths, labels, modes, what is cut or dropped, how far recall has to reach."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rxt_jax.data.rows import Row, RowEncoder
from rxt_jax.data.template import answer_ids, interaction_mode, interaction_parts, prompt_ids

__all__ = ["Example", "Statistics", "measure", "percentiles"]

SHARES = (0, 10, 50, 90, 95, 99, 100)


@dataclass(frozen=True)
class Example:
    """One row to look at: its mode, and whether memory is updated from it."""

    mode: str
    row: Row
    enters_memory: bool


@dataclass
class Statistics:
    """Counts over records; `lengths` are those of whole interactions or texts, before anything is cut."""

    records: int = 0
    unusable: int = 0
    lengths: list[int] = field(default_factory=list)
    row_lengths: list[int] = field(default_factory=list)
    labels_per_record: list[int] = field(default_factory=list)
    interactions_per_episode: list[int] = field(default_factory=list)
    modes: Counter[str] = field(default_factory=Counter)
    recall_distances: Counter[int] = field(default_factory=Counter)
    examples: dict[str, Example] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """Return everything but the examples as JSON values."""
        return {
            "records": self.records,
            "records_without_a_usable_row": self.unusable,
            "tokens": sum(self.lengths),
            "lengths": percentiles(self.lengths),
            "row_lengths": percentiles(self.row_lengths),
            "labels_per_record": percentiles(self.labels_per_record),
            "interactions_per_episode": percentiles(self.interactions_per_episode),
            "modes": dict(self.modes.most_common()),
            "recall_distances": {str(distance): count for distance, count in sorted(self.recall_distances.items())},
        }


def measure(records: Iterable[Mapping[str, Any]], encoder: RowEncoder) -> Statistics:
    """Walk over checked records once, encode each as training would, and count; `encoder.report` has the cuts."""
    found = Statistics()
    for record in records:
        found.records += 1
        if "text" in record:
            _text(found, record["text"], encoder)
        elif any("chosen" in each for each in record["interactions"]):
            _preferences(found, record, encoder)
        else:
            _episode(found, record, encoder)
    return found


def percentiles(values: Sequence[int]) -> dict[str, int]:
    """Return the smallest, some percentiles and the largest of the values, `{}` for none."""
    ordered = sorted(values)
    return {f"p{share}": ordered[share * (len(ordered) - 1) // 100] for share in SHARES} if ordered else {}


def _text(found: Statistics, text: str, encoder: RowEncoder) -> None:
    row = encoder.text(text)
    found.lengths.append(len(encoder.encode(text)) + 2)
    found.modes["text"] += 1
    _rows(found, [row], [Example("text", row, False)])


def _episode(found: Statistics, record: Mapping[str, Any], encoder: RowEncoder) -> None:
    rows = encoder.episode(record)
    examples = _system_examples(record, rows, encoder)
    encoded = rows[len(examples) :]
    for interaction, row in zip(record["interactions"], encoded, strict=False):  # an episode may be shortened
        if row.valid:
            examples.append(Example(interaction_mode(interaction), row, True))
    for interaction in record["interactions"]:
        found.modes[interaction_mode(interaction)] += 1
        found.lengths.append(sum(map(len, interaction_parts(interaction, encoder.encode, encoder.special))))
    _conversation(found, record)
    _rows(found, rows, examples)


def _preferences(found: Statistics, record: Mapping[str, Any], encoder: RowEncoder) -> None:
    chosen, rejected, neutral = encoder.preference_episode(record)
    examples = _system_examples(record, chosen, encoder)
    alternatives = zip(chosen, rejected, neutral, strict=True)
    for rows in list(alternatives)[len(examples) :]:
        names = ("chosen", "rejected", "neutral")
        examples += [Example(name, row, name == "chosen") for name, row in zip(names, rows, strict=True) if row.valid]
    for interaction in record["interactions"]:
        found.modes["pair" if interaction.get("rejected") else "memory only"] += 1
        found.modes["with neutral"] += bool(interaction.get("neutral"))
        prompt = len(prompt_ids(interaction, encoder.encode, encoder.special))
        for name in ("chosen", "rejected", "neutral"):
            if interaction.get(name):
                found.lengths.append(prompt + len(answer_ids(interaction[name], encoder.encode, encoder.special)))
    _conversation(found, record)
    # Only pairs are scored: a chosen answer without a rejected one trains nothing.
    scored = [row for pair in zip(chosen, rejected, strict=True) if pair[1].valid for row in pair]
    _rows(found, [*chosen, *rejected, *neutral], examples, scored)


def _system_examples(record: Mapping[str, Any], rows: Sequence[Row], encoder: RowEncoder) -> list[Example]:
    return [Example("system prompt", row, True) for row in rows[: encoder.leading_rows(record)]]


def _conversation(found: Statistics, record: Mapping[str, Any]) -> None:
    found.interactions_per_episode.append(len(record["interactions"]))
    for interaction in record["interactions"]:
        found.recall_distances.update(
            each["distance"] for each in interaction.get("recall") or () if "distance" in each
        )


def _rows(
    found: Statistics, rows: Sequence[Row], examples: Sequence[Example], labelled: Sequence[Row] | None = None
) -> None:
    valid = [row for row in rows if row.valid]
    found.unusable += not valid
    found.row_lengths += [len(row.ids) for row in valid]
    found.labels_per_record.append(sum(sum(row.label_list()) for row in (rows if labelled is None else labelled)))
    for example in examples:
        found.examples.setdefault(example.mode, example)
