"""Text to ids and back: exact for any text, and blind to control tokens.

A word carries the space before it, and every text gets one leading space that decoding takes off again,
so that a word has the same id at the beginning of an answer and in the middle. What `encode` gets is user
text: it never yields a control token, `[A]` in a query is three ordinary characters. Rows are assembled by
joining control ids and encoded fields (`template`). Source: docs/method.md §13.1.
"""

import codecs
import hashlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Protocol

import sentencepiece

from rxt_jax.data.json_tokenizer import JSON_FILE, JsonTokenizer
from rxt_jax.data.special_tokens import CONTROL_PIECES, SpecialTokens
from rxt_jax.data.text import check_text, decode_bytes
from rxt_jax.paths import as_path

__all__ = [
    "JSON_FILE",
    "MODEL_FILE",
    "SPACE_MARK",
    "JsonTokenizer",
    "SentencePieceTokenizer",
    "StreamDecoder",
    "Tokenizer",
    "load_tokenizer",
]

MODEL_FILE = "tokenizer.model"
SPACE_MARK = "\u2581"
"""How SentencePiece writes a space."""


class Tokenizer(Protocol):
    """What the rest of the library needs of a tokenizer."""

    @property
    def vocab_size(self) -> int: ...

    @property
    def special(self) -> SpecialTokens: ...

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the model: two tokenizers with one fingerprint give the same ids."""
        ...

    @property
    def token_bytes(self) -> list[bytes]:
        """The bytes every id stands for; a control token stands for none."""
        ...

    def encode(self, text: str) -> list[int]:
        """Turn user text into ids, never into a control token. Empty text has no ids."""
        ...

    def decode(self, ids: Iterable[int]) -> str:
        """Turn ids into text; control tokens leave nothing."""
        ...

    def save(self, folder: str | Path) -> None: ...


class SentencePieceTokenizer:
    """A SentencePiece model with byte fallback, trained by `tokenizer_training.train_tokenizer`."""

    def __init__(self, model: bytes):
        self.model = model
        self._processor = sentencepiece.SentencePieceProcessor(model_proto=model)
        self.special = SpecialTokens()
        self.vocab_size = self._processor.get_piece_size()
        self.fingerprint = hashlib.sha256(model).hexdigest()
        for identity, piece in enumerate(CONTROL_PIECES.values()):
            if self._processor.id_to_piece(identity) != piece:
                raise ValueError(
                    f"id {identity} of the SentencePiece model must be {piece}, "
                    f"got {self._processor.id_to_piece(identity)}; train it with train_tokenizer"
                )
        # SentencePiece cannot tell a space from a literal mark, so literal ones are spelled in bytes.
        self._mark_ids = [self._processor.piece_to_id(f"<0x{byte:02X}>") for byte in SPACE_MARK.encode()]
        self.token_bytes = [self._bytes_of(identity) for identity in range(self.vocab_size)]

    def _bytes_of(self, identity: int) -> bytes:
        piece = self._processor.id_to_piece(identity)
        if identity < len(CONTROL_PIECES):
            return b""
        if self._processor.is_byte(identity):
            return bytes([int(piece[3:5], 16)])
        return piece.replace(SPACE_MARK, " ").encode()

    def encode(self, text: str) -> list[int]:
        """Turn user text into ids, never into a control token. Empty text has no ids."""
        return self.encode_by(self._processor.encode, text)

    def encode_by(self, cut: Callable[[str], list[int]], text: str) -> list[int]:
        """Turn user text into ids, where `cut` is how text without a literal mark becomes pieces."""
        if not text:
            return []
        stretches = check_text(" " + text).split(SPACE_MARK)
        ids = cut(stretches[0])
        for stretch in stretches[1:]:
            ids += self._mark_ids + cut(stretch)
        return ids

    def normalize(self, text: str) -> str:
        """Return text as the model cuts it: spaces are marks."""
        return self._processor.normalize(text)

    def decode(self, ids: Iterable[int]) -> str:
        """Turn ids into text; control tokens leave nothing."""
        return decode_bytes(self.token_bytes, ids)

    def save(self, folder: str | Path) -> None:
        """Write `tokenizer.model` into a folder, which is made if it is missing."""
        folder = as_path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / MODEL_FILE).write_bytes(self.model)


class StreamDecoder:
    """Turn ids into text one by one, holding back what is not yet a whole character.

    The pieces join to exactly `decode` of all ids. One decoder serves one text: it takes off the leading
    space of its first word.
    """

    def __init__(self, tokenizer: Tokenizer):
        self._token_bytes = tokenizer.token_bytes
        self._utf8 = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._at_start = True

    def push(self, identity: int) -> str:
        """Return the text that this id completes, which may be none."""
        return self._without_leading_space(self._utf8.decode(self._token_bytes[identity]))

    def close(self) -> str:
        """Return what was held back: a replacement character where bytes are missing."""
        return self._without_leading_space(self._utf8.decode(b"", final=True))

    def _without_leading_space(self, text: str) -> str:
        if self._at_start and text:
            self._at_start = False
            return text.removeprefix(" ")
        return text


def load_tokenizer(folder: str | Path) -> Tokenizer:
    """Load the tokenizer of a run folder, or of a folder with a published checkpoint."""
    folder = as_path(folder)
    if (folder / MODEL_FILE).is_file():
        try:
            return SentencePieceTokenizer((folder / MODEL_FILE).read_bytes())
        # What the library says of bytes that are no model; of an empty file it says that there is no piece 0.
        except (RuntimeError, IndexError) as error:
            raise ValueError(f"{folder / MODEL_FILE} is damaged: SentencePiece cannot read it ({error})") from error
    if (folder / JSON_FILE).is_file():
        return JsonTokenizer((folder / JSON_FILE).read_text(encoding="utf-8"))
    raise FileNotFoundError(
        f"{folder} holds neither {MODEL_FILE} nor {JSON_FILE}; train one with `rxt tokenizer train` or name another "
        f"folder"
    )
