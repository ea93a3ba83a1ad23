"""Templates: sentences with places for a subject, a key and a value, see `phrases/README.md`."""

import re
from collections.abc import Mapping
from functools import lru_cache
from types import MappingProxyType

from rxt_jax.data.dialogues.subjects import Forms
from rxt_jax.data.dialogues.values import with_article

__all__ = ["SUBJECT_PLACES", "needs_bare_noun", "render", "sentence"]

_PLACE = re.compile(r"\{([^}]*)\}|\[([^\]|]*)\|([^\]]*)\]")
_BARE = re.compile(r"\{(B|a B)\}")
# Form for I, for you, for one, for several.
_VERBS = {
    "is": ("am", "are", "is", "are"),
    "was": ("was", "were", "was", "were"),
    "has": ("have", "have", "has", "have"),
    "does": ("do", "do", "does", "do"),
}
SUBJECT_PLACES = frozenset({"S", "P", "O", *_VERBS})
"""Places of a template that name the subject or agree with it."""
_SPEAKER = {"I": ("I", "you"), "my": ("my", "your"), "me": ("me", "you"), "am": ("am", "are")}


def needs_bare_noun(template: str) -> bool:
    """Whether a template works only for subjects with a bare noun ("I have a dog …")."""
    return _BARE.search(template) is not None


def sentence(clause: str) -> str:
    """Turn a clause into a sentence: capital letter, full stop where no mark stands."""
    mark = "" if clause[-1] in ".?!" else "."
    return clause[0].upper() + clause[1:] + mark


@lru_cache(maxsize=1 << 14)
def _parse(template: str) -> tuple[tuple[str, str, str, str], ...]:
    """Split a template into (literal text before, name of a place, first verb form, other verb form)."""
    parts, end = [], 0
    for found in _PLACE.finditer(template):
        parts.append((template[end : found.start()], found[1] or "", found[2] or "", found[3] or ""))
        end = found.end()
    return (*parts, (template[end:], "", "", ""))


def render(
    template: str,
    forms: Forms,
    bare: str,
    value: str,
    key: str,
    *,
    model: bool,
    parts: Mapping[str, str] = MappingProxyType({}),
) -> str:
    """Fill a template; `model` says that the model speaks, for whom I is you; `parts`: values of those of a scene."""
    person = (1 if model else 0) if forms.first else 3 if forms.plural else 2
    written = []
    for literal, name, first, other in _parse(template):
        written.append(literal)
        if name == "v":
            written.append(value)
        elif name == "S":
            written.append(forms.subject)
        elif name == "P":
            written.append(forms.possessive)
        elif name == "O":
            written.append(forms.object)
        elif name == "k":
            written.append(key)
        elif name in _VERBS:
            written.append(_VERBS[name][person])
        elif name in _SPEAKER:
            written.append(_SPEAKER[name][model])
        elif name == "B":
            written.append(bare)
        elif name.removeprefix("a ") in parts:
            value_of_part = parts[name.removeprefix("a ")]
            written.append(with_article(value_of_part) if name.startswith("a ") else value_of_part)
        elif name in ("a v", "a B", "a k"):
            written.append(with_article({"v": value, "B": bare, "k": key}[name[-1]]))
        elif name:
            raise ValueError(f"unknown place {{{name}}} in the template {template!r}")
        elif first or other:
            written.append(first if forms.first or forms.plural else other)
    return "".join(written)
