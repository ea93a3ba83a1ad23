"""Looking into the memory of a run: one conversation, turn by turn."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rxt_jax.data.records import RecordError, check_record, parse_json_lines
from rxt_jax.inspection import EXPERIMENTS, MemoryTrace, trace_conversation
from rxt_jax.model import BaselineTransformer
from rxt_jax.paths import as_path
from rxt_jax.run_folder import LoadedRun, loaded_run

__all__ = ["read_conversations", "trace_memory"]

Conversation = Mapping[str, Any] | Sequence[str]


def trace_memory(
    run: str | Path | LoadedRun,
    conversation: Conversation | str | Path,
    *,
    other: Conversation | None = None,
    experiments: Sequence[str] = EXPERIMENTS,
) -> MemoryTrace:
    """Trace what memory does in a conversation: what is written where, what answers read, what a slot is worth.

    run: the run's folder, `"companion"`, or what `load` gave.
    conversation: what the user says, as a list of texts which the model answers itself; or an episode
        (`docs/data.md`), whose interactions may lack the answer; or a jsonl file of such episodes, the first of which
        is traced and the second of which is `other`.
    other: the conversation whose memory is swapped in; without one there is no `swap`.
    experiments: which of `erase`, `freeze`, `swap` to make; each reads the answer L·S + L + 1 times.

    The result shows itself in notebooks; `html()` is the page. Raises what loading raises, and a `ValueError` for a
    model without memory or a conversation that is none.
    """
    loaded = loaded_run(run)
    if isinstance(loaded.model, BaselineTransformer):
        raise ValueError(f"{loaded.recipe.name} is the stateless baseline: it has no memory to trace")
    name = loaded.recipe.name
    if isinstance(conversation, (str, Path)):
        found = read_conversations(conversation)
        name = f"{name}: {Path(conversation).name}"
        episode, second = found[0], found[1] if len(found) > 1 else None
    else:
        episode, second = _as_episode(conversation, "the conversation"), None
    if other is not None:
        second = _as_episode(other, "the other conversation")
    recipe = loaded.recipe
    return trace_conversation(
        loaded.model,
        loaded.tokenizer,
        episode,
        replace(recipe.data, max_interactions=max(recipe.data.max_interactions, len(episode["interactions"]))),
        other=second,
        experiments=tuple(experiments),
        name=name,
        tokens_per_call=recipe.evaluation.tokens_per_call,
    )


def read_conversations(path: str | Path) -> list[dict[str, Any]]:
    """Read a jsonl file of episodes whose interactions may lack the answer; errors name file, line and field."""
    with as_path(path).open("rb") as file:
        records = list(parse_json_lines(file, str(path)))
    conversations = []
    for place, record in records:
        if isinstance(record, RecordError):
            raise record
        conversations.append(_checked(record, place))
    if not conversations:
        raise ValueError(f'{path} is empty; expected one conversation per line: {{"interactions": [...]}}')
    return conversations


def _as_episode(conversation: Conversation, place: str) -> dict[str, Any]:
    if isinstance(conversation, Mapping):
        return _checked(conversation, place)
    return _checked({"interactions": [{"query": text} for text in conversation]}, place)


def _checked(record: Mapping[str, Any], place: str) -> dict[str, Any]:
    """Check an episode as records are checked, except that an output may be missing: the model will answer."""
    silent: set[int] = set()
    interactions = record.get("interactions")
    if isinstance(interactions, list):
        filled = []
        for number, each in enumerate(interactions):
            if isinstance(each, Mapping) and not each.get("answer") and not each.get("tool_call"):
                silent.add(number)
                each = {**each, "answer": "-"}
            filled.append(each)
        record = {**record, "interactions": filled}
    checked = check_record(record, place, "conversation")
    kept = [
        {name: value for name, value in each.items() if name != "answer"} if number in silent else each
        for number, each in enumerate(checked["interactions"])
    ]
    return {**checked, "interactions": kept}
