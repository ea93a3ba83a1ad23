"""What a reward is: a pure function of the ids of one interaction of many conversations.

    RewardInput, RewardContext, carry ──▶ total [B], components {name: [B]}, carry

What a reward remembers inside an episode (the running mean of the history) is its carry, an argument and a result.
Source: docs/method.md §19.1.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from rxt_jax.types import ShapedArray

__all__ = [
    "LONG_RANGE",
    "MODES",
    "NEGATIVE",
    "STANDARD",
    "Facts",
    "Reward",
    "RewardContext",
    "RewardInput",
    "RewardResult",
    "Tokens",
    "require",
]

T = TypeVar("T")

STANDARD, NEGATIVE, LONG_RANGE = 0, 1, 2
"""What an interaction is rewarded for: going on from what is saved; leaving it (the topic changes); coming back to it
after other topics."""

MODES = ("standard", "negative", "long_range")
"""The names of the modes, at their numbers."""


class Tokens(NamedTuple):
    """Right-padded ids; a row without a real token is one that does not exist."""

    ids: ShapedArray  # int32 [B T]
    mask: ShapedArray  # bool [B T]


class Facts(NamedTuple):
    """Values that were told earlier, as token ids: F values of a row, each in P spellings of at most W tokens.

    A value has other ids with a space before it than inside quotes, or with a capital letter, so it comes in several
    spellings. A spelling without a real token does not exist, a value without a spelling neither.
    """

    ids: ShapedArray  # int32 [B F P W]
    mask: ShapedArray  # bool [B F P W]


class RewardInput(NamedTuple):
    """One interaction of B conversations, everything that a reward may look at.

    Answers begin with the token that opens them (`[A]`) and end with `[EOS]` where they end. A packed interaction is
    query + answer. Fields that are None are not at hand; a reward that needs one says so.
    """

    generated: Tokens
    """What the model answered."""
    answer: Tokens
    """The data's own answer."""
    query: Tokens
    """What was asked."""
    saved: Tokens
    """The interaction that is to be remembered, packed: the previous one, or the first one at the end of a long-range
    episode. Without a real token: nothing is saved."""
    history: Tokens
    """The interaction before the saved one, packed. Without a real token: there is none yet."""
    mode: Int[Array, "B"]
    """STANDARD, NEGATIVE or LONG_RANGE."""
    valid: Bool[Array, "B"]
    """False where the conversation has no such interaction: total and components are 0 and the carry stays."""
    facts: Facts | None = None
    """The values that a right answer holds, from the recall annotations (`data.planted_facts`)."""
    other_facts: Facts | None = None
    """Other values of the conversation: naming one of them is wrong."""
    learned: Float[Array, "B"] | None = None
    """The score of a learned reward model, which reads memory and is therefore computed by the stage."""

    @property
    def has_saved(self) -> Bool[Array, "B"]:
        """Whether there is anything saved."""
        return jnp.any(self.saved.mask, axis=-1)

    @property
    def has_history(self) -> Bool[Array, "B"]:
        """Whether there is an interaction before the saved one."""
        return jnp.any(self.history.mask, axis=-1)


class RewardContext(NamedTuple):
    """What does not change from interaction to interaction: arrays, so that another value compiles nothing.

    `rewards.context.make_reward_context` makes it of a tokenizer and an embedding table.
    """

    special: Bool[Array, "V"]
    """Whether an id is a control token."""
    end_id: Int[Array, ""]
    """The id of `[EOS]`."""
    letter_first: Bool[Array, "V"]
    """Whether the text of a token begins inside a word, so that it continues the token before it."""
    letter_last: Bool[Array, "V"]
    """Whether the text of a token ends inside a word."""
    embedding: Float[Array, "V D"] | None = None
    """The table that similarity is measured with; a frozen copy, unless the policy is to move its own reward."""
    update: Int[Array, ""] | int = 0
    """How many updates are done, for weights that change over training."""
    abstentions: Facts | None = None
    """Runs of words that say that something is not known, as the values of one row: `[1 F P W]`."""


class RewardResult(NamedTuple):
    """What an interaction is worth, `[B]` each.

    `components` are reported, named `group/name`; they need not add up to the total. Where `counted` is False the
    reward could not be told (it was not finite): total is 0 there, and the row is not to be learnt from. How many these
    were is the component `NAME/not_finite`.
    """

    total: Float[Array, "B"]
    components: dict[str, Float[Array, "B"]]
    carry: Any
    counted: Bool[Array, "B"]


@dataclass(frozen=True, kw_only=True)
class Reward(ABC):
    """A frozen dataclass whose fields are its options, so that a recipe holds it and JSON writes it.

    A reward of one's own derives from this class and says in `score` what an interaction is worth, or is a plain
    function (`FunctionReward`). It is called inside `jax.jit`, once per interaction of all rows.
    """

    name: ClassVar[str]
    """What its components are called by, and what errors call it."""

    def first_carry(self, rows: int, context: RewardContext) -> Any:
        """Make the carry at the start of an episode: any pytree whose leaves begin with the axis B."""
        return ()

    @abstractmethod
    def score(
        self, given: RewardInput, context: RewardContext, carry: Any
    ) -> tuple[Float[Array, "B"], dict[str, Float[Array, "B"]], Any]:
        """Return total, components and the next carry; rows that are not valid may get anything."""

    def __call__(self, given: RewardInput, context: RewardContext, carry: Any) -> RewardResult:
        """Reward one interaction of every row; a total or component of another shape than `[B]` is an error."""
        total, components, moved = self.score(given, context, carry)
        rows = given.valid.shape
        for place, value in {"total": total, **components}.items():
            if jnp.shape(value) != rows:
                raise ValueError(
                    f"reward {self.name!r}: {place} must have shape {list(rows)}, one number per conversation, "
                    f"got {list(jnp.shape(value))}."
                )
        finite = jnp.isfinite(total)
        counted = given.valid & finite

        def keep(value: Array) -> Array:
            # Of a row that is not counted, what can be told is still reported.
            return jnp.where(given.valid & jnp.isfinite(value), value, 0.0).astype(jnp.float32)

        def move(new: Array, old: Array) -> Array:
            return jnp.where(given.valid.reshape(-1, *[1] * (new.ndim - 1)), new, old)

        components = {key: keep(value) for key, value in components.items()}
        components[f"{self.name}/not_finite"] = (given.valid & ~finite).astype(jnp.float32)
        return jax.lax.stop_gradient(RewardResult(keep(total), components, jax.tree.map(move, moved, carry), counted))


def require(value: T | None, reward: str, field: str, remedy: str) -> T:
    """Return a field of the input or of the context, or say that it is not at hand."""
    if value is None:
        raise ValueError(f"reward {reward!r} needs {field}, which is not at hand. {remedy}")
    return value
