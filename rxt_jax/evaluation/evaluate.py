"""The measurement: recall by distance and answer perplexity, with memory as it is and spoilt.

Every conversation is walked once; the four conditions differ in what the decoder is given to read.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

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
from rxt_jax.evaluation.recall import Recall, chance_level, contains_value, find_value_tokens, recalls_of
from rxt_jax.evaluation.report import ConditionResult, SplitResult

__all__ = ["evaluate_split"]


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
    count = config.episodes if source.size is None else min(config.episodes, source.size)
    size = min(config.batch_size, count)
    count -= count % size  # whole batches alone: one compile
    step = 1 if source.size is None else source.size / count
    episodes = [source.episode(int(number * step)) for number in range(count)]
    longest = max(len(episode["interactions"]) for episode in episodes)
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
        recalls = recalls_of(batch_episodes, encoder.config.max_interactions)
        all_recalls += recalls
        result.interactions += int(batch.valid.sum())
        memories = collect_memories(graphdef, params, jax.tree.map(jnp.asarray, batch))
        for name in config.conditions:
            spoilt = under_condition(memories, name)
            _score(result.conditions[name], graphdef, params, batch, spoilt, recalls, rows, encoder)
            _answer(result.conditions[name], graphdef, params, spoilt, recalls, rows, encoder, config)
    result.chance = chance_level(all_recalls)
    result.cut_rows, result.shortened_episodes = encoder.report.cut, encoder.report.episodes_shortened
    return result


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
    scored = batch.loss_mask & batch.valid[..., None]
    result.loss += float(np.sum(losses[scored]))
    result.correct_tokens += int(np.sum(hits[scored]))
    result.tokens += int(scored.sum())
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
    rows: list[list[Row]],
    encoder: RowEncoder,
    config: EvaluationConfig,
) -> None:
    """Generate the turns that have to recall something, and look for the values in the text."""
    turns = sorted({(recall.turn, recall.episode) for recall in recalls})
    texts: dict[tuple[int, int], str] = {}
    special, length = encoder.special, encoder.config.max_length
    size = config.batch_size
    for start in range(0, len(turns), size):
        chunk = turns[start : start + size]
        padded = chunk + chunk[-1:] * (size - len(chunk))  # one shape, one compile
        ids = np.full((size, length), special.pad, np.int32)
        mask = np.zeros((size, length), bool)
        for number, (turn, episode) in enumerate(padded):
            row = rows[episode][turn]
            # The first token of the answer part says which block comes: the caller's choice, not the model's.
            prompt = row.ids[: row.prompt_length + 1]
            ids[number, : len(prompt)], mask[number, : len(prompt)] = prompt, True
        at = np.array(padded)
        memory = jnp.moveaxis(memories[at[:, 0], :, at[:, 1]], 0, 1)
        new = generate_rows(
            graphdef, params, memory, jnp.asarray(ids), jnp.asarray(mask), config.max_new_tokens, special.eos
        )
        for place, row_ids in zip(chunk, np.asarray(new).tolist(), strict=False):
            ended = row_ids.index(special.eos) if special.eos in row_ids else len(row_ids)
            texts[place] = _text_of(row_ids[:ended], encoder)
    for recall in recalls:
        result.count_recall(recall.distance, contains_value(texts[recall.turn, recall.episode], recall.value))


def _text_of(ids: list[int], encoder: RowEncoder) -> str:
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
