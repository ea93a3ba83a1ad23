"""Texts cut into pieces at random, as SentencePiece samples them, but a function of the draws and the text alone.

SentencePiece has one random generator per thread. Up to 0.2.2 a thread's seed counts once; from 0.2.3 on the numbers
behind a seed differ from process to process. Neither a worker process nor a resumed run could make a batch again. The
sampling is therefore done here, on the model's own pieces and scores, with draws that are the same everywhere; tests
compare its distribution with SentencePiece's. Sources: Kudo 2018 (unigram), Provilkov et al. 2020 (BPE-dropout).
"""

import re
from typing import Any

from sentencepiece import sentencepiece_model_pb2

from rxt_jax.data.bpe_dropout import BpeDropout
from rxt_jax.data.dialogues.draws import Draws
from rxt_jax.data.tokenizer import SPACE_MARK, SentencePieceTokenizer, Tokenizer
from rxt_jax.data.unigram_lattice import UnigramLattice

__all__ = ["SubwordSampler"]

_UNIGRAM, _BPE = 1, 2
_NORMAL, _UNKNOWN, _CONTROL, _BYTE = 1, 2, 3, 6
_WORD = re.compile(f"{SPACE_MARK}[^{SPACE_MARK}]*|[^{SPACE_MARK}]+")


class SubwordSampler:
    """Encode texts with a sampled segmentation; decoding gives the text back as ever.

    `strength` is `DataConfig.subword_sampling`. Raises a `ValueError` for tokenizers that cannot be sampled: those of a
    `tokenizer.json`, and SentencePiece models that `train_tokenizer` does not make.
    """

    def __init__(self, tokenizer: Tokenizer, strength: float):
        if not isinstance(tokenizer, SentencePieceTokenizer):
            raise ValueError(
                f"data.subword_sampling = {strength:g} needs a SentencePiece tokenizer (tokenizer.kind bpe or "
                f"unigram); a byte-level tokenizer.json cannot be sampled. Set data.subword_sampling = 0."
            )
        self._tokenizer, self._strength = tokenizer, strength
        model: Any = sentencepiece_model_pb2.ModelProto.FromString(tokenizer.model)  # type: ignore[attr-defined]
        scores = {piece.piece: piece.score for piece in model.pieces if piece.type == _NORMAL}
        kind = model.trainer_spec.model_type
        # Words are cut one by one, and every character must have a way to be written.
        sampled = kind in (_UNIGRAM, _BPE) and model.trainer_spec.byte_fallback and SPACE_MARK in scores
        usual = all(piece.type in (_NORMAL, _UNKNOWN, _CONTROL, _BYTE) for piece in model.pieces)
        if not (sampled and usual) or any(SPACE_MARK in piece[1:] for piece in scores):
            raise ValueError(
                f"data.subword_sampling = {strength:g} needs a bpe or unigram model with byte fallback and without "
                f"user-defined pieces or pieces longer than a word. Train one with train_tokenizer, or set "
                f"data.subword_sampling = 0."
            )
        self._cutter = (BpeDropout if kind == _BPE else UnigramLattice)(scores, strength)
        self._bytes = {piece.piece: number for number, piece in enumerate(model.pieces) if piece.type == _BYTE}
        self._ids = {piece.piece: (number,) for number, piece in enumerate(model.pieces) if piece.type == _NORMAL}

    def __reduce__(self) -> tuple[Any, ...]:
        # Worker processes remember words of their own.
        return SubwordSampler, (self._tokenizer, self._strength)

    def encode(self, text: str, draws: Draws) -> list[int]:
        """Turn user text into ids, never into a control token. Empty text has no ids."""
        return self._tokenizer.encode_by(lambda stretch: self._cut(stretch, draws), text)

    def _cut(self, stretch: str, draws: Draws) -> list[int]:
        ids: list[int] = []
        for word in _WORD.findall(self._tokenizer.normalize(stretch)):
            for piece in self._cutter.cut(word, draws):
                ids += self._ids.get(piece) or self._spelled(piece)
        return ids

    def _spelled(self, character: str) -> tuple[int, ...]:
        """Write a character that is no piece in bytes."""
        return tuple(self._bytes[f"<0x{byte:02X}>"] for byte in character.encode())
