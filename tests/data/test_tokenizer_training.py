"""Tokenizers trained here: any text survives both kinds, files are read whole, the same texts give the same bytes."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rxt_jax.cli.main import main
from rxt_jax.data.tokenizer import JsonTokenizer, StreamDecoder, load_tokenizer
from rxt_jax.data.tokenizer_training import TokenizerConfig, train_tokenizer

TEXTS = ["The boat is green.", "Who wrote the log?", "The keeper wrote the log every evening."] * 20
BYTE_LEVEL = train_tokenizer(TEXTS, TokenizerConfig(kind="byte_level", vocab_size=400))


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=40))
def test_any_text_survives_a_byte_level_tokenizer_that_knows_all_bytes(text):
    ids = BYTE_LEVEL.encode(text)
    decoder = StreamDecoder(BYTE_LEVEL)
    # The prefix space is added only where there is none, so a first space cannot be told from it.
    assert BYTE_LEVEL.decode(ids) == text.removeprefix(" ")
    assert "".join([*map(decoder.push, ids), decoder.close()]) == text.removeprefix(" ")
    assert not set(BYTE_LEVEL.special.names) & set(ids)


def test_training_again_gives_the_same_tokenizer_and_loading_too(tmp_path):
    again = train_tokenizer(TEXTS, TokenizerConfig(kind="byte_level", vocab_size=400), tmp_path)
    assert isinstance(again, JsonTokenizer)
    assert again.fingerprint == BYTE_LEVEL.fingerprint == load_tokenizer(tmp_path).fingerprint


@pytest.mark.parametrize("share", [0.0, 0.5, 0.99])
def test_a_file_that_ends_too_soon_is_named(tmp_path, share):
    train_tokenizer(TEXTS, TokenizerConfig(vocab_size=400), tmp_path)
    file = tmp_path / "tokenizer.model"
    content = file.read_bytes()
    file.write_bytes(content[: int(share * len(content))])
    with pytest.raises(ValueError, match=r"tokenizer\.model is damaged: SentencePiece cannot read it"):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize(("kind", "file"), [("bpe", "tokenizer.model"), ("byte_level", "tokenizer.json")])
def test_the_command_reads_every_text_of_a_file(tmp_path, capsys, kind, file):
    # The word stands in the last field of the last record alone, often enough to become a piece.
    interactions = [{"query": f"number {number}", "answer": "noted"} for number in range(30)]
    interactions[-1]["tool_call"] = "quizzical " * 40
    lines = [json.dumps({"id": number, "interactions": [each]}) for number, each in enumerate(interactions)]
    (tmp_path / "data.jsonl").write_text("\n".join(lines))
    arguments = [str(tmp_path / "out"), "--data", str(tmp_path / "data.jsonl"), "--config.kind", kind]
    assert main(["tokenizer", "train", *arguments, "--config.vocab-size", "420"]) == 0
    tokenizer = load_tokenizer(tmp_path / "out")
    assert (tmp_path / "out" / file).is_file()
    assert len(tokenizer.encode("quizzical")) < 5
    assert tokenizer.fingerprint[:12] in capsys.readouterr().out


def test_a_vocabulary_that_is_too_small_is_refused():
    with pytest.raises(ValueError, match="vocab_size must be at least"):
        TokenizerConfig(kind="byte_level", vocab_size=200)
    assert TokenizerConfig(kind="byte_level", vocab_size=200, all_bytes=False).vocab_size == 200
