"""The algorithms by name: which advantage goes with which loss. Source: docs/method.md §19.2 to §19.5."""

from dataclasses import replace
from typing import Literal, NamedTuple, get_args

from rxt_jax.losses.advantages import AdvantageConfig
from rxt_jax.losses.memory_policy import MemoryPolicyConfig
from rxt_jax.losses.policy_gradient import SurrogateConfig

__all__ = ["Algorithm", "AlgorithmName", "make_algorithm"]

AlgorithmName = Literal["impo", "impo_published", "ppo", "grpo", "dr_grpo", "gspo", "rloo", "cispo", "reinforce"]


class Algorithm(NamedTuple):
    """A loss and the advantage that it weighs answers by."""

    policy: MemoryPolicyConfig
    advantage: AdvantageConfig


def make_algorithm(name: AlgorithmName) -> Algorithm:
    """Give an algorithm with its usual settings; `dataclasses.replace` changes any.

    `impo`, `impo_published` and `ppo` need a critic; `grpo`, `dr_grpo`, `gspo`, `rloo` and `cispo` several answers to
    every query; `reinforce` neither: it compares with the mean of the batch.
    """
    tokens_alone = MemoryPolicyConfig(consistency_weight=0.0, memory_change_weight=0.0)
    plain = replace(tokens_alone, reference_weight=0.0, aggregation="token_mean")
    # Own reward alone: what a later answer is worth depends on whose answer went into memory.
    group = AdvantageConfig(kind="grpo", discount=0.0, normalisation="none")
    wide = SurrogateConfig(clip_high=0.28)
    algorithms = {
        "impo": Algorithm(MemoryPolicyConfig(), AdvantageConfig()),
        "impo_published": Algorithm(
            MemoryPolicyConfig(terms="published", reference_estimator="published"), AdvantageConfig()
        ),
        "ppo": Algorithm(replace(tokens_alone, reference_aggregation="token_mean"), AdvantageConfig(kind="gae")),
        "grpo": Algorithm(replace(plain, surrogate=wide), group),
        "dr_grpo": Algorithm(replace(plain, aggregation="constant_length"), replace(group, kind="dr_grpo")),
        "gspo": Algorithm(
            replace(plain, aggregation="sequence_mean", surrogate=SurrogateConfig(ratio="sequence")), group
        ),
        # Clipped, not the bare log-probability: a batch is learnt from several times.
        "rloo": Algorithm(plain, replace(group, kind="rloo")),
        "cispo": Algorithm(replace(plain, surrogate=SurrogateConfig(kind="cispo")), group),
        "reinforce": Algorithm(
            replace(plain, surrogate=SurrogateConfig(kind="reinforce")),
            replace(group, kind="reward", normalisation="all"),
        ),
    }
    if name not in algorithms:
        raise ValueError(f"algorithm must be one of {', '.join(get_args(AlgorithmName))}, got {name!r}.")
    return algorithms[name]
