"""The stages of training: each is a config, an objective and a choice of rows.

A stage has `kind`, `trainable` (parameter groups), `batch_axis`, `label_counts(batch)` and
`objective(model, batch, key, counts)`. Stages that can update in the middle of an episode also have
`interactions_per_update`, `interactions`, `begin` and `window_objective`.
"""

from rxt_jax.stages.conversation_sft import ConversationSft
from rxt_jax.stages.direct_memory_preference import DirectMemoryPreference
from rxt_jax.stages.history_reading import HistoryReading
from rxt_jax.stages.interaction_sft import InteractionSft
from rxt_jax.stages.joint_pretraining import JointPretraining
from rxt_jax.stages.memory_aware import MemoryAware
from rxt_jax.stages.memory_pretraining import MemoryPretraining

__all__ = [
    "STAGES",
    "ConversationSft",
    "DirectMemoryPreference",
    "HistoryReading",
    "InteractionSft",
    "JointPretraining",
    "MemoryAware",
    "MemoryPretraining",
    "stage_class",
]

STAGES = {
    stage.kind: stage
    for stage in (
        JointPretraining,
        InteractionSft,
        HistoryReading,
        MemoryPretraining,
        MemoryAware,
        DirectMemoryPreference,
        ConversationSft,
    )
}
"""Kind → config class, in the order of the curriculum; the baseline's comes last."""


def stage_class(kind: str) -> type:
    """Find the config class of a stage by its kind."""
    if kind not in STAGES:
        raise ValueError(f"A stage must be one of {', '.join(STAGES)}, got {kind!r}.")
    return STAGES[kind]
