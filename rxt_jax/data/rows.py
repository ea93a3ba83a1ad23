"""Rows of ids with their masks, for interactions, episodes, preferences and texts."""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from itertools import accumulate
from typing import Any, NamedTuple, get_args

import numpy as np

from rxt_jax.data.config import DataConfig, Overlong
from rxt_jax.data.dialogues.draws import Draws
from rxt_jax.data.overlong import cut_blocks_left, cut_keeping_end, cut_longest_first
from rxt_jax.data.row_report import LoadReport
from rxt_jax.data.special_tokens import ABSENT
from rxt_jax.data.subword_sampler import SubwordSampler
from rxt_jax.data.template import (
    OUTPUT_BLOCKS,
    Block,
    Encode,
    answer_ids,
    join_blocks,
    label_mask,
    prompt_blocks,
    reading_control_tokens,
    system_prompt_ids,
)
from rxt_jax.data.tokenizer import Tokenizer
from rxt_jax.data.value_tokens import find_value_tokens

__all__ = ["Row", "RowEncoder", "join_parts", "join_rows", "stack_conversations", "stack_rows", "weigh_values"]


class Row(NamedTuple):
    """One interaction: its ids, how many of them are the prompt, and whether it is to be used.

    Every token behind the prompt is a target, unless `labels` says for every token whether it is. `values` are the
    tokens of values that the answer recalls, where the data weigh them (`DataConfig.value_weight`).
    """

    ids: list[int]
    prompt_length: int
    valid: bool = True
    labels: Sequence[bool] | None = None
    values: tuple[range, ...] = ()

    def label_list(self) -> list[bool]:
        """Tell for every token whether it is a target."""
        if not self.valid:
            return [False] * len(self.ids)
        if self.labels is not None:
            return list(self.labels)
        return [place >= self.prompt_length for place in range(len(self.ids))]


class RowEncoder:
    """Turn records into rows of at most `max_length` tokens; fields met before are not tokenised again.

    With an `encode` of one's own in place of the tokenizer's every field is tokenised whenever it comes. Rows are never
    sampled here, whatever `subword_sampling` says: the loader does that for training (`sampled`).
    """

    def __init__(
        self, tokenizer: Tokenizer, config: DataConfig, report: LoadReport | None = None, encode: Encode | None = None
    ):
        if config.overlong not in get_args(Overlong):
            raise ValueError(f"overlong must be one of {', '.join(get_args(Overlong))}, got {config.overlong!r}.")
        self.tokenizer = tokenizer
        self.config = config
        self.special = tokenizer.special
        self.report = report or LoadReport()
        self._encode_any = encode or tokenizer.encode
        if config.compatibility.parse_control_tokens_in_text:
            self._encode_any = reading_control_tokens(self._encode_any, self.special)
        self.encode = self._encode_any if encode else lru_cache(maxsize=1 << 17)(self._encode_any)
        self._unused = Row([self.special.bos], 1, valid=False)
        # Where nothing differs from the template, the length of the prompt says what the labels are.
        self._walk_labels = (
            config.template == "pair"
            or config.compatibility.parse_control_tokens_in_text
            or not (config.train_control_tokens and config.train_eos)
        )

    def __reduce__(self) -> tuple[Any, ...]:
        # Worker processes fill a cache and a report of their own.
        return RowEncoder, (self.tokenizer, self.config)

    def sampled(self, sampler: SubwordSampler, draws: Draws) -> "RowEncoder":
        """Return an encoder whose fields are cut into pieces as the draws say, one after the other; it counts here."""
        return RowEncoder(self.tokenizer, self.config, self.report, lambda text: sampler.encode(text, draws))

    def interaction(self, interaction: Mapping[str, Any]) -> Row:
        """Encode one interaction and apply the policy for over-long ones. Source: docs/method.md §13.4."""
        if self.config.template == "pair":
            query = self.encode(interaction.get("query") or "")
            if not interaction.get("answer"):
                return self._finished(*self._without_answer(query))
            blocks = [Block(self.special.query, query)]
            answer = answer_ids({"answer": interaction["answer"]}, self.encode, self.special)
        else:
            blocks = prompt_blocks(interaction, self.encode, self.special)
            answer = answer_ids(interaction, self.encode, self.special)
        row = self._finished(*self._fitted(blocks, answer, interaction))
        return row if self.config.value_weight == 1.0 else row._replace(values=self._values(row, interaction))

    def episode(self, episode: Mapping[str, Any]) -> list[Row]:
        """Encode the first `max_interactions` interactions of an episode, behind its system prompt if one is wanted."""
        rows = self._system_rows(episode)
        return rows + [self.interaction(each) for each in self._first_interactions(episode, len(rows))]

    def unit(self, episode: Mapping[str, Any], number: int) -> Row:
        """Encode one row of a whole episode; the first may be its system prompt (`leading_rows`)."""
        number -= self.leading_rows(episode)
        return self._system_row(episode) if number < 0 else self.interaction(episode["interactions"][number])

    def preference_episode(self, episode: Mapping[str, Any]) -> tuple[list[Row], list[Row], list[Row]]:
        """Encode an episode of alternatives: chosen, rejected and neutral rows, one each per interaction.

        A chosen row is valid: memory is updated from it. A rejected one is valid if the interaction has one that is
        to be scored; so is a neutral one. Answers that are too long keep `[EOS]`; where one would lose all of its text,
        or chosen and rejected would become the same, the pair is not scored, and counted.
        Source: docs/method.md §13.6.
        """
        rows = [(row, self._unused, self._unused) for row in self._system_rows(episode)]
        rows += [self._alternatives(each) for each in self._first_interactions(episode, len(rows))]
        chosen, rejected, neutral = zip(*rows, strict=True)
        return list(chosen), list(rejected), list(neutral)

    def conversation(self, episode: Mapping[str, Any]) -> Row:
        """Encode an episode as one row of at most `conversation_length` tokens, for the stateless baseline."""
        rows = self.episode(episode)
        length, one_eos = self.config.conversation_length, self.config.compatibility.one_eos_per_conversation
        ids, scored = join_rows(rows, length, one_eos=one_eos)
        sizes = accumulate(len(row.ids) - 1 for row in rows if row.valid)
        left_out = sum(1 + size > length for size in sizes)
        if left_out:
            self.report.shortened(left_out)
        return Row(ids, len(ids), labels=scored)

    def text(self, text: str) -> Row:
        """Encode a plain text, `[BOS] text [EOS]`, cut on the right; all of it is a target.

        Source: docs/method.md §13.2.
        """
        ids = [self.special.bos, *self._encode_any(text), self.special.eos]
        length = self.config.text_length
        if len(ids) <= length:
            self.report.row()
            return Row(ids, 1)
        self.report.row(cut="text")
        return Row([*ids[: length - 1], self.special.eos] if self.config.end_cut_texts else ids[:length], 1)

    def _fitted(self, blocks: list[Block], answer: list[int], interaction: Mapping[str, Any]) -> tuple[Row, str | None]:
        """Join the parts, shortened as the policy says, and tell what was cut."""
        prompt = [self.special.bos, *join_blocks(blocks)]
        length, policy = self.config.max_length, self.config.overlong
        excess = len(prompt) + len(answer) - length
        if excess <= 0:
            return Row(prompt + answer, len(prompt)), None
        if policy == "error":
            text = interaction.get("query") or interaction.get("tool_use")
            raise ValueError(
                f"an interaction has {len(prompt) + len(answer)} tokens, more than max_length = {length}: {text!r}. "
                f"Raise data.max_length, or choose another data.overlong."
            )
        whole = (len(prompt), len(answer))
        if policy == "cut_input_first":
            prompt = [self.special.bos, *join_blocks(cut_blocks_left(blocks, excess))]
        elif policy == "longest_first" and blocks and len(answer) > 1:
            # Only text is cut: the question's, and all that stands between the first output control and [EOS].
            *before, (control, text) = blocks
            room = length - (len(prompt) - len(text)) - 2
            text, output = cut_longest_first(text, answer[1:-1], room)
            prompt = [self.special.bos, *join_blocks([*before, Block(control, text)])]
            answer = [answer[0], *output, answer[-1]]
        row = join_parts(prompt, answer, length)
        cut = (row.prompt_length < whole[0], len(row.ids) - row.prompt_length < whole[1])
        return row, {(True, False): "input", (False, True): "output"}.get(cut, "input and output")

    def _finished(self, row: Row, cut: str | None) -> Row:
        """Give a row its labels, count it, and drop it if the policy says so."""
        if self._walk_labels:
            labels = label_mask(
                row.ids,
                self.special,
                outputs=("answer",) if self.config.template == "pair" else OUTPUT_BLOCKS,
                train_control_tokens=self.config.train_control_tokens,
                train_eos=self.config.train_eos,
            )
            row = row._replace(labels=labels)
            labelled = any(labels)
        else:
            labelled = row.prompt_length < len(row.ids)
        if not labelled and self.config.overlong == "drop_record":
            self.report.row(dropped="no label left")
            return self._unused
        self.report.row(cut=cut, without_label=not labelled)
        return row

    def _values(self, row: Row, interaction: Mapping[str, Any]) -> tuple[range, ...]:
        """Find what the annotations of an interaction say that its answer recalls."""
        values = (str(each["value"]) for each in interaction.get("recall") or ())
        spans = (find_value_tokens(row.ids, row.prompt_length, value, self.tokenizer.token_bytes) for value in values)
        return tuple(span for span in spans if span is not None)

    def _without_answer(self, query: list[int]) -> tuple[Row, str | None]:
        """Write a pair whose answer is empty as the published pair template does: as plain text without a label."""
        ids = [self.special.bos, *query, self.special.eos]
        length = self.config.max_length
        if len(ids) <= length:
            return Row(ids, len(ids)), None
        return Row([*ids[: length - 1], self.special.eos], length), "input"

    def _alternatives(self, interaction: Mapping[str, Any]) -> tuple[Row, Row, Row]:
        blocks = prompt_blocks(interaction, self.encode, self.special)
        names = ("chosen", "rejected", "neutral")
        answers = {
            name: answer_ids(interaction[name], self.encode, self.special) for name in names if interaction.get(name)
        }
        length = self.config.max_length
        prompt = [self.special.bos, *join_blocks(blocks)]
        excess = len(prompt) + max(map(len, answers.values())) - length
        if excess > 0 and self.config.overlong == "error":
            raise ValueError(f"an alternative is {excess} tokens longer than max_length = {length}. Raise the latter.")
        if excess > 0 and self.config.overlong == "cut_input_first":
            prompt = [self.special.bos, *join_blocks(cut_blocks_left(blocks, excess))]
        prompt = prompt[:length]
        cut = {name: cut_keeping_end(answer, length - len(prompt)) for name, answer in answers.items()}
        reason = None
        if cut["chosen"] is None or ("rejected" in cut and cut["rejected"] is None):
            reason = "answer cut away"
        elif cut["chosen"] == cut.get("rejected"):
            reason = "answers are the same"
        if "rejected" in answers:
            self.report.pair(dropped=reason)
        rows = []
        for name in names:
            answer = cut.get(name)
            scored = answer is not None and reason is None
            if name == "chosen" or scored:
                self.report.row(cut=None if excess <= 0 else "preference")
                rows.append(Row(prompt + (answer or []), len(prompt)))
            else:
                rows.append(self._unused)
        return rows[0], rows[1], rows[2]

    def leading_rows(self, episode: Mapping[str, Any]) -> int:
        """Tell how many rows of an episode stand before its first interaction: its system prompt, if it is written."""
        return int(self.config.use_system_prompt and bool(episode.get("system")))

    def _system_rows(self, episode: Mapping[str, Any]) -> list[Row]:
        return [self._system_row(episode)] if self.leading_rows(episode) else []

    def _system_row(self, episode: Mapping[str, Any]) -> Row:
        """Write the system prompt as a row that memory is updated from and nothing is predicted in."""
        as_question = self.special.internal == ABSENT
        ids = system_prompt_ids(episode["system"], self.encode, self.special, as_question=as_question)
        self.report.row(cut="system" if len(ids) > self.config.max_length else None)
        ids = ids[: self.config.max_length]
        return Row(ids, len(ids))

    def _first_interactions(self, episode: Mapping[str, Any], taken: int) -> list[Mapping[str, Any]]:
        interactions = episode["interactions"]
        room = self.config.max_interactions - taken
        if len(interactions) > room:
            self.report.shortened(len(interactions) - room)
        return interactions[:room]


def join_parts(prompt: list[int], answer: list[int], length: int) -> Row:
    """Join a prompt part and an answer part to a row of at most `length` tokens, cut on the right.

    Source: docs/method.md, eq. 59.
    """
    prompt = prompt[:length]
    return Row(prompt + answer[: length - len(prompt)], len(prompt))


def join_rows(rows: Sequence[Row], length: int, *, one_eos: bool = False) -> tuple[list[int], list[bool]]:
    """Join the interactions of a conversation to one row, `[BOS]` once: ids, and which of them are targets.

    Interactions that are not whole within `length` tokens are left out with all that follow. Every answer keeps
    its `[EOS]`, or the baseline would never learn to stop; `one_eos` keeps the last one only, no target, and cuts
    on the right wherever that is (published). Source: docs/method.md §13.7.
    """
    if one_eos:
        whole = [(row.ids[1:-1], row.label_list()[1:-1]) for row in rows if row.valid]
        ids = [*rows[0].ids[:1], *(identity for ids, _ in whole for identity in ids), *rows[-1].ids[-1:]]
        scored = [False, *(target for _, labels in whole for target in labels), False]
        return ids[:length], scored[:length]
    ids: list[int] = list(rows[0].ids[:1]) if rows else []
    scored = [False] * len(ids)
    for row in rows:
        if not row.valid:
            continue
        if len(ids) + len(row.ids) - 1 > length:
            break
        ids += row.ids[1:]
        scored += row.label_list()[1:]
    return ids, scored


def stack_conversations(
    conversations: Sequence[Sequence[Row]], length: int, pad: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Join each conversation to one row and pad: ids, token mask, loss mask, each `[conversations, length]`."""
    joined = [join_rows(rows, length) for rows in conversations]
    ids, token_mask, loss_mask = stack_rows([Row(ids, len(ids)) for ids, _ in joined], length, pad)
    for number, (_, scored) in enumerate(joined):
        loss_mask[number, : len(scored)] = scored
    return ids, token_mask, loss_mask


def stack_rows(rows: list[Row], length: int, pad: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pad rows on the right: ids, token mask, loss mask, each `[rows, length]`."""
    ids = np.full((len(rows), length), pad, np.int32)
    token_mask = np.zeros((len(rows), length), bool)
    loss_mask = np.zeros((len(rows), length), bool)
    for number, row in enumerate(rows):
        size = len(row.ids)
        ids[number, :size] = row.ids
        token_mask[number, :size] = row.valid
        if row.labels is not None and row.valid:
            loss_mask[number, :size] = row.labels
        else:
            loss_mask[number, row.prompt_length : size] = row.valid
    return ids, token_mask, loss_mask


def weigh_values(rows: list[Row], length: int, weight: float) -> np.ndarray:
    """Give the tokens of values that answers recall a weight, and all others 1: `[rows, length]`."""
    weights = np.ones((len(rows), length), np.float32)
    for number, row in enumerate(rows):
        for span in row.values:
            weights[number, span.start : span.stop] = weight
    return weights
