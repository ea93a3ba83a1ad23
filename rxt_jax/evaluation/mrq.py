"""The memory retention benchmark: conversations walked turn by turn, every answer scored by a reward.

The first interaction is written and not answered. Afterwards the model answers each question greedily, from memory or,
for the baseline, from the conversation as text; then the interaction is written. Source: docs/method.md §18.7.
"""

import functools
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from rxt_jax.data.config import DataConfig
from rxt_jax.data.episode_source import EpisodeSource
from rxt_jax.data.rows import Row, RowEncoder
from rxt_jax.data.tokenizer import Tokenizer
from rxt_jax.evaluation.answering import generate_rows
from rxt_jax.evaluation.baseline import conversation_prompt
from rxt_jax.evaluation.config import CONDITIONS, EvaluationConfig
from rxt_jax.evaluation.evaluate import recalls_in_rows, sample_episodes, text_of
from rxt_jax.evaluation.mrq_report import MrqCondition, MrqResult
from rxt_jax.model import BaselineTransformer
from rxt_jax.model.generation import prompt_width
from rxt_jax.model.initial_memory import beginning_memory
from rxt_jax.rewards import (
    STANDARD,
    Facts,
    Reward,
    RewardContext,
    RewardInput,
    RewardResult,
    Tokens,
    annotated_values,
    encode_facts,
    mrq_score,
)
from rxt_jax.types import Array

__all__ = ["MrqConfig", "evaluate_mrq"]

BASELINE_CONDITIONS = ("history", "question_alone")


@dataclass(frozen=True, kw_only=True)
class MrqConfig:
    """What the benchmark measures."""

    episodes: int = 64
    """How many conversations, in whole batches."""
    batch_size: int = 32
    max_interactions: int = 9
    """Of longer conversations the first so many count: 1 that is written and 8 that are answered, as published."""
    max_new_tokens: int = 32
    """The longest answer, its first token aside."""
    score: Reward = field(default_factory=mrq_score)
    """The reward that scores answers; the default is the published score. It gets the planted facts."""
    teacher_forcing: bool = True
    """Write the data's answers into memory (published), else the model's own; the baseline's past is the same."""
    conditions: tuple[str, ...] = CONDITIONS
    """How memory is spoilt (docs/method.md §18.2); the baseline has `history` and `question_alone` instead."""
    end_every_answer: bool = True
    """Whether the baseline's past has an end behind every answer, as it learnt; published: none."""
    time_turns: bool = True
    """Measure the time to the first token and per token after it, of every turn."""

    def __post_init__(self) -> None:
        for name in ("episodes", "batch_size", "max_new_tokens"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}.")
        if self.max_interactions < 2:
            raise ValueError(
                f"max_interactions must be at least 2, got {self.max_interactions}: the first one is not answered."
            )
        unknown = sorted(set(self.conditions) - set(CONDITIONS))
        if unknown or not self.conditions:
            raise ValueError(f"conditions must be among {', '.join(CONDITIONS)}, got {', '.join(unknown) or 'none'}.")


def evaluate_mrq(
    model: Any,
    tokenizer: Tokenizer,
    source: EpisodeSource,
    data: DataConfig,
    config: MrqConfig,
    context: RewardContext,
) -> MrqResult:
    """Score a model with memory, or a `BaselineTransformer`, on conversations of a source.

    `context` holds the embedding table of the score's similarity: for numbers that compare, one for all models.
    """
    wanted = EvaluationConfig(episodes=config.episodes, batch_size=config.batch_size)
    episodes, size = sample_episodes(source, wanted)
    longest = max(len(episode["interactions"]) for episode in episodes) + data.use_system_prompt
    data = replace(data, max_interactions=min(longest, config.max_interactions, data.max_interactions))
    if data.max_interactions < 2:
        raise ValueError("the benchmark needs conversations of at least 2 interactions; these have 1.")
    baseline = isinstance(model, BaselineTransformer)
    if baseline:
        data = replace(data, conversation_length=model.config.max_length)
    encoder = RowEncoder(tokenizer, data)
    names = BASELINE_CONDITIONS if baseline else config.conditions
    result = MrqResult({name: MrqCondition(data.max_interactions) for name in names}, len(episodes))
    for start in range(0, len(episodes), size):
        walk = _Walk(model, encoder, episodes[start : start + size], config, context)
        for turn in range(1, data.max_interactions):
            for name, one in result.conditions.items():
                scored = jax.device_get(walk.answer(name, turn))
                one.count(turn, scored, walk.scored[turn], walk.prompt_tokens(name, turn))
                for recall in walk.recalls[turn]:
                    one.recall.count_recall(recall, walk.text(name, recall.episode))
                if config.time_turns and start == 0 and name == names[0]:
                    one.times[turn] = walk.time(name, turn)
            walk.write(turn)
        for one in result.conditions.values():
            one.end_batch()
        result.dropped_recalls += walk.dropped_recalls
    result.cut_rows = encoder.report.cut.total()
    return result


class _Walk:
    """One batch of conversations on its way: what was said, the memory of every turn, and the score's carry.

    Only the answers under the first condition are ever written.
    """

    def __init__(
        self,
        model: Any,
        encoder: RowEncoder,
        episodes: Sequence[Mapping[str, Any]],
        config: MrqConfig,
        context: RewardContext,
    ):
        self._graphdef, self._params = nnx.split(model)
        self._encoder, self._config, self._context = encoder, config, context
        self._baseline = isinstance(model, BaselineTransformer)
        filler = Row([encoder.special.bos, encoder.special.answer], 1, valid=False)
        rows = [encoder.episode(episode) for episode in episodes]
        recalls, self.dropped_recalls = recalls_in_rows(episodes, rows, encoder)
        turns = encoder.config.max_interactions
        first = [encoder.leading_rows(episode) for episode in episodes]
        self._rows = [row + [filler] * (turns - len(row)) for row in rows]
        self._said = [list(row) for row in self._rows]  # as it was written: the model's own answers replace the data's
        real = np.array([[row.valid for row in each] for each in self._rows]).T
        # A system prompt is no answer, and what follows it is the first interaction.
        self.scored = real & (np.arange(turns)[:, None] > np.array(first))
        usable = [each for each in recalls if self.scored[each.turn, each.episode]]
        self.recalls = [[each for each in usable if each.turn == turn] for turn in range(turns)]
        self._facts = [self._facts_of(episodes, first, turn) for turn in range(turns)]
        self._carries = {}
        self._answers: dict[str, Tokens] = {}
        self._memories = [] if self._baseline else [beginning_memory(model, len(rows), None)]
        self._real = real
        self.write(0)

    def answer(self, name: str, turn: int) -> RewardResult:
        """Answer a turn under a condition and score the answers."""
        ids, mask = self._prompts(name, turn)
        made = np.asarray(self._generate(name, turn, ids, mask, self._config.max_new_tokens))
        opening = ids[np.arange(len(ids)), mask.sum(1) - 1]
        whole = np.concatenate([opening[:, None], made], axis=1)
        ended = np.cumsum(whole == self._encoder.special.eos, axis=1)
        answered = Tokens(whole, (ended - (whole == self._encoder.special.eos)) == 0)
        self._answers[name] = answered
        before = [row[turn - 2] for row in self._said] if turn > 1 else []
        given = RewardInput(
            generated=answered,
            answer=self._stacked([row[turn].ids[row[turn].prompt_length :] for row in self._rows]),
            query=self._stacked([row[turn].ids[: row[turn].prompt_length] for row in self._rows]),
            saved=self._stacked([row[turn - 1].ids if row[turn - 1].valid else [] for row in self._said]),
            history=self._stacked([row.ids if row.valid else [] for row in before] or [[]] * len(ids)),
            mode=jnp.full(len(ids), STANDARD),
            valid=self.scored[turn],
            facts=self._facts[turn],
        )
        given = jax.tree.map(jnp.asarray, given)
        carry = self._carries.get(name)
        if carry is None:
            carry = self._config.score.first_carry(len(ids), self._context)
        result = _score(self._config.score, given, self._context, carry)
        self._carries[name] = result.carry
        return result

    def text(self, name: str, row: int) -> str:
        """Read the last answer of a row."""
        ids = self._answers[name].ids[row][self._answers[name].mask[row]].tolist()
        return text_of([identity for identity in ids if identity != self._encoder.special.eos], self._encoder)

    def write(self, turn: int) -> None:
        """Write a turn into memory: the data's answers, or after the first turn the model's own."""
        if turn > 0 and not self._config.teacher_forcing:
            answered = next(iter(self._answers.values()))
            for number, row in enumerate(self._said):
                prompt = row[turn].ids[: row[turn].prompt_length]
                own = answered.ids[number][answered.mask[number]].tolist()
                ids = [*prompt, *own][: self._encoder.config.max_length]
                row[turn] = row[turn]._replace(ids=ids, labels=None)
        if not self._baseline:
            ids, mask = self._stacked([row[turn].ids for row in self._said])
            memory = _write(self._graphdef, self._params, self._memories[-1], ids, mask, self._real[turn])
            self._memories.append(memory)

    def prompt_tokens(self, name: str, turn: int) -> np.ndarray:
        """Count the tokens that every row reads before it answers."""
        return self._prompts(name, turn)[1].sum(axis=1)

    def time(self, name: str, turn: int) -> dict[str, float]:
        """Time a turn of the whole batch in milliseconds: to the first token, per token after it, and writing."""
        ids, mask = self._prompts(name, turn)
        first = _milliseconds(lambda: self._generate(name, turn, ids, mask, 1))
        whole = _milliseconds(lambda: self._generate(name, turn, ids, mask, self._config.max_new_tokens))
        later = int(self._answers[name].mask.sum(axis=1).max()) - 2  # without the opening and the first new token
        times = {"first_token_ms": first, "token_ms": (whole - first) / later if later > 0 else 0.0}
        if not self._baseline:
            said = self._stacked([row[turn].ids for row in self._said])
            arguments = (self._graphdef, self._params, self._memories[-1], *said, self._real[turn])
            times["write_ms"] = _milliseconds(lambda: _write(*arguments))
        return times

    def _prompts(self, name: str, turn: int) -> tuple[np.ndarray, np.ndarray]:
        if self._baseline:
            config, ends = self._encoder.config, self._config.end_every_answer
            rows = [conversation_prompt(row, turn, name, config, end_every_answer=ends) for row in self._said]
            width = prompt_width(max(map(len, rows)), config.conversation_length)
        else:
            rows = [row[turn].ids[: row[turn].prompt_length + 1] for row in self._rows]
            longest = max(row.prompt_length + 1 for each in self._rows for row in each)
            width = prompt_width(longest, self._encoder.config.max_length)  # one for all turns
        return self._stacked(rows, width)

    def _generate(self, name: str, turn: int, ids: np.ndarray, mask: np.ndarray, count: int) -> Array:
        memory = None
        if not self._baseline:
            memory = _under_condition(self._memories[turn], self._memories[min(turn, 1)], name)
        return generate_rows(self._graphdef, self._params, memory, ids, mask, count, self._encoder.special.eos)

    def _stacked(self, rows: Sequence[Sequence[int]], width: int | None = None) -> Tokens:
        width = width or self._encoder.config.max_length
        ids, mask = np.full((len(rows), width), self._encoder.special.pad, np.int32), np.zeros((len(rows), width), bool)
        for number, row in enumerate(rows):
            ids[number, : len(row)], mask[number, : len(row)] = row, True
        return Tokens(ids, mask)

    def _facts_of(self, episodes: Sequence[Mapping[str, Any]], first: Sequence[int], turn: int) -> Facts:
        values = []
        for episode, lead in zip(episodes, first, strict=True):
            inside = 0 <= turn - lead < len(episode["interactions"])
            values.append(annotated_values(episode["interactions"][turn - lead]) if inside else [])
        return encode_facts(values, self._encoder.tokenizer).facts


def _under_condition(memory: Array, after_first: Array, condition: str) -> Array:
    """Spoil the memory `[L B S D]` of a turn (docs/method.md §18.2); `shuffled` is that of the conversation before."""
    if condition == "shuffled" and memory.shape[1] < 2:
        raise ValueError("shuffled memory needs at least 2 conversations in a batch; raise mrq.batch_size.")
    return {
        "memory": lambda: memory,
        "zeroed": lambda: jnp.zeros_like(memory),
        "shuffled": lambda: jnp.roll(memory, 1, axis=1),
        "frozen": lambda: after_first,
    }[condition]()


@functools.partial(jax.jit, static_argnums=0)
def _score(reward: Reward, given: RewardInput, context: RewardContext, carry: Any) -> RewardResult:
    return reward(given, context, carry)


@functools.partial(jax.jit, static_argnums=0)
def _write(graphdef: Any, params: Any, memory: Array, ids: Array, mask: Array, real: Array) -> Array:
    model = nnx.merge(graphdef, params)
    written = model.update_memory(memory, model.encode(ids, mask), mask)
    return jnp.where(real[None, :, None, None], written, memory)


def _milliseconds(call: Callable[[], Any]) -> float:
    """Time the faster of two calls after one that may compile."""
    jax.block_until_ready(call())
    times = []
    for _ in range(2):
        began = time.perf_counter()
        jax.block_until_ready(call())
        times.append(time.perf_counter() - began)
    return 1000.0 * min(times)
