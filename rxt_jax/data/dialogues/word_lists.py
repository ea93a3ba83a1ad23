"""The word lists behind values and keys, read from `words/`, and the one rule that says what training never sees.

A word, a whole value or a key is held out by a hash of its letters: once held out, held out in every run, whatever list
or pattern it comes from.
"""

import tomllib
from functools import cache
from importlib.resources import files
from zlib import crc32

from rxt_jax.data.dialogues.draws import Draws

__all__ = ["HELD_OUT_EVERY", "choose_word", "invent", "is_held_out", "side_of", "words"]

HELD_OUT_EVERY = 5
"""One of so many words is kept for evaluation."""


def is_held_out(text: str) -> bool:
    """Whether training never sees this word, value or key; upper and lower case are one."""
    return crc32(text.casefold().encode()) % HELD_OUT_EVERY == 0


@cache
def words(name: str) -> tuple[str, ...]:
    """Return a whole list, `words/<name>.txt`, common words first."""
    path = files("rxt_jax.data.dialogues") / "words" / f"{name}.txt"
    return tuple(line for line in path.read_text(encoding="utf-8").splitlines() if line)


@cache
def side_of(name: str, held_out: bool) -> tuple[str, ...]:
    """Return the words of a list that training sees, or the ones that it never sees."""
    return tuple(word for word in words(name) if is_held_out(word) == held_out)


def choose_word(draws: Draws, name: str, held_out: bool) -> str:
    """Draw a word of one side of a list, all equally likely."""
    return draws.choice(side_of(name, held_out))


@cache
def _syllable_parts() -> tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]:
    parts = tomllib.loads((files("rxt_jax.data.dialogues") / "words" / "syllables.toml").read_text(encoding="utf-8"))
    return tuple(parts["onset"]), tuple(parts["vowel"]), tuple(parts["coda"])


def invent(draws: Draws, held_out: bool) -> str:
    """Draw a word of one to three syllables that no dictionary has to hold: it can be copied, not known."""
    onset, vowel, coda = _syllable_parts()
    while True:
        count = 1 + draws.weighted((3, 6, 1))
        # A coda inside a word makes it hard to say, so there it is rare.
        word = "".join(
            draws.choice(onset) + draws.choice(vowel) + (draws.choice(coda) if last or draws.chance(0.15) else "")
            for last in (place == count - 1 for place in range(count))
        )
        if 2 < len(word) < 10 and is_held_out(word) == held_out:
            return word
