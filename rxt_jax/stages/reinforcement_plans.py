"""Plans for reinforcement: which groups begin to move when, and how long episodes are in a curriculum.

Source: docs/method.md §19.8.
"""

from typing import Literal

__all__ = ["CurriculumShape", "UnfreezePlan", "curriculum_steps", "unfreeze_plan"]

UnfreezePlan = tuple[tuple[int, tuple[str, ...]], ...]
"""`(update, groups)`: those groups stand still before that update. Their moments are kept and wait."""

CurriculumShape = Literal["linear", "exponential", "custom"]

_CUSTOM = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32)  # the published mixture of both, continued


def unfreeze_plan(
    *, critic: int = 0, fetch: int = 0, update: int = 0, everything: int = 0, freeze_embedding: bool = False
) -> UnfreezePlan:
    """Plan in four steps, each named by the update at which it begins.

    critic      until then the critic is fitted alone, to the rewards of a policy that stands still
    (warm-up)   memory attention and the initial memory
    fetch       and memory cross-attention
    update      and the encoder
    everything  and the rest of the decoder, and the embedding unless `freeze_embedding` (take it out of `trainable`
                as well, to never move it)

    Steps may coincide; each must not be before the one above it.
    """
    starts = (critic, fetch, update, everything)
    if min(starts) < 0:
        raise ValueError(f"an unfreeze plan counts updates from 0, got {starts}.")
    critic, fetch, update, everything = (max(starts[: place + 1]) for place in range(len(starts)))
    late = ("decoder",) if freeze_embedding else ("decoder", "embedding")
    plan = (
        (critic, ("memory_attention", "learned_memory")),
        (fetch, ("cross_attention",)),
        (update, ("encoder",)),
        (everything, late),
    )
    return tuple((start, groups) for start, groups in plan if start > 0)


def curriculum_steps(shape: CurriculumShape, last: int, *, first: int = 2) -> tuple[int, ...]:
    """List the numbers of answers per episode of a curriculum from `first` to `last`.

    "linear" adds one each time, "exponential" doubles, "custom" is 1, 2, 3, 4, 6, 8, 12, 16, 24, 32. It begins with 2:
    with a single answer every answer is the last one, and the encoder never reads a conversation that goes on. An
    episode has one interaction more (`StageRun.max_interactions`), because the first is written and not answered.
    """
    if not 1 <= first <= last:
        raise ValueError(f"a curriculum goes from first to last with 1 ≤ first ≤ last, got {first} and {last}.")
    if shape == "linear":
        return tuple(range(first, last + 1))
    if shape == "exponential":
        steps, number = [], first
        while number < last:
            steps.append(number)
            number *= 2
        return (*steps, last)
    if shape == "custom":
        return (*(step for step in _CUSTOM if first <= step < last), last)
    raise ValueError(f"shape must be linear, exponential or custom, got {shape!r}.")
