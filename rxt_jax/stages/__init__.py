"""The stages of training, in the order of the curriculum: each is a config, an objective and a choice of rows.

What a stage is says `stages/stage.py`. Whatever is imported here can stand in a recipe.
"""

from rxt_jax.stages.conversation_sft import ConversationSft
from rxt_jax.stages.direct_memory_preference import DirectMemoryPreference
from rxt_jax.stages.history_reading import HistoryReading
from rxt_jax.stages.interaction_sft import InteractionSft
from rxt_jax.stages.joint_pretraining import JointPretraining
from rxt_jax.stages.memory_aware import MemoryAware
from rxt_jax.stages.memory_pretraining import MemoryPretraining
from rxt_jax.stages.memory_reinforcement import MemoryReinforcement
from rxt_jax.stages.online_preference import OnlineMemoryPreference
from rxt_jax.stages.reward_modeling import RewardModeling
from rxt_jax.stages.stage import EpisodeStage, Stage

__all__ = [
    "ConversationSft",
    "DirectMemoryPreference",
    "EpisodeStage",
    "HistoryReading",
    "InteractionSft",
    "JointPretraining",
    "MemoryAware",
    "MemoryPretraining",
    "MemoryReinforcement",
    "OnlineMemoryPreference",
    "RewardModeling",
    "Stage",
]
