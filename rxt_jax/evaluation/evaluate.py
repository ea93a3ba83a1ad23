"""The measurement: recall by distance and answer perplexity, with memory as it is and spoilt.

Every conversation is walked once; the four conditions differ in what the decoder is given to read.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple, TypeVar

import numpy as np

from rxt_jax.data.config import DataConfig
from rxt_jax.data.episode_source import EpisodeSource
from rxt_jax.data.loader import make_episode_batch
from rxt_jax.data.rows import Row, RowEncoder
from rxt_jax.data.tokenizer import Tokenizer
from rxt_jax.data.value_tokens import find_value_tokens
from rxt_jax.evaluation.answering import AnswerRows, ReadAnswers
from rxt_jax.evaluation.config import EvaluationConfig
from rxt_jax.evaluation.recall import Absence, Recall, absences_of, chance_level, recalls_of
from rxt_jax.evaluation.report import ConditionResult, SplitResult
from rxt_jax.evaluation.walk import Findings, place_model, read_batch
from rxt_jax.losses.token_log_probs import TokenLogProbs
from rxt_jax.model.generation import prompt_width
from rxt_jax.types import EpisodeBatch

__all__ = ["absences_in_rows", "evaluate_split", "recalls_in_rows", "sample_episodes", "text_of"]

Question = TypeVar("Question", Recall, Absence)


class _Asked(NamedTuple):
    """What the conversations of a batch are asked, with numbers of conversations that count from its first one."""

    recalls: list[tuple[Recall, range | None]]  # with the tokens that spell the value in the true answer
    absences: list[Absence]

    def turns(self) -> set[tuple[int, int]]:
        """List (turn, row) of all questions; two values may be asked for in one turn."""
        return {(each.turn, each.episode) for each in (*(recall for recall, _ in self.recalls), *self.absences)}


def evaluate_split(
    model: Any,
    tokenizer: Tokenizer,
    source: EpisodeSource,
    data: DataConfig,
    config: EvaluationConfig,
) -> SplitResult:
    """Measure a model on `config.episodes` episodes of a source, in whole batches.

    Of a file they are taken at even distances, because files are often sorted; of the embedded
    dialogues the first ones.

    `data` gives the length of rows and episodes; what does not fit is counted in the result. A value counts
    as recalled where the greedy reply holds it, in whatever block (thought, answer, tool call) it stands.
    """
    episodes, size = sample_episodes(source, config)
    longest = max(len(episode["interactions"]) for episode in episodes) + data.use_system_prompt
    encoder = RowEncoder(tokenizer, replace(data, max_interactions=min(longest, data.max_interactions)))
    rows = [encoder.episode(episode) for episode in episodes]
    recalls, dropped = recalls_in_rows(episodes, rows, encoder)
    absences = absences_in_rows(episodes, rows, encoder)
    result = SplitResult(
        len(episodes), 0, {name: ConditionResult() for name in config.conditions}, dropped_recalls=dropped
    )
    placed = place_model(model, config)
    prompts = (_prompt_length(rows[each.episode][each.turn]) for each in (*recalls, *absences))
    read = ReadAnswers(
        width=prompt_width(max(prompts, default=0), encoder.config.max_length),
        max_new_tokens=config.max_new_tokens,
        end_id=encoder.special.eos,
        pad_id=encoder.special.pad,
    )
    for start in range(0, len(rows), size):
        here = rows[start : start + size]
        spans = [(recall, _value_tokens(here, recall, encoder)) for recall in _of_batch(recalls, start, size)]
        asked = _Asked(spans, _of_batch(absences, start, size))
        batch = make_episode_batch(here, encoder, encoder.config.max_interactions)
        result.interactions += int(batch.valid.sum())
        targets = batch.loss_mask & batch.valid[..., None]
        found = read_batch(placed, batch, *_ask(here, batch, asked, targets), read, config, first=start)
        _count(result, found, targets, asked, encoder)
    result.chance = chance_level(recalls)
    result.cut_rows, result.shortened_episodes = encoder.report.cut.total(), encoder.report.episodes_shortened
    return result


def sample_episodes(source: EpisodeSource, config: EvaluationConfig) -> tuple[list[dict[str, Any]], int]:
    """Take the episodes to measure, in whole batches, and say how large those are."""
    count = config.episodes if source.size is None else min(config.episodes, source.size)
    size = min(config.batch_size, count)
    count -= count % size  # whole batches alone: one compile
    step = 1 if source.size is None else source.size / count
    return [source.episode(int(number * step)) for number in range(count)], size


def recalls_in_rows(
    episodes: Sequence[Mapping[str, Any]], rows: Sequence[Sequence[Row]], encoder: RowEncoder
) -> tuple[list[Recall], int]:
    """List the annotated values with the number of their row for a turn, and count those whose row was dropped."""
    return _in_rows(recalls_of(episodes, encoder.config.max_interactions), episodes, rows, encoder)


def absences_in_rows(
    episodes: Sequence[Mapping[str, Any]], rows: Sequence[Sequence[Row]], encoder: RowEncoder
) -> list[Absence]:
    """List the questions about what was never said with the number of their row for a turn."""
    return _in_rows(absences_of(episodes, encoder.config.max_interactions), episodes, rows, encoder)[0]


def _in_rows(
    found: list[Question],
    episodes: Sequence[Mapping[str, Any]],
    rows: Sequence[Sequence[Row]],
    encoder: RowEncoder,
) -> tuple[list[Question], int]:
    first = [encoder.leading_rows(episode) for episode in episodes]
    found = [question._replace(turn=question.turn + first[question.episode]) for question in found]
    found = [question for question in found if question.turn < len(rows[question.episode])]
    usable = [question for question in found if rows[question.episode][question.turn].valid]
    return usable, len(found) - len(usable)


def text_of(ids: Sequence[int], encoder: RowEncoder) -> str:
    """Join the blocks of a generated answer part, up to its end; control tokens separate words."""
    control = set(encoder.special.names)
    text, block = [], []
    for identity in [*ids, encoder.special.eos]:
        if identity in control:
            text.append(encoder.tokenizer.decode(block))
            block = []
        else:
            block.append(identity)
        if identity == encoder.special.eos:
            break
    return " ".join(text)


def _of_batch(questions: Iterable[Question], start: int, size: int) -> list[Question]:
    return [each._replace(episode=each.episode - start) for each in questions if start <= each.episode < start + size]


def _prompt_length(row: Row) -> int:
    """Count the tokens that a model is given: the prompt and the first token of the answer part.

    That one says which block comes: the caller's choice, not the model's.
    """
    return min(row.prompt_length + 1, len(row.ids))


def _value_tokens(rows: Sequence[Sequence[Row]], recall: Recall, encoder: RowEncoder) -> range | None:
    row = rows[recall.episode][recall.turn]
    return find_value_tokens(row.ids, row.prompt_length, recall.value, encoder.tokenizer.token_bytes)


def _ask(
    rows: Sequence[Sequence[Row]], batch: EpisodeBatch, asked: _Asked, targets: np.ndarray
) -> tuple[AnswerRows, np.ndarray]:
    """Write for the reader what is wanted of a batch, and which rows are asked something, `[I B]`."""
    scored, prompt_length, asks = targets.copy(), np.ones(batch.valid.shape, np.int32), np.zeros_like(batch.valid)
    for recall, span in asked.recalls:
        if span is not None:
            scored[recall.turn, recall.episode, span.start : span.stop] = True
    for turn, row in asked.turns():
        asks[turn, row], prompt_length[turn, row] = True, _prompt_length(rows[row][turn])
    return AnswerRows(batch.ids, batch.token_mask, scored, prompt_length), asks


def _count(result: SplitResult, found: Findings, targets: np.ndarray, asked: _Asked, encoder: RowEncoder) -> None:
    """Add what was found in a batch to every condition."""
    tokens: TokenLogProbs = found.rows
    for number, one in enumerate(result.conditions.values()):
        correct = np.asarray(tokens.correct[number])
        one.count_tokens(-np.asarray(tokens.log_probs[number]), correct, targets)
        texts = {(turn, row): text_of(found.groups[number, turn, row].tolist(), encoder) for turn, row in asked.turns()}
        for recall, span in asked.recalls:
            one.count_value(None if span is None else correct[recall.turn, recall.episode, span.start : span.stop])
            one.count_recall(recall, texts[recall.turn, recall.episode])
        for absence in asked.absences:
            one.count_absence(texts[absence.turn, absence.episode])
