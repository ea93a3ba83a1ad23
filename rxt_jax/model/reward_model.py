"""The reward model: how good an answer is, given what was said before. Source: docs/method.md §19.10.

memory i, query i + answer ──▶ layers like the encoder's, which read memory ──▶ head ──▶ score
"""

from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from rxt_jax.model.config import CriticConfig, ModelConfig
from rxt_jax.model.critic import Critic
from rxt_jax.model.encoder import Encoder
from rxt_jax.model.initial_memory import LearnedMemory
from rxt_jax.model.memory_attention import MemoryAttention
from rxt_jax.model.memory_writer import MemoryWriter
from rxt_jax.nn.linear import Embedding

__all__ = ["RewardModel"]


class RewardModel(MemoryWriter):
    """A memory of its own, written like the answering model's, and a critic that reads answers with it.

    It shares no parameter with the model that answers: training that one moves no score, and cannot raise its reward
    by writing another memory.
    """

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
        if config.reward_model is None:
            raise ValueError("this model has no reward model; set `reward_model` in its config.")
        self.config = config
        self.embedding = Embedding(config.vocab_size, config.embed_dim, std=config.embedding_std, rngs=rngs)
        self.encoder = Encoder(config, rngs=rngs)
        self.memory_attention = MemoryAttention(config, rngs=rngs)
        if config.initial_memory == "learned":
            self.learned_memory = LearnedMemory(
                config.num_layers, config.num_slots, config.embed_dim, config.initial_memory_std, rngs=rngs
            )
        own = config.reward_model
        reader = CriticConfig(reads_memory=True, activation=own.activation, scale=own.scale)
        self.reader = Critic(config, reader, rngs=rngs)

    def __call__(
        self, ids: Int[Array, "B T"], token_mask: Bool[Array, "B T"], memory: Float[Array, "L M S D"]
    ) -> Float[Array, "B"]:
        """Score interactions, query and answer, float32; `memory` is the one before each.

        Neighbouring rows may share a memory (`Critic`): several answers to one query.
        """
        return self.reader(ids, token_mask, memory)
