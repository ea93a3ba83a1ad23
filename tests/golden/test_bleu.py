"""BLEU against NLTK's numbers and against the published ones. Source: docs/method.md §19.1."""

import json
from functools import partial
from pathlib import Path

import jax
import numpy as np
import pytest

from rxt_jax.ops.bleu import BleuCounts, bleu_counts, brevity_penalty, corpus_bleu, sentence_bleu
from rxt_jax.ops.published_bleu import published_corpus_bleu, published_corpus_counts, published_sentence_bleu

FOLDER = Path(__file__).parent / "rl"
CASES = {path.stem: json.loads(path.read_text()) for path in sorted(FOLDER.glob("bleu_?.json"))}
SUMMARY = json.loads((FOLDER / "bleu_nltk_equality_summary.json").read_text())["table"]
WIDTH, REFERENCES = 24, 3
NAMES = ("order1", "order2", "order3", "order4", "custom")
METHODS = {
    "method0": "none",
    "method1": "floor",
    "method2": "add_k_higher",
    "method3": "nist",
    "method4": "chen_cherry",
}
PUBLISHED = {
    "none": {"smoothing": "none"},
    "floor": {"smoothing": "floor"},
    "add-k": {"smoothing": "add_k"},
    "exp": {"smoothing": "exp"},
    "floor_eps_0.01": {"smoothing": "floor", "epsilon": 0.01},
    "add-k_k_2": {"smoothing": "add_k", "k": 2.0},
}
CORPUS_COUNTS = jax.jit(published_corpus_counts)


def padded(ids, pad):
    return np.pad(ids, [(0, 0)] * (np.ndim(ids) - 1) + [(0, WIDTH - np.shape(ids)[-1])], constant_values=pad)


def texts_of(batch):
    """Ids and masks of a batch, all of one width."""
    pad = batch.get("pad_token_id", 0)
    candidates, references = (padded(batch[name], pad) for name in ("candidates", "references"))
    return candidates, candidates != pad, references, references != pad


def counts_of(batches, tie):
    """Count the sentences of all batches in one call; those with fewer references lack the others."""
    columns, orders = [], []
    for batch in batches:
        candidates, mask, references, reference_mask = texts_of(batch)
        lacking = [(0, 0), (0, REFERENCES - references.shape[1]), (0, 0)]
        columns.append((candidates, mask, np.pad(references, lacking), np.pad(reference_mask, lacking)))
        orders.append(np.pad(np.full(references.shape[:2], 4), lacking[:2]))
    texts = (np.concatenate(each) for each in zip(*columns, strict=True))
    return jax.jit(partial(bleu_counts, tie=tie))(*texts, reference_orders=np.concatenate(orders))


def weights_of(batch, name):
    return tuple(batch.get("custom_weights", ())) if name == "custom" else (1 / int(name[-1]),) * int(name[-1])


def score_all(score, counts, batches, methods):
    """Compile once what all batches need: scores of all sentences by weights and method."""
    weights = {weights_of(batch, name) for batch in batches for name in NAMES} - {()}

    def scores(counts):
        return {(each, method): score(counts, each, method) for each in weights for method in methods}

    return jax.tree.map(np.asarray, jax.jit(scores)(counts))


def check_sentences(scores, case, batches, field):
    start = 0
    for batch in batches:
        rows = slice(start, start + len(batch["candidates"]))
        start = rows.stop
        for name, by_method in batch[field].items():
            for method, expected in by_method.items():
                found = scores[weights_of(batch, name), method][rows]
                np.testing.assert_allclose(found, expected, **case["tolerance"], err_msg=f"{name} {method}")


def nltk_score(counts, weights, method):
    return sentence_bleu(counts, weights, smoothing=METHODS[method])


def published_score(counts, weights, method):
    return published_sentence_bleu(counts, weights, **PUBLISHED[method])


@pytest.mark.parametrize("stem", CASES)
def test_counts_and_sentence_scores_are_those_of_nltk(stem):
    case = CASES[stem]
    batches = [batch for batch in case["batches"] if "nltk_sentence" in batch]
    counts = counts_of(batches, "shorter")
    for name, found in (("matches", counts.matches), ("totals", counts.totals)):
        np.testing.assert_array_equal(found, np.concatenate([batch[name] for batch in batches]))
    expected = np.concatenate([batch["brevity_penalty_nltk"] for batch in batches])
    np.testing.assert_allclose(brevity_penalty(counts.length, counts.reference_length), expected, rtol=1e-6)
    check_sentences(score_all(nltk_score, counts, batches, METHODS), case, batches, "nltk_sentence")


@pytest.mark.parametrize("stem", CASES)
def test_corpus_scores_are_those_of_nltk(stem):
    """The case has them with epsilon for an order without a match."""
    case = CASES[stem]
    batches = [batch for batch in case["batches"] if "nltk_corpus" in batch]
    counts = counts_of(batches, "shorter")
    sizes = [len(batch["candidates"]) for batch in batches]
    by_batch = zip(*(np.split(np.asarray(each), np.cumsum(sizes)[:-1]) for each in counts), strict=True)

    @jax.jit
    def scores(by_batch):
        return [
            {name: corpus_bleu(counts, weights_of(batch, name), smoothing="floor") for name in NAMES}
            for batch, counts in zip(batches, by_batch, strict=True)
        ]

    for batch, found in zip(batches, scores([BleuCounts(*each) for each in by_batch]), strict=True):
        for name in NAMES:
            np.testing.assert_allclose(found[name], batch["nltk_corpus"][name], **case["tolerance"], err_msg=name)


@pytest.mark.parametrize("stem", CASES)
def test_published_sentence_scores(stem):
    case = CASES[stem]
    counts = counts_of(case["batches"], "first")
    check_sentences(score_all(published_score, counts, case["batches"], PUBLISHED), case, case["batches"], "sentence")


@pytest.mark.parametrize("stem", CASES)
def test_published_corpus_scores(stem):
    case = CASES[stem]
    rows = max(len(batch["candidates"]) for batch in case["batches"])

    def filled(leaf):  # empty sentences add nothing to a corpus
        return np.pad(leaf, [(0, rows - len(leaf))] + [(0, 0)] * (np.ndim(leaf) - 1))

    counts = [jax.tree.map(filled, CORPUS_COUNTS(*texts_of(batch))) for batch in case["batches"]]
    counts = jax.tree.map(lambda *leaves: np.stack(leaves), *counts)

    def score(counts, weights, method):
        return jax.vmap(lambda each: published_corpus_bleu(each, weights, **PUBLISHED[method]))(counts)

    found = score_all(score, counts, case["batches"], PUBLISHED)
    for number, batch in enumerate(case["batches"]):
        for name, by_smoothing in batch["corpus"].items():
            for method, expected in by_smoothing.items():
                own = found[weights_of(batch, name), method][number]
                np.testing.assert_allclose(own, expected, **case["tolerance"], err_msg=f"{name} {method}")


def test_published_scores_are_as_far_from_nltk_as_they_were_found_to_be():
    """The table covers more sentences than are kept here, so its largest differences are bounds."""
    batches = [batch for case in CASES.values() for batch in case["batches"] if "nltk_sentence" in batch]
    counts = counts_of(batches, "shorter")
    nltk = score_all(nltk_score, counts, batches, METHODS)
    published = score_all(published_score, counts_of(batches, "first"), batches, PUBLISHED)
    for pair, orders in SUMMARY.items():
        smoothings, _, group = pair.partition(" | ")
        ours, _, theirs = smoothings.partition(" vs ")
        for order, expected in enumerate(orders.values(), 1):
            difference = np.abs(published[(1 / order,) * order, ours] - nltk[(1 / order,) * order, theirs])
            complete = np.all(np.asarray(counts.matches)[:, :order] > 0, axis=1)
            rows = complete if group == "all_orders_match" else ~complete
            assert np.max(difference[rows], initial=0.0) <= expected["max_diff"] + 1e-5, pair
            assert np.sum(difference[rows] >= 1e-5) <= expected["n"] - expected["equal_1e-5"], pair
