"""From script to words: one function per kind of turn, and the recall annotations that follow from what was said."""

import json
from collections.abc import Callable, Sequence
from typing import Any

from rxt_jax.data.dialogues import talk
from rxt_jax.data.dialogues.draws import Draws
from rxt_jax.data.dialogues.phrasing import Phrasebook, fill, sentence
from rxt_jax.data.dialogues.plan import Turn
from rxt_jax.data.dialogues.script import Fact, World, stated_before

__all__ = ["Narrator"]

Interaction = dict[str, Any]


class Narrator:
    """Tells one episode turn by turn and remembers when every value was last said."""

    def __init__(self, draws: Draws, book: Phrasebook, world: World):
        self.draws = draws
        self.book = book
        self.spec = book.spec
        self.world = world
        self.last_said: dict[str, int] = {}
        self.bags: dict[str, set[str]] = {}

    def tell(self, turns: list[Turn]) -> list[Interaction]:
        """Realize the turns of an episode in order."""
        return [self._turn(i, turn, turns) for i, turn in enumerate(turns)]

    def _turn(self, position: int, turn: Turn, turns: list[Turn]) -> Interaction:
        facts = [chain.fact for chain in turn.chains]
        told: list[Fact] = []
        kind = turn.kind
        if kind in ("absence", "summary", "first"):
            known = stated_before(turns[:position])
            silent = kind == "absence" and not self.world.silent({fact.slot for fact in known})
            if silent or (kind != "absence" and not known):
                kind = "distractor"
            # "First" asks for the first words of all, so it is not asked once they are out of date.
            outdated = kind == "first" and known and known[0] is not _first_told(turns)
            if outdated:
                kind = "distractor"
            facts = [] if kind == "distractor" else known
        if kind == "state" and facts[0].former:
            kind = "update"
        interaction = _TURNS[kind](self, facts, told)
        interaction["intent"] = interaction.pop("intent", kind)
        if kind in _WRAPPED:
            self._wrap(interaction, {word for fact in facts for word in f"{fact.value} {fact.key}".split()})
        self._annotate(position, interaction, told, facts)
        return interaction

    def _wrap(self, interaction: Interaction, protected: set[str]) -> None:
        """Open the query with a discourse marker, or let a key slip; a share of zero draws nothing."""
        query = interaction["query"]
        if self.spec.filler_share and self.draws.chance(self.spec.filler_share):
            filler = self.draws.choice(self.book.fillers)
            first = query.split()[0]
            capital = filler.endswith(". ") or first.rstrip(".,?") in protected | {"I"}
            query = sentence(filler + (query if capital else query[0].lower() + query[1:]))
        if self.spec.noise and self.draws.chance(self.spec.noise):
            words = query.split(" ")
            places = [i for i, word in enumerate(words) if word.isalpha() and len(word) > 3 and word not in protected]
            if places:
                place = self.draws.choice(places)
                letters = list(words[place])
                at = self.draws.between(1, len(letters) - 3)
                letters[at], letters[at + 1] = letters[at + 1], letters[at]
                words[place] = "".join(letters)
            query = " ".join(words)
        interaction["query"] = query

    def _say(self, items: Sequence[str], fact: Fact) -> str:
        return fill(self.draws.choice(items), fact.value, fact.key)

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

    def _acknowledge(self, interaction: Interaction, facts: list[Fact], told: list[Fact], silent: Sequence[str]):
        if not self.draws.chance(self.spec.echo_probability):
            return self._answer(interaction, self.draws.choice(silent))
        told.extend(facts)
        clause = self._say(facts[0].phrases.echo, facts[0])
        for fact in facts[1:]:
            clause += " and " + self._say(fact.phrases.tells, fact)
        return self._answer(interaction, clause)

    def _state(self, facts: list[Fact], told: list[Fact]) -> Interaction:
        if len(facts) == 1:
            clause = self._say(facts[0].phrases.state, facts[0])
        else:
            clause = " and ".join(self._say(fact.phrases.clauses, fact) for fact in facts)
        return self._acknowledge({"query": sentence(clause)}, facts, told, self.book.acknowledge)

    def _update(self, facts: list[Fact], told: list[Fact]) -> Interaction:
        query = sentence(self._say(facts[0].phrases.change, facts[0]))
        return self._acknowledge({"query": query}, facts, told, self.book.acknowledge)

    def _recall(self, facts: list[Fact], told: list[Fact]) -> Interaction:
        fact = facts[0]
        told.append(fact)
        query = sentence(self._say(fact.phrases.ask, fact))
        think = fill(fact.phrases.model_noun, "", fact.key) + ": " + fact.value
        return self._answer({"query": query}, self._say(fact.phrases.tell, fact), think)

    def _history(self, facts: list[Fact], told: list[Fact]) -> Interaction:
        """Ask for a value that was replaced: the one question whose answer is out of date on purpose."""
        fact = facts[0]
        told.append(fact)
        query = sentence(self._say(fact.phrases.history, fact))
        noun = fill(fact.phrases.model_noun, "", fact.key)
        clause = talk.HISTORY_TELL.format(noun=noun, v=fact.value)
        return self._answer({"query": query}, clause, f"{noun} before: {fact.value}")

    def _absence(self, facts: list[Fact], told: list[Fact]) -> Interaction:
        fact = self.world.unstated({fact.slot for fact in facts})
        query = sentence(self._say(fact.phrases.ask, fact))
        noun = fill(fact.phrases.model_noun, "", fact.key)
        clause = self._say(fact.phrases.absence, fact)
        return self._answer({"query": query, "asked": fact.slot}, clause, f"{noun}: not told")

    def _compare(self, facts: list[Fact], told: list[Fact]) -> Interaction:
        first, second = facts
        template, sign = self.draws.choice(self.book.compare)
        winner = max(facts, key=lambda fact: sign * int(fact.value))
        told.append(winner)
        query = template.format(first=first.phrases.noun, second=second.phrases.noun)
        clause = talk.COMPARE_TELL[sign].format(noun=winner.phrases.model_noun, v=winner.value)
        think = ", ".join(f"{fact.phrases.model_noun}: {fact.value}" for fact in facts)
        return self._answer({"query": sentence(query)}, clause, think)

    def _summary(self, facts: list[Fact], told: list[Fact]) -> Interaction:
        told.extend(facts)
        clauses = [self._say(fact.phrases.tells, fact) for fact in facts]
        clause = ", ".join(clauses[:-1]) + " and " + clauses[-1] if len(clauses) > 1 else clauses[0]
        return self._answer({"query": sentence(self.draws.choice(self.book.summary))}, clause)

    def _first(self, facts: list[Fact], told: list[Fact]) -> Interaction:
        told.append(facts[0])
        clause = talk.FIRST_TELL.format(tell=self._say(facts[0].phrases.tells, facts[0]))
        return self._answer({"query": sentence(self.draws.choice(self.book.first))}, clause)

    def _count(self, facts: list[Fact], told: list[Fact]) -> Interaction:
        told.extend(facts)
        listed = ", ".join(fact.value for fact in facts)
        clause = talk.COUNT_TELL.format(count=talk.COUNT_WORDS[len(facts)], list=listed)
        return self._answer({"query": sentence(self.draws.choice(self.book.count))}, clause, listed)

    def _hop(self, facts: list[Fact], told: list[Fact]) -> Interaction:
        person, city = facts
        told.extend(facts)
        key = person.phrases.attribute.key
        clause = talk.HOP_TELL.format(k=key, name=person.value, v=city.value)
        think = f"your {key}: {person.value}, {person.value}: {city.value}"
        return self._answer({"query": sentence(self.draws.choice(self.book.hop).format(k=key))}, clause, think)

    def _tool_call(self, facts: list[Fact], told: list[Fact]) -> Interaction:
        tool, fact = self.world.tool, facts[0]
        assert tool is not None
        told.append(fact)
        request = self.book.tool_request(tool, fact.phrases.attribute)
        mirrored = self.book.tool_request(tool, fact.phrases.attribute, "your")
        interaction = {"query": sentence(self.draws.choice(self.book.tool_frames).format(request=request))}
        self._answer(interaction, f"I will {mirrored}")
        interaction["tool_call"] = json.dumps({"tool": tool.name, tool.field: fact.value})
        return interaction

    def _tool_result(self, facts: list[Fact], told: list[Fact]) -> Interaction:
        result = facts.pop(0)
        facts[:] = [result]
        interaction = {"tool_use": json.dumps({result.slot: result.value})}
        return self._acknowledge(interaction, facts, told, self.book.tool_done)

    def _distractor(self, facts: list[Fact], told: list[Fact]) -> Interaction:
        if self.draws.chance(self.spec.similar_share):
            return self._similar(facts)
        draw, book = self.draws, self.book
        kind = draw.choice(("chat", "sum", "copy", "define"))
        if kind == "chat":
            query, answer = draw.choice(book.chat)
        elif kind == "sum":
            x, y = draw.between(1, 9), draw.between(1, 9)
            query, answer = draw.choice(book.sum).format(x=x, y=y), f"{x} plus {y} is {x + y}"
        elif kind == "copy":
            x, y = draw.choice(talk.COPY_WORDS), draw.choice(talk.COPY_WORDS)
            query, answer = draw.choice(book.copy).format(x=x, y=y), f"{x} {y}"
        else:
            x, answer = draw.choice(talk.DEFINITIONS)
            query, answer = draw.choice(book.define).format(x=x), f"a {x} is a {answer}"
        return self._answer({"query": sentence(query), "intent": kind}, answer)

    def _similar(self, facts: list[Fact]) -> Interaction:
        """Somebody else's fact of a type the user talks about: near, and not to be kept."""
        fact = self.world.fact(self.draws.choice(self.spec.attributes))
        clause = self._say(fact.phrases.clauses, fact)
        query = self.draws.choice(self.book.similar).format(clause=clause)
        facts.append(fact)
        interaction = {"query": sentence(query), "intent": "similar"}
        return self._answer(interaction, self.draws.choice(self.book.acknowledge))

    def _annotate(self, position: int, interaction: Interaction, told: list[Fact], facts: list[Fact]) -> None:
        """Note which values the answer takes from memory, then that all of them have been said."""
        own = interaction.get("query") or interaction.get("tool_use", "")
        spoken = f"{own} {interaction.get('think', '')} {interaction['answer']} {interaction.get('tool_call', '')}"
        recall = []
        for fact in told:
            if fact.value in own or _spoken_name(fact) not in self.last_said:
                continue
            recall.append(
                {
                    "slot": fact.slot,
                    "value": fact.value,
                    "distance": position - self.last_said[_spoken_name(fact)],
                    "type": fact.value_type,
                    "candidates": len(self.bags[fact.value_type]),
                }
            )
        for fact in facts:
            for word, name, value_type in (
                (fact.value, _spoken_name(fact), fact.value_type),
                (fact.key, fact.key, fact.phrases.attribute.open_key),
            ):
                if word and word in spoken:
                    self.last_said[name] = position
                    self.bags.setdefault(value_type, set()).add(word)
        if recall:
            interaction["recall"] = recall


def _spoken_name(fact: Fact) -> str:
    """Tell values apart: only opinions can be the same of two things."""
    return f"{fact.key} {fact.value}" if fact.value_type == "opinion" else fact.value


def _first_told(turns: list[Turn]) -> Fact:
    return next(turn for turn in turns if turn.kind == "state").chains[0].fact


_WRAPPED = ("state", "update", "recall", "history", "compare", "summary", "first", "count", "hop")
"""Kinds of turn whose query fillers and noise may touch: no answer is copied from its words, values apart."""

_TURNS: dict[str, Callable[[Narrator, list[Fact], list[Fact]], Interaction]] = {
    "state": Narrator._state,
    "update": Narrator._update,
    "recall": Narrator._recall,
    "history": Narrator._history,
    "absence": Narrator._absence,
    "compare": Narrator._compare,
    "summary": Narrator._summary,
    "first": Narrator._first,
    "count": Narrator._count,
    "hop": Narrator._hop,
    "tool_call": Narrator._tool_call,
    "tool_result": Narrator._tool_result,
    "distractor": Narrator._distractor,
}
