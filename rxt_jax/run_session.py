"""A conversation with the model of a run, whichever kind of model it is."""

import json
from pathlib import Path
from typing import Any

from rxt_jax.evaluation.answer_words import words_said_before
from rxt_jax.inspection import memory_worth
from rxt_jax.model import BaselineTransformer
from rxt_jax.run_folder import LoadedRun, loaded_run
from rxt_jax.serving import ChatSession, HistorySession

__all__ = ["open_session", "write_sample"]

# Names and words that no list of the embedded dialogues has: a value has to be copied, it cannot be known.
SAMPLE_CONVERSATION = (
    "Hi, I'm Ottoline and I live in Wexcombe.",
    "my dog is called Brumsel",
    "The blortle key is under the piano.",
    "How are you?",
    "what's my dog's name?",
    "Where do I live?",
    "do you remember where the blortle key is?",
    "What is my sister's name?",
)


def open_session(run: str | Path | LoadedRun, **options: Any) -> ChatSession | HistorySession:
    """Begin a conversation with the model of a run: its folder, `"companion"`, or what `load` gave.

    `options` are those of the session: `sampling`, `mode`, `seed` and the like. A model with memory gets a
    `ChatSession`, whose interactions are as long as those of its training; the stateless baseline a `HistorySession`.
    """
    loaded = loaded_run(run)
    if isinstance(loaded.model, BaselineTransformer):
        return HistorySession(loaded.model, loaded.tokenizer, **options)
    return ChatSession(loaded.model, loaded.tokenizer, max_length=loaded.recipe.data.max_length, **options)


def write_sample(loaded: LoadedRun) -> str | None:
    """Hold a short conversation, keep it in the run's `samples/` and return it as text.

    `conversation.json` beside it says where each answer came from: what memory was worth to it in nats
    (`memory_worth`), and which earlier turn said its words. The stateless baseline has no such file.
    None where the model did not learn from the embedded dialogues, whose kind of small talk it is.
    """
    if not loaded.recipe.data.source.is_embedded:
        return None
    session = open_session(loaded)
    turns = [(query, session.answer(query).strip()) for query in SAMPLE_CONVERSATION]
    text = "\n".join(f"you    {query}\nmodel  {answer}" for query, answer in turns)
    folder = loaded.recipe.run_folder / "samples"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "conversation.txt").write_text(text + "\n", encoding="utf-8")
    if isinstance(session, ChatSession):
        content = json.dumps(_sources(loaded, turns), indent=1, ensure_ascii=False)
        (folder / "conversation.json").write_text(content + "\n", encoding="utf-8")
    return text


def _sources(loaded: LoadedRun, turns: list[tuple[str, str]]) -> list[dict[str, Any]]:
    """Say of every turn where its answer came from; turns count from 0."""
    answered = [(query, answer or " ") for query, answer in turns]  # a row without an answer would ask for one
    worth = memory_worth(loaded.model, loaded.tokenizer, answered, loaded.recipe.data)
    queries = [query for query, _ in turns]
    return [
        {
            "query": query,
            "answer": answer,
            "memory_nats": nats,
            "said": {str(turn): words for turn, words in words_said_before(queries[: number + 1], answer).items()},
        }
        for number, ((query, answer), nats) in enumerate(zip(turns, worth, strict=True))
    ]
