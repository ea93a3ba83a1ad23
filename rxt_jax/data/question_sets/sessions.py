"""Questions about chats of several sessions, in the two published layouts; each file is a JSON list.

LongMemEval, an object per question:

    {"question_id": "q1", "question_type": "single-session-user", "question": "…", "answer": "…",
     "haystack_sessions": [[{"role": "user", "content": "…", "has_answer": true}, {"role": "assistant", …}], …],
     "haystack_session_ids": ["s1", …], "answer_session_ids": ["s1"], "haystack_dates": […], "question_date": "…"}

LoCoMo, an object per conversation:

    {"sample_id": "c1", "conversation": {"speaker_a": "Ann", "speaker_b": "Ben", "session_1_date_time": "…",
     "session_1": [{"speaker": "Ann", "dia_id": "D1:1", "text": "…"}, …], …},
     "qa": [{"question": "…", "answer": "…", "evidence": ["D1:1"], "category": 1}, …]}

All sessions together are one episode, behind them come the questions. What one side says in a row is one message; a
date stands before the first message of its session. The distance of a question leads to the earliest message that its
evidence names, and to the first message where it names none.
Sources: Wu et al. 2025, "LongMemEval" (arXiv:2410.10813); Maharana et al. 2024, "Evaluating Very Long-Term
Conversational Memory of LLM Agents" (arXiv:2402.17753).
"""

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from rxt_jax.data.faults import RecordError
from rxt_jax.data.question_sets.telling import ABSENT_ANSWER, files_of, question, told

__all__ = ["SESSIONS_PREFIX", "read_sessions", "session_files"]

SESSIONS_PREFIX = "sessions:"

_GREETING = "Hello."  # said by the user where a session begins with the other side
_ADVERSARIAL = 5  # LoCoMo's category of questions that nothing answers
_KINDS = {str: "text", list: "a list", dict: "an object"}


class _Message(NamedTuple):
    """Something said; `mark` is what evidence calls it by, empty where nothing can point at it."""

    by_user: bool
    text: str
    mark: str = ""


def session_files(path: str) -> list[Path]:
    """List the files of `sessions:FILE`, `sessions:FOLDER` (its .json files) or `sessions:GLOB`."""
    return files_of(path, SESSIONS_PREFIX, ".json")


def read_sessions(path: str) -> Iterator[tuple[str, dict[str, Any] | RecordError]]:
    """Yield the place and the episode of every record, or what is wrong with it."""
    for file in session_files(path):
        try:
            records = _load(file)
        except RecordError as error:
            yield str(file), error
            continue
        for number, record in enumerate(records):
            place = f"{file}, record {number}"
            try:
                yield place, _episode(record, place)
            except RecordError as error:
                error.raw = record
                yield error.place, error


def _load(file: Path) -> list[Any]:
    try:
        records = json.loads(file.read_bytes())
    except (ValueError, RecursionError) as error:
        raise RecordError(str(file), f"not valid JSON ({error}); expected a list of records", "not_json") from None
    if not isinstance(records, list):
        raise RecordError(str(file), f"expected a list of records, got {type(records).__name__}", "wrong_type")
    return records


def _episode(record: Any, place: str) -> dict[str, Any]:
    if isinstance(record, Mapping) and "haystack_sessions" in record:
        return _long_mem_eval(record, place)
    if isinstance(record, Mapping) and "conversation" in record:
        return _locomo(record, place)
    message = "expected an object with 'haystack_sessions' (LongMemEval) or with 'conversation' and 'qa' (LoCoMo)"
    raise RecordError(place, message, "unknown_layout")


def _long_mem_eval(record: Mapping[str, Any], place: str) -> dict[str, Any]:
    sessions = _field(record, "haystack_sessions", list, place)
    names = [str(each) for each in record.get("haystack_session_ids") or range(len(sessions))]
    dates = record.get("haystack_dates") or []
    if len(names) != len(sessions):
        message = f"'haystack_session_ids' names {len(names)} sessions, but there are {len(sessions)}"
        raise RecordError(place, message, "wrong_count", "haystack_session_ids")
    interactions: list[dict[str, Any]] = []
    said: dict[str, int] = {}
    evidence: list[str] = []
    for number, session in enumerate(sessions):
        here, messages = f"{place}, session {number}", []
        for count, each in enumerate(_as(session, list, here, "haystack_sessions")):
            at = f"{here}, message {count}"
            role, text = (_field(_as(each, dict, at, "a message"), name, str, at) for name in ("role", "content"))
            if role not in ("user", "assistant"):
                raise RecordError(at, f"field 'role' must be user or assistant, got {role!r}", "bad_role", "role")
            mark = f"{number}:{count}"
            messages.append(_Message(role == "user", text, mark))
            if each.get("has_answer"):
                evidence.append(mark)
        said[f"session {names[number]}"] = len(interactions)
        _say(messages, str(dates[number]) if number < len(dates) else "", interactions, said)
    if not evidence:
        evidence = [f"session {each}" for each in record.get("answer_session_ids") or ()]
    identity, kind, asked = (_field(record, name, str, place) for name in ("question_id", "question_type", "question"))
    answer = _answer(record, place)
    values = [] if identity.endswith("_abs") else [answer]
    text = _dated(asked, str(record.get("question_date") or ""))
    return {"id": identity, "interactions": _ask([(text, answer, values, evidence, kind)], interactions, said, place)}


def _locomo(record: Mapping[str, Any], place: str) -> dict[str, Any]:
    talk, questions = _field(record, "conversation", dict, place), _field(record, "qa", list, place)
    user = _field(talk, "speaker_a", str, place)
    interactions: list[dict[str, Any]] = []
    said: dict[str, int] = {}
    numbers = sorted(int(found[1]) for name in talk if (found := re.fullmatch(r"session_(\d+)", name)))
    for number in numbers:
        name, messages = f"session_{number}", []
        for count, each in enumerate(_field(talk, name, list, place)):
            at = f"{place}, {name}, message {count}"
            speaker, text = (_field(_as(each, dict, at, "a message"), field, str, at) for field in ("speaker", "text"))
            if each.get("blip_caption"):
                text = f"{text} (a picture: {each['blip_caption']})"
            messages.append(_Message(speaker == user, f"{speaker}: {text}", str(each.get("dia_id") or "")))
        _say(messages, str(talk.get(f"{name}_date_time") or ""), interactions, said)
    wanted = []
    for number, each in enumerate(questions):
        at = f"{place}, question {number}"
        asked = _field(_as(each, dict, at, "a question"), "question", str, at)
        absent = each.get("category") == _ADVERSARIAL
        answer = ABSENT_ANSWER if absent else _answer(each, at)
        evidence = re.findall(r"D\d+:\d+", " ".join(map(str, each.get("evidence") or ())))
        kind = f"category {each.get('category', 'none')}"
        wanted.append((asked, answer, [] if absent else [answer], evidence, kind))
    return {
        "id": str(record.get("sample_id") or place),
        "interactions": _ask(wanted, interactions, said, place),
    }


def _say(messages: list[_Message], date: str, interactions: list[dict[str, Any]], said: dict[str, int]) -> None:
    """Add the interactions of a session, and note in which of them everything was said."""
    query, answer = "", ""
    for message in (each for each in messages if each.text.strip()):
        if message.by_user and answer:
            interactions.append({"query": query, "answer": answer})
            query, answer = "", ""
        if message.by_user:
            query = "\n".join(part for part in (query, message.text) if part)
        else:
            query = query or _GREETING
            answer = "\n".join(part for part in (answer, message.text) if part)
        if date:
            query, date = _dated(query, date), ""
        if message.mark:
            said[message.mark] = len(interactions)
    if answer:
        interactions.append({"query": query, "answer": answer})
    elif query:
        interactions.append(told(query))


def _ask(
    wanted: list[tuple[str, str, list[str], list[str], str]],
    interactions: list[dict[str, Any]],
    said: Mapping[str, int],
    place: str,
) -> list[dict[str, Any]]:
    if not interactions:
        raise RecordError(place, "nothing is said in any session", "empty_episode")
    asked = []
    for text, answer, values, evidence, kind in wanted:
        turn = len(interactions) + len(asked)
        # A session in which nothing is said begins where the next one does, perhaps at the question.
        source = min([said[each] for each in evidence if each in said] or [0])
        source = min(source, len(interactions) - 1)
        asked.append(question(text, answer, values, turn=turn, source=source, kind=kind))
    return [*interactions, *asked]


def _dated(text: str, date: str) -> str:
    return f"({date}) {text}" if date else text


def _answer(record: Mapping[str, Any], place: str) -> str:
    """Read an answer, which may be a number."""
    answer = record.get("answer")
    if isinstance(answer, bool) or not isinstance(answer, str | int | float) or not str(answer).strip():
        message = f"field 'answer' must be text or a number, got {'nothing' if answer is None else repr(answer)}"
        raise RecordError(place, message, "missing_field", "answer")
    return str(answer).strip()


def _field(record: Mapping[str, Any], name: str, kind: type, place: str) -> Any:
    return _as(record.get(name), kind, place, f"field '{name}'", name)


def _as(value: Any, kind: type, place: str, what: str, name: str | None = None) -> Any:
    if not isinstance(value, kind):
        found = "nothing" if value is None else type(value).__name__
        raise RecordError(place, f"{what} must be {_KINDS[kind]}, got {found}", "wrong_type", name)
    return value
