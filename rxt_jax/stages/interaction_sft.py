"""Stage 2: the joint objective of stage 1 on single interactions.

Only the rows differ: query and answer with control tokens, and a `loss_mask` that scores answers
alone. Source: docs/method.md §15.2.
"""

from dataclasses import dataclass

from rxt_jax.data.loader import InteractionBatches
from rxt_jax.stages.joint_pretraining import JointPretraining

__all__ = ["InteractionSft"]


@dataclass(frozen=True, kw_only=True)
class InteractionSft(JointPretraining):
    """Options of stage 2, the same as those of stage 1."""

    kind = "interaction_sft"
    rows = InteractionBatches
