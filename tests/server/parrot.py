"""A tiny model that knows a few interactions by heart, whatever its memory holds: replies that tests can expect."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from small import dialogue_tokenizer, small_config

from rxt_jax.data.template import interaction_parts
from rxt_jax.model import ReactiveTransformer

LENGTH = 160
LEARNT = (
    {"query": "Hello.", "answer": "Hello you."},
    {"query": "Two and two?", "think": "add them", "answer": "Four."},
    {"query": "Give it a title.", "answer": "A chat."},
    {"query": "How is Porto?", "tool_call": json.dumps({"tool": "look", "at": "Porto"})},
    {"tool_use": "sunny", "answer": "It is sunny."},
    {"tool_use": "rain", "tool_call": json.dumps({"tool": "look", "at": "Rome"})},
    {"tool_use": "snow", "answer": "Snow in Rome."},
    {"query": "Compare.", "tool_call": json.dumps([{"tool": "look", "at": "Oslo"}, {"tool": "look", "at": "Rome"}])},
    {"tool_use": "warm\ncold", "answer": "Warm and cold."},
    {"query": "Break.", "tool_call": "look at {Porto"},
)


def make_parrot():
    """Train it: model and tokenizer."""
    tokenizer = dialogue_tokenizer()
    rows = [interaction_parts(each, tokenizer.encode, tokenizer.special) for each in LEARNT]
    width = max(len(prompt) + len(reply) for prompt, reply in rows)
    ids, mask, scored = (np.zeros((len(rows), width), kind) for kind in (np.int32, bool, bool))
    for row, (prompt, reply) in enumerate(rows):
        whole = [*prompt, *reply]
        ids[row, : len(whole)], mask[row, : len(whole)] = whole, True
        scored[row, len(prompt) : len(whole)] = True
    ids, mask, scored = jnp.asarray(ids), jnp.asarray(mask), jnp.asarray(scored)
    config = small_config(vocab_size=tokenizer.vocab_size, max_length=LENGTH, embed_dim=32)
    graphdef, params = nnx.split(ReactiveTransformer(config, rngs=nnx.Rngs(0)))
    optimizer = optax.adam(1e-2)

    def loss(params, memory):
        logits = nnx.merge(graphdef, params).decode(ids, mask, memory)[:, :-1]
        each = optax.softmax_cross_entropy_with_integer_labels(logits, ids[:, 1:])
        wrong = (jnp.argmax(logits, -1) != ids[:, 1:]) & scored[:, 1:]
        return jnp.sum(each * scored[:, 1:]) / scored.sum(), jnp.sum(wrong)

    @jax.jit
    def step(params, state, memory, key):
        model = nnx.merge(graphdef, params)
        other = jax.random.permutation(key, len(rows))
        written = model.update_memory(memory, model.encode(ids[other], mask[other]), mask[other])
        new = jax.random.bernoulli(key, 0.2, (len(rows),))[None, :, None, None]
        memory = jax.lax.stop_gradient(jnp.where(new, model.initial_memory(len(rows)), written))
        (value, wrong), grads = jax.value_and_grad(loss, has_aux=True)(params, memory)
        updates, state = optimizer.update(grads, state)
        return optax.apply_updates(params, updates), state, memory, value, wrong

    state, memory = optimizer.init(params), nnx.merge(graphdef, params).initial_memory(len(rows))
    good = 0
    for update in range(1500):
        params, state, memory, value, wrong = step(params, state, memory, jax.random.key(update))
        good = good + 1 if float(value) < 0.02 and not wrong else 0
        if good == 20:
            return nnx.merge(graphdef, params), tokenizer
    raise AssertionError(f"the parrot has not learnt its words: {float(value):.3f}, {int(wrong)} wrong")
