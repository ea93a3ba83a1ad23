"""Reading the fields of a request: every one is checked, and one that nobody reads is an error."""

import json
import math
from collections.abc import Collection, Mapping
from typing import Any

from rxt_jax.server.errors import ApiError, invalid, unsupported

__all__ = ["Fields", "parse_body"]

_METADATA = 16  # pairs, as the API has it
_KEY, _VALUE = 64, 512  # characters


def parse_body(content: bytes) -> Mapping[str, Any]:
    """Read the JSON object of a request."""
    try:
        body = json.loads(content or b"{}", parse_constant=_refuse)
        if b"\\u" in content:
            json.dumps(body, ensure_ascii=False).encode()  # halves of characters, which no text has
    except (ValueError, RecursionError):
        raise ApiError(400, "the body is no valid JSON", code="invalid_json") from None
    if not isinstance(body, Mapping):
        raise ApiError(400, f"the body must be a JSON object, got {type(body).__name__}", code="invalid_json")
    return body


class Fields:
    """The fields of an object. `null` counts as left out. `place` is how errors call the object itself."""

    def __init__(self, body: Any, place: str = ""):
        if not isinstance(body, Mapping):
            raise invalid(place, f"{place} must be an object, got {type(body).__name__}")
        self._body, self._place = body, place
        self._unread = set(body)

    def place(self, name: str) -> str:
        """Name a field as errors do."""
        return f"{self._place}.{name}" if self._place else name

    def any(self, name: str) -> Any:
        """Read a field as it is; None where it is left out."""
        self._unread.discard(name)
        return self._body.get(name)

    def text(self, name: str, *, required: bool = False) -> str | None:
        value = self.any(name)
        if value is None and not required:
            return None
        if not isinstance(value, str):
            raise invalid(self.place(name), f"{self.place(name)} must be text, got {_kind(value)}")
        return value

    def flag(self, name: str, default: bool) -> bool:
        value = self.any(name)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise invalid(self.place(name), f"{self.place(name)} must be true or false, got {_kind(value)}")
        return value

    def number(self, name: str, low: float, high: float) -> float | None:
        """Read a number between two bounds, both of them allowed."""
        value = self.any(name)
        if value is None:
            return None
        number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        if not number or not low <= value <= high:
            raise invalid(self.place(name), f"{self.place(name)} must lie between {low:g} and {high:g}, got {value!r}")
        return float(value)

    def whole(self, name: str, low: int, high: int) -> int | None:
        value = self.any(name)
        if value is None:
            return None
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            message = f"{self.place(name)} must be a whole number from {low} to {high}, got {value!r}"
            raise invalid(self.place(name), message)
        return value

    def choice(self, name: str, choices: Collection[str]) -> str | None:
        value = self.any(name)
        if value is None:
            return None
        if not isinstance(value, str) or value not in choices:
            raise invalid(self.place(name), f"{self.place(name)} must be one of {', '.join(choices)}, got {value!r}")
        return value

    def items(self, name: str) -> list[Any]:
        value = self.any(name)
        if value is None:
            return []
        if not isinstance(value, list):
            raise invalid(self.place(name), f"{self.place(name)} must be a list, got {_kind(value)}")
        return value

    def inner(self, name: str) -> "Fields":
        """Read an object; one that is left out has no fields."""
        value = self.any(name)
        return Fields({} if value is None else value, self.place(name))

    def metadata(self) -> dict[str, str]:
        """Read what a client wants to remember: 16 pairs of short texts at most."""
        value = self.any("metadata")
        place = self.place("metadata")
        if value is None:
            return {}
        if not isinstance(value, Mapping) or len(value) > _METADATA:
            raise invalid(place, f"{place} must be an object of {_METADATA} pairs at most")
        for key, text in value.items():
            if len(key) > _KEY or not isinstance(text, str) or len(text) > _VALUE:
                raise invalid(place, f"{place} has texts of {_KEY} (keys) and {_VALUE} (values) characters at most")
        return dict(value)

    def only(self, name: str, allowed: Collection[Any], why: str) -> None:
        """Read a field that may be left out, or say what happens anyway. Anything else is an error that says why."""
        value = self.any(name)
        if value is not None and value not in allowed:
            raise unsupported(self.place(name), f"{self.place(name)} {value!r} is not supported: {why}")

    def ignored(self, *names: str) -> None:
        """Read fields that have no effect on an answer by definition."""
        self._unread -= set(names)

    def end(self) -> None:
        """Complain about what was not read."""
        if self._unread:
            name = self.place(min(self._unread))
            raise ApiError(400, f"unknown field {name!r}", param=name, code="unknown_parameter")


def _refuse(constant: str) -> None:
    raise ValueError(f"JSON has no {constant}")


def _kind(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "text", bool: "true or false", type(None): "nothing"}
    return names.get(type(value), "a number")
