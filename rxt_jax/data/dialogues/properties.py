"""Properties: what can be known of a subject and how it is said, read from the tables of `phrases/*.toml`."""

import tomllib
from functools import cache
from importlib.resources import files
from typing import Any, NamedTuple

__all__ = ["EVERYDAY_FILES", "PHRASE_FILES", "Property", "properties"]

PHRASE_FILES = ("people", "personal", "pets", "things", "numbers", "plans", "open", "special")
EVERYDAY_FILES = ("doings", "lives", "notes")
"""What people do, how they are and what they jot down: as often as `DialogueSpec.everyday_share` says."""


class Property(NamedTuple):
    """One table of a phrase file; `phrases/README.md` says what the templates may hold."""

    name: str
    values: tuple[str, ...]
    subjects: tuple[str, ...]
    keys: tuple[str, ...]
    """Word lists of its open key, empty where it has none."""
    noun: str
    state: tuple[str, ...]
    change: tuple[str, ...]
    ask: tuple[str, ...]
    embedded: tuple[str, ...]
    tell: str
    weight: int
    """How often it is talked about, see `phrases/weights.toml`; 0 = never by chance."""
    everyday: bool
    """Whether it is from one of `EVERYDAY_FILES`."""
    family: str = ""
    """Of a deed's circumstances that one sentence can hold: the same for all of them, empty for everything else."""
    tail: str = ""
    """What a circumstance adds to such a sentence ("at {v}")."""
    timed: bool = False
    """Whether it says when, or for how long."""
    described: bool = False
    """Whether its key may have a colour or an adjective ("the red folder")."""
    together: bool = False
    """Whether the user can have done it with somebody ("we")."""
    scene: str = ""
    """The scene that it is a part of, empty for everything else."""
    part: str = ""
    """Its name in the sentences of the scene."""
    deed: bool = False
    """Whether it is a part of a deed."""

    @property
    def is_varied(self) -> bool:
        """Whether it is from everyday life, a scene or a deed: said in more ways than a model can learn by heart."""
        return self.everyday or self.deed or bool(self.scene)


def _listed(entry: Any) -> tuple[str, ...]:
    return (entry,) if isinstance(entry, str) else tuple(entry)


@cache
def properties() -> dict[str, Property]:
    """Read all tables."""
    weights = tomllib.loads((files("rxt_jax.data.dialogues") / "phrases" / "weights.toml").read_text(encoding="utf-8"))
    found: dict[str, Property] = {}
    for file in PHRASE_FILES + EVERYDAY_FILES:
        text = (files("rxt_jax.data.dialogues") / "phrases" / f"{file}.toml").read_text(encoding="utf-8")
        for name, table in tomllib.loads(text).items():
            if name in found:
                raise ValueError(f"phrases/{file}.toml: the property {name} stands in two files")
            try:
                found[name] = Property(
                    name=name,
                    values=_listed(table["value"]),
                    subjects=_listed(table["subjects"]),
                    keys=_listed(table.get("key", ())),
                    noun=table["noun"],
                    state=tuple(table["state"]),
                    change=tuple(table.get("change", ())),
                    ask=tuple(table["ask"]),
                    embedded=tuple(table["embedded"]),
                    tell=table["tell"],
                    weight=weights.get(name, weights["default"]),
                    everyday=file in EVERYDAY_FILES,
                )
            except KeyError as error:
                raise ValueError(f"phrases/{file}.toml: [{name}] lacks the field {error}") from error
    unknown = sorted(set(weights) - set(found) - {"default"})
    if unknown:
        raise ValueError(f"phrases/weights.toml: no file has a property {', '.join(unknown)}")
    return found
