"""From script to words: one function per kind of turn, and the recall annotations that follow from what was said."""

import json
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

from rxt_jax.data.dialogues.draws import Draws
from rxt_jax.data.dialogues.phrasing import Fact, Phrasebook
from rxt_jax.data.dialogues.plan import Turn
from rxt_jax.data.dialogues.remarks import drawn_values
from rxt_jax.data.dialogues.script import World, stated_before
from rxt_jax.data.dialogues.subjects import Forms, Subject
from rxt_jax.data.dialogues.talk import talk
from rxt_jax.data.dialogues.templates import render, sentence
from rxt_jax.data.dialogues.typing_habits import TypingHabits

__all__ = ["Narrator", "mentions"]

Interaction = dict[str, Any]


class Narrator:
    """Tells one episode turn by turn and remembers when every value was last said."""

    def __init__(self, draws: Draws, book: Phrasebook, world: World, habits: TypingHabits):
        self.draws = draws
        self.book = book
        self.spec = book.spec
        self.world = world
        self.habits = habits
        self.last_said: dict[str, int] = {}
        self.bags: dict[str, set[str]] = {}
        self.before: tuple[str, list[Fact]] = ("", [])
        """Kind and facts of the turn before."""
        self.spoken_of: list[Fact] = []
        """Facts that have been told so far, and those that they replaced."""

    def tell(self, turns: list[Turn]) -> list[Interaction]:
        """Realize the turns of an episode in order."""
        return [self._turn(i, turn, turns) for i, turn in enumerate(turns)]

    def _turn(self, position: int, turn: Turn, turns: list[Turn]) -> Interaction:
        facts: list[Fact] = [chain.fact for chain in turn.chains]
        told: list[Fact] = []
        kind = turn.kind
        if kind in ("absence", "summary", "first"):
            facts = stated_before(turns[:position])
            known = [fact for fact in facts if fact.value]
            # "First" asks for the first words of all, so it is not asked once they are out of date.
            outdated = kind == "first" and (not facts or facts[0] is not _first_told(turns) or not facts[0].value)
            if outdated or (kind == "summary" and not known):
                kind, facts = "distractor", []
            elif kind == "summary":
                facts = known[-self.spec.summary_facts :]
            elif kind == "absence":
                facts = [self.world.unstated(known, [fact for fact in facts if not fact.value])]
        if kind == "state" and facts[0].former:
            kind = "update"
        interaction = _TURNS[kind](self, facts, told)
        interaction["intent"] = interaction.pop("intent", kind)
        self.before = (kind, facts)
        self._annotate(position, interaction, told, facts)
        return interaction

    # What the user types

    def _type(self, clause: str, facts: Sequence[Fact]) -> str:
        protected = [text for fact in facts for text in (fact.value, fact.key, fact.former)]
        return self.habits.type(self.draws, clause, protected)

    def _wrapped(self, clause: str, closers: str, facts: Sequence[Fact]) -> str:
        """Put a greeting, a marker, a bit of story or thanks around a clause."""
        draws, book = self.draws, self.book
        if not draws.chance(self.spec.wrapped_share):
            return clause
        form = draws.below(10)
        if form < 6:
            opener = book.any(draws, "openers")
        elif form < 7 and closers == "closers":
            opener = book.any(draws, "stories")
        else:
            return f"{sentence(clause) if closers == 'closers' else clause} {book.any(draws, closers)}"
        return f"{opener} {sentence(clause) if opener[-1] in '.!' else clause}"

    def _takes_notes(self) -> bool:
        return self.habits.notes > 0 and self.draws.chance(self.habits.notes)

    def _indirectly(self) -> bool:
        return self.spec.indirect_share > 0 and self.draws.chance(self.spec.indirect_share)

    def _forms(self, fact: Fact) -> Forms | None:
        """Say he, she or it where the turn before was about the same subject and nothing else."""
        kind, facts = self.before
        same = len(facts) == 1 and facts[0].subject == fact.subject and fact.subject.kind != "self"
        if same and kind in ("state", "update", "recall") and self.draws.chance(self.spec.pronoun_share):
            return fact.subject.pronoun()
        return None

    def _question(self, fact: Fact) -> str:
        """Ask for a fact."""
        draws, book = self.draws, self.book
        if self._takes_notes():
            return book.any(draws, "note_questions").format(n=_note(fact))
        kind, before = self.before
        if kind in ("recall", "absence") and before[0].slot != fact.slot and draws.chance(self.spec.follow_up_share):
            if before[0].topic is fact.topic and before[0].key == fact.key:
                return book.any(draws, "follow_up_subjects").format(s=fact.subject.forms("my").object)
            return book.any(draws, "follow_ups").format(n=fact.slot)
        forms = self._forms(fact)
        form = draws.below(20)
        embedded = book.phrases(fact, "embedded")
        if embedded and self._indirectly():
            question = book.any(draws, "indirect_frames").format(q=book.clause(draws, fact, "embedded", forms))
        elif form < 5 and embedded:
            question = book.any(draws, "ask_frames").format(q=book.clause(draws, fact, "embedded", forms))
        elif form < 9:
            noun = fact.say(fact.topic.noun, "my", forms)
            question = book.any(draws, "noun_frames").format(n=noun)
        else:
            question = book.clause(draws, fact, "ask", forms) + "?"
        return self._wrapped(question, "question_closers", [fact])

    # Answers

    def _answer(self, interaction: Interaction, clause: str, think: str = "") -> Interaction:
        """Finish the answer; some turns get a thought, some an instruction that shapes it."""
        answer = sentence(clause)
        if think and self.draws.chance(self.spec.think_share):
            interaction["think"] = sentence(think)
        if self.draws.chance(self.spec.internal_share):
            instruction, form = self.draws.choice(self.book.instructions)
            interaction["internal"] = sentence(instruction)
            answer = form.format(answer=answer)
        interaction["answer"] = answer
        return interaction

    def _acknowledge(self, interaction: Interaction, facts: list[Fact], told: list[Fact], silent: str) -> Interaction:
        echo, varied = self.spec.echo_probability, self.spec.varied_echo_probability
        if varied is not None and any(fact.topic.is_varied for fact in facts):
            echo = varied
        if not self.draws.chance(echo):
            return self._answer(interaction, silent)
        told.extend(facts)
        return self._answer(interaction, talk()["echo"].format(t=_told_together(facts)))

    # Turns

    def _state(self, facts: list[Fact], told: list[Fact]) -> Interaction:
        draws, book = self.draws, self.book
        forms = [self._forms(facts[0])]
        for before, fact in pairwise(facts):
            # "My sister is called Ana and she is 34."
            same = fact.subject == before.subject and fact.subject.kind != "self"
            forms.append(fact.subject.pronoun() if same and draws.chance(0.7) else None)
        if len(facts) == 1 and self._takes_notes():
            clause = book.any(draws, "notes").format(n=_note(facts[0]), v=facts[0].value)
            return self._acknowledge({"query": self._type(clause, facts)}, facts, told, talk()["acknowledge"])
        scene = self._scene(facts, forms[0])
        if scene:
            clauses = [scene]
        elif _are_one_deed(facts):
            clauses = [" ".join([facts[0].say(facts[0].topic.tell, "my"), *(fact.tail for fact in facts[1:])])]
        else:
            clauses = [book.clause(draws, fact, "state", form) for fact, form in zip(facts, forms, strict=True)]
        clause = clauses[0]
        for more in clauses[1:]:
            clause = book.any(draws, "joins").format(a=clause, b=more, B=more[0].upper() + more[1:])
        if len(clauses) == 1 and draws.chance(0.2):
            clause = book.any(draws, "state_frames").format(c=clause)
        else:
            clause = self._wrapped(clause, "closers", facts)
        return self._acknowledge({"query": self._type(clause, facts)}, facts, told, talk()["acknowledge"])

    def _scene(self, facts: list[Fact], forms: Forms | None) -> str:
        """Tell a scene in one sentence, mostly with more of its parts, which `facts` gets; empty where none fits."""
        first, draws = facts[0], self.draws
        if not first.topic.scene or not all(fact.shares_scene(first) for fact in facts):
            return ""
        if len(facts) == 1 and draws.chance(0.3):
            return ""
        told = {fact.topic.part for fact in facts}
        untold = self.world.untold_parts(first)
        fitting = [each for each in self.book.together(first) if told <= set(each[0]) <= told | set(untold)]
        if not fitting:
            return ""
        parts, template = draws.choice(fitting)
        facts += [self.world.fact(untold[part], first.subject, first.key) for part in parts if part not in told]
        return first.say(template, "my", forms, {fact.topic.part: fact.value for fact in facts})

    def _update(self, facts: list[Fact], told: list[Fact]) -> Interaction:
        draws, book, fact = self.draws, self.book, facts[0]
        kind, before = self.before
        just_said = kind in ("state", "update") and len(before) == 1 and before[0].slot == fact.slot
        if just_said and draws.chance(0.7):
            clause = book.any(draws, "corrections").format(v=fact.value, old=fact.former)
        elif book.phrases(fact, "change") and draws.chance(0.4):
            clause = book.clause(draws, fact, "change")
        else:
            clause = book.any(draws, "change_markers").format(c=book.clause(draws, fact, "state"))
        return self._acknowledge({"query": self._type(clause, facts)}, facts, told, talk()["acknowledge"])

    def _withdraw(self, facts: list[Fact], told: list[Fact]) -> Interaction:
        fact = facts[0]
        kind, before = self.before
        if self._indirectly():
            just_said = kind in ("state", "update") and len(before) == 1 and before[0].slot == fact.slot
            phrase = self.book.any(self.draws, "indirect_withdrawals")
            clause = phrase.format(n="that" if just_said else fact.slot)
        else:
            clause = self.book.any(self.draws, "withdrawals").format(n=fact.slot)
        query = self._type(clause, facts)
        return self._answer({"query": query}, talk()["withdrawn"].format(n=fact.model_noun))

    def _recall(self, facts: list[Fact], told: list[Fact]) -> Interaction:
        fact = facts[0]
        told.append(fact)
        return self._answer(
            {"query": self._type(self._question(fact), facts)}, fact.tell, f"{fact.model_noun}: {fact.value}"
        )

    def _history(self, facts: list[Fact], told: list[Fact]) -> Interaction:
        """Ask for a value that was replaced: the one question whose answer is out of date on purpose."""
        fact = facts[0]
        told.append(fact)
        query = self._type(self.book.any(self.draws, "history").format(n=fact.slot), facts)
        return self._answer(
            {"query": query},
            f"before that, {fact.model_noun} was {fact.value}",
            f"{fact.model_noun} before: {fact.value}",
        )

    def _absence(self, facts: list[Fact], told: list[Fact]) -> Interaction:
        fact = facts[0]
        query = self._type(self._question(fact), facts)
        clause = talk()["absence"].format(n=fact.model_noun)
        return self._answer({"query": query, "asked": fact.slot}, clause, f"{fact.model_noun}: not told")

    def _compare(self, facts: list[Fact], told: list[Fact]) -> Interaction:
        draws = self.draws
        list_name, pick = draws.choice((("older", max), ("younger", min)))
        winner = pick(facts, key=lambda fact: int(fact.value))
        told.append(winner)
        first, second = (fact.subject.forms("my").object for fact in facts)
        query = self._type(self.book.any(draws, list_name).format(a=first, b=second), facts)
        forms = winner.subject.forms("your")
        clause = f"{forms.subject} {'are' if forms.first or forms.plural else 'is'} {list_name}, at {winner.value}"
        think = ", ".join(f"{fact.model_noun}: {fact.value}" for fact in facts)
        return self._answer({"query": query}, clause, think)

    def _summary(self, facts: list[Fact], told: list[Fact]) -> Interaction:
        told.extend(facts)
        clauses = [fact.tell for fact in facts]
        clause = ", ".join(clauses[:-1]) + " and " + clauses[-1] if len(clauses) > 1 else clauses[0]
        return self._answer({"query": self._type(self.book.any(self.draws, "summary"), facts)}, clause)

    def _first(self, facts: list[Fact], told: list[Fact]) -> Interaction:
        told.append(facts[0])
        query = self._type(self.book.any(self.draws, "first"), facts)
        return self._answer({"query": query}, f"first you told me that {facts[0].tell}")

    def _hop(self, facts: list[Fact], told: list[Fact]) -> Interaction:
        """Ask of "my sister" what was said of "Ana"."""
        person, fact = facts
        asked = Fact(fact.topic, person.subject, fact.value_type, fact.value, fact.key)
        told.append(fact)
        self.before = ("", [])
        query = self._type(self.book.clause(self.draws, asked, "ask") + "?", facts)
        return self._answer({"query": query}, asked.tell, f"{person.tell}, {fact.tell}")

    def _tool_call(self, facts: list[Fact], told: list[Fact]) -> Interaction:
        tool, fact = self.world.tool, facts[0]
        assert tool is not None
        told.append(fact)
        request = tool.request.format(n=fact.slot)
        query = self._type(self.book.any(self.draws, "tool_frames").format(r=request), facts)
        interaction = self._answer({"query": query}, f"I will {tool.request.format(n=fact.model_noun)}")
        interaction["tool_call"] = json.dumps({"tool": tool.name, tool.field: fact.value}, ensure_ascii=False)
        return interaction

    def _tool_result(self, facts: list[Fact], told: list[Fact]) -> Interaction:
        result = facts[0]
        interaction = {"tool_use": json.dumps({result.key: result.value})}
        return self._acknowledge(interaction, facts, told, talk()["tool_done"])

    def _distractor(self, facts: list[Fact], told: list[Fact]) -> Interaction:
        draws, book = self.draws, self.book
        if self.spec.remark_share and draws.chance(self.spec.remark_share):
            return self._remark()
        form = draws.below(10)
        if form == 0:
            x, y = draws.between(1, 9), draws.between(1, 9)
            query, answer, kind = book.any(draws, "sums").format(x=x, y=y), f"{x} plus {y} is {x + y}", "sum"
        elif form == 1:
            word = self.world.cased(self.world.value("word"))
            query, answer, kind = book.any(draws, "copies").format(x=word), word, "copy"
        else:
            says, answer = draws.choice(book.chat)
            query, kind = draws.choice(says), "chat"
        return self._answer({"query": self.habits.type(draws, query, ()), "intent": kind}, answer)

    def _remark(self) -> Interaction:
        """Comment on what was told, or ask what nobody has told: nothing here is to be kept."""
        draws, world = self.draws, self.world
        values = [fact.value for fact in self.spoken_of]
        template, remark = draws.choice(self.book.remarks)
        while "{v}" in template and not values:
            template, remark = draws.choice(self.book.remarks)
        drawn = {name: world.cased(world.value(name)) for name in drawn_values(template)}
        value = draws.choice(values) if "{v}" in template else ""
        forms, bare = Subject("self").forms("my"), ""
        if remark.subjects:
            known = [fact.subject for fact in self.spoken_of if fact.subject.kind in remark.subjects]
            subject = draws.choice(known) if known and draws.chance(0.7) else world.subject(remark.subjects)
            just_named = any(fact.subject == subject for fact in self.before[1])
            pronoun = just_named and subject.kind != "self" and draws.chance(0.5)
            forms, bare = subject.pronoun() if pronoun else subject.forms("my"), subject.bare
        query = render(template, forms, bare, value, "", model=False, parts=drawn)
        query = self.habits.type(draws, query, [value, *drawn.values()])
        return self._answer({"query": query, "intent": "remark"}, remark.answer)

    def _annotate(self, position: int, interaction: Interaction, told: list[Fact], facts: list[Fact]) -> None:
        """Note which values the answer takes from memory, then which values have been said where."""
        own = (interaction.get("query") or interaction.get("tool_use", "")).casefold()
        spoken = " ".join([own, *(interaction.get(part, "") for part in ("think", "answer", "tool_call"))]).casefold()
        recall = [
            {
                "slot": fact.slot,
                "value": fact.value,
                "distance": position - self.last_said[fact.value],
                "type": fact.value_type,
                "candidates": len(self.bags[fact.value_type]),
            }
            for fact in told
            if fact.value in self.last_said and not mentions(fact.value, own)
        ]
        for fact in facts:
            if fact.value and mentions(fact.value, spoken):
                self.last_said[fact.value] = position
                self.spoken_of.append(fact)
                self.bags.setdefault(fact.value_type, set()).add(fact.value)
        for value in self.last_said:  # a value may be a common word that small talk or another fact says as well
            if self.last_said[value] != position and mentions(value, spoken):
                self.last_said[value] = position
        if recall:
            interaction["recall"] = recall


def mentions(value: str, text: str) -> bool:
    """Whether a casefolded text says a value as words of its own."""
    value, start = value.casefold(), 0
    while (at := text.find(value, start)) >= 0:
        end = at + len(value)
        if not (at and text[at - 1].isalnum()) and not (end < len(text) and text[end].isalnum()):
            return True
        start = at + 1
    return False


def _note(fact: Fact) -> str:
    """Name what a fact is about as a note does: "dog's age", and "dog" for the name of the dog."""
    if fact.subject.bare and fact.topic.name in ("person_name", "pet_name"):
        return fact.subject.bare
    return fact.slot.removeprefix("my ")


def _are_one_deed(facts: Sequence[Fact]) -> bool:
    """Whether these are several parts of one deed, which one sentence tells."""
    return len(facts) > 1 and all(fact.is_told_with(facts[0]) for fact in facts)


def _told_together(facts: Sequence[Fact]) -> str:
    """Tell several facts: parts of one deed in one clause."""
    if _are_one_deed(facts):
        return " ".join([facts[0].tell, *(fact.tail for fact in facts[1:])])
    return " and ".join(fact.tell for fact in facts)


def _first_told(turns: list[Turn]) -> Fact:
    return next(turn for turn in turns if turn.kind == "state").chains[0].fact


_TURNS: dict[str, Callable[[Narrator, list[Fact], list[Fact]], Interaction]] = {
    "state": Narrator._state,
    "update": Narrator._update,
    "withdraw": Narrator._withdraw,
    "recall": Narrator._recall,
    "history": Narrator._history,
    "absence": Narrator._absence,
    "compare": Narrator._compare,
    "summary": Narrator._summary,
    "first": Narrator._first,
    "hop": Narrator._hop,
    "tool_call": Narrator._tool_call,
    "tool_result": Narrator._tool_result,
    "distractor": Narrator._distractor,
}
