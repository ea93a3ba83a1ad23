"""How a user types: with care, in lower case or capitals, without marks, with contractions, in notes, in haste."""

import re
from collections.abc import Iterable
from typing import NamedTuple

from rxt_jax.data.dialogues.draws import Draws
from rxt_jax.data.dialogues.spec import DialogueSpec
from rxt_jax.data.dialogues.templates import sentence

__all__ = ["TypingHabits", "draw_habits"]

_CONTRACTIONS = {
    "I am": "I'm", "what is": "what's", "who is": "who's", "where is": "where's", "it is": "it's", "that is": "that's",
    "she is": "she's", "he is": "he's", "there is": "there's", "how is": "how's", "do not": "don't",
    "does not": "doesn't",
    "did not": "didn't", "cannot": "can't", "is not": "isn't", "was not": "wasn't", "I have got": "I've got",
    "I have been": "I've been", "I have a": "I've a", "you are": "you're", "we are": "we're", "they are": "they're",
    "I will": "I'll", "I would": "I'd", "have not": "haven't", "when is": "when's", "let us": "let's",
}  # fmt: skip
_CONTRACTED = re.compile(r"\b(" + "|".join(_CONTRACTIONS) + r")\b", re.IGNORECASE)
_WITHOUT_APOSTROPHE = re.compile(
    r"\b(i'm|what's|who's|where's|it's|that's|don't|doesn't|can't|let's|i've|isn't|he's|she's)\b", re.I
)


class TypingHabits(NamedTuple):
    """What one user does to every query of a conversation; chances are per query."""

    contracts: float = 0.5
    lower: bool = False
    drops_final_mark: float = 0.0
    drops_apostrophes: float = 0.0
    drops_commas: float = 0.0
    exclaims: float = 0.02
    typos: float = 0.0
    upper: bool = False
    notes: float = 0.0
    """Statements and questions that are notes instead of sentences."""

    def cased(self, text: str) -> str:
        """Write a word as this user does."""
        return text.lower() if self.lower else text.upper() if self.upper else text

    def type(self, draws: Draws, clause: str, protected: Iterable[str]) -> str:
        """Type a clause; values and keys, which are `protected`, stay letter by letter what they are."""
        kept = [text for text in protected if text]
        careful = any("'" in text or "," in text for text in kept)
        if draws.chance(self.contracts) and not any(map(_CONTRACTED.search, kept)):
            clause = _CONTRACTED.sub(lambda found: _contract(found[0]), clause)
        if self.drops_apostrophes and not careful and draws.chance(self.drops_apostrophes):
            clause = _WITHOUT_APOSTROPHE.sub(lambda found: found[0].replace("'", ""), clause)
            clause = re.sub(r"(\w)'s\b", r"\1s", clause)
        if self.typos and draws.chance(self.typos):
            clause = _slip(draws, clause, {word.casefold() for text in kept for word in re.findall(r"\w+", text)})
        text = sentence(clause)
        if self.drops_commas and not careful and draws.chance(self.drops_commas):
            text = text.replace(", ", " ")
        if draws.chance(self.drops_final_mark):
            text = text.rstrip(".?!") or text
        elif text[-1] == "." and draws.chance(self.exclaims):
            text = text[:-1] + "!"
        return self.cased(text)


def draw_habits(draws: Draws, spec: DialogueSpec) -> TypingHabits:
    """Draw a user."""
    habits = (
        _careless(draws, spec.typo_share) if draws.chance(spec.careless_share) else _careful(draws, spec.typo_share)
    )
    if spec.capitals_share and draws.chance(spec.capitals_share):
        habits = habits._replace(lower=False, upper=True)
    if spec.terse_share and draws.chance(spec.terse_share):
        habits = habits._replace(notes=draws.choice((0.5, 0.9, 1.0)))
    return habits


def _careful(draws: Draws, typo_share: float) -> TypingHabits:
    return TypingHabits(contracts=draws.choice((0.0, 0.5, 1.0)), typos=typo_share)


def _careless(draws: Draws, typo_share: float) -> TypingHabits:
    return TypingHabits(
        contracts=draws.choice((0.2, 0.8, 1.0)),
        lower=draws.chance(0.6),
        drops_final_mark=draws.choice((0.3, 0.7, 1.0)),
        drops_apostrophes=draws.choice((0.0, 0.0, 0.5, 1.0)),
        drops_commas=draws.choice((0.0, 0.5, 1.0)),
        exclaims=draws.choice((0.0, 0.2)),
        typos=typo_share * 2,
    )


def _contract(words: str) -> str:
    short = (
        _CONTRACTIONS.get(words)
        or _CONTRACTIONS.get(words.lower())
        or _CONTRACTIONS.get(words[0].upper() + words[1:].lower(), words)
    )
    return short[0].upper() + short[1:] if words[0].isupper() else short


def _slip(draws: Draws, clause: str, protected: set[str]) -> str:
    """Swap two letters within one word."""
    words = clause.split(" ")
    places = [
        place
        for place, word in enumerate(words)
        if word.isalpha() and len(word) > 3 and word.casefold() not in protected
    ]
    if places:
        place = draws.choice(places)
        letters = list(words[place])
        at = draws.between(1, len(letters) - 3)
        letters[at], letters[at + 1] = letters[at + 1], letters[at]
        words[place] = "".join(letters)
    return " ".join(words)
