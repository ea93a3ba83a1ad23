"""What an answer to a question is worth: right, a wrong fact, an honest "you have not told me", or none of these."""

import re
from collections.abc import Collection
from typing import Literal, get_args

from rxt_jax.evaluation.recall import words_of

__all__ = ["OUTCOMES", "Outcome", "abstains", "judge", "values_in"]

Outcome = Literal["right", "wrong_fact", "absent", "other"]
"""The value and no other; another value of the conversation; that it was not told; anything else."""

OUTCOMES: tuple[Outcome, ...] = get_args(Outcome)

_NOT = r"(?:not|never|cannot|nothing|havent|didnt|dont|\w+n t)"
_IN_BETWEEN = r"(?: yet| ever| really| actually| even| been)?"
_ABSTENTION = re.compile(
    rf"\b{_NOT}{_IN_BETWEEN} (?:told|tell|said|say|mention(?:ed)?|gave|given?|shared|known?|remember|recall)\b"
    r"|\bno (?:idea|information|record|memory|mention)\b"
    rf"|\b{_NOT} (?:sure|aware|certain)\b"
    rf"|\b{_NOT} have (?:that|this|any|the|enough) (?:information|details?|record)\b"
    r"|\bunknown\b"
)


def abstains(text: str) -> bool:
    """Whether an answer says that something was not told or is not known, in whatever words.

    "Your dog is not big" denies something and does not abstain; "I do not know" and "you never said" do.
    """
    return _ABSTENTION.search(words_of(text)) is not None


def values_in(text: str, values: Collection[str]) -> set[str]:
    """List the values that a text holds as whole words, case and punctuation aside.

    Longer ones are looked for first, and what they cover is spent: "Anna Maria" does not hold "Anna".
    """
    found, rest = set(), f" {words_of(text)} "
    for value in sorted(values, key=lambda value: len(words_of(value)), reverse=True):
        spelled = f" {words_of(value)} "
        # A value that was found under another spelling ("7:30", "7.30") is the same words.
        if spelled in rest or any(words_of(value) == words_of(other) for other in found):
            found.add(value)
            rest = rest.replace(spelled, " | ")
    return found


def judge(text: str, expected: Collection[str], wrong: Collection[str]) -> Outcome:
    """Judge an answer: `expected` are spellings of the right value, `wrong` are values of other things.

    An answer that names a right and a wrong value hedges, which is a wrong fact. Nothing is expected of a
    question about what was never said: the best outcome there is `absent`.
    """
    right = {words_of(value) for value in expected}
    wrong = [value for value in wrong if words_of(value) not in right]
    found = values_in(text, [*expected, *wrong])
    names_wrong = not found.isdisjoint(wrong)
    if not names_wrong and not found.isdisjoint(expected):
        return "right"
    if abstains(text):
        return "absent"
    return "wrong_fact" if names_wrong else "other"
