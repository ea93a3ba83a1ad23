"""Published behaviour that differs from what the papers mean: all of it is off unless asked for.

One class per place that asks: `ModelConfig.compatibility` is a `Compatibility`, `DataConfig.compatibility` a
`DataCompatibility`, and so on. A switch can therefore only be set where somebody reads it.
"""

from dataclasses import dataclass, replace
from typing import Literal

__all__ = ["Compatibility", "DataCompatibility", "MemoryRule", "PreferenceCompatibility", "PretrainingCompatibility"]

MemoryRule = Literal["causal", "published", "first_described"]
"""What is written before answer i is scored. Source: docs/method.md §16.2.

`causal`: interaction i − 1. `published`: interaction i itself except the first one, so that the answer leaks into the
memory that scores it. `first_described`: interaction i, the reference reading the memory before it, as DMPO was first
described; it leaks as well."""


@dataclass(frozen=True, kw_only=True)
class Compatibility:
    """Switches of models, for parity with the published PyTorch implementation. Source: docs/method.md §20.4."""

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


@dataclass(frozen=True, kw_only=True)
class DataCompatibility:
    """Switches of `DataConfig`, for rows as the published implementation makes them. Source: docs/method.md §20.4."""

    parse_control_tokens_in_text: bool = False
    """Let `[A]` in a text become a control token: whoever writes the text can then end an answer or begin one.
    Source: docs/method.md §13.1."""
    packed_documents_see_each_other: bool = False
    """Documents that share a row see each other, one more `[EOS]` stands between them, and what fills no batch is
    dropped. Source: docs/method.md §13.10."""
    one_eos_per_conversation: bool = False
    """A conversation in one row has a single `[EOS]`, at its end and no target, so that the baseline never learns to
    stop. Source: docs/method.md §13.7."""


@dataclass(frozen=True, kw_only=True)
class PretrainingCompatibility:
    """Switches of stages 1 and 2, for their published objective. Source: docs/method.md §15.1."""

    loss_on_padding: bool = False
    """Padding is a target of the next-token loss."""
    read_padding: bool = False
    """The decoder attends to the encoder's states of padding tokens."""


@dataclass(frozen=True, kw_only=True)
class PreferenceCompatibility:
    """Switches of DMPO, for the published order of writing and scoring. Source: docs/method.md §16.2."""

    memory_rule: MemoryRule = "causal"
    """What is written before an answer is scored; every other value leaks the answer into the memory that scores it."""
