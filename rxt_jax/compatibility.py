"""Published behaviour that differs from what the papers mean: all of it is off unless asked for."""

from dataclasses import dataclass

__all__ = ["Compatibility"]


@dataclass(frozen=True, kw_only=True)
class Compatibility:
    """Switches for parity with the published PyTorch implementation. Source: architecture spec §22."""

    legacy_rotary_layout: bool = False
    """Rotation results as two halves: checkpoints from before December 2025 (Q1)."""
    rotary_angles_in_compute_dtype: bool = False
    """Round the angles to the activations' dtype before cosine and sine (Q2)."""
    causal_ignores_padding: bool = False
    """Let causal attention see padding, and zero what padded positions ask of memory (Q3, §7): it matters
    where padding is a target."""
    zero_padding: bool = False
    """Zero padded inputs and then attend without a mask, as the published flash path does (Q4)."""
