"""Published behaviour that differs from what the papers mean: all of it is off unless asked for."""

from dataclasses import dataclass, replace

__all__ = ["Compatibility"]


@dataclass(frozen=True, kw_only=True)
class Compatibility:
    """Switches for parity with the published PyTorch implementation. Source: docs/method.md §20.4."""

    legacy_rotary_layout: bool = False
    """Rotation results as two halves: checkpoints from before December 2025. Source: docs/method.md, eq. 12."""
    rotary_angles_in_compute_dtype: bool = False
    """Round the angles to the activations' dtype before cosine and sine. Source: docs/method.md §4.4."""
    causal_ignores_padding: bool = False
    """Let causal attention see padding, and zero what padded positions ask of memory: it matters where padding is
    a target. Source: docs/method.md §5.3."""
    zero_padding: bool = False
    """Zero padded inputs and then attend without a mask, as the published flash path does.
    Source: docs/method.md §5.3."""
    interlayer_is_self_interlayer: bool = False
    """A checkpoint that asks for the interlayer variant gets self-interlayer, where its tensors do not tell.
    Source: docs/method.md §7.5."""
    small_initial_memory: bool = False
    """A small initial memory, `normal` with 0.02 in place of `standard`, as rxnn 0.2 had.
    Source: docs/method.md §7.1."""

    @classmethod
    def rxlm_0_3_93(cls) -> "Compatibility":
        """Behave like rxlm 0.3.93, the implementation that the golden numbers come from."""
        return cls(
            rotary_angles_in_compute_dtype=True,
            causal_ignores_padding=True,
            interlayer_is_self_interlayer=True,
        )

    @classmethod
    def rxnn_0_2(cls) -> "Compatibility":
        """Behave like rxnn 0.2, which trained the RxT-Alpha models of 2025."""
        return cls(
            legacy_rotary_layout=True,
            rotary_angles_in_compute_dtype=True,
            causal_ignores_padding=True,
            small_initial_memory=True,
        )

    def without_legacy_layout(self) -> "Compatibility":
        """Copy for a model whose projections were permuted to the current rotary layout."""
        return replace(self, legacy_rotary_layout=False)
