"""Conversations with one difficulty each, told by the narrator of the dialogues: what the memory benchmark asks.

A probe says in which turn what is told and asked; everything that it leaves free is small talk. Facts, values and
wording are drawn as in all dialogues, so a probe differs from them in its timeline alone.
"""

from dataclasses import dataclass, replace
from itertools import pairwise

from rxt_jax.data.dialogues.draws import Draws
from rxt_jax.data.dialogues.plan import Chain, Horizon, Turn
from rxt_jax.data.dialogues.spec import DialogueSpec

__all__ = ["BindingProbe", "ChangeProbe", "RetentionProbe", "TellAndAskProbe", "probe_spec"]


def probe_spec(spec: DialogueSpec, *, alike: float = 0.0) -> DialogueSpec:
    """Take out what makes a question hard for another reason than the one that is measured.

    Nothing is left of follow-up questions, pronouns, thoughts, slips of the keyboard, shared values. `alike` is the
    share of facts, in 0 … 1, that are of the same kind as an earlier one about somebody or something else.
    """
    return replace(
        spec,
        confusable_share=alike,
        same_subject_share=0.0,
        same_value_share=0.0,
        follow_up_share=0.0,
        pronoun_share=0.0,
        think_share=0.0,
        internal_share=0.0,
        typo_share=0.0,
    )


@dataclass(frozen=True, kw_only=True)
class TellAndAskProbe:
    """`facts` facts told anywhere in the first `telling` turns, then up to `questions` questions in as many turns.

    Where fewer facts were told, their questions stand anywhere in those turns among small talk, so that on average a
    question reaches equally far back however many facts there are. What does grow with them is the number of answers
    that are written between telling and asking. `absences` turns at the end ask for what was never said.
    """

    facts: int
    telling: int = 16
    questions: int = 8
    absences: int = 0

    def __post_init__(self) -> None:
        if not 1 <= self.facts <= self.telling:
            raise ValueError(f"facts must lie in 1 … {self.telling}, the turns of telling, got {self.facts}.")

    def __call__(
        self, draws: Draws, spec: DialogueSpec, horizon: Horizon, weights: tuple[int, ...]
    ) -> tuple[list[Turn], list[Chain]]:
        """Draw the timeline of one episode; only the draws decide."""
        places = sorted(draws.shuffled(list(range(self.telling)))[: self.facts])
        chains = [Chain("any", place, place) for place in places]
        asked = draws.shuffled(list(chains))[: self.questions]
        when = dict(zip(draws.shuffled(list(range(self.questions))), asked, strict=False))  # more turns than questions
        told = {chain.first: chain for chain in chains}
        turns = [Turn("state", told[n]) if n in told else Turn("distractor") for n in range(self.telling)]
        turns += [Turn("recall", when[n]) if n in when else Turn("distractor") for n in range(self.questions)]
        return [*turns, *(Turn("absence") for _ in range(self.absences))], chains


@dataclass(frozen=True, kw_only=True)
class ChangeProbe:
    """One fact that is told and changed `changes` times, among `others` facts that stay, and asked in the last turn."""

    changes: int
    others: int = 3
    telling: int = 16

    def __post_init__(self) -> None:
        if not 0 <= self.changes <= self.telling - self.others - 1:
            most = self.telling - self.others - 1
            raise ValueError(f"changes must lie in 0 … {most}, what the turns of telling hold, got {self.changes}.")

    def __call__(
        self, draws: Draws, spec: DialogueSpec, horizon: Horizon, weights: tuple[int, ...]
    ) -> tuple[list[Turn], list[Chain]]:
        """Draw the timeline of one episode; only the draws decide."""
        places = draws.shuffled(list(range(self.telling)))[: self.changes + 1 + self.others]
        versions = [Chain("any", place, place) for place in sorted(places[self.others :])]
        for old, new in pairwise(versions):
            old.replaced_by, new.replaces = new, old
        chains = versions + [Chain("any", place, place) for place in places[: self.others]]
        told = {chain.first: chain for chain in chains}
        turns = [Turn("state", told[n]) if n in told else Turn("distractor") for n in range(self.telling)]
        return [*turns, Turn("recall", versions[-1])], chains


@dataclass(frozen=True, kw_only=True)
class BindingProbe:
    """A person's name, a fact told of that name, and a question that needs both ("Where does my sister live?").

    With `direct` the question names what the fact was told of: two facts are told and one of them is needed.
    """

    direct: bool = False
    others: int = 3
    telling: int = 16

    def __call__(
        self, draws: Draws, spec: DialogueSpec, horizon: Horizon, weights: tuple[int, ...]
    ) -> tuple[list[Turn], list[Chain]]:
        """Draw the timeline of one episode; only the draws decide."""
        places = draws.shuffled(list(range(self.telling)))[: 2 + self.others]
        kinds = ("person", "about_person", *("any",) * self.others)
        chains = [Chain(kind, place, place) for kind, place in zip(kinds, places, strict=True)]
        told = {chain.first: chain for chain in chains}
        turns = [Turn("state", told[n]) if n in told else Turn("distractor") for n in range(self.telling)]
        question = Turn("recall", chains[1]) if self.direct else Turn("hop", chains[0], chains[1])
        return [*turns, question], chains


@dataclass(frozen=True, kw_only=True)
class RetentionProbe:
    """Facts told in the first turns, small talk for the rest, and questions at the turns `asked`, each for another one.

    A question repeats its value, so no fact is asked for twice.
    """

    asked: tuple[int, ...]

    def __post_init__(self) -> None:
        if not self.asked or list(self.asked) != sorted(set(self.asked)) or self.asked[0] < len(self.asked):
            raise ValueError(
                f"asked must be turns in rising order that come after the {len(self.asked)} turns of telling, "
                f"got {self.asked}."
            )

    def __call__(
        self, draws: Draws, spec: DialogueSpec, horizon: Horizon, weights: tuple[int, ...]
    ) -> tuple[list[Turn], list[Chain]]:
        """Draw the timeline of one episode; only the draws decide."""
        chains = [Chain("any", place, place) for place in range(len(self.asked))]
        turns = [Turn("distractor") for _ in range(self.asked[-1] + 1)]
        for chain in chains:
            turns[chain.first] = Turn("state", chain)
        for place, chain in zip(self.asked, draws.shuffled(list(chains)), strict=True):
            turns[place] = Turn("recall", chain)
        return turns, chains
