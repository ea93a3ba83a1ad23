"""The timeline of an episode: which turn states, asks or chats, before anybody knows about what.

A chain is one value's life: the turn that states it and the turns that mention it again. Recall gaps are drawn first and
placed from long to short, so that far questions are as frequent as near ones; what stays free is filled afterwards.
"""

from collections.abc import Callable
from dataclasses import dataclass

from rxt_jax.data.dialogues.draws import Draws
from rxt_jax.data.dialogues.spec import DialogueSpec

__all__ = ["Chain", "Horizon", "Turn", "plan_turns"]


class Chain:
    """One value from its statement (`first`) to its last planned mention (`last`)."""

    __slots__ = ("first", "fact", "kind", "last", "replaced_by", "replaces")

    def __init__(self, kind: str, first: int, last: int):
        self.kind = kind
        self.first = first
        self.last = last
        self.replaces: Chain | None = None
        self.replaced_by: Chain | None = None
        self.fact = None


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
        """Weights of the gaps 1 … distance: a gap that fits fewer episodes is drawn more often where it fits."""
        low, high = self.interactions
        total = high - low + 1
        fitting = [
            sum(length > gap for length in range(low, high + 1))
            for gap in range(1, self.distance + 1)
        ]
        return tuple(1000 * total // max(count, 1) for count in fitting)


@dataclass
class _Timeline:
    draws: Draws
    turns: list[Turn | None]
    chains: list[Chain]
    most_chains: int

    def free(self, start: int = 0) -> list[int]:
        return [p for p in range(start, len(self.turns)) if self.turns[p] is None]

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

    def place_recall(self, gap: int, two_facts: bool) -> None:
        """Put one question `gap` turns after a mention: of a chain that ends there, or of a new one."""
        turns, options = self.turns, []
        room = len(self.chains) < self.most_chains
        ends = {chain.last: chain for chain in self.chains if chain.kind != "purchase"}
        for asked in range(gap, len(turns)):
            said, turn = turns[asked - gap], turns[asked]
            if turn is None:
                if said is None:
                    if room and not two_facts:
                        options.append((asked, None))
                elif asked - gap in ends:
                    options.append((asked, ends[asked - gap]))
                elif room and two_facts and said.kind == "state" and len(said.chains) == 1:
                    options.append((asked, None))
            elif said is None and turn.kind == "state" and turn.chains[0].kind != "purchase":
                if len(turn.chains) == 1:
                    options.append((asked, turn.chains[0]))
        if not options:
            return
        asked, chain = self.draws.choice(options)
        if (
            turns[asked] is not None
        ):  # the statement moves back by one gap and leaves a question behind
            chain.first = asked - gap
            turns[asked - gap] = Turn("state", chain)
        elif chain is None:
            chain = self.open_chain("any", asked - gap, asked)
        else:
            chain.last = asked
        turns[asked] = Turn("recall", chain)

    def place_derived(self, kind: str, chain_kinds: tuple[str, ...]) -> None:
        """Put a question that needs several values, each stated somewhere before."""
        room = self.most_chains - len(self.chains) >= len(chain_kinds)
        places = self.free()[len(chain_kinds) :]
        if not (room and places):
            return
        asked = self.draws.choice(places)
        sources = self.draws.shuffled([p for p in self.free() if p < asked])[: len(chain_kinds)]
        chains = [
            self.open_chain(chain_kind, first, asked)
            for chain_kind, first in zip(chain_kinds, sources, strict=True)
        ]
        self.turns[asked] = Turn(kind, *chains)

    def place_tool(self, draw_gap: Callable[[int], int]) -> None:
        """Put a tool call whose argument was said before, its result, and mostly a question for the result."""
        pairs = [
            p for p in range(1, len(self.turns) - 1) if self.turns[p] is self.turns[p + 1] is None
        ]
        if not pairs or self.most_chains - len(self.chains) < 2:
            return
        call = self.draws.choice(pairs)
        first = call - draw_gap(call)
        if self.turns[first] is not None:
            return
        argument = self.open_chain("argument", first, call)
        self.turns[call] = Turn("tool_call", argument)
        result = Chain("result", call + 1, call + 1)
        self.chains.append(result)
        self.turns[call + 1] = Turn("tool_result", result, argument)
        later = self.free(call + 2)
        if later and self.draws.chance(0.75):
            result.last = self.draws.choice(later)
            self.turns[result.last] = Turn("recall", result)


def _replace_values(timeline: _Timeline, share: float) -> None:
    """Let some statements change a value nobody asks for any more."""
    for chain in sorted(timeline.chains, key=lambda c: c.first):
        alone = len(timeline.turns[chain.first].chains) == 1
        if chain.kind != "any" or not alone or not timeline.draws.chance(share):
            continue
        known = [
            other
            for other in timeline.chains
            if other.last < chain.first
            and other.replaced_by is None
            and other.kind in ("any", "number")
        ]
        if known:
            chain.replaces = timeline.draws.choice(known)
            chain.replaces.replaced_by = chain
            chain.kind = chain.replaces.kind


def _fill(timeline: _Timeline, spec: DialogueSpec, kinds: dict[str, int]) -> None:
    """Give every free turn something to do."""
    draws, turns = timeline.draws, timeline.turns
    wanted = [kind for kind, count in kinds.items() for _ in range(count)]
    for place in draws.shuffled(timeline.free()):
        known = [c for c in timeline.chains if c.last < place and c.kind != "purchase"]
        if wanted:
            turns[place] = Turn(wanted.pop())
        elif len(timeline.chains) < timeline.most_chains:
            timeline.open_chain("any", place, place)
        elif known:
            chain = draws.choice(known)
            chain.last = place
            turns[place] = Turn("recall", chain)
        else:
            turns[place] = Turn("distractor")


def plan_turns(
    draws: Draws, spec: DialogueSpec, horizon: Horizon, weights: tuple[int, ...], most_chains: int
) -> tuple[list[Turn], list[Chain]]:
    """Draw the timeline of one episode."""
    length = draws.between(*horizon.interactions)
    timeline = _Timeline(draws, [None] * length, [], min(draws.between(*spec.facts), most_chains))

    def draw_gap(reach: int) -> int:
        return 1 + draws.weighted(weights[:reach])

    if length > 2 and draws.chance(spec.summary_share):
        timeline.turns[-1] = Turn("summary")
        timeline.most_chains = min(timeline.most_chains, spec.summary_facts)
    if spec.tools:
        if draws.chance(spec.tool_share * length):
            timeline.place_tool(draw_gap)
    for kind, share, chain_kinds in (
        ("compare", spec.compare_share, ("number", "number")),
        ("hop", spec.hop_share, ("person", "person_city")),
        ("count", spec.count_share, ("purchase",) * (2 + draws.below(2))),
    ):
        if draws.chance(share * length):
            timeline.place_derived(kind, chain_kinds)
    gaps = [draw_gap(length - 1) for _ in range(draws.rounded(spec.recall_share * length))]
    for gap in sorted(gaps, reverse=True):
        timeline.place_recall(gap, draws.chance(spec.two_facts_share))
    kinds = {
        "distractor": draws.rounded(spec.distractor_share * length),
        "absence": draws.rounded(spec.absence_share * length),
        "first": draws.rounded(spec.first_share * length),
    }
    _fill(timeline, spec, kinds)
    _replace_values(timeline, spec.updates)
    return [turn for turn in timeline.turns if turn is not None], timeline.chains
