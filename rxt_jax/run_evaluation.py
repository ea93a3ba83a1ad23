"""Evaluating a run: on its own held-out data or on a file, with the result written into its folder.

evaluation/[STAGE/][FILE/]  recall.json  recall.png  preferences.json  or  hand_typed.json  transcript.txt
"""

from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from rich.table import Table

from rxt_jax.data.config import DataConfig, FileData
from rxt_jax.data.hand_typed import holds_typed_conversations, read_typed_conversations
from rxt_jax.data.sources import open_source
from rxt_jax.evaluation import (
    EvaluationConfig,
    HandTypedReport,
    PreferenceReport,
    Report,
    evaluate_baseline,
    evaluate_hand_typed,
    evaluate_preferences,
    evaluate_split,
)
from rxt_jax.evaluation.preferences import PreferenceJudge
from rxt_jax.model import BaselineTransformer
from rxt_jax.paths import as_path
from rxt_jax.recipe import Recipe
from rxt_jax.run_folder import LoadedRun, loaded_run, run_and_stage
from rxt_jax.shipped import is_shipped
from rxt_jax.stages import RewardModeling

__all__ = ["RunEvaluation", "before_preferences", "evaluate_run", "result_folder"]


class RunEvaluation(NamedTuple):
    """What was measured, and where it was written.

    `report`: recall by distance, or what became of typed conversations. `preferences`: None for a run that learns
    none. `folder`: where the files are.
    """

    report: Report | HandTypedReport
    preferences: PreferenceReport | None
    folder: Path

    def tables(self) -> list[Table]:
        """Show all figures."""
        measured = (self.report, self.preferences)
        return [table for each in measured if each is not None for table in each.tables()]


def evaluate_run(
    run: str | Path | LoadedRun,
    *,
    data: str | Path | None = None,
    evaluation: EvaluationConfig | None = None,
    output: str | Path | None = None,
    part: str | None = None,
) -> RunEvaluation:
    """Measure the model of a run and write the result into `evaluation/PART` of its folder.

    run: the run's folder, one of its `stages/NAME`, `"companion"`, or what `load` gave.
    data: a file of episodes, or of typed conversations (`"hand_typed"` is the packaged one); None measures on the
        run's own held-out data, and on held-out preferences where a stage learns some.
    evaluation: how much to measure; None as the recipe says.
    output: folder that gets the `evaluation/` instead of the run's own; that of `companion` goes to `runs/companion`.
    part: None is the name of the stage and that of the file, where there are any.

    Raises what loading the run and reading the data raise; a `ValueError` for typed conversations and a model without
    memory.
    """
    loaded = loaded_run(run)
    folder, stage = (loaded.recipe.run_folder, None) if isinstance(run, LoadedRun) else result_folder(run)
    if part is None:
        part = "/".join(name for name in (stage, data and Path(data).stem) if name)
    folder = as_path(output or folder) / "evaluation" / part
    if output is not None:
        folder.mkdir(parents=True, exist_ok=True)  # a place where nothing can be written is refused before the work
    loaded = loaded._replace(recipe=replace(loaded.recipe, evaluation=evaluation or loaded.recipe.evaluation))
    if data is not None and holds_typed_conversations(str(data)):
        return RunEvaluation(_evaluate_typed(loaded, str(data), folder), None, folder)
    if data is not None:
        recipe = loaded.recipe
        own = replace(recipe.data, evaluation_source=FileData(path=str(data)))
        loaded = loaded._replace(recipe=replace(recipe, data=own))
    return RunEvaluation(_evaluate_recall(loaded, folder), _evaluate_preferences(loaded, folder), folder)


def result_folder(run: str | Path) -> tuple[Path, str | None]:
    """Say in which folder the results of a run belong, and which of its stages was named.

    Nothing is written into an installed package: results of `companion` go to `runs/companion`.
    """
    folder, stage = run_and_stage(run)
    return (Path("runs") / run if is_shipped(run) else folder), stage


def before_preferences(recipe: Recipe) -> str | None:
    """Name the checkpoint that the first preference stage of a run begins with, None without such a stage or such
    a checkpoint."""
    if recipe.preference_stage is None:
        return None
    number = list(recipe.stages).index(recipe.preference_stage)
    return str(recipe.run_folder / "stages" / list(recipe.stages)[number - 1]) if number else recipe.start_from


def _evaluate_recall(loaded: LoadedRun, folder: Path) -> Report:
    recipe, data = loaded.recipe, _rows(loaded.recipe)
    measure = evaluate_baseline if isinstance(loaded.model, BaselineTransformer) else evaluate_split
    sources = recipe.data.evaluation_source.splits(recipe.evaluation.splits, recipe.evaluation.seed)
    report = Report(
        {
            name: measure(loaded.model, loaded.tokenizer, open_source(source), data, recipe.evaluation.of(name))
            for name, source in sources.items()
        }
    )
    report.save(folder)
    return report


def _evaluate_preferences(loaded: LoadedRun, folder: Path) -> PreferenceReport | None:
    recipe = loaded.recipe
    if recipe.preference_stage is None or recipe.held_out_preferences is None:
        return None
    run = recipe.stages[recipe.preference_stage]
    judge: PreferenceJudge = "reward_model" if isinstance(run.stage, RewardModeling) else "likelihood"
    if judge == "reward_model" and getattr(loaded.model.config, "reward_model", None) is None:
        return None  # the checkpoint from before there was one
    own, data = run.data, _rows(recipe)
    data = data if own is None else own.within(data)
    source = open_source(recipe.held_out_preferences)
    preferences = evaluate_preferences(loaded.model, loaded.tokenizer, source, data, recipe.evaluation, judge=judge)
    preferences.save(folder)
    return preferences


def _rows(recipe: Recipe) -> DataConfig:
    """Say how held-out rows are made: with episodes as long as any that the data can have, where that is known."""
    longest = recipe.data.evaluation_source.longest_episode
    return recipe.data if longest is None else replace(recipe.data, max_interactions=longest)


def _evaluate_typed(loaded: LoadedRun, data: str, folder: Path) -> HandTypedReport:
    if isinstance(loaded.model, BaselineTransformer):
        raise ValueError(
            f"{data} measures what memory holds; {loaded.recipe.name} is the stateless baseline, which has none"
        )
    report = evaluate_hand_typed(
        loaded.model,
        loaded.tokenizer,
        read_typed_conversations(data),
        max_length=loaded.recipe.data.max_length,
        batch_size=loaded.recipe.evaluation.batch_size,
    )
    report.save(folder)
    return report
