"""Preferences made of episodes with recall annotations: the rejected output recalls another value of the same slot."""

import json
import re
import zlib
from collections.abc import Iterable, Mapping
from typing import Any

__all__ = ["Values", "preference_episode", "recalled_values"]

Values = Mapping[tuple[str, str], list[str]]
"""Recalled values by (block, slot): a call names a date in another form than an answer does."""


def recalled_values(episodes: Iterable[Mapping[str, Any]]) -> Values:
    """Collect the values that episodes recall, to draw wrong ones from."""
    found: dict[tuple[str, str], set[str]] = {}
    for episode in episodes:
        for interaction in episode["interactions"]:
            for recall in interaction.get("recall", ()):
                found.setdefault((_block(interaction), recall["slot"]), set()).add(recall["value"])
    return {key: sorted(values) for key, values in found.items()}


def preference_episode(episode: Mapping[str, Any], values: Values) -> dict[str, Any]:
    """Return an episode with `chosen` and `rejected`; `rejected` is None where nothing is recalled, or where no
    other value of the slot is known."""
    interactions = []
    for turn, interaction in enumerate(episode["interactions"]):
        kept = {name: interaction[name] for name in ("query", "tool_use") if name in interaction}
        chosen = {"answer": interaction.get("answer"), "tool_call": interaction.get("tool_call")}
        wrong = _wrong_values(interaction, values, f"{episode['id']} {turn}")
        if not wrong:
            interactions.append(kept | {"chosen": chosen, "rejected": None})
            continue
        rejected = dict(chosen)
        if chosen["tool_call"]:
            other = {slot: value for (slot, _), value in wrong.items()}
            rejected["tool_call"] = json.dumps(json.loads(chosen["tool_call"]) | other, ensure_ascii=False)
        else:
            rejected["answer"] = _replaced(chosen["answer"], {right: value for (_, right), value in wrong.items()})
        interactions.append(kept | {"chosen": chosen, "rejected": rejected, "recall": interaction["recall"]})
    return {"id": episode["id"], "interactions": interactions}


def _wrong_values(interaction: Mapping[str, Any], values: Values, key: str) -> dict[tuple[str, str], str]:
    """Choose wrong values by (slot, right value); the choice is a function of the episode, the turn and these two."""
    wrong = {}
    for recall in interaction.get("recall", ()):
        slot, right = recall["slot"], recall["value"]
        known = values.get((_block(interaction), slot), [])
        start = zlib.crc32(f"{key} {slot} {right}".encode()) % max(len(known), 1)
        others = (value for value in known[start:] + known[:start] if value.lower() != right.lower())
        other = next(others, None)
        if other is not None:
            wrong[slot, right] = other
    return wrong


def _block(interaction: Mapping[str, Any]) -> str:
    return "tool_call" if interaction.get("tool_call") else "answer"


def _replaced(text: str, values: Mapping[str, str]) -> str:
    """Put other values in, all at once: what was put in is not replaced again; the longest value goes first."""
    longest_first = sorted(values, key=len, reverse=True)
    pattern = rf"(?<!\w)(?:{'|'.join(map(re.escape, longest_first))})(?!\w)"
    return re.sub(pattern, lambda found: values[found.group()], text)
