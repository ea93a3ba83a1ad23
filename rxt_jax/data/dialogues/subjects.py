"""Who or what a fact is about, and how the user and the model name it."""

from typing import NamedTuple

from rxt_jax.data.dialogues.draws import Draws
from rxt_jax.data.dialogues.values import draw_value
from rxt_jax.data.dialogues.word_lists import choose_word, invent

__all__ = ["SUBJECT_KINDS", "WE", "Forms", "Subject", "draw_noun", "draw_subject"]

SUBJECT_KINDS = frozenset({"self", "relative", "acquaintance", "named", "pet", "thing", "event"})

_LISTS = {
    "relative": ("relatives",),
    "acquaintance": ("acquaintances",),
    "pet": ("pets",),
    "thing": ("things", "small_objects"),
    "event": ("events",),
}

_HIS = {
    "brother", "father", "dad", "son", "uncle", "grandfather", "grandpa", "nephew", "husband", "boyfriend", "stepson",
    "godfather", "stepfather", "father-in-law", "brother-in-law", "son-in-law", "stepbrother", "grandson", "fiancé",
    "twin brother", "little brother", "older brother", "big brother", "younger brother", "godson", "half-brother",
}  # fmt: skip
_HERS = {
    "sister", "mother", "mum", "mom", "daughter", "aunt", "grandmother", "grandma", "niece", "wife", "girlfriend",
    "stepdaughter", "godmother", "stepmother", "mother-in-law", "sister-in-law", "daughter-in-law", "stepsister",
    "granddaughter", "fiancée", "twin sister", "little sister", "older sister", "big sister", "younger sister",
    "goddaughter", "half-sister",
}  # fmt: skip
_SINGULAR_ENDINGS = ("ss", "us", "is", "as", "os", "lens")


class Forms(NamedTuple):
    """The words for a subject in a sentence; verbs follow `first` (I, you) or `plural`."""

    subject: str
    possessive: str
    object: str
    first: bool = False
    plural: bool = False


class Subject(NamedTuple):
    """`noun` is what it is ("sister"), or the name of somebody `named`; `owner` the relative whose it is, if not the
    user's; `the` says "the concert" instead of "my concert"."""

    kind: str
    noun: str = ""
    owner: str = ""
    the: bool = False
    she: bool | None = None
    """The pronoun of people and pets that a name or kind does not tell; None = it."""

    @property
    def bare(self) -> str:
        """The noun where "I have a …" can be said of it, else empty."""
        return "" if self.kind in ("self", "named") or self.owner or self.the else self.noun

    @property
    def name(self) -> str:
        """What tells this subject from all others."""
        return "self" if self.kind == "self" else f"{self.owner}'s {self.noun}" if self.owner else self.noun

    def forms(self, my: str) -> Forms:
        """Name it as the user does (`my` = "my") or as the model does ("your")."""
        if self == WE and my == "my":
            return Forms("we", "our", "us", plural=True)
        if self.kind == "self":
            return Forms("I", "my", "me", first=True) if my == "my" else Forms("you", "your", "you", first=True)
        if self.kind == "named":
            return Forms(self.noun, f"{self.noun}'s", self.noun)
        owner = "the" if self.the else f"{my} {self.owner}'s" if self.owner else my
        full = f"{owner} {self.noun}"
        plural = _is_plural(self.noun)
        return Forms(full, full + ("'" if plural else "'s"), full, plural=plural)

    def pronoun(self) -> Forms:
        """Name it when it has just been named."""
        if self.kind in ("self", "event", "thing") or self.she is None:
            if _is_plural(self.noun):
                return Forms("they", "their", "them", plural=True)
            return Forms("it", "its", "it")
        return Forms("she", "her", "her") if self.she else Forms("he", "his", "him")


WE = Subject("self", "we")
"""The user and somebody else, whom the model calls "you" as well."""


def _is_plural(noun: str) -> bool:
    noun = noun.lower()
    return noun.endswith("s") and not noun.endswith(_SINGULAR_ENDINGS)


def draw_noun(draws: Draws, lists: tuple[str, ...], held_out: bool, invented: float) -> str:
    """Draw a key: a word of one of the lists, or an invented one, which is also what the list `invented` stands for."""
    name = draws.choice(lists)
    if name == "invented" or draws.chance(invented):
        return invent(draws, held_out)
    return choose_word(draws, name, held_out)


def draw_subject(draws: Draws, kind: str, held_out: bool, invented: float) -> Subject:
    """Draw a subject of a kind; things and pets can belong to a relative, `invented` is the share of invented nouns."""
    if kind == "self":
        return Subject("self")
    she = draws.chance(0.5)
    if kind == "named":
        return Subject("named", draw_value(draws, "name", held_out, 0.4), she=she)
    noun = draw_noun(draws, _LISTS[kind], held_out, invented if kind == "thing" else 0.0)
    if noun in _HIS or noun in _HERS:
        return Subject(kind, noun, she=noun in _HERS)
    owned = kind in ("pet", "thing") and draws.chance(0.12)
    owner = choose_word(draws, "relatives", held_out) if owned else ""
    the = kind == "event" and draws.chance(0.3)
    return Subject(kind, noun, owner, the, she=she if kind not in ("thing", "event") else None)
