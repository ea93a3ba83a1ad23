"""Pure functions on arrays: attention, rotary positions, norms, routing. They know no module and no config."""

from rxt_jax.ops.activations import Activation, activation_function
from rxt_jax.ops.attention import (
    AttentionImplementation,
    AttentionMask,
    attend,
    segment_mask,
    segment_positions,
)
from rxt_jax.ops.dropout import dropout
from rxt_jax.ops.norms import layer_norm, rms_norm
from rxt_jax.ops.rotary import apply_rotary, rotary_angles

__all__ = [
    "Activation",
    "AttentionImplementation",
    "AttentionMask",
    "activation_function",
    "apply_rotary",
    "attend",
    "dropout",
    "layer_norm",
    "rms_norm",
    "rotary_angles",
    "segment_mask",
    "segment_positions",
]
