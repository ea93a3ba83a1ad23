"""Which values a turn has to recall, whether an answer holds them, and what guessing would give."""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

__all__ = [
    "BUCKETS",
    "Absence",
    "Recall",
    "absences_of",
    "bucket_of",
    "chance_level",
    "contains_value",
    "guess_from_the_rest",
    "guess_level",
    "recalls_of",
    "words_of",
]

BUCKETS = ((1, 1), (2, 2), (3, 4), (5, 8), (9, 16), (17, None))
"""Distances that are reported together, both ends included."""


class Recall(NamedTuple):
    """One annotated value: where it is asked for, what it is, how many interactions ago it was said.

    `candidates` counts the facts of its type that had been told by then; `others` are values of other questions
    and those that an annotation names as `outdated`; `kind` is what its value can be guessed from: its type where
    one is annotated, else its slot.
    """

    episode: int
    turn: int
    slot: str
    value: str
    distance: int
    candidates: int = 1
    others: tuple[str, ...] = ()
    kind: str = ""


class Absence(NamedTuple):
    """A question about something that was never said."""

    episode: int
    turn: int


def recalls_of(episodes: Sequence[Mapping[str, Any]], max_interactions: int) -> list[Recall]:
    """List the annotated values of episodes, in order."""
    return [
        Recall(
            number,
            turn,
            str(each.get("slot", "")),
            str(each["value"]),
            int(each["distance"]),
            int(each.get("candidates") or 1),
            (*_other_values(episode, interaction), *map(str, each.get("outdated") or ())),
            str(each.get("type") or each.get("slot", "")),
        )
        for number, episode in enumerate(episodes)
        for turn, interaction in enumerate(episode["interactions"][:max_interactions])
        for each in interaction.get("recall") or ()
    ]


def absences_of(episodes: Sequence[Mapping[str, Any]], max_interactions: int) -> list[Absence]:
    """List the questions that ask for what was never said: their `intent` is `absence`."""
    return [
        Absence(number, turn)
        for number, episode in enumerate(episodes)
        for turn, interaction in enumerate(episode["interactions"][:max_interactions])
        if interaction.get("intent") == "absence" and not interaction.get("recall")
    ]


def _other_values(episode: Mapping[str, Any], interaction: Mapping[str, Any]) -> tuple[str, ...]:
    """List the annotated values of an episode that neither the question nor the true answer names."""
    asked = " ".join(str(interaction.get(name) or "") for name in ("query", "tool_use", "think", "answer", "tool_call"))
    own = " ".join([asked, *(str(each["value"]) for each in interaction.get("recall") or ())])
    values = (str(each["value"]) for turn in episode["interactions"] for each in turn.get("recall") or ())
    return tuple(value for value in dict.fromkeys(values) if not contains_value(own, value))


def bucket_of(distance: int) -> str:
    """Name the bucket of a distance."""
    for low, high in BUCKETS:
        if distance >= low and (high is None or distance <= high):
            return f"{low}+" if high is None else str(low) if low == high else f"{low}-{high}"
    raise ValueError(f"distance must be at least 1, got {distance}.")


def contains_value(text: str, value: str) -> bool:
    """Whether a text holds a value as a run of whole words, case and punctuation aside."""
    return f" {words_of(value)} " in f" {words_of(text)} "


def chance_level(recalls: Iterable[Recall]) -> float:
    """Give the share of values that would be right if the one asked for most were named for every type or slot.

    It is read off the right answers, so it bounds what a model without memory can reach.
    """
    by_kind: dict[str, Counter[str]] = {}
    for recall in recalls:
        by_kind.setdefault(recall.kind or recall.slot, Counter())[words_of(recall.value)] += 1
    total = sum(sum(counter.values()) for counter in by_kind.values())
    return sum(max(counter.values()) for counter in by_kind.values()) / total if total else 0.0


def guess_level(recalls: Iterable[Recall], others: Iterable[Recall]) -> float:
    """Give the share of values that are right when guessed from other conversations: the most frequent of each kind.

    Unlike `chance_level` it does not rise where little is asked, because the guess knows nothing of what is asked.
    """
    by_kind: dict[str, Counter[str]] = {}
    for recall in others:
        by_kind.setdefault(recall.kind, Counter())[words_of(recall.value)] += 1
    guess = {kind: counter.most_common(1)[0][0] for kind, counter in by_kind.items()}
    right = [guess.get(recall.kind) == words_of(recall.value) for recall in recalls]
    return sum(right) / len(right) if right else 0.0


def guess_from_the_rest(recalls: Sequence[Recall]) -> float:
    """Give the share of values that are right when each is guessed from the other conversations that are asked.

    For data that end: there is nowhere else to guess from.
    """
    everywhere: dict[str, Counter[str]] = {}
    here: dict[tuple[int, str], Counter[str]] = {}
    for recall in recalls:
        word = words_of(recall.value)
        everywhere.setdefault(recall.kind, Counter())[word] += 1
        here.setdefault((recall.episode, recall.kind), Counter())[word] += 1
    right = 0
    for (_, kind), own in here.items():
        rest = everywhere[kind] - own
        right += own[rest.most_common(1)[0][0]] if rest else 0
    return right / len(recalls) if recalls else 0.0


def words_of(text: str) -> str:
    """Write a text as its words alone, with one space between them, so that only words are compared."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    return " ".join(re.findall(r"\w+", folded))
