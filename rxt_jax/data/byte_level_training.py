"""Train a byte-level BPE, the kind that published models have. Source: docs/method.md §13.1."""

from collections.abc import Iterable

import tokenizers

from rxt_jax.data.json_tokenizer import JsonTokenizer
from rxt_jax.data.special_tokens import CONTROL_PIECES

__all__ = ["train_byte_level"]


def train_byte_level(texts: Iterable[str], vocab_size: int, *, all_bytes: bool = True) -> JsonTokenizer:
    """Train on texts; control tokens get the ids 0 … 10.

    `all_bytes=False` knows only the bytes of the training text, as published: others become `[UNK]`, one each.
    """
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE(unk_token=CONTROL_PIECES["unk"]))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=True)  # type: ignore[assignment]
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(CONTROL_PIECES.values()),
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet() if all_bytes else [],
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return JsonTokenizer(tokenizer.to_str())
