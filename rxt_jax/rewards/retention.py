"""How much of what was saved, and of the data's own answer, an answer holds: BLEU + cosine + length.

The reward of memory reinforcement learning. Rows may be in different modes: an interaction that goes on from what is
saved (standard), one that leaves it (negative), one that comes back to it (long range).
Source: docs/method.md, eq. 125 to 127b.
"""

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args

import jax.numpy as jnp

from rxt_jax.ops.bleu import BleuCounts, BleuSmoothing, bleu_counts, sentence_bleu
from rxt_jax.ops.published_bleu import PublishedSmoothing, published_sentence_bleu
from rxt_jax.rewards.reward import LONG_RANGE, NEGATIVE, Reward, RewardContext, RewardInput, Tokens, require
from rxt_jax.types import Array

__all__ = ["BleuReferences", "RetentionBleu", "RetentionCarry", "RetentionReward", "text_embedding"]

BleuReferences = Literal["answer", "separate", "combined"]
"""What an answer is compared with: the data's answer alone; that and what is saved, two scores that are added; both as
references of one score."""

RetentionBleu = BleuSmoothing | Literal["published_none", "published_floor", "published_add_k", "published_exp"]
"""A smoothing of `ops.bleu`, or one of `ops.published_bleu`."""

_PUBLISHED = "published_"
_SMOOTHINGS = (*get_args(BleuSmoothing), *(_PUBLISHED + each for each in get_args(PublishedSmoothing)))
_TOLERANCE = 1e-6


class RetentionCarry(NamedTuple):
    """The running mean of the history's embeddings `[B D]`, and whether a row has any yet `[B]`."""

    mean: Array
    begun: Array


@dataclass(frozen=True, kw_only=True)
class RetentionReward(Reward):
    """Options of the retention reward; the defaults are the published ones.

    Factors that are added have to sum to 1, so that the reward stays in [0, `scale`], unless `check_sums` is off.
    """

    name = "retention"

    bleu_factor: float = 0.5
    """What BLEU counts."""
    cosine_factor: float = 0.5
    """What the similarity of embeddings counts."""
    length_factor: float = 0.0
    """What the length of the answer counts; 0 leaves it out."""
    negative_bleu_factor: float | None = None
    """`bleu_factor` where the topic changes (None: the same)."""
    negative_cosine_factor: float | None = None
    """`cosine_factor` where the topic changes (None: the same)."""

    bleu_references: BleuReferences = "answer"
    """What BLEU compares an answer with."""
    bleu_answer_weights: tuple[float, ...] = (0.5, 0.5)
    """Weights of the n-grams of 1, 2, ... tokens, compared with the data's answer."""
    bleu_saved_weights: tuple[float, ...] = (0.5, 0.5)
    """The same, compared with what is saved."""
    bleu_smoothing: RetentionBleu = "chen_cherry"
    """What BLEU does where no n-gram of an order is found."""
    negative_bleu_smoothing: RetentionBleu | None = None
    """`bleu_smoothing` where the topic changes (None: the same)."""
    bleu_answer_factor: float = 0.5
    """What BLEU against the data's answer counts."""
    bleu_saved_factor: float = 0.5
    """What BLEU against what is saved counts."""
    first_bleu_answer_factor: float | None = None
    """`bleu_answer_factor` while there is no history (None: the same)."""
    first_bleu_saved_factor: float | None = None
    """`bleu_saved_factor` while there is no history (None: the same)."""
    negative_bleu_answer_factor: float = 0.5
    """What BLEU against the data's answer counts where the topic changes."""
    negative_bleu_saved_factor: float = 0.5
    """What being unlike the saved interaction counts where the topic changes."""

    cosine_answer_factor: float = 0.5
    """What likeness to the data's answer counts."""
    cosine_saved_factor: float = 0.5
    """What likeness to what is saved counts."""
    negative_cosine_answer_factor: float | None = None
    """`cosine_answer_factor` where the topic changes (None: the same)."""
    negative_cosine_saved_factor: float | None = None
    """`cosine_saved_factor` where the topic changes (None: the same), for being unlike."""
    use_running_mean: bool = True
    """Compare with the history as well, where there is one, by the three factors that follow."""
    history_cosine_answer_factor: float = 0.3
    """What likeness to the data's answer counts beside the history."""
    history_cosine_saved_factor: float = 0.5
    """What likeness to what is saved counts beside the history."""
    history_cosine_mean_factor: float = 0.2
    """What likeness to the history's running mean counts; at the end of a long-range episode being unlike it counts."""
    running_mean_decay: float = 0.2
    """What the old mean counts when an interaction comes; the new one counts the rest."""

    target_length: int | None = None
    """The length that is rewarded in full, in tokens (None: that of the data's answer)."""
    punish_longer: bool = False
    """Whether an answer beyond that length loses reward again."""
    strip_specials: bool = False
    """Leave control tokens out of all comparisons: an answer opens and ends with one whatever it says."""
    symmetric: bool = False
    """Rewards from −1 to 1 in place of 0 to 1, before `scale`."""
    scale: float = 1.0
    """What all of it is multiplied by; published figures are on a scale to 10."""
    check_sums: bool = True
    """Whether factors that are added have to sum to 1."""

    def __post_init__(self) -> None:
        if self.bleu_references not in get_args(BleuReferences):
            raise ValueError(
                f"bleu_references must be one of {', '.join(get_args(BleuReferences))}, got {self.bleu_references!r}."
            )
        for field in ("bleu_smoothing", "negative_bleu_smoothing"):
            value = getattr(self, field)
            if value not in _SMOOTHINGS and not (value is None and field.startswith("negative")):
                raise ValueError(f"{field} must be one of {', '.join(_SMOOTHINGS)}, got {value!r}.")
        if not 0.0 <= self.running_mean_decay <= 1.0:
            raise ValueError(f"running_mean_decay must lie in [0, 1], got {self.running_mean_decay}.")
        if self.target_length is not None and self.target_length < 1:
            raise ValueError(f"target_length must be at least 1, got {self.target_length}.")
        if self.check_sums:
            self._check_sums()

    def _check_sums(self) -> None:
        sums = {
            "bleu_factor + cosine_factor + length_factor": self.bleu_factor + self.cosine_factor + self.length_factor,
            "negative_bleu_factor + negative_cosine_factor + length_factor": sum(self._parts[0]) + self.length_factor,
            "cosine_answer_factor + cosine_saved_factor": self.cosine_answer_factor + self.cosine_saved_factor,
            "negative_cosine_answer_factor + negative_cosine_saved_factor": sum(self._negative_cosine),
        }
        if self.use_running_mean:
            sums["the three history_cosine factors"] = (
                self.history_cosine_answer_factor + self.history_cosine_saved_factor + self.history_cosine_mean_factor
            )
        if self.bleu_references == "separate":
            sums["bleu_answer_factor + bleu_saved_factor"] = self.bleu_answer_factor + self.bleu_saved_factor
            sums["first_bleu_answer_factor + first_bleu_saved_factor"] = sum(self._first_bleu)
        if self.bleu_references != "answer":
            sums["negative_bleu_answer_factor + negative_bleu_saved_factor"] = (
                self.negative_bleu_answer_factor + self.negative_bleu_saved_factor
            )
        for names, total in sums.items():
            if abs(total - 1.0) > _TOLERANCE:
                raise ValueError(f"{names} must be 1, got {total:g}. Say check_sums=False for other sums.")

    def first_carry(self, rows: int, context: RewardContext) -> RetentionCarry:
        """Begin without a history."""
        width = self._embedding(context).shape[1]
        return RetentionCarry(jnp.zeros((rows, width), jnp.float32), jnp.zeros(rows, bool))

    def score(
        self, given: RewardInput, context: RewardContext, carry: RetentionCarry
    ) -> tuple[Array, dict[str, Array], RetentionCarry]:
        """Add up the weighted components."""
        texts = [given.generated, given.answer, given.saved, given.history]
        if self.strip_specials:
            texts = [text._replace(mask=text.mask & ~context.special[text.ids]) for text in texts]
        generated, answer, saved, history = texts
        if self.use_running_mean:
            carry = self._advance(carry, history, given.has_history, context)
        bleu, components = self._bleu(generated, answer, saved, given)
        cosine, parts = self._cosine(generated, answer, saved, given, carry, context)
        components = {"retention/bleu": bleu, **components, "retention/cosine": cosine, **parts}
        negative = given.mode == NEGATIVE
        bleu_factor, cosine_factor = (jnp.where(negative, *each) for each in zip(*self._parts, strict=True))
        total = bleu_factor * bleu + cosine_factor * cosine
        if self.length_factor:
            length = self._length(generated, answer)
            components["retention/length"] = length
            total += self.length_factor * length
        components["retention/raw"] = total
        return (2.0 * total - 1.0 if self.symmetric else total) * self.scale, components, carry

    @property
    def _parts(self) -> tuple[tuple[float, float], tuple[float, float]]:
        """Factors of BLEU and of cosine, where the topic changes and elsewhere."""
        turned = (
            _or(self.negative_bleu_factor, self.bleu_factor),
            _or(self.negative_cosine_factor, self.cosine_factor),
        )
        return turned, (self.bleu_factor, self.cosine_factor)

    @property
    def _first_bleu(self) -> tuple[float, float]:
        return (
            _or(self.first_bleu_answer_factor, self.bleu_answer_factor),
            _or(self.first_bleu_saved_factor, self.bleu_saved_factor),
        )

    @property
    def _negative_cosine(self) -> tuple[float, float]:
        return (
            _or(self.negative_cosine_answer_factor, self.cosine_answer_factor),
            _or(self.negative_cosine_saved_factor, self.cosine_saved_factor),
        )

    def _bleu(
        self, generated: Tokens, answer: Tokens, saved: Tokens, given: RewardInput
    ) -> tuple[Array, dict[str, Array]]:
        """Compare with the answer, with what is saved, or with both, as the mode of a row wants."""
        negative = given.mode == NEGATIVE
        turned = _or(self.negative_bleu_smoothing, self.bleu_smoothing)

        def scored(references: list[Tokens], weights: tuple[float, ...], exists: list[Array]) -> tuple[Array, Array]:
            counts = self._counts(generated, references, exists, len(weights))
            return _scored(counts, weights, self.bleu_smoothing), _scored(counts, weights, turned)

        always = jnp.ones_like(given.valid)
        with_answer, unlike_answer = scored([answer], self.bleu_answer_weights, [always])
        components = {"retention/bleu_answer": with_answer}
        if self.bleu_references == "answer":
            return jnp.where(negative, unlike_answer, with_answer), components
        with_saved, unlike_saved = scored([saved], self.bleu_saved_weights, [always])
        components["retention/bleu_saved"] = with_saved
        if self.bleu_references == "combined":
            standard, _ = scored([answer, saved], self.bleu_answer_weights, [always, given.has_saved])
        else:
            first = ~given.has_history
            of_answer = jnp.where(first, self._first_bleu[0], self.bleu_answer_factor)
            of_saved = jnp.where(first, self._first_bleu[1], self.bleu_saved_factor)
            standard = of_answer * with_answer + of_saved * with_saved
        leaving = self.negative_bleu_answer_factor * unlike_answer
        leaving += self.negative_bleu_saved_factor * (1.0 - unlike_saved)
        # Where nothing is saved there is nothing to be like or unlike.
        both = jnp.where(negative, leaving, standard)
        return jnp.where(given.has_saved, both, jnp.where(negative, unlike_answer, with_answer)), components

    def _counts(self, generated: Tokens, references: list[Tokens], exists: list[Array], orders: int) -> BleuCounts:
        width = max(each.ids.shape[1] for each in references)
        padded = [[jnp.pad(leaf, ((0, 0), (0, width - leaf.shape[1]))) for leaf in each] for each in references]
        ids, mask = (jnp.stack(leaves, axis=1) for leaves in zip(*padded, strict=True))
        return bleu_counts(
            generated.ids,
            generated.mask,
            ids,
            mask,
            max_order=orders,
            tie="first" if self.bleu_smoothing.startswith(_PUBLISHED) else "shorter",
            reference_orders=jnp.stack(exists, axis=1) * orders,
        )

    def _cosine(
        self,
        generated: Tokens,
        answer: Tokens,
        saved: Tokens,
        given: RewardInput,
        carry: RetentionCarry,
        context: RewardContext,
    ) -> tuple[Array, dict[str, Array]]:
        """Compare mean embeddings."""
        table = self._embedding(context)
        own = text_embedding(table, generated)
        with_answer, with_saved = (_similarity(own, text_embedding(table, text)) for text in (answer, saved))
        components = {"retention/cosine_answer": with_answer, "retention/cosine_saved": with_saved}
        cosine = self.cosine_answer_factor * with_answer + self.cosine_saved_factor * with_saved
        if self.use_running_mean:
            with_mean = _similarity(own, carry.mean)
            components["retention/cosine_history"] = with_mean
            # The last answer of a long-range episode should have left the topics in between.
            wanted = jnp.where(given.mode == LONG_RANGE, 1.0 - with_mean, with_mean)
            continued = self.history_cosine_answer_factor * with_answer + self.history_cosine_saved_factor * with_saved
            continued += self.history_cosine_mean_factor * wanted
            cosine = jnp.where(given.has_history, continued, cosine)
        of_answer, of_saved = self._negative_cosine
        leaving = of_answer * with_answer + of_saved * (1.0 - with_saved)
        cosine = jnp.where(given.mode == NEGATIVE, leaving, cosine)
        return jnp.where(given.has_saved, cosine, with_answer), components

    def _advance(
        self, carry: RetentionCarry, history: Tokens, has_history: Array, context: RewardContext
    ) -> RetentionCarry:
        """Take the history's newest interaction into the running mean."""
        new = text_embedding(self._embedding(context), history)
        mixed = (1.0 - self.running_mean_decay) * new + self.running_mean_decay * carry.mean
        mean = jnp.where(carry.begun[:, None], mixed, new)
        return RetentionCarry(jnp.where(has_history[:, None], mean, carry.mean), carry.begun | has_history)

    def _length(self, generated: Tokens, answer: Tokens) -> Array:
        length = jnp.sum(generated.mask, axis=1).astype(jnp.float32)
        target = jnp.sum(answer.mask, axis=1) if self.target_length is None else jnp.asarray(self.target_length)
        target = target.astype(jnp.float32)
        beyond = target / jnp.maximum(length, 1.0) if self.punish_longer else 1.0
        return jnp.where(length < target, length / jnp.maximum(target, 1.0), beyond)

    def _embedding(self, context: RewardContext) -> Array:
        remedy = "Give make_reward_context the embedding table of the model."
        return require(context.embedding, self.name, "context.embedding", remedy)


def text_embedding(table: Array, text: Tokens) -> Array:
    """Average the embeddings of the real tokens `[B D]`; zeros where there is none."""
    weights = text.mask.astype(jnp.float32)
    total = jnp.einsum("bt,btd->bd", weights, table[text.ids].astype(jnp.float32))
    return total / jnp.maximum(jnp.sum(weights, axis=1, keepdims=True), 1e-8)


def _similarity(a: Array, b: Array) -> Array:
    """Give the cosine of rows, 0 where it is negative or one of them is zero."""
    norms = jnp.linalg.norm(a, axis=-1) * jnp.linalg.norm(b, axis=-1)
    return jnp.maximum(jnp.sum(a * b, axis=-1) / jnp.maximum(norms, 1e-12), 0.0)


def _scored(counts: BleuCounts, weights: tuple[float, ...], smoothing: Any) -> Array:
    if smoothing.startswith(_PUBLISHED):
        return published_sentence_bleu(counts, weights, smoothing=smoothing.removeprefix(_PUBLISHED))
    return sentence_bleu(counts, weights, smoothing=smoothing)


def _or(value: Any, default: Any) -> Any:
    return default if value is None else value
