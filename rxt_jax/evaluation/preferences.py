"""Which answers a model prefers, with memory as it is and spoilt.

An answer is preferred where its log-probability is above that of the rejected one. Where the two differ in something
that only memory holds, this is a measure of memory. Source: docs/method.md, eq. 122.
"""

import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import jax
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
from rxt_jax.stages.answer_scoring import Answers, answers_of, score_answers
from rxt_jax.types import Array

__all__ = ["PreferenceAccuracy", "PreferenceReport", "ReadPairs", "evaluate_preferences"]


@dataclass
class PreferenceAccuracy:
    """Sums over pairs under one memory condition: decided rightly by sums and by token means, log-probabilities."""

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

    def summary(self) -> dict[str, Any]:
        """Divide."""
        pairs = max(self.pairs, 1)
        conditions = {
            name: {
                "accuracy": one.right / pairs,
                "accuracy_by_mean": one.right_by_mean / pairs,
                "log_probs_chosen": one.chosen / pairs,
                "log_probs_rejected": one.rejected / pairs,
            }
            for name, one in self.conditions.items()
        }
        return {"episodes": self.episodes, "pairs": self.pairs, "conditions": conditions}

    def tables(self) -> list[Table]:
        """Show everything."""
        return [self.table()]

    def table(self) -> Table:
        """Show the shares in percent."""
        table = Table(
            title=f"pairs whose chosen answer is likelier, of {self.pairs}", box=box.SIMPLE_HEAD, show_edge=False
        )
        for name in ("memory", "% by sum", "% by mean", "log p\nchosen", "log p\nrejected"):
            table.add_column(name, justify="left" if name == "memory" else "right", no_wrap=True)
        for name, one in self.summary()["conditions"].items():
            shares = (f"{100 * one[key]:.1f}" for key in ("accuracy", "accuracy_by_mean"))
            table.add_row(name, *shares, *(f"{one[f'log_probs_{kind}']:.2f}" for kind in ("chosen", "rejected")))
        return table

    def save(self, folder: str | Path) -> None:
        """Write `preferences.json`."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "preferences.json").write_text(json.dumps(self.summary(), indent=1), encoding="utf-8")


def evaluate_preferences(
    model: Any, tokenizer: Tokenizer, source: EpisodeSource, data: DataConfig, config: EvaluationConfig
) -> PreferenceReport:
    """Measure a model on `config.episodes` preference episodes of a source, in whole batches."""
    episodes, size = sample_episodes(source, config)
    longest = max(len(episode["interactions"]) for episode in episodes) + data.use_system_prompt
    encoder = RowEncoder(tokenizer, replace(data, max_interactions=min(longest, data.max_interactions)))
    result = PreferenceReport(len(episodes), 0, {name: PreferenceAccuracy() for name in config.conditions})
    placed, read = place_model(model, config), ReadPairs()
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
            found, _ = score_answers(model, take_memories(memories, group)[None], answers, remat="none")
            return jax.tree.map(lambda leaf: leaf[0], found)

        return Findings((), read_groups(score, groups))
