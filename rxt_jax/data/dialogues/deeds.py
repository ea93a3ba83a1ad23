"""Deeds: sentences of a verb and its parts, and a question for every part, made of `phrases/deeds.toml`.

"I bought the lamp at Ikea" answers "where did I buy the lamp?", "who bought the lamp?" and "what did I buy at …?". Each
of these is a `Property` like those of the other files, so that all that is done with facts is done with deeds.
"""

import tomllib
from collections.abc import Iterator, Mapping
from functools import cache
from importlib.resources import files
from typing import Any, NamedTuple

from rxt_jax.data.dialogues.properties import Property

__all__ = ["deeds"]

_WHO = ["self", "self", "relative", "acquaintance", "named"]


class _Tense(NamedTuple):
    """A verb in one tense: after its subject, in a question, and words for the time that go with it."""

    name: str
    told: str
    """"bought" of "I bought the lamp"."""
    asked: str
    """"did I buy" of "where did I buy the lamp?"."""
    of_who: str
    """"bought" of "who bought the lamp?"."""
    others: tuple[str, ...]
    """The same as `told`, said in other ways."""
    times: tuple[str, ...]


class _Part(NamedTuple):
    """What is asked for, or what the question says already."""

    name: str
    words: str
    """"at {v}", or "the {k}" where it is given."""
    ask: tuple[tuple[str, str], ...] = ()
    """What stands before the rest of a question for it, and what stands behind."""
    values: tuple[str, ...] = ()
    given: tuple[str, ...] = ()
    time: bool = False


def _tenses(verb: list[str]) -> tuple[_Tense, ...]:
    base, third, past, going = verb
    do = f"[{base}|{third}]"
    return (
        _Tense(
            name="past",
            told=f"{{S}} {past}",
            asked=f"did {{S}} {base}",
            of_who=past,
            others=(f"{{S}} just {past}", f"{{S}} really {past}"),
            times=("yesterday", "last week", "a while ago", "this morning"),
        ),
        _Tense(
            name="habit",
            told=f"{{S}} {do}",
            asked=f"{{does}} {{S}} {base}",
            of_who=third,
            others=(f"{{S}} usually {do}", f"{{S}} always {do}"),
            times=("these days", "every week", "normally", "as a rule"),
        ),
        _Tense(
            name="plan",
            told=f"{{S}} {{is}} {going}",
            asked=f"{{is}} {{S}} {going}",
            of_who=f"is {going}",
            others=(f"{{S}} will be {going}", f"{{S}} {{is}} going to {base}"),
            times=("tomorrow", "soon", "next week", "in a few days"),
        ),
    )


def _joined(*parts: str) -> str:
    return " ".join(part for part in parts if part)


def _circumstance(tense: _Tense, asked: _Part, given: _Part | None) -> dict[str, Any]:
    """Say a deed with a circumstance, and ask for the circumstance."""
    rest = given.words if given else ""
    said = _joined(tense.told, rest)
    first, second = tense.others
    if given is not None and given.name != "object":  # "in May I am flying to Rome"
        front = f"{rest} {tense.told}"
    else:
        front = f"{asked.words} {said}" if not asked.words.startswith("{v}") else f"{asked.words}, {said}"
    fronts = [each[0] for each in asked.ask]
    tails = [each[1] for each in asked.ask]
    once = tense.times if not (asked.time or (given is not None and given.time)) else ("",) * 4
    state = [
        f"{said} {asked.words}",
        f"{_joined(first, rest)} {asked.words}",
        front if given is None or given.name == "object" else f"{front} {asked.words}",
        _joined(once[0], said, asked.words) if once[0] else f"so {said} {asked.words}",
        _joined(said, asked.words, once[1]) if once[1] else f"I think {said} {asked.words}",
        f"{_joined(second, rest)} {asked.words}",
        f"{said} {asked.words}, in case you wonder",
        _joined(once[2], said, asked.words) if once[2] else f"{_joined(second, rest)} {asked.words}, by the way",
        f"the plan was different, but {said} {asked.words}",
        _joined(said, once[3], asked.words) if once[3] else f"it is true that {said} {asked.words}",
        f"people keep asking: {said} {asked.words}",
        f"{said} {asked.words} after all",
    ]
    asks = [
        _joined(
            fronts[place % len(fronts)], middle.format(a=tense.asked, t=tense.told), rest, tails[place % len(tails)]
        )
        for place, middle in enumerate(
            ("{a}", "{a}", "{a}", "did I say {t}", "was it that {t}", "{a}", "exactly {a}", "again {a}", "{a}")
        )
    ]
    told = _joined(said, asked.words)
    noun = _joined(fronts[0], said, tails[0])
    return {"state": state, "ask": [*asks, f"{told.replace(asked.words, fronts[0])}"], "noun": noun, "tell": told}


def _object(tense: _Tense, given: _Part | None) -> dict[str, Any]:
    """Say what is done with what, and ask for it."""
    rest = given.words if given else ""
    said, whole = _joined(tense.told, "{v}", rest), _joined(tense.told, rest)
    first, second = tense.others
    once = ("",) * 4 if given is not None and given.time else tense.times
    state = [
        said,
        _joined(first, "{v}", rest),
        _joined(rest, said.replace(f" {rest}", "")) if rest else f"so {said}",
        _joined(once[0], said),
        _joined(said, once[1]),
        _joined(second, "{v}", rest),
        f"well, {said}",
        f"what {whole} was {{v}}" if tense.name == "past" else f"it is {{v}} that {whole}",
        f"{said}, just like that",
    ]
    ask = [
        _joined("what", tense.asked, rest),
        _joined("what exactly", tense.asked, rest),
        _joined("what was it that", tense.told, rest),
        _joined("what did I say", tense.told, rest),
        _joined("what", tense.asked, rest),
        _joined(rest, "what", tense.asked) if rest else f"so what {tense.asked}",
        _joined(tense.told, "what", rest),
        _joined("what again", tense.asked, rest),
    ]
    return {"state": state, "ask": ask, "noun": _joined("what", tense.told, rest), "tell": said}


def _agent(tense: _Tense, given: _Part) -> dict[str, Any]:
    """Say who does it, and ask who."""
    did = f"{tense.of_who} {given.words}"
    state = [
        f"{{v}} {did}",
        f"{{v}} is the one who {did}",
        f"it is {{v}} who {did}",
        f"the person who {did} is {{v}}",
        f"{{v}} {did}, not me",
        f"guess who {did}: {{v}}",
        f"as far as I know, {{v}} {did}",
        f"somebody called {{v}} {did}",
    ]
    ask = [
        f"who {did}", f"who was it that {did}", f"which person {did}", f"who did I say {did}",
        f"do you know who {did}", f"what is the name of the person who {did}", f"who again {did}", f"and who {did}",
    ]  # fmt: skip
    return {"state": state, "ask": ask, "noun": f"who {did}", "tell": f"the one who {did} is {{v}}"}


def _property(
    name: str, family: str, asked: _Part, given: _Part | None, subjects: list[str], parts: dict[str, Any]
) -> Property:
    return Property(
        name=name,
        values=asked.values,
        subjects=tuple(subjects),
        keys=given.given if given else (),
        noun=parts["noun"],
        # Each phrase once: what is held out must not come again.
        state=tuple(dict.fromkeys(parts["state"])),
        change=(),
        ask=tuple(dict.fromkeys(parts["ask"])),
        embedded=(parts["noun"],) * 4,
        tell=parts["tell"],
        weight=1,
        everyday=False,
        family=family,
        tail=asked.words,
        timed=asked.time,
        described=given is not None and given.words == "the {k}",
        together="self" in subjects and "{S}" in parts["tell"],
        deed=True,
    )


def _of_verb(name: str, deed: Mapping[str, Any], roles: Mapping[str, _Part]) -> Iterator[Property]:
    own = [roles[each] for each in deed["roles"]]
    keyed = [_given(each) for each in own if each.given]
    article = deed.get("article", "the ")
    thing = _Part("object", f"{article}{{k}}", given=tuple(deed["object"])) if "object" in deed else None
    for tense in _tenses(deed["verb"]):
        prefix = f"deed_{name}_{tense.name}"
        for asked in own:
            if not asked.values:
                continue
            others = [each for each in keyed if each.name != asked.name and not (each.time and asked.time)]
            for given in [thing] if thing else [None, *others]:
                behind = f"_{given.name}" if given else ""
                parts = _circumstance(tense, asked, given)
                yield _property(f"{prefix}_{asked.name}{behind}", prefix + behind, asked, given, _WHO, parts)
        if deed.get("value"):
            what = _Part("object", "{v}", values=tuple(deed["value"]))
            for given in [None, *keyed]:
                behind = f"_{given.name}" if given else ""
                yield _property(f"{prefix}_what{behind}", "", what, given, _WHO, _object(tense, given))
        who = _Part("who", "{v}", values=("name", "name", "full_name"))
        for given in [thing] if thing else keyed:
            yield _property(f"{prefix}_who_{given.name}", "", who, given, ["self"], _agent(tense, given))


def _given(role: _Part) -> _Part:
    return role._replace(words=role.words.replace("{v}", "{k}"))


@cache
def deeds() -> tuple[tuple[Property, ...], ...]:
    """Make the properties of every verb."""
    table = tomllib.loads((files("rxt_jax.data.dialogues") / "phrases" / "deeds.toml").read_text(encoding="utf-8"))
    roles = {
        name: _Part(
            name=name,
            words=role["words"],
            ask=tuple(
                (front.strip(), tail.strip()) for front, _, tail in (each.partition("*") for each in role["ask"])
            ),
            values=tuple(role["value"]),
            given=tuple(role.get("given", ())),
            time=role.get("time", False),
        )
        for name, role in table["roles"].items()
    }
    return tuple(tuple(_of_verb(name, deed, roles)) for name, deed in table["deeds"].items())
