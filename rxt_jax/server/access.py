"""Who may ask: API keys, and the names that what they make belongs to."""

import hashlib
from pathlib import Path

from rxt_jax.server.errors import ApiError

__all__ = ["Access", "read_keys"]

ANYBODY = ""
"""The owner of everything where there are no keys."""


def read_keys(file: str | Path) -> dict[str, str]:
    """Read a file of API keys, one `NAME KEY` a line; give key → name. Blank lines and those with # are left out."""
    keys: dict[str, str] = {}
    for number, line in enumerate(Path(file).read_text(encoding="utf-8").splitlines(), start=1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        parts = line.split()
        if len(parts) != 2:
            raise ValueError(f"{file}, line {number}: expected NAME KEY, got {len(parts)} words")
        name, key = parts
        if key in keys:
            raise ValueError(f"{file}, line {number}: the key of {name} is that of {keys[key]}")
        keys[key] = name
    if not keys:
        raise ValueError(f"{file} has no keys; write one NAME KEY a line")
    return keys


class Access:
    """Tells the owner of a request by its key."""

    def __init__(self, keys: dict[str, str] | None = None):
        # Digests are looked up, so how long that takes says nothing about a key.
        self._owners = None if keys is None else {_digest(key): name for key, name in keys.items()}

    def owner(self, authorization: str | None) -> str:
        """Read the header `Authorization: Bearer KEY`. Raises an `ApiError` for a missing or unknown key."""
        if self._owners is None:
            return ANYBODY
        scheme, _, key = (authorization or "").partition(" ")
        if scheme.lower() != "bearer" or not key:
            raise ApiError(401, "this server wants an API key: Authorization: Bearer KEY", code="missing_api_key")
        owner = self._owners.get(_digest(key.strip()))
        if owner is None:
            raise ApiError(401, "the API key is not known", code="invalid_api_key")
        return owner


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()
