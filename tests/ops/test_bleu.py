"""BLEU against NLTK itself, and ROUGE-L and repetition against their definitions, on made-up batches."""

import warnings
from functools import partial
from itertools import pairwise

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nltk.translate.bleu_score import SmoothingFunction
from nltk.translate.bleu_score import corpus_bleu as nltk_corpus
from nltk.translate.bleu_score import sentence_bleu as nltk_sentence

from rxt_jax.ops.bleu import bleu_counts, corpus_bleu, sentence_bleu
from rxt_jax.ops.ngrams import repeated_share
from rxt_jax.ops.published_bleu import published_sentence_bleu
from rxt_jax.ops.rouge import longest_common_subsequence, rouge_l

ROWS, REFERENCES, WIDTH, ORDERS = 4, 2, 9, 4
METHODS = {
    "none": "method0",
    "floor": "method1",
    "add_k_higher": "method2",
    "nist": "method3",
    "chen_cherry": "method4",
}
WEIGHTS = ((1.0,), (0.5, 0.5), (0.25,) * 4, (0.1, 0.2, 0.3, 0.4))


@jax.jit
def all_scores(texts, orders):
    counts = bleu_counts(*texts, max_order=ORDERS, reference_orders=orders)
    names = [(weights, smoothing) for weights in WEIGHTS for smoothing in METHODS]
    sentences = {each: sentence_bleu(counts, each[0], smoothing=each[1]) for each in names}
    return sentences, {each: corpus_bleu(counts, each[0], smoothing=each[1]) for each in names}


def lists(seed, vocabulary):
    """Candidates and one or two references each, of 0 to WIDTH tokens; references often repeat the candidate."""
    rng = np.random.default_rng(seed)

    def text():
        return rng.integers(1, vocabulary + 1, rng.integers(0, WIDTH + 1)).tolist()

    def like(candidate):
        if rng.random() < 0.3:
            return text()
        kept = [each for each in candidate if rng.random() < 0.8]
        return (kept + text())[: rng.integers(0, WIDTH + 1)]

    candidates = [text() for _ in range(ROWS)]
    return candidates, [[like(each) for _ in range(rng.integers(1, REFERENCES + 1))] for each in candidates]


def padded(texts, fill=0):
    ids = np.full((len(texts), WIDTH), fill, np.int32)
    for row, text in enumerate(texts):
        ids[row, : len(text)] = text
    return ids, np.arange(WIDTH) < np.array([len(text) for text in texts])[:, None]


def arrays(candidates, references):
    filled = [row + [[]] * (REFERENCES - len(row)) for row in references]
    ids, mask = padded([text for row in filled for text in row])
    shape = (ROWS, REFERENCES, WIDTH)
    orders = np.array([[ORDERS] * len(row) + [0] * (REFERENCES - len(row)) for row in references])
    return (*padded(candidates), ids.reshape(shape), mask.reshape(shape)), orders


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 100_000), vocabulary=st.sampled_from((2, 4, 30)))
def test_scores_are_those_of_nltk(seed, vocabulary):
    candidates, references = lists(seed, vocabulary)
    sentences, corpora = all_scores(*arrays(candidates, references))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of orders without a match
        for (weights, smoothing), found in sentences.items():
            method = getattr(SmoothingFunction(), f"method{METHODS[smoothing]}")
            expected = [
                nltk_sentence(theirs, own, weights, method) for own, theirs in zip(candidates, references, strict=True)
            ]
            np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6, err_msg=f"{weights} {smoothing}")
            if any(candidates):
                expected = nltk_corpus(references, candidates, weights, method)
                found = corpora[weights, smoothing]
                np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6, err_msg=f"corpus {smoothing}")


def test_padding_inside_and_what_it_holds_change_nothing():
    candidates, references = [[5, 6, 7, 8]] * ROWS, [[[5, 6, 7, 8]]] * ROWS
    (ids, mask, their_ids, their_mask), orders = arrays(candidates, references)
    plain = all_scores((ids, mask, their_ids, their_mask), orders)[0]
    for fill in (5, -1, 2**31 - 1):
        noisy = (np.where(mask, ids, fill), mask, np.where(their_mask, their_ids, fill), their_mask)
        jax.tree.map(np.testing.assert_array_equal, all_scores(noisy, orders)[0], plain)
    mask[:, 1] = False  # 5 _ 7 8: three tokens, and 7 8 is the only longer n-gram
    counts = jax.jit(bleu_counts)(ids, mask, their_ids, their_mask, reference_orders=orders)
    np.testing.assert_array_equal(counts.matches[0], [3, 1, 0, 0])
    np.testing.assert_array_equal(counts.totals[0], [3, 1, 0, 0])
    assert counts.length[0] == 3


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda counts: sentence_bleu(counts, smoothing="method4"), "smoothing must be one of none, floor"),
        (lambda counts: sentence_bleu(counts, (0.2,) * 5), "1 to 4 orders"),
        (lambda counts: published_sentence_bleu(counts, smoothing="nist"), "smoothing must be one of none, floor"),
    ],
)
def test_impossible_scores(call, message):
    texts, orders = arrays([[1]] * ROWS, [[[1]]] * ROWS)
    counts = jax.eval_shape(partial(bleu_counts, reference_orders=orders), *texts)
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(call, counts)


@pytest.mark.parametrize(("option", "value"), [("max_order", 0), ("tie", "longer")])
def test_impossible_counts(option, value):
    texts, _ = arrays([[1]] * ROWS, [[[1]]] * ROWS)
    with pytest.raises(ValueError, match=option):
        bleu_counts(*texts, **{option: value})


def subsequence(a, b):
    """Walk over all pairs of prefixes."""
    best = np.zeros((len(a) + 1, len(b) + 1), int)
    for i, left in enumerate(a):
        for j, right in enumerate(b):
            best[i + 1, j + 1] = best[i, j] + 1 if left == right else max(best[i, j + 1], best[i + 1, j])
    return best[-1, -1]


longest, rouge, repeated = (
    jax.jit(longest_common_subsequence),
    jax.jit(rouge_l),
    jax.jit(repeated_share, static_argnums=2),
)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 100_000))
def test_rouge_and_repetition(seed):
    candidates, references = lists(seed, 3)
    references = [row[0] for row in references]
    texts = (*padded(candidates), *padded(references))
    common = [subsequence(a, b) for a, b in zip(candidates, references, strict=True)]
    np.testing.assert_array_equal(longest(*texts), common)
    sizes = [max(len(a) + len(b), 1) for a, b in zip(candidates, references, strict=True)]
    np.testing.assert_allclose(rouge(*texts), 2 * np.array(common) / sizes, rtol=1e-6)
    shares = []
    for text in candidates:
        pairs = list(pairwise(text))
        shares.append(1 - len(set(pairs)) / len(pairs) if pairs else 0.0)
    np.testing.assert_allclose(repeated(*padded(candidates), 2), shares, atol=1e-6)
