"""Ten ways to corrupt a line of episodes, and what reading has to say to each."""

import json
import random
from pathlib import Path


def _edited(line: bytes, edit) -> bytes:
    record = json.loads(line)
    edit(record)
    return json.dumps(record).encode()


def _first(record: dict) -> dict:
    return record["interactions"][0]


def _both_inputs(record: dict) -> None:
    _first(record).update(query="What ?", tool_use="{}")


def _no_output(record: dict) -> None:
    _first(record).update(answer=None, tool_call="")


# Way → (reason, field, what happens to the line). `duplicate` is handled by `damage_file`.
WAYS = {
    "cut in the middle": ("not_json", None, lambda line: line[: len(line) // 2]),
    "two records on a line": ("not_json", None, lambda line: line + b" " + line),
    "a list": ("not_an_object", None, lambda line: b"[" + line + b"]"),
    "half a character": ("invalid_utf8", None, lambda line: line[:-1] + b', "note": "caf\xc3"}'),
    "no interactions": ("missing_field", "interactions", lambda line: _edited(line, lambda r: r.pop("interactions"))),
    "empty": ("empty_episode", "interactions", lambda line: _edited(line, lambda r: r["interactions"].clear())),
    "a number for a text": (
        "wrong_type",
        "query",
        lambda line: _edited(line, lambda r: _first(r).update(query=7, tool_use=None)),
    ),
    "two inputs": ("two_inputs", "tool_use", lambda line: _edited(line, _both_inputs)),
    "no output": ("missing_field", "answer", lambda line: _edited(line, _no_output)),
    "half a surrogate": (
        "invalid_unicode",
        "answer",
        lambda line: _edited(line, lambda r: _first(r).update(answer="\ud83d")),
    ),
    "an id used before": ("duplicate_id", "id", None),
}


def damage_file(source: Path, target: Path, share: float = 0.01, seed: int = 0) -> dict[int, str]:
    """Copy a jsonl file with a share of its lines corrupted in all ways in turn: line number → way."""
    lines = source.read_bytes().splitlines()
    first = json.loads(lines[0])["id"]
    count = max(round(share * len(lines)), len(WAYS))
    chosen = sorted(random.Random(seed).sample(range(1, len(lines)), count))
    done = {}
    for number, way in zip(chosen, list(WAYS) * (count // len(WAYS) + 1), strict=False):
        change = WAYS[way][2]
        if change is None:
            lines[number] = _edited(lines[number], lambda record: record.update(id=first))
        else:
            lines[number] = change(lines[number])
        done[number + 1] = way
    target.write_bytes(b"\n".join(lines) + b"\n")
    return done
