"""Which answers a model prefers, with memory as it is and spoilt.

An answer is preferred where its log-probability is above that of the rejected one, or, where a reward model judges, its
score. Where the two differ in something
that only memory holds, this is a measure of memory. Source: docs/method.md, eq. 122.
"""

import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np
from rich import box
from rich.table import Table

from rxt_jax.data.config import DataConfig
from rxt_jax.data.episode_source import EpisodeSource
from rxt_jax.data.loader import make_preference_batch
from rxt_jax.data.rows import RowEncoder
from rxt_jax.data.tokenizer import Tokenizer
from rxt_jax.evaluation.config import EvaluationConfig
from rxt_jax.evaluation.evaluate import sample_episodes
from rxt_jax.evaluation.groups import read_groups, take_memories, take_rows
from rxt_jax.evaluation.walk import Findings, place_model, read_batch
from rxt_jax.losses.sequence_log_probs import SequenceLogProbs
from rxt_jax.paths import as_path
from rxt_jax.stages.answer_scoring import Answers, answers_of, score_answers
from rxt_jax.stages.reward_modeling import require_reward_model, score_side_by_side
from rxt_jax.types import Array

__all__ = ["PreferenceAccuracy", "PreferenceJudge", "PreferenceReport", "ReadPairs", "evaluate_preferences"]

PreferenceJudge = Literal["likelihood", "reward_model"]
"""Who prefers: the model, by how likely it finds an answer, or its reward model."""


@dataclass
class PreferenceAccuracy:
    """Sums over pairs under one memory condition: decided rightly by sums and by token means, log-probabilities.

    Scores of a reward model stand in place of log-probabilities, and their means are they themselves.
    """

    right: int = 0
    right_by_mean: int = 0
    chosen: float = 0.0
    rejected: float = 0.0


@dataclass
class PreferenceReport:
    """All conditions; every one has the same pairs."""

    episodes: int
    pairs: int
    conditions: dict[str, PreferenceAccuracy] = field(default_factory=dict)
    judge: PreferenceJudge = "likelihood"

    def summary(self) -> dict[str, Any]:
        """Divide."""
        pairs = max(self.pairs, 1)
        by_score = self.judge == "reward_model"
        what = "score" if by_score else "log_probs"
        conditions = {
            name: {"accuracy": one.right / pairs}
            | ({} if by_score else {"accuracy_by_mean": one.right_by_mean / pairs})
            | {f"{what}_chosen": one.chosen / pairs, f"{what}_rejected": one.rejected / pairs}
            for name, one in self.conditions.items()
        }
        judge = {"judge": self.judge} if by_score else {}
        return {"episodes": self.episodes, "pairs": self.pairs, "conditions": conditions} | judge

    def tables(self) -> list[Table]:
        """Show everything."""
        return [self.table()]

    def table(self) -> Table:
        """Show the shares in percent."""
        by_score = self.judge == "reward_model"
        what, names = ("likelier", ("% by sum", "% by mean", "log p\nchosen", "log p\nrejected"))
        if by_score:
            what, names = "scored higher", ("%", "score\nchosen", "score\nrejected")
        table = Table(
            title=f"pairs whose chosen answer is {what}, of {self.pairs}", box=box.SIMPLE_HEAD, show_edge=False
        )
        for name in ("memory", *names):
            table.add_column(name, justify="left" if name == "memory" else "right", no_wrap=True)
        for name, one in self.summary()["conditions"].items():
            shares = [f"{100 * value:.1f}" for key, value in one.items() if key.startswith("accuracy")]
            table.add_row(name, *shares, *(f"{value:.2f}" for key, value in one.items() if not key.startswith("acc")))
        return table

    def save(self, folder: str | Path) -> None:
        """Write `preferences.json`."""
        folder = as_path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "preferences.json").write_text(json.dumps(self.summary(), indent=1), encoding="utf-8")


def evaluate_preferences(
    model: Any,
    tokenizer: Tokenizer,
    source: EpisodeSource,
    data: DataConfig,
    config: EvaluationConfig,
    *,
    judge: PreferenceJudge = "likelihood",
) -> PreferenceReport:
    """Measure a model, or its reward model, on `config.episodes` preference episodes of a source, in whole batches."""
    episodes, size = sample_episodes(source, config)
    longest = max(len(episode["interactions"]) for episode in episodes) + data.use_system_prompt
    encoder = RowEncoder(tokenizer, replace(data, max_interactions=min(longest, data.max_interactions)))
    result = PreferenceReport(len(episodes), 0, {name: PreferenceAccuracy() for name in config.conditions}, judge)
    by_score = judge == "reward_model"
    placed = place_model(require_reward_model(model) if by_score else model, config)
    read = ReadScores() if by_score else ReadPairs()
    for start in range(0, len(episodes), size):
        rows = [encoder.preference_episode(episode) for episode in episodes[start : start + size]]
        batch = make_preference_batch(rows, encoder, encoder.config.max_interactions)
        answers = jax.device_get(answers_of(batch))
        found = read_batch(placed, batch.chosen, answers, answers.paired, read, config, first=start).groups
        for number, one in enumerate(result.conditions.values()):
            sums, lengths = found.total[number][answers.paired], found.length[number][answers.paired]
            means = sums / np.maximum(lengths, 1.0)
            one.right += int(np.sum(sums[:, 0] > sums[:, 1]))
            one.right_by_mean += int(np.sum(means[:, 0] > means[:, 1]))
            one.chosen += float(np.sum(sums[:, 0]))
            one.rejected += float(np.sum(sums[:, 1]))
        result.pairs += int(answers.paired.sum())
    return result


@dataclass(frozen=True)
class ReadPairs:
    """Score chosen and rejected answers where an interaction has both: `SequenceLogProbs` `[N P·C·g 2]` by groups."""

    answers_per_row: ClassVar[int] = 2

    def __call__(self, model: Any, memories: Array, rows: Answers, groups: Array) -> Findings:
        """Read memories `[C L B S D]`."""

        def score(group: Array) -> SequenceLogProbs:
            taken = take_rows(rows, group, len(memories))
            answers = jax.tree.map(lambda leaf: leaf[None], taken)
            found = score_answers(model, take_memories(memories, group)[None], answers).answers
            return jax.tree.map(lambda leaf: leaf[0], found)

        return Findings((), read_groups(score, groups))


@dataclass(frozen=True)
class ReadScores:
    """Let a reward model score chosen and rejected answers where an interaction has both.

    The scores stand where `ReadPairs` has log-probabilities, each as if it were of one token.
    """

    answers_per_row: ClassVar[int] = 2

    def __call__(self, model: Any, memories: Array, rows: Answers, groups: Array) -> Findings:
        """Read memories `[C L B S D]`; `model` is the reward model, which wrote them."""

        def score(group: Array) -> SequenceLogProbs:
            taken = take_rows(rows, group, len(memories))
            found = score_side_by_side(model, take_memories(memories, group), taken)
            return SequenceLogProbs(found, jnp.ones_like(found))

        return Findings((), read_groups(score, groups))
