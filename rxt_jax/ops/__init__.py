"""Pure functions on arrays: attention, rotary positions, norms, routing, sampling, joining, BLEU; nothing else."""

from rxt_jax.ops.activations import Activation, activation_function
from rxt_jax.ops.attention import (
    AttentionImplementation,
    AttentionMask,
    attend,
    attention_weights,
    document_mask,
    document_positions,
)
from rxt_jax.ops.bleu import BleuCounts, BleuSmoothing, bleu_counts, corpus_bleu, sentence_bleu
from rxt_jax.ops.dropout import dropout
from rxt_jax.ops.joining import join_masks, join_parts
from rxt_jax.ops.norms import layer_norm, rms_norm
from rxt_jax.ops.rotary import apply_rotary, rotary_angles
from rxt_jax.ops.rouge import rouge_l
from rxt_jax.ops.sampling import Sampling, filter_logits, sample

__all__ = [
    "Activation",
    "AttentionImplementation",
    "AttentionMask",
    "BleuCounts",
    "BleuSmoothing",
    "Sampling",
    "activation_function",
    "apply_rotary",
    "attend",
    "attention_weights",
    "bleu_counts",
    "corpus_bleu",
    "document_mask",
    "document_positions",
    "dropout",
    "filter_logits",
    "join_masks",
    "join_parts",
    "layer_norm",
    "rms_norm",
    "rotary_angles",
    "rouge_l",
    "sample",
    "sentence_bleu",
]
