"""Conversations that people typed: what a model makes of words it was not taught, question by question."""

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from rich import box
from rich.table import Table

from rxt_jax.data.hand_typed import TypedConversation, TypedTurn
from rxt_jax.data.tokenizer import Tokenizer
from rxt_jax.evaluation.free_conversations import answer_freely
from rxt_jax.evaluation.outcome import OUTCOMES, Outcome, judge
from rxt_jax.evaluation.recall import contains_value, words_of
from rxt_jax.evaluation.report import show_share
from rxt_jax.paths import as_path
from rxt_jax.serving.streaming import Answer

__all__ = ["HandTypedReport", "ScoredTurn", "evaluate_hand_typed", "score_turns", "wrong_values"]

_CONFIDENCES = (0.0, 0.7, 0.8, 0.85, 0.9, 0.95, 0.98)
_OUTCOME_NAMES = {"right": "right", "wrong_fact": "wrong fact", "absent": "says it was not told", "other": "other"}


class ScoredTurn(NamedTuple):
    """A message, the model's answer (None: the message is too long for the run), and what it is worth."""

    turn: TypedTurn
    answer: str | None
    outcome: Outcome | None


@dataclass
class HandTypedReport:
    """The answers to all conversations under every condition, scored."""

    conversations: list[TypedConversation]
    conditions: dict[str, list[list[ScoredTurn]]]

    def summary(self) -> dict[str, Any]:
        """Give counts and shares as JSON values: of what was told, of what was never said, by habit."""
        first = next(iter(self.conditions.values()))
        turns = [scored for each in first for scored in each]
        return {
            "conversations": len(self.conversations),
            "messages": len(turns),
            "messages_too_long": sum(scored.answer is None for scored in turns),
            "questions": sum(scored.turn.scored for scored in turns),
            "conditions": {name: self._shares(scored) for name, scored in self.conditions.items()},
        }

    def _shares(self, conversations: Sequence[Sequence[ScoredTurn]]) -> dict[str, Any]:
        groups: dict[str, Counter[str]] = {"all": Counter(), "told": Counter(), "never_said": Counter()}
        habits: dict[str, Counter[str]] = {each.habit: Counter() for each in self.conversations}
        for conversation, turns in zip(self.conversations, conversations, strict=True):
            for scored in turns:
                if scored.outcome is not None:
                    kind = "never_said" if scored.turn.absent else "told"
                    for counter in (groups["all"], groups[kind], habits[conversation.habit]):
                        counter[scored.outcome] += 1
        by_habit = {habit: _divided(habits[habit]) for habit in sorted(habits)}
        shares = {name: _divided(counter) for name, counter in groups.items()} | {"by_habit": by_habit}
        return shares | {"withheld_below": {str(least): _withheld(conversations, least) for least in _CONFIDENCES}}

    def tables(self) -> list[Table]:
        """Show everything."""
        return [self.table(), self.confidence_table()]

    def table(self) -> Table:
        """Show the shares in percent in 80 columns, with right answers under the other conditions beside them."""
        summary = self.summary()
        first, *controls = summary["conditions"].values()
        _, *names = summary["conditions"]
        table = Table(
            title=f"{summary['conversations']} typed conversations, answers in %",
            caption=_caption(summary["messages_too_long"]),
            box=box.SIMPLE_HEAD,
            show_edge=False,
        )
        table.add_column("questions", no_wrap=True)
        for name in ("asked", "right", "wrong\nfact", "absent", "other", *(f"right,\n{name}" for name in names)):
            table.add_column(name, justify="right", no_wrap=True)

        def add(title: str, path: Sequence[str], *, ends: bool = False) -> None:
            found, *others = (_at(each, path) for each in (first, *controls))
            shares = [show_share(found[name]) for name in ("right", "wrong_fact", "absent", "other")]
            table.add_row(
                title, str(found["asked"]), *shares, *(show_share(other["right"]) for other in others), end_section=ends
            )

        add("[bold]all[/bold]", ["all"])
        add("told before", ["told"])
        add("never said", ["never_said"], ends=True)
        for habit in first["by_habit"]:
            add(habit, ["by_habit", habit])
        return table

    def confidence_table(self) -> Table:
        """Show what would be right and wrong if answers below a confidence were withheld, in percent."""
        first, *_ = self.summary()["conditions"].values()
        table = Table(
            title="if answers of less confidence were withheld, in %",
            caption="withheld answers and 'you have not told me' count as absent",
            box=box.SIMPLE_HEAD,
            show_edge=False,
        )
        for name in ("confidence\nat least", "told:\nright", "\nwrong", "\nabsent", "never said:\nabsent"):
            table.add_column(name, justify="right", no_wrap=True)
        for least, shares in first["withheld_below"].items():
            told, never = shares["told"], shares["never_said"]
            cells = (told["right"], told["wrong"], told["absent"], never["absent"])
            table.add_row(least, *map(show_share, cells))
        return table

    def transcript(self) -> str:
        """Write all conversations for a person to read; lines that begin with `!!` are wrong answers."""
        (condition, conversations), *_ = self.conditions.items()
        shares = self._shares(conversations)["all"]
        lines = [
            f"{len(self.conversations)} typed conversations, {shares['asked']} questions, condition: {condition}",
            ", ".join(f"{_OUTCOME_NAMES[name]} {show_share(shares[name])} %" for name in OUTCOMES),
            "ok: right. !!: not; in brackets what it is, and what would have been right.",
        ]
        for conversation, turns in zip(self.conversations, conversations, strict=True):
            lines += ["", f"== {conversation.id} ({conversation.habit})"]
            for scored in turns:
                lines += [f"   you    {scored.turn.user}", _answer_line(scored)]
        return "\n".join(lines) + "\n"

    def save(self, folder: str | Path) -> None:
        """Write `hand_typed.json` and `transcript.txt`."""
        folder = as_path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "hand_typed.json").write_text(json.dumps(self.summary(), indent=1), encoding="utf-8")
        (folder / "transcript.txt").write_text(self.transcript(), encoding="utf-8")


def evaluate_hand_typed(
    model: Any,
    tokenizer: Tokenizer,
    conversations: Sequence[TypedConversation],
    *,
    max_length: int,
    batch_size: int,
    conditions: Sequence[str] = ("memory", "zeroed"),
) -> HandTypedReport:
    """Let a model with memory answer all conversations, once as it is and once with empty memory in every turn."""
    typed = [[turn.user for turn in conversation.turns] for conversation in conversations]
    answers = {
        name: answer_freely(
            model, tokenizer, typed, max_length=max_length, batch_size=batch_size, zeroed=name == "zeroed"
        )
        for name in conditions
    }
    scored = {
        name: [score_turns(conversation, made) for conversation, made in zip(conversations, each, strict=True)]
        for name, each in answers.items()
    }
    return HandTypedReport(list(conversations), scored)


def score_turns(conversation: TypedConversation, answers: Sequence[str | None]) -> list[ScoredTurn]:
    """Score the answers of one conversation. A message that is too long gets no answer, which is `other`."""
    return [
        ScoredTurn(turn, answer, _outcome(conversation, turn, answer or "") if turn.scored else None)
        for turn, answer in zip(conversation.turns, answers, strict=True)
    ]


def _outcome(conversation: TypedConversation, turn: TypedTurn, answer: str) -> Outcome:
    outcome = judge(answer, turn.expect, wrong_values(conversation, turn))
    # Where nothing was said, to say so is what is right.
    return "right" if turn.absent and outcome == "absent" else outcome


def wrong_values(conversation: TypedConversation, asked: TypedTurn) -> list[str]:
    """List the values that an answer must not name: those written beside the question, or those of all others.

    Of the latter a value counts neither if the question names it ("What does Anna do?") nor if it is a spelling of
    the right one.
    """
    if asked.wrong is not None:
        return list(asked.wrong)
    right = {words_of(value) for value in asked.expect}
    others: Iterator[tuple[str, ...]] = (turn.expect for turn in conversation.turns)
    return [
        value
        for expect in others
        if right.isdisjoint(map(words_of, expect))
        for value in expect
        if not contains_value(asked.user, value)
    ]


def _withheld(conversations: Sequence[Sequence[ScoredTurn]], least: float) -> dict[str, Any]:
    """Divide the questions by what their answers would be if those of less confidence were withheld."""
    counts: dict[str, Counter[str]] = {"told": Counter(), "never_said": Counter()}
    for scored in (scored for turns in conversations for scored in turns if scored.outcome is not None):
        answer = scored.answer
        sure = answer.confidence if isinstance(answer, Answer) else 1.0
        said_absent = scored.outcome == ("right" if scored.turn.absent else "absent")
        is_absent = answer is None or said_absent or sure < least
        kind = "absent" if is_absent else "right" if scored.outcome == "right" else "wrong"
        counts["never_said" if scored.turn.absent else "told"][kind] += 1
    return {
        name: {kind: counter[kind] / counter.total() if counter else None for kind in ("right", "wrong", "absent")}
        for name, counter in counts.items()
    }


def _divided(counter: Counter[str]) -> dict[str, Any]:
    asked = counter.total()
    return {"asked": asked} | {name: counter[name] / asked if asked else None for name in OUTCOMES}


def _at(shares: dict[str, Any], path: Sequence[str]) -> dict[str, Any]:
    for name in path:
        shares = shares[name]
    return shares


def _caption(too_long: int) -> str:
    caption = (
        "right: names the value and no other; wrong fact: names another one\n"
        "of the conversation; absent: 'you have not told me', which counts\n"
        "as right where nothing was said"
    )
    return caption + (f"\n{too_long} messages are too long for this run: never answered" * bool(too_long))


def _answer_line(scored: ScoredTurn) -> str:
    answer = "(the message is too long for this run)" if scored.answer is None else scored.answer
    if scored.outcome is None:
        return f"   model  {answer}"
    if scored.outcome == "right":
        return f"ok model  {answer}"
    expected = "that it was not told" if scored.turn.absent else " | ".join(scored.turn.expect)
    return f"!! model  {answer}   [{_OUTCOME_NAMES[scored.outcome]}; right: {expected}]"
