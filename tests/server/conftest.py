"""A small model behind an engine, compiled once for all tests of the server."""

import jax
import jax.numpy as jnp
import numpy as np
import openai
import pytest
from flax import nnx
from held import Held
from loopback import Loopback
from parrot import make_parrot
from small import convolving, dialogue_tokenizer, small_config, small_model, with_end

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
    model = small_model(convolving(small_config(vocab_size=tokenizer.vocab_size, max_length=LENGTH)))
    return model, with_end(tokenizer, _often_made(model, tokenizer))


@pytest.fixture(scope="session")
def programs(chat_model):
    model, tokenizer = chat_model
    return Programs(model, tokenizer.special, max_length=LENGTH, slots=8)


@pytest.fixture(scope="session")
def parrot():
    """A model that knows a few interactions by heart, and its tokenizer."""
    return make_parrot()


@pytest.fixture(scope="session")
def parrot_programs(parrot):
    model, tokenizer = parrot
    return Programs(model, tokenizer.special, max_length=160, slots=4, prompt_rows=1, write_rows=1, chunk_tokens=2)


@pytest.fixture
def start(parrot, parrot_programs, tmp_path):
    """Start a server in the test's folder."""
    running = []

    def begin(**options):
        running.append(Loopback(parrot_programs, parrot[1], tmp_path / "serving", **options))
        return running[-1]

    yield begin
    for server in running:
        server.stop()


@pytest.fixture(scope="session")
def server(parrot, parrot_programs, tmp_path_factory):
    """A server that all tests may use that leave its settings alone."""
    server = Loopback(parrot_programs, parrot[1], tmp_path_factory.mktemp("serving"))
    yield server
    server.stop()


@pytest.fixture
def client(server):
    return openai.OpenAI(base_url=server.url, api_key="none", max_retries=0)


@pytest.fixture
def held(parrot_programs, monkeypatch):
    """What makes the servers of these tests stand still."""
    return Held(parrot_programs, monkeypatch)
