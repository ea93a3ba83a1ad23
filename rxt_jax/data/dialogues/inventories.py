"""Value inventories: every value a fact can have, by type, split into training and held-out values.

The split is fixed by the position in the inventory, not by a seed: a value held out once is held out in every run.
"""

from functools import cache
from itertools import product
from typing import NamedTuple

from rxt_jax.data.dialogues import words
from rxt_jax.data.dialogues.draws import Draws, stream_key

__all__ = ["HELD_OUT_EVERY", "OPINIONS", "VALUE_TYPES", "Inventory", "inventory"]

HELD_OUT_EVERY = 4
"""One of so many values and phrasings is kept for evaluation."""

OPINIONS = ("love", "hate", "adore", "detest", "enjoy", "dislike")
"""Alternating positive and negative verbs. Opinions test the polarity of an open key, so all are seen in training."""

_SYLLABLE_NAMES = 360
_CODES = 4096
_CODE_LETTERS = "bcdfghjkmnpqrstvwxz"


class Inventory(NamedTuple):
    """The values of one type that training may use, and the ones it never sees."""

    train: tuple[str, ...]
    held_out: tuple[str, ...]


def _draws(value_type: str) -> Draws:
    return Draws(stream_key(*value_type.encode()), 0)


def _pairs(value_type: str, first: list[str], second: list[str], form: str = "{} {}") -> list[str]:
    combined = [form.format(left, right) for left, right in product(first, second)]
    return _draws(value_type).shuffled(combined)


def _names() -> list[str]:
    """Well-known first names, then syllable names that no corpus contains."""
    draws, names = _draws("name"), dict.fromkeys(words.NAMES)
    taken = {word.lower() for word in (*words.CITIES, *words.FOODS, *words.ANIMALS, *words.JOBS)}
    while len(names) < len(words.NAMES) + _SYLLABLE_NAMES:
        name = "".join(draws.choice(part) for part in words.NAME_PARTS[: draws.between(2, 3)])
        if name not in taken and len(name) > 3:
            names[name.capitalize()] = None
    return list(names)


def _numbers() -> list[str]:
    """Two digits first, so that a small inventory is easy to compare; never a sum of the arithmetic turns."""
    draws = _draws("number")
    return [str(n) for n in draws.shuffled(range(21, 100)) + draws.shuffled(range(100, 1000))]


def _codes() -> list[str]:
    """Random letters and digits: they can be copied, never guessed."""
    draws, codes = _draws("code"), {}
    while len(codes) < _CODES:
        letters = "".join(draws.choice(_CODE_LETTERS) for _ in range(2))
        codes[f"{letters}{draws.between(10, 99)}"] = None
    return list(codes)


_BUILDERS = {
    "name": _names,
    "city": lambda: words.CITIES,
    "food": lambda: words.FOODS,
    "animal": lambda: words.ANIMALS,
    "job": lambda: words.JOBS,
    "number": _numbers,
    "code": _codes,
    "colour": lambda: _pairs("colour", words.SHADES, words.BASE_COLOURS),
    "place": lambda: _pairs("place", words.MATERIALS, words.FURNITURE),
    "thing": lambda: _pairs("thing", words.MATERIALS, words.THINGS),
    "book": lambda: _pairs("book", words.BOOK_QUALITIES, words.BOOK_SUBJECTS, "The {} {}"),
    "time": lambda: _pairs("time", _pairs("day", words.DAYS, words.HOURS, "{} at {}"), words.MINUTES),
}  # fmt: skip

VALUE_TYPES = (*_BUILDERS, "opinion")


@cache
def inventory(value_type: str, size: int | None = None) -> Inventory:
    """Return the first `size` training values and as many held-out values as there are, at most `size`."""
    if value_type == "opinion":
        return Inventory(OPINIONS, OPINIONS)
    values = _BUILDERS[value_type]()
    train = [v for i, v in enumerate(values) if i % HELD_OUT_EVERY != HELD_OUT_EVERY - 1]
    held_out = [v for i, v in enumerate(values) if i % HELD_OUT_EVERY == HELD_OUT_EVERY - 1]
    return Inventory(tuple(train[:size]), tuple(held_out[:size]))
