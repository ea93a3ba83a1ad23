"""The world of an episode: which attribute and which value every chain of the plan is about."""

from dataclasses import dataclass

from rxt_jax.data.dialogues.attributes import ATTRIBUTES, TOOLS, Tool
from rxt_jax.data.dialogues.draws import Draws
from rxt_jax.data.dialogues.inventories import inventory
from rxt_jax.data.dialogues.phrasing import AttributePhrases, Phrasebook
from rxt_jax.data.dialogues.plan import Chain, Turn

__all__ = ["Fact", "World"]


@dataclass(slots=True)
class Fact:
    """One value of one attribute, as long as it holds."""

    slot: str
    value_type: str
    phrases: AttributePhrases
    value: str
    key: str = ""
    former: str = ""
    """The value it replaces, empty for a new fact."""


class World:
    """Facts of one episode. Values of one type differ, so an answer can be right for one reason only."""

    def __init__(self, draws: Draws, book: Phrasebook, held_out_values: bool):
        self.draws = draws
        self.book = book
        self.held_out_values = held_out_values
        self.taken: set[str] = set()
        self.slots = draws.shuffled(book.spec.attributes)
        self.used: set[str] = set()
        self.tool: Tool | None = None

    def value(self, value_type: str) -> str:
        """Draw a value nobody has in this episode."""
        values = inventory(value_type, self.book.spec.values_per_type)
        pool = values.held_out if self.held_out_values else values.train
        if value_type == "opinion":
            return self.draws.choice(pool)
        if len(pool) <= len(self.taken) and self.taken.issuperset(pool):
            raise ValueError(
                f"an episode needs more than {len(pool)} values of type {value_type}; "
                f"raise values_per_type, or lower facts, tool_share or similar_share"
            )
        while True:
            value = self.draws.choice(pool)
            if value not in self.taken:
                self.taken.add(value)
                return value

    def fact(self, slot: str) -> Fact:
        """Make a fact with a new value."""
        phrases = self.book.attributes[slot]
        attribute = phrases.attribute
        key = self.value(attribute.open_key) if attribute.open_key else ""
        return Fact(slot, attribute.value_type, phrases, self.value(attribute.value_type), key)

    def unused_slot(self, value_type: str | None = None, among: tuple[str, ...] | None = None) -> str:
        """Take the next attribute of the episode's random order that fits."""
        for slot in self.slots:
            attribute = ATTRIBUTES[slot]
            if slot in self.used or (among is not None and slot not in among):
                continue
            if value_type is None or attribute.value_type == value_type:
                if not attribute.open_key:
                    self.used.add(slot)
                return slot
        raise ValueError(f"no attribute left of type {value_type}, among {among}")

    def populate(self, chains: list[Chain]) -> None:
        """Give every chain its fact; the choosy ones first."""
        for chain in chains:
            if chain.kind == "argument":
                self.tool = TOOLS[self.draws.choice(self.book.spec.tools)]
                chain.fact = self.fact(self.unused_slot(among=self.tool.sources))
            elif chain.kind == "number" and chain.replaces is None:
                chain.fact = self.fact(self.unused_slot("number"))
            elif chain.kind == "person":
                chain.fact = self.fact(self.unused_slot("name"))
            elif chain.kind == "purchase":
                chain.fact = self.fact("purchase")
        person = ""
        for chain in chains:
            if chain.kind == "person":
                person = chain.fact.value
            elif chain.kind == "person_city":
                phrases = self.book.attributes["person_city"]
                chain.fact = Fact("person_city", "city", phrases, self.value("city"), person)
            elif chain.kind == "result" and self.tool is not None:
                chain.fact = self.fact(self.tool.result.slot)
        for chain in sorted(chains, key=lambda c: c.first):
            if chain.replaces is not None:
                old = chain.replaces.fact
                value = self.opposite(old) if old.value_type == "opinion" else self.value(old.value_type)
                chain.fact = Fact(old.slot, old.value_type, old.phrases, value, old.key, old.value)
            elif chain.fact is None:
                chain.fact = self.fact(self.unused_slot())

    def opposite(self, fact: Fact) -> str:
        """Draw another opinion."""
        values = inventory("opinion").train
        return self.draws.choice([v for v in values if v != fact.value])

    def silent(self, said: set[str]) -> list[str]:
        """List the attributes the user has not spoken about; an open one can always be asked for a new key."""
        return [slot for slot in self.book.spec.attributes if slot not in said or ATTRIBUTES[slot].open_key]

    def unstated(self, said: set[str]) -> Fact:
        """Draw an attribute the user has not spoken about, with a value that is never told."""
        phrases = self.book.attributes[self.draws.choice(self.silent(said))]
        key = self.value(phrases.attribute.open_key) if phrases.attribute.open_key else ""
        return Fact(phrases.attribute.slot, phrases.attribute.value_type, phrases, "", key)


def stated_before(turns: list[Turn]) -> list[Fact]:
    """Facts that hold after these turns, oldest statement first."""
    facts: dict[tuple[str, str, str], Fact] = {}
    for turn in turns:
        if turn.kind in ("state", "tool_result"):
            for chain in turn.chains[: 1 if turn.kind == "tool_result" else None]:
                fact = chain.fact
                name = (fact.slot, fact.key, fact.value if fact.slot == "purchase" else "")
                facts.pop(name, None)
                facts[name] = fact
    return list(facts.values())
