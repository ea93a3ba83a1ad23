"""Pure functions on arrays: attention, rotary positions, norms, routing, sampling; no module and no config."""

from rxt_jax.ops.activations import Activation, activation_function
from rxt_jax.ops.attention import (
    AttentionImplementation,
    AttentionMask,
    attend,
    attention_weights,
    document_mask,
    document_positions,
)
from rxt_jax.ops.dropout import dropout
from rxt_jax.ops.norms import layer_norm, rms_norm
from rxt_jax.ops.rotary import apply_rotary, rotary_angles
from rxt_jax.ops.sampling import Sampling, filter_logits, sample

__all__ = [
    "Activation",
    "AttentionImplementation",
    "AttentionMask",
    "Sampling",
    "activation_function",
    "apply_rotary",
    "attend",
    "attention_weights",
    "document_mask",
    "document_positions",
    "dropout",
    "filter_logits",
    "layer_norm",
    "rms_norm",
    "rotary_angles",
    "sample",
]
