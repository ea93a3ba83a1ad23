"""A small model behind an engine, compiled once for all tests of the server."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from small import dialogue_tokenizer, small_config, small_model, with_end

from rxt_jax.server.programs import Programs

LENGTH = 24


def _often_made(model, tokenizer):
    """Find a token that an untrained model makes in the middle of a reply."""
    graphdef, params = nnx.split(model)

    @jax.jit
    def best(params, ids, length):
        model = nnx.merge(graphdef, params)
        logits = model.decode(ids, jnp.arange(LENGTH)[None] < length, model.initial_memory(1))
        return jnp.argmax(logits[0, length - 1])

    row = [tokenizer.special.bos, tokenizer.special.query, *tokenizer.encode("my dog"), tokenizer.special.answer]
    while len(row) < LENGTH:
        ids = np.array([row + [0] * (LENGTH - len(row))], np.int32)
        row.append(int(best(params, ids, len(row))))
    return next(token for token in row[-4:] if token not in tokenizer.special.names)


@pytest.fixture(scope="session")
def chat_model():
    """An untrained model that now and then ends a reply."""
    tokenizer = dialogue_tokenizer()
    model = small_model(small_config(vocab_size=tokenizer.vocab_size, max_length=LENGTH))
    return model, with_end(tokenizer, _often_made(model, tokenizer))


@pytest.fixture(scope="session")
def programs(chat_model):
    model, tokenizer = chat_model
    return Programs(model, tokenizer.special, max_length=LENGTH, slots=8)
