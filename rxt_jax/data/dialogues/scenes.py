"""Scenes: small situations with several parts that one sentence can tell, read from `phrases/scenes/*.toml`.

"My plane to Lisbon leaves at 6:40" answers "where am I flying to?" and "when does my plane leave?". Every part is a
`Property` like those of the other files, so that all that is done with facts is done with the parts of a scene.
"""

import re
import tomllib
from collections.abc import Iterator, Mapping, Set
from functools import cache
from importlib.resources import files
from typing import Any, NamedTuple

from rxt_jax.data.dialogues.properties import Property, properties
from rxt_jax.data.dialogues.subjects import SUBJECT_KINDS
from rxt_jax.data.dialogues.templates import SUBJECT_PLACES
from rxt_jax.data.dialogues.values import VALUE_TYPES

__all__ = ["Scene", "question_groups", "read_scenes", "scenes", "told_parts"]

_USER_LISTS = ("state", "ask", "embedded")
_FIELDS = {"value", "noun", "tell", *_USER_LISTS}
_PLACE = re.compile(r"\{(?:a )?([^}]*)\}")
# "{day}s" is no day any more, and "{name}'s" is another name where users drop apostrophes.
_GROWN = re.compile(r"\{(?:a )?([^}]*)\}['\w]")
_SPEAKER = {"I", "my", "me", "am"}
_SPOKEN_BY_THE_USER = re.compile(r"\b(I|my|me|we|our|us|mine|myself)\b")


class Scene(NamedTuple):
    """One situation: its parts by name, and sentences that tell several of them."""

    name: str
    parts: Mapping[str, Property]
    together: tuple[str, ...]


def told_parts(template: str, scene: Scene) -> tuple[str, ...]:
    """List the parts of a scene that a sentence tells, in its order."""
    return tuple(dict.fromkeys(name for name in _PLACE.findall(template) if name in scene.parts))


def _places(where: str, template: str, allowed: Set[str], needed: Set[str]) -> None:
    found = set(_PLACE.findall(template))
    if unknown := found - allowed:
        raise ValueError(f"{where}: unknown place {{{min(unknown)}}} in {template!r}; there are {sorted(allowed)}")
    if missing := needed - found:
        raise ValueError(f"{where}: {template!r} lacks the place {{{min(missing)}}}")
    for found_place in _GROWN.finditer(template):
        if found_place[1] not in SUBJECT_PLACES | _SPEAKER:
            raise ValueError(f"{where}: {template!r} makes another word of {{{found_place[1]}}}: a value stands alone")


def _part(
    where: str, scene: str, name: str, table: Mapping[str, Any], subjects: list[str], keys: list[str]
) -> Property:
    if wrong := _FIELDS ^ set(table):
        raise ValueError(f"{where}: fields must be {', '.join(sorted(_FIELDS))}; see {', '.join(sorted(wrong))}")
    values = [table["value"]] if isinstance(table["value"], str) else table["value"]
    if unknown := set(values) - set(VALUE_TYPES):
        raise ValueError(f"{where}: no value type {min(unknown)}; there are {', '.join(sorted(VALUE_TYPES))}")
    places, needed = SUBJECT_PLACES | ({"k"} if keys else set()), {"k"} if keys else set()
    for field in ("noun", "tell"):
        template = table[field]
        _places(f"{where} {field}", template, places | _SPEAKER | ({"v"} if field == "tell" else set()), needed)
        if spoken := _SPOKEN_BY_THE_USER.search(_PLACE.sub("", template)):
            raise ValueError(f"{where} {field}: the model says {template!r}: write {{{spoken[0]}}}, or another word")
    if table["tell"].count("v}") != 1:
        raise ValueError(f"{where} tell: {table['tell']!r} must name the value {{v}} once")
    for field in _USER_LISTS:
        phrases = table[field]
        if len(set(phrases)) < len(phrases) or len(phrases) < (3 if field == "embedded" else 4):
            raise ValueError(f"{where} {field}: needs at least 4 different phrases (3 embedded), got {phrases}")
        for template in phrases:
            _places(f"{where} {field}", template, places | ({"v"} if field == "state" else set()), needed)
            if field == "state" and template.count("v}") != 1:
                raise ValueError(f"{where} state: {template!r} must name the value {{v}} once")
    return Property(
        name=f"{scene}_{name}",
        values=tuple(values),
        subjects=tuple(subjects),
        keys=tuple(keys),
        noun=table["noun"],
        state=tuple(table["state"]),
        change=(),
        ask=tuple(table["ask"]),
        embedded=tuple(table["embedded"]),
        tell=table["tell"],
        weight=1,
        everyday=False,
        scene=scene,
        part=name,
    )


def read_scenes(text: str, file: str) -> Iterator[Scene]:
    """Read the scenes of a TOML file; `phrases/README.md` says what they hold. ValueError names table and field."""
    for name, table in tomllib.loads(text).items():
        where = f"{file} [{name}]"
        parts = {part: inner for part, inner in table.items() if isinstance(inner, dict)}
        if wrong := {"subjects", "together", "key"} ^ (set(table) - set(parts) | {"key"}):
            raise ValueError(f"{where}: needs subjects, together, perhaps key, and parts; see {sorted(wrong)}")
        subjects, keys = table["subjects"], table.get("key", [])
        if unknown := set(subjects) - SUBJECT_KINDS:
            raise ValueError(f"{where}: no subject {min(unknown)}; there are {', '.join(sorted(SUBJECT_KINDS))}")
        if len(parts) < 2 or set(parts) & (SUBJECT_PLACES | _SPEAKER | {"v", "k", "B"}):
            raise ValueError(f"{where}: needs two parts or more, named unlike the other places, got {list(parts)}")
        scene = Scene(
            name=name,
            parts={part: _part(f"{where} {part}", name, part, inner, subjects, keys) for part, inner in parts.items()},
            together=tuple(table["together"]),
        )
        if len(scene.together) < 4 or len(set(scene.together)) < len(scene.together):
            raise ValueError(f"{where} together: needs at least 4 different sentences, got {scene.together}")
        for template in scene.together:
            places = SUBJECT_PLACES | set(parts) | ({"k"} if keys else set())
            _places(f"{where} together", template, places, {"k"} if keys else set())
            told = [part for part in _PLACE.findall(template) if part in parts]
            if len(told) < 2 or len(set(told)) < len(told):
                raise ValueError(f"{where} together: {template!r} must tell two parts or more, each once")
        yield scene


@cache
def scenes() -> tuple[Scene, ...]:
    """Read all files."""
    found: dict[str, Scene] = {}
    folder = files("rxt_jax.data.dialogues") / "phrases" / "scenes"
    for path in sorted(folder.iterdir(), key=lambda path: path.name):
        for scene in read_scenes(path.read_text(encoding="utf-8"), f"phrases/scenes/{path.name}"):
            if scene.name in found:
                raise ValueError(f"phrases/scenes/{path.name}: the scene {scene.name} stands in two files")
            found[scene.name] = scene
    return tuple(found.values())


@cache
def question_groups() -> Mapping[str, str]:
    """Name the group of every property that shares a question with another one: the rent of a flat, and of a room.

    Both cannot be told of the same subject: nobody could say which of them is asked for.
    """
    group: dict[str, str] = {}

    def root(name: str) -> str:
        while (above := group.setdefault(name, name)) != name:
            name = above
        return name

    first: dict[str, str] = {}
    for prop in [*properties().values(), *(part for scene in scenes() for part in scene.parts.values())]:
        for question in (*prop.ask, *prop.embedded, prop.noun):
            group[root(prop.name)] = root(first.setdefault(question, prop.name))
    return {name: root(name) for name in group}
