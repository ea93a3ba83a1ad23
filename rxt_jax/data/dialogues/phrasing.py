"""The phrase book: every sentence a spec and a split can use, laid out flat before the first episode."""

from collections.abc import Sequence
from typing import TypeVar

from rxt_jax.data.dialogues import talk
from rxt_jax.data.dialogues.attributes import ATTRIBUTES, TOOLS, Attribute, Tool
from rxt_jax.data.dialogues.families import FAMILIES, Family
from rxt_jax.data.dialogues.families_things import THING_FAMILIES
from rxt_jax.data.dialogues.inventories import HELD_OUT_EVERY
from rxt_jax.data.dialogues.spec import DialogueSpec

__all__ = ["AttributePhrases", "Phrasebook", "fill", "sentence"]

T = TypeVar("T")

ALL_FAMILIES: dict[str, Family] = {**FAMILIES, **THING_FAMILIES}


def sentence(clause: str) -> str:
    """Turn a clause into a sentence: capital letter, full stop where no mark stands."""
    mark = "" if clause[-1] in ".?!" else "."
    return clause[0].upper() + clause[1:] + mark


def fill(template: str, value: str, key: str = "") -> str:
    """Put value, its article and an open key into a template."""
    if "{a}" in template:
        template = template.replace("{a}", "an" if value[0] in "aeiou" else "a")
    if "{k}" in template:
        template = template.replace("{k}", key)
    return template.replace("{v}", value)


def _split(items: Sequence[T], held_out: bool) -> list[T]:
    last = HELD_OUT_EVERY - 1
    return [item for i, item in enumerate(items) if (i % HELD_OUT_EVERY == last) == held_out]


def _diagonal(first: Sequence[T], second: Sequence[T]) -> list[tuple[T, T]]:
    """All pairs, ordered so that a short prefix already varies both sides."""
    places = ((i, j) for i in range(len(first)) for j in range(len(second)))
    return [(first[i], second[j]) for i, j in sorted(places, key=lambda ij: (sum(ij), ij))]


class AttributePhrases:
    """The sentences about one attribute: user side of one split, the model's side of all."""

    def __init__(self, attribute: Attribute, book: "Phrasebook"):
        family = ALL_FAMILIES[attribute.family]
        # The key of an open attribute is known only within an episode.
        key = "{k}" if attribute.open_key else attribute.key

        def keyed(items: Sequence[str]) -> list[str]:
            return [item.replace("{k}", key) for item in items]

        noun = family.noun.replace("{k}", key)
        user_noun, model_noun = noun.replace("{my}", "my"), noun.replace("{my}", "your")
        clauses = keyed(book.of(family.state))
        framed = [frame.format(clause=keyed(family.state)[0]) for frame in book.of(talk.STATE_FRAMES)]
        asked = [frame.format(noun=user_noun) for frame in book.of(talk.ASK_FRAMES)]
        changes = _diagonal(book.of(talk.CHANGE_MARKERS), keyed(book.of(family.change)))
        tells = keyed(family.tell)
        self.attribute = attribute
        self.noun = user_noun
        self.model_noun = model_noun
        self.clauses = book.user(clauses)
        self.state = book.user(clauses + framed)
        self.ask = book.user(keyed(book.of(family.ask)) + asked)
        self.change = book.user([marker + change for marker, change in changes])
        self.history = book.user([t.format(noun=user_noun) for t in book.of(talk.HISTORY)])
        self.tells = tells[:1] if book.spec.answer_phrasings == 1 else tells
        self.tell = book.model([frame.format(tell=tell) for frame, tell in _diagonal(talk.TELL_FRAMES, tells)])
        self.echo = book.model([frame.format(tell=tell) for frame, tell in _diagonal(talk.ECHO_FRAMES, tells)])
        self.absence = book.model([frame.format(noun=model_noun) for frame in talk.ABSENCE])


class Phrasebook:
    """All phrasings of one spec; `held_out` picks the user phrasings that training never sees."""

    def __init__(self, spec: DialogueSpec, held_out: bool):
        self.spec = spec
        self.held_out = held_out
        tools = [TOOLS[name].result for name in spec.tools]
        attributes = [ATTRIBUTES[slot] for slot in spec.attributes] + tools
        self.attributes = {a.slot: AttributePhrases(a, self) for a in attributes}
        extra = (
            Attribute("person_city", "person_city", "", "city", open_key="name"),
            Attribute("purchase", "purchase", "", "thing"),
        )
        self.attributes |= {a.slot: AttributePhrases(a, self) for a in extra}
        self.acknowledge = self.model(talk.ACKNOWLEDGE)
        self.tool_done = self.model(talk.TOOL_DONE)
        self.compare = self.listed(talk.COMPARE)
        self.summary = self.listed(talk.SUMMARY)
        self.first = self.listed(talk.FIRST)
        self.count = self.listed(talk.COUNT)
        self.hop = self.listed(talk.HOP)
        self.chat = self.listed(talk.CHAT)
        self.sum = self.listed(talk.SUM)
        self.copy = self.listed(talk.COPY)
        self.define = self.listed(talk.DEFINE)
        self.similar = self.listed(talk.SIMILAR)
        self.fillers = self.listed(talk.FILLERS)
        self.tool_frames = self.listed(talk.TOOL_FRAMES)
        self.instructions = talk.INSTRUCTIONS[: spec.phrasings]

    def of(self, items: Sequence[T]) -> list[T]:
        """The items of this split's side."""
        return _split(items, self.held_out)

    def user(self, items: list[T]) -> list[T]:
        """Restrict what the user says to the breadth of the spec."""
        return items[: self.spec.phrasings]

    def model(self, items: Sequence[T]) -> list[T]:
        """Restrict what the model says to the breadth of the spec."""
        return list(items[: self.spec.answer_phrasings])

    def listed(self, items: Sequence[T]) -> list[T]:
        """The items of this split's side within the breadth of the spec."""
        return self.user(self.of(items))

    def tool_request(self, tool: Tool, attribute: Attribute, speaker: str = "my") -> str:
        """Say what a tool should do with an attribute."""
        noun = ALL_FAMILIES[attribute.family].noun.replace("{my}", speaker)
        return tool.request.format(noun=noun.replace("{k}", attribute.key), k=attribute.key, my=speaker)
