"""What the memory benchmark measures: levels of one difficulty each, and the conversations that ask for it."""

from dataclasses import dataclass
from typing import Any

from rxt_jax.data.dialogues import Dialogues, small
from rxt_jax.data.dialogues.phrasing import Fact
from rxt_jax.data.dialogues.plan import Horizon, plan_turns
from rxt_jax.data.dialogues.probes import BindingProbe, ChangeProbe, RetentionProbe, TellAndAskProbe, probe_spec
from rxt_jax.data.episode_source import EpisodeSource

__all__ = ["MEASUREMENTS", "Level", "ProbeSource", "levels"]

MEASUREMENTS = ("distance", "capacity", "overwriting", "abstaining", "interference", "binding", "retention")
"""Names of what is measured, in the order of the table."""

_TURNS = 24  # of conversations by distance: as many as the other probes have, so that one program serves them all


@dataclass(frozen=True)
class Level:
    """One level of a difficulty.

    `alike`: share of facts that are of the kind of an earlier one. `single`: one question in a conversation.
    `long`: conversations of more than a hundred turns. `by_distance`: questions are reported by how many interactions
    ago the value was said, not together.
    """

    measurement: str
    name: str
    plan: Any
    alike: float = 0.0
    single: bool = False
    long: bool = False
    by_distance: bool = False


def levels(measurement: str) -> list[Level]:
    """List the levels of a measurement, easy ones first."""
    match measurement:
        case "distance":
            return [Level("distance", "", _free_timeline, by_distance=True)]
        case "capacity":
            return [
                Level("capacity", f"{n} {'fact' if n == 1 else 'facts'}", TellAndAskProbe(facts=n))
                for n in (1, 2, 4, 8, 16)
            ]
        case "overwriting":
            return [
                Level("overwriting", f"{n} {'change' if n == 1 else 'changes'}", ChangeProbe(changes=n), single=True)
                for n in (0, 1, 2, 4)
            ]
        case "abstaining":
            return [Level("abstaining", "4 facts told", TellAndAskProbe(facts=4, questions=4, absences=4))]
        case "interference":
            probe = TellAndAskProbe(facts=8)
            return [
                Level("interference", "few alike", probe),
                Level("interference", "half alike", probe, 0.5),
                Level("interference", "all alike", probe, 1.0),
            ]
        case "binding":
            # Among facts alike: where only one value of a type was told, naming it needs no binding.
            return [
                Level("binding", "one fact of two", BindingProbe(direct=True, others=6), 1.0, single=True),
                Level("binding", "both facts", BindingProbe(others=6), 1.0, single=True),
            ]
        case "retention":
            probe = RetentionProbe(asked=(16, 17, 32, 33, 64, 65, 96, 108))
            return [Level("retention", "", probe, long=True, by_distance=True)]
    raise ValueError(f"a measurement is one of {', '.join(MEASUREMENTS)}, got {measurement!r}.")


class ProbeSource(EpisodeSource):
    """The conversations of a level as a source without an end; `seed` says which."""

    def __init__(self, level: Level, *, seed: int, split: str):
        self._dialogues = Dialogues(probe_spec(small(), alike=level.alike), seed, split, level.plan)
        self.fingerprint = f"{level.measurement}/{level.name}/{seed}/{split}"

    def episode(self, visit: int) -> dict[str, Any]:
        episode, facts = self._dialogues.episode_and_facts(visit)
        return {**episode, "interactions": _name_outdated(episode["interactions"], facts)}

    def text(self, visit: int) -> str:
        return self._dialogues.text(visit)


def _free_timeline(draws: Any, spec: Any, horizon: Horizon, weights: tuple[int, ...]) -> Any:
    """Draw an ordinary timeline, of one length, whose questions reach back as far as it is long."""
    horizon = Horizon(interactions=(_TURNS, _TURNS), distance=_TURNS - 1)
    return plan_turns(draws, spec, horizon, (1,) * horizon.distance)


def _name_outdated(interactions: list[dict[str, Any]], facts: list[Fact]) -> list[dict[str, Any]]:
    """Say beside every value that is asked for which earlier ones it replaced: naming one of them is wrong."""
    former: dict[str, list[str]] = {}
    for fact in facts:
        if fact.former:
            former.setdefault(fact.slot, []).append(fact.former)
    found = []
    for interaction in interactions:
        recall = [
            {**each, "outdated": [value for value in former[each["slot"]] if value != each["value"]]}
            if each["slot"] in former
            else each
            for each in interaction.get("recall") or ()
        ]
        found.append({**interaction, "recall": recall} if recall else interaction)
    return found
