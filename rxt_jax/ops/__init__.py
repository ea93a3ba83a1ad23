"""Pure functions on arrays: attention, rotary positions, norms, routing, sampling; no module and no config."""

from rxt_jax.ops.activations import Activation, activation_function
from rxt_jax.ops.attention import attend, causal_mask, key_mask, segment_mask, segment_positions
from rxt_jax.ops.dropout import dropout
from rxt_jax.ops.norms import layer_norm, rms_norm
from rxt_jax.ops.rotary import apply_rotary, rotary_angles
from rxt_jax.ops.sampling import Sampling, filter_logits, sample

__all__ = [
    "Activation",
    "Sampling",
    "activation_function",
    "apply_rotary",
    "attend",
    "causal_mask",
    "dropout",
    "filter_logits",
    "key_mask",
    "layer_norm",
    "rms_norm",
    "rotary_angles",
    "sample",
    "segment_mask",
    "segment_positions",
]
