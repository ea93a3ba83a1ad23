"""What a model says it knows: questions about usual things and about what was mentioned, and its answers to them."""

import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from rxt_jax.evaluation.outcome import abstains
from rxt_jax.serving import ChatSession, ask

__all__ = ["QUESTIONS", "SURE", "Fact", "Known", "facts_known", "questions_about"]

QUESTIONS = (
    "What is my name?",
    "How old am I?",
    "When is my birthday?",
    "Where do I live?",
    "What is my address?",
    "Where am I from?",
    "What do I do for a living?",
    "Where do I work?",
    "What do I study?",
    "What language am I learning?",
    "What pet do I have?",
    "What is my dog called?",
    "What is my cat called?",
    "What is my wife called?",
    "What is my husband called?",
    "What is my sister called?",
    "What is my brother called?",
    "What is my best friend called?",
    "What is my favourite food?",
    "What is my favourite colour?",
    "What is my favourite book?",
    "What is my favourite film?",
    "What is my favourite animal?",
    "What is my hobby?",
    "What instrument do I play?",
    "What car do I drive?",
    "Where will I travel?",
    "What am I allergic to?",
)
_MOST_MENTIONS = 20  # the newest ones
SURE = 0.9
"""Of answers with less confidence than this most of the companion's are wrong (benchmarks/confidence.md)."""
# "My dog is called Rex", "my sister's birthday is", "my favourite books are": at most four words, as few as possible.
_MENTION = re.compile(r"\bmy ((?:[\w'’-]+ ){0,3}?[\w'’-]+?) (is|was|are|were)\b( called| named)?", re.IGNORECASE)


class Fact(NamedTuple):
    """A question and what the model answers."""

    question: str
    answer: str


class Known(NamedTuple):
    """What a model is sure of, and how many more answers it would give."""

    facts: list[Fact]
    unsure: int


def facts_known(session: ChatSession, said: Iterable[str] = ()) -> Known:
    """Ask a memory about everything at once and keep the answers that are none of "you have not told me".

    `said` is what the user has said so far. The same answer to several questions is listed once, and questions too
    long for the model are left out. Answers that the model is not sure of are counted and not listed. What remains is
    what the model says, which may be wrong.
    """
    questions = [each for each in _without_repeats((*QUESTIONS, *questions_about(said))) if _fits(session, each)]
    facts: dict[str, Fact] = {}
    unsure: set[str] = set()
    for question, answer in zip(questions, ask(session, questions), strict=True):
        if not answer or abstains(answer):
            continue
        if answer.confidence < SURE:
            unsure.add(answer.casefold())
        else:
            facts.setdefault(answer.casefold(), Fact(question, answer))
    return Known(list(facts.values()), len(unsure - facts.keys()))


def questions_about(said: Iterable[str]) -> list[str]:
    """Ask for everything that was called mine: "My red bike was a gift." gives "What is my red bike?"."""
    questions = []
    for text in said:
        for statement in re.findall(r"[^.!?]+(?:[.!]|$)", text):
            for thing, verb, named in _MENTION.findall(statement):
                is_or_are = "are" if verb.lower() in ("are", "were") else "is"
                questions.append(f"What {is_or_are} my {thing}{' called' if named else ''}?")
    return list(_without_repeats(reversed(questions)))[:_MOST_MENTIONS][::-1]


def _without_repeats(questions: Iterable[str]) -> Sequence[str]:
    return list({question.casefold(): question for question in questions}.values())


def _fits(session: ChatSession, question: str) -> bool:
    try:
        session.prompt(question)
    except ValueError:
        return False
    return True
