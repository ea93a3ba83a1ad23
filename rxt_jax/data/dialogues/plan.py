"""The timeline of an episode: which turn states, asks or chats, before anybody knows about what.

A chain is one value's life: the turn that states it and the turns that mention it again. Recall gaps are drawn first
and placed from long to short, so that far questions find a place; what stays free is filled afterwards.
"""

from dataclasses import dataclass, field
from typing import Any

from rxt_jax.data.dialogues.draws import Draws
from rxt_jax.data.dialogues.spec import DialogueSpec

__all__ = ["Chain", "Horizon", "Turn", "plan_turns"]


class Chain:
    """One value from its statement (`first`) to its last planned mention (`last`)."""

    __slots__ = ("fact", "first", "kind", "last", "replaced_by", "replaces")

    def __init__(self, kind: str, first: int, last: int):
        self.kind = kind
        self.first = first
        self.last = last
        self.replaces: Chain | None = None
        self.replaced_by: Chain | None = None
        self.fact: Any = None  # a script.Fact, given when the world is populated


class Turn:
    """What happens in one interaction and the chains it is about."""

    __slots__ = ("chains", "kind")

    def __init__(self, kind: str, *chains: Chain):
        self.kind = kind
        self.chains = list(chains)


@dataclass(frozen=True, kw_only=True)
class Horizon:
    """How long the episodes of a split are and how far their questions reach back."""

    interactions: tuple[int, int]
    distance: int

    def gap_weights(self) -> tuple[int, ...]:
        """Weights of the gaps 1 … distance that make all gaps equally frequent over episodes of every length.

        A gap that few episodes can hold must be likelier where it fits: found by proportional fitting.
        """
        gaps = range(1, self.distance + 1)
        lengths = range(max(self.interactions[0], 2), self.interactions[1] + 1)
        weights = [1.0] * self.distance
        for _ in range(60):
            totals = {n: sum(weights[: n - 1]) for n in lengths}
            # The number of questions grows with the length; longer gaps fit fewer places.
            share = [sum(n / totals[n] for n in lengths if n > gap) for gap in gaps]
            weights = [weight / max(weight * s, 1e-9) ** 0.5 for weight, s in zip(weights, share, strict=True)]
        return tuple(round(1000 * weight / max(weights)) + 1 for weight in weights)


@dataclass
class _Timeline:
    draws: Draws
    weights: tuple[int, ...]
    turns: list[Turn | None]
    most_chains: int
    chains: list[Chain] = field(default_factory=list)

    def gap(self, reach: int) -> int:
        """Draw how far back a question reaches, at most `reach` turns."""
        return 1 + self.draws.weighted(self.weights[:reach])

    def free(self, start: int = 0) -> list[int]:
        return [p for p in range(start, len(self.turns)) if self.turns[p] is None]

    def room(self, chains: int = 1) -> bool:
        return len(self.chains) + chains <= self.most_chains

    def open_chain(self, kind: str, first: int, last: int) -> Chain:
        """State a new value at `first`, alone or as the second fact of the turn."""
        chain = Chain(kind, first, last)
        self.chains.append(chain)
        turn = self.turns[first]
        if turn is None:
            self.turns[first] = Turn("state", chain)
        else:
            turn.chains.append(chain)
        return chain

    def may_ask(self, chain: Chain, place: int) -> bool:
        """Whether the value of a chain still holds, and is the latest mentioned, when asked for at `place`."""
        end = chain.replaced_by
        return chain.kind != "withdrawn" and chain.last < place and (end is None or place < end.first)

    def may_state(self, chain: Chain, place: int) -> bool:
        """Whether the statement of a chain can move back to `place`."""
        turn, start = self.turns[chain.first], chain.replaces
        alone = turn is not None and turn.kind == "state" and len(turn.chains) == 1
        return alone and chain.kind != "withdrawn" and place < chain.first and (start is None or start.last < place)

    def ask(self, chain: Chain, place: int) -> None:
        """Ask for a chain at `place`, or state it there and turn its old statement into the question."""
        if place > chain.last:
            chain.last = place
            self.turns[place] = Turn("recall", chain)
        else:
            self.turns[place] = self.turns[chain.first]
            self.turns[chain.first] = Turn("recall", chain)
            chain.first = place

    def place_recall(self, gap: int, several_facts: bool) -> None:
        """Put one question `gap` turns after a mention: of a chain that is there, or of a new one."""
        turns, length = self.turns, len(self.turns)
        options: list[tuple[int, Chain | None]] = []
        for chain in self.chains:
            place = chain.last + gap
            if place < length and turns[place] is None and self.may_ask(chain, place):
                options.append((place, chain))
            place = chain.first - gap
            if place >= 0 and turns[place] is None and self.may_state(chain, place):
                options.append((place, chain))
        if self.room():
            shared: list[tuple[int, Chain | None]] = [
                (chain.first, None)
                for chain in self.chains
                if several_facts
                and chain.kind == "any"
                and chain.replaces is None
                and self.may_state(chain, -1)
                and chain.first + gap < length
                and turns[chain.first + gap] is None
            ]
            options = shared or options + [
                (place, None) for place in self.free() if place + gap < length and turns[place + gap] is None
            ]
        if not options:
            return
        place, chain = self.draws.choice(options)
        if chain is not None:
            self.ask(chain, place)
        else:
            chain = self.open_chain("any", place, place + gap)
            turns[place + gap] = Turn("recall", chain)

    def place_change(self) -> None:
        """Put a fact and a later statement that replaces its value."""
        free = self.free()
        if len(free) < 2 or not self.room(2):
            return
        before, after = sorted(self.draws.shuffled(free)[:2])
        old, new = self.open_chain("any", before, before), self.open_chain("any", after, after)
        old.replaced_by, new.replaces = new, old

    def place_withdrawal(self) -> None:
        """Put a fact and a later turn that takes it back."""
        free = self.free()
        if len(free) < 2 or not self.room(2):
            return
        before, after = sorted(self.draws.shuffled(free)[:2])
        old, gone = self.open_chain("any", before, before), Chain("withdrawn", after, after)
        self.chains.append(gone)
        self.turns[after] = Turn("withdraw", gone)
        old.replaced_by, gone.replaces = gone, old

    def place_derived(self, kind: str, chain_kinds: tuple[str, ...]) -> None:
        """Put a question that needs several values, each stated somewhere before."""
        places = self.free()[len(chain_kinds) :]
        if not (places and self.room(len(chain_kinds))):
            return
        asked = self.draws.choice(places)
        sources = self.draws.shuffled([place for place in self.free() if place < asked])
        # No `strict`: there may be more places than values.
        chains = [self.open_chain(k, first, asked) for k, first in zip(chain_kinds, sources, strict=False)]
        self.turns[asked] = Turn(kind, *chains)

    def place_tool(self) -> None:
        """Put a tool call whose argument was said before, its result, and mostly a question for the result."""
        turns = self.turns
        pairs = [p for p in range(1, len(turns) - 1) if turns[p] is turns[p + 1] is None]
        if not pairs or not self.room(2):
            return
        call = self.draws.choice(pairs)
        argument = self.open_chain("argument", call - self.gap(call), call)
        result = Chain("result", call + 1, call + 1)
        self.chains.append(result)
        turns[call] = Turn("tool_call", argument)
        turns[call + 1] = Turn("tool_result", result)
        places = self.free(call + 2)
        if places and self.draws.chance(0.75):
            self.ask(result, self.draws.choice(places))

    def place_history(self, share: float) -> None:
        """Turn some unrelated turns into questions for a value that was replaced before."""
        for place, turn in enumerate(self.turns):
            old = [c for c in self.chains if c.replaced_by is not None and c.replaced_by.first < place]
            if turn is not None and turn.kind == "distractor" and old and self.draws.chance(share):
                self.turns[place] = Turn("history", self.draws.choice(old))

    def fill(self, kinds: dict[str, int]) -> None:
        """Give every free turn something to do: the wanted kinds, new facts, then more questions."""
        wanted = [kind for kind, count in kinds.items() for _ in range(count)]
        for place in self.draws.shuffled(self.free()):
            gap = self.gap(len(self.turns) - 1)
            known = [
                (abs(place - c.last - gap) if place > c.last else abs(c.first - place - gap), c.first, c)
                for c in self.chains
                if self.may_ask(c, place) or self.may_state(c, place)
            ]
            if wanted:
                self.turns[place] = Turn(wanted.pop())
            elif self.room():
                self.open_chain("any", place, place)
            elif known:
                self.ask(min(known, key=lambda option: option[:2])[2], place)
            else:
                self.turns[place] = Turn("distractor")


def plan_turns(
    draws: Draws, spec: DialogueSpec, horizon: Horizon, weights: tuple[int, ...]
) -> tuple[list[Turn], list[Chain]]:
    """Draw the timeline of one episode."""
    length = draws.between(*horizon.interactions)
    facts = draws.between(*spec.facts)
    timeline = _Timeline(draws, weights, [None] * length, facts)
    if length > 2 and draws.chance(spec.summary_share):
        timeline.turns[-1] = Turn("summary")
        timeline.most_chains = min(facts, spec.summary_facts)
    if spec.tools and draws.chance(spec.tool_share * length):
        timeline.place_tool()
    for kind, share, chain_kinds in (
        ("compare", spec.compare_share, ("number", "number")),
        ("hop", spec.hop_share, ("person", "about_person")),
    ):
        if draws.chance(share * length):
            timeline.place_derived(kind, chain_kinds)
    for _ in range(draws.rounded(spec.updates * timeline.most_chains)):
        timeline.place_change()
    for _ in range(draws.rounded(spec.withdrawals * timeline.most_chains)):
        timeline.place_withdrawal()
    gaps = [timeline.gap(length - 1) for _ in range(draws.rounded(spec.recall_share * length))]
    for gap in sorted(gaps, reverse=True):
        timeline.place_recall(gap, draws.chance(spec.several_facts_share))
    timeline.fill(
        {
            "distractor": draws.rounded(spec.distractor_share * length),
            "absence": draws.rounded(spec.absence_share * length),
            "first": draws.rounded(spec.first_share * length),
        }
    )
    if spec.history_share:
        timeline.place_history(spec.history_share)
    return [turn for turn in timeline.turns if turn is not None], timeline.chains
