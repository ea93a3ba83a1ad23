"""Byte-level tokenizers in a `tokenizer.json`, as published models have them. Source: docs/method.md §13.1."""

import hashlib
from collections.abc import Iterable
from pathlib import Path

import tokenizers

from rxt_jax.data.special_tokens import ABSENT, CONTROL_PIECES, SpecialTokens
from rxt_jax.data.text import check_text, decode_bytes
from rxt_jax.paths import as_path

__all__ = ["JSON_FILE", "JsonTokenizer"]

JSON_FILE = "tokenizer.json"


class JsonTokenizer:
    """A byte-level BPE of the `tokenizers` library; decoding joins bytes, so it is exact."""

    def __init__(self, content: str):
        try:
            self._tokenizer = tokenizers.Tokenizer.from_str(content)
        except Exception as error:
            raise ValueError(f"{JSON_FILE} cannot be read by the tokenizers library: {error}") from error
        # Control tokens in user text are ordinary characters.
        self._tokenizer.encode_special_tokens = True
        self._content = content
        self.fingerprint = hashlib.sha256(content.encode()).hexdigest()
        self.special = SpecialTokens(**{name: self._identity(piece) for name, piece in CONTROL_PIECES.items()})
        vocabulary = self._tokenizer.get_vocab(with_added_tokens=True)
        self.vocab_size = max(vocabulary.values()) + 1
        self._added = {
            identity: token.content for identity, token in self._tokenizer.get_added_tokens_decoder().items()
        }
        self.token_bytes = [b""] * self.vocab_size
        byte_of = _byte_alphabet()
        for piece, identity in vocabulary.items():
            if identity in self._added:
                continue
            if any(character not in byte_of for character in piece):
                raise ValueError(f"{JSON_FILE} is no byte-level tokenizer: token {identity} is {piece!r}")
            self.token_bytes[identity] = bytes(byte_of[character] for character in piece)

    def _identity(self, piece: str) -> int:
        identity = self._tokenizer.token_to_id(piece)
        return ABSENT if identity is None else identity

    def encode(self, text: str) -> list[int]:
        """Turn user text into ids, never into a control token. Empty text has no ids."""
        if not text:
            return []
        ids = self._tokenizer.encode(check_text(text), add_special_tokens=False).ids
        added = (identity for identity in ids if identity in self._added and identity != self.special.unk)
        injected = next((self._added[identity] for identity in added), None)
        if injected is not None:
            raise ValueError(f"{JSON_FILE} turns {injected!r} in a text into an added token; mark it as special there")
        return ids

    def decode(self, ids: Iterable[int]) -> str:
        """Turn ids into text; control tokens leave nothing."""
        return decode_bytes(self.token_bytes, ids)

    def save(self, folder: str | Path) -> None:
        """Write `tokenizer.json` into a folder, which is made if it is missing."""
        folder = as_path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / JSON_FILE).write_text(self._content, encoding="utf-8")


def _byte_alphabet() -> dict[str, int]:
    """Map the characters of byte-level tokens to bytes: printable ones are themselves, others lie above 255."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + number): byte for number, byte in enumerate(others)}
