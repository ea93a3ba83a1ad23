"""The measurement: recall by distance and answer perplexity, with memory as it is and spoilt.

Every conversation is walked once; the four conditions differ in what the decoder is given to read.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from rxt_jax.data.config import DataConfig
from rxt_jax.data.loader import make_episode_batch
from rxt_jax.data.rows import Row, RowEncoder
from rxt_jax.data.sources import EpisodeSource
from rxt_jax.data.tokenizer import Tokenizer
from rxt_jax.evaluation.config import EvaluationConfig
from rxt_jax.evaluation.memories import collect_memories, generate_rows, score_tokens, under_condition
from rxt_jax.evaluation.recall import Absence, Recall, absences_of, chance_level, find_value_tokens, recalls_of
from rxt_jax.evaluation.report import ConditionResult, SplitResult
from rxt_jax.model.generation import prompt_width

__all__ = ["absences_in_rows", "answer_text", "evaluate_split", "generate_texts", "recalls_in_rows", "sample_episodes"]

Question = TypeVar("Question", Recall, Absence)


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
    count, longest = len(episodes), max(len(episode["interactions"]) for episode in episodes) + data.use_system_prompt
    encoder = RowEncoder(tokenizer, replace(data, max_interactions=min(longest, data.max_interactions)))
    result = SplitResult(
        episodes=count, interactions=0, conditions={name: ConditionResult() for name in config.conditions}
    )
    graphdef, params = nnx.split(model)
    all_recalls: list[Recall] = []
    for start in range(0, count, size):
        batch_episodes = episodes[start : start + size]
        rows = [encoder.episode(episode) for episode in batch_episodes]
        batch = make_episode_batch(rows, encoder, encoder.config.max_interactions)
        recalls, dropped = recalls_in_rows(batch_episodes, rows, encoder)
        absences = absences_in_rows(batch_episodes, rows, encoder)
        all_recalls += recalls
        result.dropped_recalls += dropped
        result.interactions += int(batch.valid.sum())
        memories = collect_memories(graphdef, params, jax.tree.map(jnp.asarray, batch))
        for name in config.conditions:
            spoilt = under_condition(memories, name)
            _score(result.conditions[name], graphdef, params, batch, spoilt, recalls, rows, encoder)
            _answer(result.conditions[name], graphdef, params, spoilt, recalls, absences, rows, encoder, config)
    result.chance = chance_level(all_recalls)
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


def _score(
    result: ConditionResult,
    graphdef: Any,
    params: Any,
    batch: Any,
    memories: jax.Array,
    recalls: Sequence[Recall],
    rows: list[list[Row]],
    encoder: RowEncoder,
) -> None:
    """Add what is known without generating: likelihood of answers, and hits on the tokens of values.

    Tokens that follow the first one of a value are predicted from the true ones before them, so this is
    above recall even for a model that guesses.
    """
    losses, hits = jax.device_get(score_tokens(graphdef, params, jax.tree.map(jnp.asarray, batch), memories))
    result.count_tokens(losses, hits, batch.loss_mask & batch.valid[..., None])
    for recall in recalls:
        row = rows[recall.episode][recall.turn]
        found = find_value_tokens(row.ids, row.prompt_length, recall.value, encoder.tokenizer.token_bytes)
        if found is None:
            result.values_without_tokens += 1
            continue
        of_value = hits[recall.turn, recall.episode, found.start : found.stop]
        result.value_tokens += len(of_value)
        result.correct_value_tokens += int(np.sum(of_value))


def _answer(
    result: ConditionResult,
    graphdef: Any,
    params: Any,
    memories: jax.Array,
    recalls: Sequence[Recall],
    absences: Sequence[Absence],
    rows: list[list[Row]],
    encoder: RowEncoder,
    config: EvaluationConfig,
) -> None:
    """Generate the turns that ask for something, and look for the values in the text."""
    turns = sorted({(question.turn, question.episode) for question in (*recalls, *absences)})
    # The first token of the answer part says which block comes: the caller's choice, not the model's.
    prompts = [rows[episode][turn].ids[: rows[episode][turn].prompt_length + 1] for turn, episode in turns]

    def memory_of(numbers: np.ndarray) -> jax.Array:
        at = np.array(turns)[numbers]
        return jnp.moveaxis(memories[at[:, 0], :, at[:, 1]], 0, 1)

    texts = dict(
        zip(
            turns,
            generate_texts(graphdef, params, prompts, memory_of, encoder, config, encoder.config.max_length),
            strict=True,
        )
    )
    for recall in recalls:
        result.count_recall(recall, texts[recall.turn, recall.episode])
    for absence in absences:
        result.count_absence(texts[absence.turn, absence.episode])


def generate_texts(
    graphdef: Any,
    params: Any,
    prompts: Sequence[list[int]],
    memory_of: Callable[[np.ndarray], Any],
    encoder: RowEncoder,
    config: EvaluationConfig,
    length: int,
) -> list[str]:
    """Answer prompts of at most `length` tokens greedily, in batches of one shape; `memory_of` picks their memories."""
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
        new = generate_rows(
            graphdef,
            params,
            memory_of(numbers),
            jnp.asarray(ids),
            jnp.asarray(mask),
            config.max_new_tokens,
            special.eos,
        )
        for row_ids in np.asarray(new)[: len(prompts) - start].tolist():
            ended = row_ids.index(special.eos) if special.eos in row_ids else len(row_ids)
            texts.append(answer_text(row_ids[:ended], encoder))
    return texts


def answer_text(ids: list[int], encoder: RowEncoder) -> str:
    """Join the blocks of an answer part; control tokens separate words."""
    control = set(encoder.special.names)
    text, block = [], []
    for identity in [*ids, encoder.special.eos]:
        if identity in control:
            text.append(encoder.tokenizer.decode(block))
            block = []
        else:
            block.append(identity)
    return " ".join(text)
