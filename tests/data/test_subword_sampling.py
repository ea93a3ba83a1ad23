"""Sampled segmentations: SentencePiece's distribution, exact text, one function of seed and visit, training alone."""

from collections import Counter
from dataclasses import replace
from functools import lru_cache, partial
from itertools import pairwise

import numpy as np
import pytest
import sentencepiece
from hypothesis import example, given, settings
from hypothesis import strategies as st
from test_loading import fingerprint, make, make_file, preferences_of

from rxt_jax.data.bpe_dropout import BpeDropout
from rxt_jax.data.config import DataConfig, DialogueData, FileData
from rxt_jax.data.dialogues.draws import Draws, stream_key
from rxt_jax.data.episode_source import EpisodeSource
from rxt_jax.data.preparing import prepare
from rxt_jax.data.read_ahead import read_ahead
from rxt_jax.data.row_reader import RowReader
from rxt_jax.data.rows import RowEncoder
from rxt_jax.data.sources import open_source
from rxt_jax.data.subword_sampler import SubwordSampler
from rxt_jax.data.tokenizer import SentencePieceTokenizer
from rxt_jax.data.tokenizer_training import TokenizerConfig, train_tokenizer
from rxt_jax.data.unigram_lattice import UnigramLattice
from rxt_jax.recipe import StageRun
from rxt_jax.run import make_batches
from rxt_jax.stages import JointPretraining

KEY = stream_key(3, 6)
KINDS = pytest.mark.parametrize("kind", ["bpe", "unigram"])
ODD = "\u2581 a\u2581\u2581b \0\t\n  \u00e9\U0001f600 [A] <0x41> \ufffd"


@lru_cache(maxsize=2)
def tokenizer(kind):
    source = open_source(DialogueData())
    return train_tokenizer((source.text(i) for i in range(400)), TokenizerConfig(kind=kind, vocab_size=560))


@lru_cache(maxsize=16)
def sampler(kind, strength):
    return SubwordSampler(tokenizer(kind), strength)


def own(kind):
    return sentencepiece.SentencePieceProcessor(model_proto=tokenizer(kind).model)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_file(tmp_path_factory.mktemp("sampling") / "episodes.jsonl")


@KINDS
@settings(max_examples=100, deadline=None)
@example(ODD, 0.5, 0)
@example("x" * 300, 0.5, 0)
@given(st.text(max_size=40), st.sampled_from([0.01, 0.1, 0.5, 1.0]), st.integers(0, 2**40))
def test_decoding_gives_any_text_back_and_no_control_token_comes_in(kind, text, strength, index):
    one = tokenizer(kind)
    ids = sampler(kind, strength).encode(text, Draws(KEY, index))
    assert one.decode(ids) == text
    assert ids == sampler(kind, strength).encode(text, Draws(KEY, index))
    assert not set(one.special.names) & set(ids)


@settings(max_examples=200, deadline=None)
@example(ODD)
@given(st.text(max_size=40))
def test_a_bpe_word_without_a_dropped_merge_is_the_usual_one(text):
    assert sampler("bpe", 1e-30).encode(text, Draws(KEY, 0)) == tokenizer("bpe").encode(text)


def test_the_limits_of_the_strength():
    source = open_source(DialogueData(split="iid"))
    texts = [source.text(number) for number in range(50)]
    for text in texts:
        usual = tokenizer("unigram").encode(text)
        sampled = sampler("unigram", 1e4).encode(text, Draws(KEY, 0))
        score = own("unigram").get_score
        assert sum(map(score, sampled)) == pytest.approx(sum(map(score, usual)), abs=1e-3)
        assert len(sampler("bpe", 1.0).encode(text, Draws(KEY, 0))) == len(text) + 1


def same_distribution(first: Counter, second: Counter) -> float:
    """The chance that two samples of one distribution differ as much; rare outcomes are counted together."""
    rare = [each for each in first | second if first[each] + second[each] < 20]
    table = [[counts[each] for each in first | second if each not in rare] for counts in (first, second)]
    for row, counts in zip(table, (first, second), strict=True):
        row.append(sum(counts[each] for each in rare))
    used = np.array(table)[:, np.array(table).sum(axis=0) > 0]
    from scipy.stats import chi2_contingency  # takes seconds to import, in every process that collects tests

    return 1.0 if used.shape[1] == 1 else chi2_contingency(used).pvalue


@KINDS
@pytest.mark.parametrize("strength", [0.1, 0.4, 0.9])
@pytest.mark.parametrize(
    "text", ["favourite", "green boat", "Kaffeeh\u00e4ferl", "yes  \U0001f600no", "aaaaaa", "12 dogs?"]
)
def test_the_distribution_is_that_of_sentencepiece(kind, strength, text):
    count, processor = 3000, own(kind)
    theirs = partial(processor.encode, " " + text, enable_sampling=True, alpha=strength, nbest_size=-1)
    expected = Counter(tuple(theirs()) for _ in range(count))
    found = Counter(tuple(sampler(kind, strength).encode(text, Draws(KEY, number))) for number in range(count))
    # SentencePiece's numbers are others in every process: once in a million runs chance alone fails this.
    assert same_distribution(expected, found) > 1e-7
    if text == "green boat":  # the test tells strengths apart
        other = Counter(tuple(sampler(kind, strength / 2).encode(text, Draws(KEY, number))) for number in range(count))
        assert same_distribution(expected, other) < 1e-7


def test_the_same_draws_give_the_same_pieces_wherever_and_with_whatever_version():
    scores = {piece: -float(rank) for rank, piece in enumerate(["an", "na", "ban", "ana", "anan", "b", "a", "n"])}
    cutters = BpeDropout(scores, 0.3), UnigramLattice(scores, 0.3)
    found = [["|".join(cutter.cut("banana", Draws(KEY, number))) for number in range(6)] for cutter in cutters]
    assert found == [
        ["ban|ana", "ban|ana", "b|a|n|ana", "ban|ana", "b|a|n|an|a", "b|a|n|ana"],
        ["ban|ana", "b|a|na|na", "b|an|ana", "ban|a|na", "b|an|ana", "ban|ana"],
    ]


def test_a_long_word_is_drawn_like_a_short_one():
    for kind in ("bpe", "unigram"):
        text = "greenboat" * 40
        ids = sampler(kind, 0.2).encode(text, Draws(KEY, 1))
        assert tokenizer(kind).decode(ids) == text
        assert ids != tokenizer(kind).encode(text)


def row_texts(batches, updates=range(12)):
    decode = batches._encoder.tokenizer.decode
    return [decode(row[mask]) for u in updates for row, mask in zip(*batches[u][:2], strict=True)]


def test_texts_stay_and_their_pieces_change_with_option_seed_and_visit(data):
    plain, sampled = (make("texts", data, text_length=600, subword_sampling=strength) for strength in (0.0, 0.2))
    assert row_texts(plain) == row_texts(sampled)
    assert all(fingerprint(plain[update]) != fingerprint(sampled[update]) for update in range(12))
    assert sum(sampled[u].token_mask.sum() for u in range(12)) > 1.1 * sum(plain[u].token_mask.sum() for u in range(12))
    # The only passage of a short record comes again in every epoch, cut otherwise.
    text = "My favourite colour is green, and the old boat is blue."
    reader = RowReader(_Constant(text), sampled._encoder, 5)
    cut = [tuple(reader.text(visit).rows[0].ids) for visit in range(40)]
    assert len(set(cut)) > 30
    assert cut == [tuple(RowReader(_Constant(text), sampled._encoder, 5).text(v).rows[0].ids) for v in range(40)]
    assert cut != [tuple(RowReader(_Constant(text), sampled._encoder, 6).text(v).rows[0].ids) for v in range(40)]


class _Constant(EpisodeSource):
    """One text, visited for ever."""

    fingerprint = "constant"

    def __init__(self, text):
        self._text = text

    def text(self, visit):
        return self._text

    def episode(self, visit):
        return {"interactions": [{"query": self._text, "answer": self._text}] * 3}


def test_rows_of_a_visit_are_cut_apart_and_whichever_is_read_first(data):
    encoder = make("texts", data, max_length=200, subword_sampling=0.2)._encoder
    reader = RowReader(_Constant("My favourite colour is green."), encoder, 5)
    rows = [row.ids for row in reader.record(7).item(slice(0, 3)).rows]
    assert all(first != second for first, second in pairwise(rows))
    again = RowReader(_Constant("My favourite colour is green."), encoder, 5)
    assert [again.record(7).item(slice(number, number + 1)).rows[0].ids for number in (2, 0, 1)] == [
        rows[2], rows[0], rows[1]
    ]  # fmt: skip


def test_threads_change_no_batch(data):
    alone, helped = (make("sampled bucketed episodes", data) for _ in range(2))
    ahead = read_ahead(helped, 2, threads=4)
    assert [fingerprint(next(ahead)) for _ in range(12)] == [fingerprint(alone[2 + number]) for number in range(12)]


def test_preferences_held_out_rows_and_the_encoder_itself_are_not_sampled(data):
    plain, sampled = (make("preferences", data, subword_sampling=strength) for strength in (0.0, 0.3))
    assert all(fingerprint(plain[update]) == fingerprint(sampled[update]) for update in range(3))
    source, run = open_source(data), StageRun(stage=JointPretraining(), updates=1, batch_size=4)
    encoders = [
        RowEncoder(plain._encoder.tokenizer, replace(plain._encoder.config, subword_sampling=s)) for s in (0, 0.3)
    ]
    usual, held_out = (make_batches(run, source, each, 1, held_out=True) for each in encoders)
    assert all(fingerprint(usual[update]) == fingerprint(held_out[update]) for update in range(3))
    assert fingerprint(make_batches(run, source, encoders[1], 1)[0]) != fingerprint(usual[0])
    assert held_out.report is encoders[1].report
    # Evaluation and `rxt data inspect` ask the encoder.
    episode = source.episode(0)
    for each in ("episode", "conversation"):
        assert getattr(encoders[0], each)(episode) == getattr(encoders[1], each)(episode)


def test_what_cannot_be_sampled_is_refused(data, tmp_path):
    for strength in (-0.1, 1.5):
        with pytest.raises(ValueError, match=r"subword_sampling must lie in \[0, 1\]"):
            DataConfig(subword_sampling=strength)
    byte_level = train_tokenizer(["The boat is green."] * 9, TokenizerConfig(kind="byte_level", vocab_size=400))
    config = DataConfig(subword_sampling=0.1, max_length=48)
    source = open_source(data)
    with pytest.raises(ValueError, match=r"data\.subword_sampling = 0\.1 .*byte-level"):
        RowReader(source, RowEncoder(byte_level, config), 0)
    encoder = RowEncoder(tokenizer("bpe"), config)
    with pytest.raises(ValueError, match=r"data\.subword_sampling = 0\.1 .*prepared rows are made once"):
        prepare(data, encoder, tmp_path / "sampled")
    assert not (tmp_path / "sampled").exists()
    prepare(data, RowEncoder(tokenizer("bpe"), replace(config, subword_sampling=0.0)), tmp_path / "prepared")
    prepared = open_source(FileData(path=str(tmp_path / "prepared")))
    with pytest.raises(ValueError, match=r"data\.subword_sampling = 0\.1 .*prepared were made once"):
        RowReader(prepared, encoder, 0)
    RowReader(prepared, encoder)  # to read them as they are, for held-out data, is fine
    RowReader(open_source(preferences_of(data)), encoder)


def test_a_model_with_pieces_of_one_s_own_is_refused():
    from sentencepiece import sentencepiece_model_pb2

    model = sentencepiece_model_pb2.ModelProto.FromString(tokenizer("bpe").model)
    model.pieces[-1].type = 4  # user-defined
    with pytest.raises(ValueError, match="without user-defined pieces"):
        SubwordSampler(SentencePieceTokenizer(model.SerializeToString()), 0.1)
