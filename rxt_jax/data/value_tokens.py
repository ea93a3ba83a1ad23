"""Where a row spells a value."""

import re
from collections.abc import Sequence

import numpy as np

__all__ = ["find_value_tokens"]


def find_value_tokens(ids: Sequence[int], start: int, value: str, token_bytes: Sequence[bytes]) -> range | None:
    """Find the tokens that spell a value in a row from `start` on, the last occurrence as whole words.

    Looked for in the text, not among the ids: a value has other ids inside quotes than after a space.
    """
    # Control tokens stand for no bytes; a space keeps the words beside them apart.
    pieces = [token_bytes[identity] or b" " for identity in ids[start:]]
    ends = np.cumsum([len(piece) for piece in pieces])
    letter = rb"[\w\x80-\xff]"
    pattern = rb"(?<!" + letter + rb")" + re.escape(value.strip().encode()) + rb"(?!" + letter + rb")"
    found = list(re.finditer(pattern, b"".join(pieces), re.IGNORECASE))
    if not found:
        return None
    first, last = np.searchsorted(ends, [found[-1].start(), found[-1].end() - 1], side="right")
    return range(start + int(first), start + int(last) + 1)
