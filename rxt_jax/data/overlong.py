"""Shortening what does not fit into a row. Source: docs/method.md §13.4."""

from collections.abc import Sequence

from rxt_jax.data.template import Block

__all__ = ["cut_blocks_left", "cut_keeping_end", "cut_longest_first"]


def cut_blocks_left(blocks: Sequence[Block], excess: int) -> list[Block]:
    """Take `excess` tokens away on the left: first from all of the instruction, then from the question or result.

    An instruction that loses all of its text loses its `[I]` as well. The last control token always stays.
    """
    kept = []
    for number, block in enumerate(blocks):
        last = number == len(blocks) - 1
        if not last and 0 < len(block.ids) + 1 <= excess:
            excess -= len(block.ids) + 1
            continue
        taken = min(max(excess, 0), len(block.ids))
        excess -= taken
        kept.append(Block(block.control, block.ids[taken:]))
    return kept


def cut_longest_first(first: list[int], second: list[int], room: int) -> tuple[list[int], list[int]]:
    """Shorten two texts to `room` tokens together, on their right: the longer one until they are equal, then both.

    An odd token stays with the one that was longer, with the second if none was.
    """
    if len(first) + len(second) <= room:
        return first, second
    short = min(len(first), len(second), max(room, 0) // 2)
    if len(first) <= len(second):
        return first[:short], second[: max(room, 0) - short]
    return first[: max(room, 0) - short], second[:short]


def cut_keeping_end(answer: list[int], room: int) -> list[int] | None:
    """Shorten an answer part but keep its last token, `[EOS]`; None if no token of its text would be left."""
    if len(answer) <= room:
        return answer
    return [*answer[: room - 1], answer[-1]] if room > 2 else None
