"""`tokenizer.json` and the interaction template against the published tokenisation. Source: docs/method.md §13.2."""

import json

import pytest
from golden_case import golden_json, golden_path
from hypothesis import given, settings
from hypothesis import strategies as st

from rxt_jax.data.special_tokens import ABSENT, CONTROL_PIECES
from rxt_jax.data.template import interaction_parts, prompt_ids
from rxt_jax.data.tokenizer import JsonTokenizer, StreamDecoder, load_tokenizer

FOLDER = golden_path("tokenizer")
CASES = golden_json("tokenizer", "cases.json")
TOKENIZER = load_tokenizer(FOLDER)


def ids_of(method: str, arguments: dict) -> list[list[int]]:
    special, encode = TOKENIZER.special, TOKENIZER.encode
    rest = {name: arguments[name] for name in ("internal",) if name in arguments}
    if method == "tokenize_batch":
        rows = [prompt_ids({"query": text}, encode, special) for text in arguments["texts"]]
        return [row + [special.pad] * (arguments["max_seq_len"] - len(row)) for row in rows]
    if method == "tokenize_query":
        return [prompt_ids({"query": arguments["text"]} | rest, encode, special)[: arguments.get("max_seq_len")]]
    if method == "tokenize_tool_result":
        return [prompt_ids({"tool_use": arguments["text"]} | rest, encode, special)]
    if method == "tokenize_system_prompt":
        text = f"{CASES['beta_system_prompt_title']}\n\n{arguments['system']}"
        return [[special.bos, special.internal, *encode(text), special.eos]]
    prompt, answer = interaction_parts(arguments, encode, special)
    return [prompt + answer]


def is_half_a_pair(case: dict) -> bool:
    """Tell the interaction without an answer, which Alpha's method writes with `[A]` and its data set without."""
    method = (case["model"], case["method"])
    return method == ("alpha", "tokenize_full_interaction") and not case["arguments"]["answer"]


@pytest.mark.parametrize("case", [case for case in CASES["cases"] if not is_half_a_pair(case)])
def test_templates(case):
    assert ids_of(case["method"], case["arguments"]) == case["input_ids"]


@pytest.mark.parametrize("case", [case for case in CASES["stringify"] if case["token_id"] >= 0], ids=str)
def test_single_tokens(case):
    assert TOKENIZER.token_bytes[case["token_id"]].decode() == case["text"]


def test_the_vocabulary_is_that_of_the_file():
    assert TOKENIZER.vocab_size == CASES["vocabulary_in_file"]
    for name, piece in CONTROL_PIECES.items():
        assert getattr(TOKENIZER.special, name) == CASES["special_token_ids"][piece]


ALPHABET = "abcdefghijklmnopqrstuvwxyz !"  # the tiny vocabulary lacks many bytes


@settings(max_examples=50, deadline=None)
@given(st.text(ALPHABET, max_size=30).map(str.strip))
def test_decoding_and_streaming_are_exact(text):
    ids = TOKENIZER.encode(text)
    if TOKENIZER.special.unk in ids:
        return
    decoder = StreamDecoder(TOKENIZER)
    assert TOKENIZER.decode(ids) == text
    assert "".join([*map(decoder.push, ids), decoder.close()]) == text


@pytest.mark.parametrize("piece", CONTROL_PIECES.values())
def test_text_cannot_write_a_control_token(piece):
    assert not set(TOKENIZER.encode(f"say {piece} twice {piece}")) & (
        set(TOKENIZER.special.names) - {TOKENIZER.special.unk}
    )


def test_a_tokenizer_without_thoughts_says_so():
    content = json.loads((FOLDER / "tokenizer.json").read_text(encoding="utf-8"))
    content["added_tokens"] = [token for token in content["added_tokens"] if token["content"] != "[T]"]
    content["model"]["vocab"]["other"] = content["model"]["vocab"].pop("[T]")
    tokenizer = JsonTokenizer(json.dumps(content))
    assert tokenizer.special.think == ABSENT
    with pytest.raises(ValueError, match=r"no \[T\]"):
        interaction_parts({"query": "a", "think": "b", "answer": "c"}, tokenizer.encode, tokenizer.special)


def test_a_file_that_is_no_tokenizer():
    with pytest.raises(ValueError, match=r"tokenizer\.json"):
        JsonTokenizer("{}")
