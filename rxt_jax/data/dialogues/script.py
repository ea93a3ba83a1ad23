"""The world of an episode: which property of whom, and which value, every chain of the plan is about."""

from rxt_jax.data.dialogues.draws import Draws
from rxt_jax.data.dialogues.phrasing import Fact, Phrasebook
from rxt_jax.data.dialogues.plan import Chain, Turn
from rxt_jax.data.dialogues.properties import Property, properties
from rxt_jax.data.dialogues.subjects import Subject, draw_noun, draw_subject
from rxt_jax.data.dialogues.tools import TOOLS, Tool
from rxt_jax.data.dialogues.values import OPINIONS, draw_value

__all__ = ["World", "stated_before"]

_COMPARED = "person_age"
_PERSON = "person_name"
_TRIES = 200


class World:
    """Facts of one episode. No two are about the same thing, so every question has one answer."""

    def __init__(self, draws: Draws, book: Phrasebook, *, held_out_values: bool, held_out_keys: bool, lower: bool):
        self.draws = draws
        self.book = book
        self.spec = book.spec
        self.held_out_values = held_out_values
        self.held_out_keys = held_out_keys
        self.lower = lower
        """The user types everything in lower case, so that is how the facts are known."""
        self.facts: list[Fact] = []
        self.slots: set[str] = set()
        self.taken: set[str] = set()
        self.tool: Tool | None = None

    def cased(self, text: str) -> str:
        """Write a word as this user does."""
        return text.lower() if self.lower else text

    def value(self, value_type: str) -> str:
        """Draw a value; mostly one that nobody has in this episode."""
        shared = [fact.value for fact in self.facts if fact.value_type == value_type and fact.value]
        if shared and self.draws.chance(self.spec.same_value_share):
            return self.draws.choice(shared)
        value = ""
        for _ in range(_TRIES):  # types of few values, such as opinions, may be used up: then one comes again
            value = self.cased(draw_value(self.draws, value_type, self.held_out_values, self.spec.invented_values))
            if value.casefold() not in self.taken:
                break
        self.taken.add(value.casefold())
        return value

    def fact(
        self, prop: Property | None = None, subject: Subject | None = None, key: str = "", fill: bool = True
    ) -> Fact:
        """Make a fact about something new in this episode; without `fill` nobody tells its value."""
        for _ in range(_TRIES):
            chosen, about = (prop, subject) if prop is not None else self._topic()
            if about is None:
                about = self._subject(chosen)
            name = key or (self._key(chosen) if chosen.keys else "")
            fact = Fact(chosen, about, self.draws.choice(chosen.values), "", name)
            if (
                fact.slot.casefold() not in self.slots
                and self.book.phrases(fact, "state")
                and self.book.phrases(fact, "ask")
            ):
                if fill:
                    fact.value = self.value(fact.value_type)
                    self.facts.append(fact)
                self.slots.add(fact.slot.casefold())
                return fact
        raise ValueError(
            f"found nothing new to talk about after {len(self.slots)} facts; name more properties, or lower facts"
        )

    def _topic(self) -> tuple[Property, Subject | None]:
        """Draw a property; sometimes one that was there with another subject, or another one of the same subject."""
        draws, spec = self.draws, self.spec
        if self.facts and draws.chance(spec.confusable_share):
            again = draws.choice(self.facts)
            if again.has_kin:
                return again.topic, None
        if self.facts and draws.chance(spec.same_subject_share):
            subject = draws.choice(self.facts).subject
            fitting = [each for each in self.book.properties if subject.kind in each.subjects]
            if fitting:
                return draws.choice(fitting), subject
        if spec.everyday_share and draws.chance(spec.everyday_share):
            return draws.choice(self.book.everyday), None
        return self.book.properties[draws.weighted(self.book.weights)], None

    def _subject(self, prop: Property) -> Subject:
        subject = draw_subject(
            self.draws, self.draws.choice(prop.subjects), self.held_out_keys, self.spec.invented_keys
        )
        return subject._replace(noun=self.cased(subject.noun), owner=self.cased(subject.owner))

    def _key(self, prop: Property) -> str:
        return self.cased(draw_noun(self.draws, prop.keys, self.held_out_keys, self.spec.invented_keys))

    def populate(self, chains: list[Chain]) -> None:
        """Give every chain its fact; the choosy ones first."""
        known = properties()
        person: Fact | None = None
        for chain in chains:
            if chain.kind == "number":
                chain.fact = self.fact(known[_COMPARED])
            elif chain.kind == "person":
                relative = draw_subject(self.draws, "relative", self.held_out_keys, 0.0)
                relative = relative._replace(noun=self.cased(relative.noun))
                person = chain.fact = self.fact(known[_PERSON], relative)
            elif chain.kind == "about_person" and person is not None:
                prop = self.draws.choice(self._hops())
                chain.fact = self.fact(prop, Subject("named", person.value, she=person.subject.she))
                # Asked of the relative, the answer is the same: nobody may tell another one.
                self.slots.add(Fact(prop, person.subject, "", "").slot.casefold())
            elif chain.kind == "result":
                self.tool = TOOLS[self.draws.choice(self.spec.tools)]
                chain.fact = self.fact(known["tool_result"], Subject("self"), self.tool.result)
        for chain in sorted(chains, key=lambda c: c.first):
            if chain.replaces is not None:
                old: Fact = chain.replaces.fact
                value = "" if chain.kind == "withdrawn" else self._other(old)
                chain.fact = Fact(old.topic, old.subject, old.value_type, value, old.key, old.value)
            elif chain.fact is None:
                chain.fact = self.fact()

    def _hops(self) -> list[Property]:
        """List what can be said of Ana and asked of my sister."""
        return [each for each in self.book.properties if {"named", "relative"} <= set(each.subjects) and not each.keys]

    def _other(self, fact: Fact) -> str:
        if fact.value_type == "opinion":
            return self.draws.choice([value for value in OPINIONS if value != fact.value])
        while (value := self.value(fact.value_type)) == fact.value:
            pass
        return value

    def unstated(self, known: list[Fact], withdrawn: list[Fact]) -> Fact:
        """Draw something the user has not told, or has taken back; often close to what was told."""
        draws = self.draws
        if withdrawn and draws.chance(0.6):
            gone = draws.choice(withdrawn)
            return Fact(gone.topic, gone.subject, gone.value_type, "", gone.key)
        if known and draws.chance(0.5):
            near = draws.choice(known)
            if near.has_kin:
                return self.fact(near.topic, fill=False)
        return self.fact(fill=False)


def stated_before(turns: list[Turn]) -> list[Fact]:
    """Facts that hold after these turns, oldest statement first; those taken back have an empty value."""
    facts: dict[str, Fact] = {}
    for turn in turns:
        if turn.kind in ("state", "withdraw", "tool_result"):
            for chain in turn.chains:
                facts.pop(chain.fact.slot, None)
                facts[chain.fact.slot] = chain.fact
    return list(facts.values())
