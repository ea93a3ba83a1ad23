"""The control tokens of an interaction, and the ids they have in every tokenizer trained here.

Source: docs/method.md §13.1.
"""

from dataclasses import dataclass, fields

__all__ = ["ABSENT", "CONTROL_PIECES", "SpecialTokens"]

ABSENT = -1
"""Id of a control token that a tokenizer does not have; older ones lack thoughts, tools and instructions."""

CONTROL_PIECES = {
    "pad": "[PAD]",
    "unk": "[UNK]",
    "bos": "[BOS]",
    "eos": "[EOS]",
    "mask": "[MASK]",
    "query": "[Q]",
    "answer": "[A]",
    "think": "[T]",
    "tool_call": "[C]",
    "tool_use": "[U]",
    "internal": "[I]",
}
"""Name of a control token → how it is written. The order is the order of the default ids."""


@dataclass(frozen=True, kw_only=True)
class SpecialTokens:
    """Ids of the control tokens. Tokenizers trained elsewhere may have others."""

    pad: int = 0
    unk: int = 1
    bos: int = 2
    eos: int = 3
    mask: int = 4
    query: int = 5
    answer: int = 6
    think: int = 7
    tool_call: int = 8
    tool_use: int = 9
    internal: int = 10

    def __post_init__(self):
        ids = [identity for field in fields(self) if (identity := getattr(self, field.name)) != ABSENT]
        if len(set(ids)) != len(ids) or min(ids) < 0:
            raise ValueError(f"control tokens need different ids of at least 0, got {self}")
        for name in ("pad", "bos", "eos", "query", "answer"):
            if getattr(self, name) == ABSENT:
                raise ValueError(f"a tokenizer needs the control token {CONTROL_PIECES[name]}")

    def require(self, name: str) -> int:
        """Return the id of a control token, or say that this tokenizer cannot write it."""
        identity = getattr(self, name)
        if identity == ABSENT:
            raise ValueError(
                f"this tokenizer has no {CONTROL_PIECES[name]}, so a record with {name!r} cannot be written"
            )
        return identity

    @property
    def names(self) -> dict[int, str]:
        """Id → name, for looking at rows of ids."""
        ids = {getattr(self, field.name): field.name for field in fields(self)}
        return {identity: name for identity, name in ids.items() if identity != ABSENT}
