"""Distributions of a data set as one picture."""

from pathlib import Path
from typing import Any

from rxt_jax.data.config import DataConfig
from rxt_jax.data.statistics import Statistics

__all__ = ["save_plots"]

_COLOUR, _LIMIT = "#4878a8", "#c04040"


def save_plots(found: Statistics, config: DataConfig, path: Path) -> None:
    """Draw lengths, labels, interactions and recall distances into a PNG; what the data lacks is left out."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    is_text = not found.interactions_per_episode
    limit = config.text_length if is_text else config.max_length
    panels = [
        (
            lambda axis: _histogram(axis, found.lengths, limit, "row length"),
            "tokens of a text" if is_text else "tokens of an interaction",
        ),
        (lambda axis: _histogram(axis, found.labels_per_record, None, ""), "targets of a record"),
    ]
    if not is_text:
        counts = {size: found.interactions_per_episode.count(size) for size in set(found.interactions_per_episode)}
        panels.append((lambda axis: _bars(axis, counts, config.max_interactions), "interactions of an episode"))
    if found.recall_distances:
        distances = dict(found.recall_distances)
        panels.append((lambda axis: _bars(axis, distances, None), "interactions back to a recalled value"))
    figure, axes = plt.subplots(1, len(panels), figsize=(3.6 * len(panels), 3.2), squeeze=False, layout="constrained")
    for axis, (draw, title) in zip(axes[0], panels, strict=True):
        draw(axis)
        axis.set_xlabel(title)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0][0].set_ylabel("how many")
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        figure.savefig(file, dpi=130, format="png")
    plt.close(figure)


def _histogram(axis: Any, values: list[int], limit: int | None, name: str) -> None:
    axis.hist(values, bins=min(40, max(values) - min(values) + 1), color=_COLOUR)
    if limit is not None:
        over = sum(value > limit for value in values) / len(values)
        axis.axvline(limit, color=_LIMIT)
        axis.set_title(f"{name} {limit}: {100 * over:.1f} % are longer", fontsize=9, color=_LIMIT)


def _bars(axis: Any, counts: dict[int, int], limit: int | None) -> None:
    axis.bar(list(counts), list(counts.values()), color=_COLOUR)
    axis.xaxis.get_major_locator().set_params(integer=True)
    if limit is not None:
        over = sum(count for size, count in counts.items() if size > limit) / sum(counts.values())
        axis.axvline(limit + 0.5, color=_LIMIT)
        axis.set_title(f"at most {limit}: {100 * over:.1f} % are shortened", fontsize=9, color=_LIMIT)
