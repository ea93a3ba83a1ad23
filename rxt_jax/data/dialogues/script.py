"""The world of an episode: which property of whom, and which value, every chain of the plan is about."""

from collections.abc import Callable

from rxt_jax.data.dialogues.draws import Draws
from rxt_jax.data.dialogues.phrasing import Fact, Phrasebook
from rxt_jax.data.dialogues.plan import Chain, Turn
from rxt_jax.data.dialogues.properties import Property, properties
from rxt_jax.data.dialogues.subjects import WE, Subject, draw_noun, draw_subject
from rxt_jax.data.dialogues.tools import TOOLS, Tool
from rxt_jax.data.dialogues.unusual_values import draw_unusual_value
from rxt_jax.data.dialogues.values import OPINIONS, draw_value
from rxt_jax.data.dialogues.word_lists import choose_word

__all__ = ["World", "stated_before"]

_COMPARED = "person_age"
_PERSON = "person_name"
_TRIES = 200


class World:
    """Facts of one episode. No two are about the same thing, so every question has one answer."""

    def __init__(
        self,
        draws: Draws,
        book: Phrasebook,
        *,
        held_out_values: bool,
        held_out_keys: bool,
        cased: Callable[[str], str],
    ):
        self.draws = draws
        self.book = book
        self.spec = book.spec
        self.held_out_values = held_out_values
        self.held_out_keys = held_out_keys
        self.cased = cased
        """Writes a word as this user does: who types everything in lower case knows the facts in lower case."""
        self.facts: list[Fact] = []
        self.slots: set[str] = set()
        self.asked_for: set[tuple[str, str, str]] = set()
        """Questions that have an answer: group (`question_groups`), subject, key."""
        self.taken: set[str] = set()
        self.tool: Tool | None = None

    def value(self, value_type: str) -> str:
        """Draw a value; mostly one that nobody has in this episode."""
        shared = [fact.value for fact in self.facts if fact.value_type == value_type and fact.value]
        if shared and self.draws.chance(self.spec.same_value_share):
            return self.draws.choice(shared)
        value = ""
        for _ in range(_TRIES):  # types of few values, such as opinions, may be used up: then one comes again
            value = self.cased(self._any_value(value_type))
            if value.casefold() not in self.taken:
                break
        self.taken.add(value.casefold())
        return value

    def _any_value(self, value_type: str) -> str:
        spec, draws = self.spec, self.draws
        if spec.unusual_values and draws.chance(spec.unusual_values):
            value = draw_unusual_value(draws, value_type, self.held_out_values, spec.invented_values)
            if value is not None:
                return value
        return draw_value(draws, value_type, self.held_out_values, spec.invented_values)

    def fact(
        self, prop: Property | None = None, subject: Subject | None = None, key: str = "", fill: bool = True
    ) -> Fact:
        """Make a fact about something new in this episode; without `fill` nobody tells its value."""
        found = self._new_fact(prop, subject, key, fill)
        if found is None:
            raise ValueError(
                f"found nothing new to talk about after {len(self.slots)} facts; name more properties, or lower facts"
            )
        return found

    def _new_fact(self, prop: Property | None, subject: Subject | None, key: str, fill: bool) -> Fact | None:
        for _ in range(_TRIES):
            chosen, about = (prop, subject) if prop is not None else self._topic()
            if about is None:
                about = self._subject(chosen)
            name = key or (self._key(chosen) if chosen.keys else "")
            fact = Fact(chosen, about, self.draws.choice(chosen.values), "", name)
            if self._is_new(fact) and self.book.phrases(fact, "state") and self.book.phrases(fact, "ask"):
                if fill:
                    fact.value = self.value(fact.value_type)
                    self.facts.append(fact)
                self.slots.add(fact.slot.casefold())
                self.asked_for.add(self._question(fact))
                return fact
        return None

    def _question(self, fact: Fact) -> tuple[str, str, str]:
        group = self.book.question_groups.get(fact.topic.name, fact.topic.name)
        return group, fact.subject.name.casefold(), fact.key.casefold()

    def _is_new(self, fact: Fact) -> bool:
        """Whether nothing has been said that answers a question for the fact."""
        return fact.slot.casefold() not in self.slots and self._question(fact) not in self.asked_for

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
        if spec.scene_share and draws.chance(spec.scene_share):
            scene = self.book.scenes[draws.choice(self.book.scene_names)]
            return draws.choice(tuple(scene.parts.values())), None
        if spec.deeds_share and draws.chance(spec.deeds_share):
            return draws.choice(draws.choice(self.book.deeds)), None
        return self.book.properties[draws.weighted(self.book.weights)], None

    def subject(self, kinds: tuple[str, ...]) -> Subject:
        """Draw somebody or something of one of these kinds."""
        subject = draw_subject(self.draws, self.draws.choice(kinds), self.held_out_keys, self.spec.invented_keys)
        return subject._replace(noun=self.cased(subject.noun), owner=self.cased(subject.owner))

    def _subject(self, prop: Property) -> Subject:
        subject = self.subject(prop.subjects)
        if prop.together and subject.kind == "self" and self.draws.chance(0.3):
            return WE
        return subject

    def _key(self, prop: Property) -> str:
        noun = draw_noun(self.draws, prop.keys, self.held_out_keys, self.spec.invented_keys)
        if prop.described and self.draws.chance(0.25):
            which = "colours" if self.draws.chance(0.5) else "adjectives"
            noun = f"{choose_word(self.draws, which, self.held_out_keys)} {noun}"
        return self.cased(noun)

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
                beside = [other.fact for other in chains if other.first == chain.first and other.fact]
                chain.fact = self._another_part(beside) or self.fact()

    def untold_parts(self, told: Fact) -> dict[str, Property]:
        """List the other parts of a fact's scene that nobody has spoken of yet, by name; none where it has no scene."""
        if not told.topic.scene:
            return {}
        parts = self.book.scenes[told.topic.scene].parts
        return {name: part for name, part in parts.items() if self._is_new(Fact(part, told.subject, "", "", told.key))}

    def _another_part(self, beside: list[Fact]) -> Fact | None:
        """Make one more part of the deed or scene that a sentence tells of: where *and* when she bought the lamp."""
        beside = [fact for fact in beside if fact.topic.family or fact.topic.scene]
        if not beside:
            return None
        told = beside[0]
        if told.topic.scene:
            parts = tuple(self.untold_parts(told).values())
            return self.fact(self.draws.choice(parts), told.subject, told.key) if parts else None
        used = {fact.topic.name for fact in beside if fact.topic.family == told.topic.family}
        verb = next(each for each in self.book.deeds if told.topic in each)
        more = [each for each in verb if each.family == told.topic.family and each.name not in used]
        # One time is enough, and so is one place.
        more = [
            each
            for each in more
            if not (each.timed and any(fact.topic.timed for fact in beside))
            and self._is_new(Fact(each, told.subject, "", "", told.key))
        ]
        return self.fact(self.draws.choice(more), told.subject, told.key) if more else None

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
            parts = tuple(self.untold_parts(near).values())
            if parts and draws.chance(0.6):
                return self.fact(draws.choice(parts), near.subject, near.key, fill=False)
            # A key of which there are few may have been used up.
            if near.has_kin and (other := self._new_fact(near.topic, None, "", fill=False)):
                return other
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
