"""The strings that a reply is made of."""

import copy
import pickle

import pytest

from rxt_jax.serving.streaming import Answer, Chunk


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, lambda text: pickle.loads(pickle.dumps(text))])
def test_copies_know_what_the_original_knows(copied):
    answer, chunk = copied(Answer("Rex", 0.75)), copied(Chunk("hm", "think"))
    assert (type(answer), answer, answer.confidence) == (Answer, "Rex", 0.75)
    assert (type(chunk), chunk, chunk.block) == (Chunk, "hm", "think")
