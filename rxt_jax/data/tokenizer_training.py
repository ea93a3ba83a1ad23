"""Train a tokenizer on the run's own text."""

import contextlib
import io
import itertools
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import sentencepiece

from rxt_jax.data.byte_level_training import train_byte_level
from rxt_jax.data.special_tokens import CONTROL_PIECES
from rxt_jax.data.text import check_text
from rxt_jax.data.tokenizer import SentencePieceTokenizer, Tokenizer

__all__ = ["TokenizerConfig", "train_tokenizer"]

_ASCII = "".join(map(chr, range(33, 127)))
_SMALLEST = len(CONTROL_PIECES) + 256 + len(_ASCII) + 1
# Characters the trainer uses itself: it would skip a whole sentence that holds one.
_RESERVED = str.maketrans({"\t": " ", "\u2585": " ", "\u2581": " ", "\0": " ", "\n": " ", "\r": " "})


@dataclass(frozen=True, kw_only=True)
class TokenizerConfig:
    """Which tokenizer a run has. Source: docs/method.md §13.1."""

    vocab_size: int = 1024
    """Largest number of tokens, the 11 control tokens, 256 bytes and printable ASCII included."""
    kind: Literal["unigram", "bpe", "byte_level"] = "bpe"
    """`bpe` gives frequent words whole even where names crowd a small vocabulary, `unigram` is the usual choice for
    large ones. `byte_level` is a `tokenizer.json`, as published models have them; of the fields below it reads `texts`
    and `all_bytes` alone."""
    texts: int = 8000
    """Texts of the run's data that are read for training."""
    character_coverage: float = 0.9999
    """Share of the characters of the training text that become tokens; the others are spelled in bytes."""
    split_digits: bool = True
    """Whether every digit is a token of its own; otherwise a number may be one."""
    all_bytes: bool = True
    """Whether `byte_level` can write bytes that the training text lacks (published: no, they become `[UNK]`)."""
    path: str | None = None
    """Folder with a tokenizer to use; None = train one."""

    def __post_init__(self) -> None:
        smallest = _SMALLEST if self.kind != "byte_level" or self.all_bytes else len(CONTROL_PIECES) + 1
        if self.vocab_size < smallest:
            raise ValueError(
                f"vocab_size must be at least {smallest} (control tokens, 256 bytes, ASCII), got {self.vocab_size}"
            )


def train_tokenizer(texts: Iterable[str], config: TokenizerConfig, folder: str | Path | None = None) -> Tokenizer:
    """Train on texts and save into a folder (None = keep in memory). The same texts give the same tokenizer.

    Characters beyond the coverage are spelled in bytes.
    """
    if config.kind == "byte_level":
        tokenizer = train_byte_level(map(check_text, texts), config.vocab_size, all_bytes=config.all_bytes)
    else:
        tokenizer = _train_sentencepiece(texts, config)
    if folder is not None:
        tokenizer.save(folder)
    return tokenizer


def _train_sentencepiece(texts: Iterable[str], config: TokenizerConfig) -> SentencePieceTokenizer:
    lines = list(_lines(texts))
    try:
        model = _train(lines, config, config.vocab_size)
    except RuntimeError as error:
        # Text with few words has no use for more pieces; the trainer says how many it has.
        most = re.search(r"Please set it to a value <= (\d+)", str(error))
        if most is None:
            raise ValueError(f"SentencePiece cannot train on this text: {error}") from error
        model = _train(lines, config, int(most.group(1)))
    return SentencePieceTokenizer(model)


def _train(lines: list[str], config: TokenizerConfig, vocab_size: int) -> bytes:
    model = io.BytesIO()
    pieces = list(CONTROL_PIECES.values())
    with _quiet_stderr():
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(lines),
            model_writer=model,
            model_type=config.kind,
            vocab_size=vocab_size,
            hard_vocab_limit=config.kind == "bpe",
            character_coverage=config.character_coverage,
            required_chars=_ASCII,
            byte_fallback=True,
            split_digits=config.split_digits,
            # Exact text in, exact text out: the leading space is added by the tokenizer itself.
            normalization_rule_name="identity",
            remove_extra_whitespaces=False,
            add_dummy_prefix=False,
            # Control symbols, unlike user-defined ones, are never matched in text.
            pad_id=0,
            unk_id=1,
            bos_id=2,
            eos_id=3,
            pad_piece=pieces[0],
            unk_piece=pieces[1],
            bos_piece=pieces[2],
            eos_piece=pieces[3],
            control_symbols=pieces[4:],
            max_sentence_length=1 << 20,
            num_threads=1,
            minloglevel=2,
        )
    return model.getvalue()


def _lines(texts: Iterable[str]) -> Iterator[str]:
    """Prepare texts as `encode` does: every word carries the space before it."""
    first, rest = itertools.tee(texts)
    if next(first, None) is None:
        raise ValueError("there is no text to train a tokenizer on")
    for text in rest:
        yield " " + check_text(text).translate(_RESERVED)


@contextlib.contextmanager
def _quiet_stderr() -> Iterator[None]:
    """Silence the trainer's C++ progress report, which ignores its own log level."""
    saved = os.dup(2)
    try:
        with open(os.devnull, "wb") as sink:
            os.dup2(sink.fileno(), 2)
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
