"""Which answers a model prefers, with memory as it is and spoilt.

An answer is preferred where its log-probability is above that of the rejected one. Where the two differ in something
that only memory holds, this is a measure of memory. Source: docs/method.md, eq. 122.
"""

import functools
import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx
from rich import box
from rich.table import Table

from rxt_jax.data.config import DataConfig
from rxt_jax.data.episode_source import EpisodeSource
from rxt_jax.data.loader import make_preference_batch
from rxt_jax.data.rows import RowEncoder
from rxt_jax.data.tokenizer import Tokenizer
from rxt_jax.evaluation.config import EvaluationConfig
from rxt_jax.evaluation.evaluate import sample_episodes
from rxt_jax.evaluation.memories import collect_memories, under_condition
from rxt_jax.stages.answer_scoring import answers_of, score_answers
from rxt_jax.types import Array, PreferenceBatch

__all__ = ["PreferenceAccuracy", "PreferenceReport", "evaluate_preferences"]


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
    graphdef, params = nnx.split(model)
    for start in range(0, len(episodes), size):
        rows = [encoder.preference_episode(episode) for episode in episodes[start : start + size]]
        batch = make_preference_batch(rows, encoder, encoder.config.max_interactions)
        batch = jax.tree.map(jax.numpy.asarray, batch)
        memories = collect_memories(graphdef, params, batch.chosen)
        for name, one in result.conditions.items():
            total, length, paired = jax.device_get(_score(graphdef, params, batch, under_condition(memories, name)))
            sums, means = total[paired], (total / np.maximum(length, 1.0))[paired]
            one.right += int(np.sum(sums[:, 0] > sums[:, 1]))
            one.right_by_mean += int(np.sum(means[:, 0] > means[:, 1]))
            one.chosen += float(np.sum(sums[:, 0]))
            one.rejected += float(np.sum(sums[:, 1]))
        result.pairs += int(paired.sum())
    return result


@functools.partial(jax.jit, static_argnums=0)
def _score(graphdef: Any, params: Any, batch: PreferenceBatch, memories: Array) -> tuple[Array, Array, Array]:
    answers = answers_of(batch)
    found, _ = score_answers(nnx.merge(graphdef, params), memories, answers, remat=False)
    return found.total, found.length, answers.paired
