"""The same measurement for the stateless baseline, which has its past as text.

Two conditions: with the whole conversation before the question, and with the question alone.
"""

import functools
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import jax
import numpy as np
from flax import nnx

from rxt_jax.data.config import DataConfig
from rxt_jax.data.episode_source import EpisodeSource
from rxt_jax.data.rows import Row, RowEncoder, join_rows, stack_conversations
from rxt_jax.data.tokenizer import Tokenizer
from rxt_jax.data.value_tokens import find_value_tokens
from rxt_jax.evaluation.answering import generate_rows, read_tokens
from rxt_jax.evaluation.config import EvaluationConfig
from rxt_jax.evaluation.evaluate import absences_in_rows, recalls_in_rows, sample_episodes, text_of
from rxt_jax.evaluation.recall import Absence, Recall, chance_level
from rxt_jax.evaluation.report import ConditionResult, SplitResult
from rxt_jax.losses.token_log_probs import TokenLogProbs
from rxt_jax.model.generation import prompt_width
from rxt_jax.types import Array

__all__ = ["conversation_prompt", "evaluate_baseline"]

_CONDITIONS = ("history", "question_alone")


def evaluate_baseline(
    model: Any, tokenizer: Tokenizer, source: EpisodeSource, data: DataConfig, config: EvaluationConfig
) -> SplitResult:
    """Measure a `BaselineTransformer` as `evaluate_split` measures a model with memory.

    Rows are as long as the model allows; of a longer conversation the past is read from the interaction on that lets
    the question fit, and it is counted as shortened.
    """
    data = replace(data, conversation_length=model.config.max_length)
    episodes, size = sample_episodes(source, config)
    longest = max(len(episode["interactions"]) for episode in episodes) + data.use_system_prompt
    encoder = RowEncoder(tokenizer, replace(data, max_interactions=min(longest, data.max_interactions)))
    result = SplitResult(len(episodes), 0, {name: ConditionResult() for name in _CONDITIONS})
    graphdef, params = nnx.split(model)
    rows = [encoder.episode(episode) for episode in episodes]
    recalls, result.dropped_recalls = recalls_in_rows(episodes, rows, encoder)
    absences = absences_in_rows(episodes, rows, encoder)
    for name, one in result.conditions.items():
        pasts = [[conversation_prompt(row, turn, name, data) for turn in range(len(row))] for row in rows]
        _answer(one, graphdef, params, pasts, recalls, absences, encoder, config)
        for start in range(0, len(rows), size):
            mine = [recall for recall in recalls if start <= recall.episode < start + size]
            _score(one, graphdef, params, rows[start : start + size], mine, start, name, encoder)
    result.interactions = sum(row.valid for each in rows for row in each)
    result.chance = chance_level(recalls)
    result.cut_rows = encoder.report.cut.total()
    too_long = sum(1 + sum(len(row.ids) - 1 for row in each) > data.conversation_length for each in rows)
    result.shortened_episodes = encoder.report.episodes_shortened + too_long
    return result


def conversation_prompt(
    rows: Sequence[Row], turn: int, condition: str, data: DataConfig, *, end_every_answer: bool = True
) -> list[int]:
    """Write the prompt of a turn with as much of the past as fits, newest first, and the answer's first token.

    `end_every_answer=False` leaves out the `[EOS]` of what was answered (published).
    """
    row = rows[turn]
    question = row.ids[: row.prompt_length + 1]
    first, room = turn, data.conversation_length - len(question)
    while condition == "history" and first > 0 and len(rows[first - 1].ids) - 1 <= room:
        first -= 1
        room -= len(rows[first].ids) - 1
    if first == turn:
        return question
    past, _ = join_rows(rows[first:turn], data.conversation_length, one_eos=not end_every_answer)
    return [*(past if end_every_answer else past[:-1]), *question[1:]]


def _answer(
    result: ConditionResult,
    graphdef: Any,
    params: Any,
    pasts: list[list[list[int]]],
    recalls: Sequence[Recall],
    absences: Sequence[Absence],
    encoder: RowEncoder,
    config: EvaluationConfig,
) -> None:
    turns = sorted({(question.turn, question.episode) for question in (*recalls, *absences)})
    prompts = [pasts[episode][turn] for turn, episode in turns]
    length = encoder.config.conversation_length
    made = _generate_texts(graphdef, params, prompts, encoder, config, length)
    texts = dict(zip(turns, made, strict=True))
    for recall in recalls:
        result.count_recall(recall, texts[recall.turn, recall.episode])
    for absence in absences:
        result.count_absence(texts[absence.turn, absence.episode])


def _generate_texts(
    graphdef: Any,
    params: Any,
    prompts: Sequence[list[int]],
    encoder: RowEncoder,
    config: EvaluationConfig,
    length: int,
) -> list[str]:
    """Answer prompts of at most `length` tokens greedily, in batches of one shape."""
    special, size = encoder.special, config.batch_size
    width = prompt_width(max(map(len, prompts), default=0), length)
    texts: list[str] = []
    for start in range(0, len(prompts), size):
        numbers = np.minimum(np.arange(start, start + size), len(prompts) - 1)  # one shape, one compile
        ids = np.full((size, width), special.pad, np.int32)
        mask = np.zeros((size, width), bool)
        for place, number in enumerate(numbers):
            prompt = prompts[number]
            ids[place, : len(prompt)], mask[place, : len(prompt)] = prompt, True
        new = generate_rows(graphdef, params, None, ids, mask, config.max_new_tokens, special.eos)
        texts += [text_of(row, encoder) for row in np.asarray(new)[: len(prompts) - start].tolist()]
    return texts


@functools.partial(jax.jit, static_argnums=0)
def _score_tokens(graphdef: Any, params: Any, ids: Array, token_mask: Array, scored: Array) -> TokenLogProbs:
    """Score rows `[I B T]`, those of one I at a time."""
    model = nnx.merge(graphdef, params)
    return jax.lax.map(lambda rows: read_tokens(model, None, *rows), (ids, token_mask, scored))


def _score(
    result: ConditionResult,
    graphdef: Any,
    params: Any,
    rows: list[list[Row]],
    recalls: Sequence[Recall],
    first: int,
    condition: str,
    encoder: RowEncoder,
) -> None:
    """Score all answers: of whole conversations, or of every interaction as a conversation of its own."""
    turns, length = max(map(len, rows)), encoder.config.conversation_length
    if condition == "history":
        conversations = [rows]
    else:
        length = encoder.config.max_length
        conversations = [[row[turn : turn + 1] for row in rows] for turn in range(turns)]
    stacked = [stack_conversations(each, length, encoder.special.pad) for each in conversations]
    ids, token_mask, loss_mask = (np.stack(leaves) for leaves in zip(*stacked, strict=True))
    values = []
    for recall in recalls:
        mine = rows[recall.episode - first]
        row = mine[recall.turn]
        found = find_value_tokens(row.ids, row.prompt_length, recall.value, encoder.tokenizer.token_bytes)
        offset = sum(len(each.ids) - 1 for each in mine[: recall.turn]) if condition == "history" else 0
        if found is None or offset + len(row.ids) > length:
            result.count_value(None)
            continue
        place = (0 if condition == "history" else recall.turn, recall.episode - first)
        values.append((*place, slice(offset + found.start, offset + found.stop)))
    scored = loss_mask.copy()
    for value in values:
        scored[value] = True
    log_probs, correct = jax.device_get(_score_tokens(graphdef, params, ids, token_mask, scored))
    result.count_tokens(-log_probs, correct, loss_mask)
    for value in values:
        result.count_value(correct[value])
