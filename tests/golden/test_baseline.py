"""The decoder-only baseline. Source: docs/method.md, eq. 53."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from golden_case import GoldenCase, case_names
from small import call

from rxt_jax.interop.rxlm_config import baseline_from_published
from rxt_jax.interop.rxlm_weights import BASELINE_PREFIXES, load_weights
from rxt_jax.model.baseline import BaselineTransformer
from rxt_jax.model.generation import generate
from rxt_jax.model.generation_rules import make_rules

ANSWER, END = 6, 3


@pytest.mark.parametrize("name", case_names("arch", "llm_"))
def test_baseline(name):
    case = GoldenCase("arch", name)
    config = baseline_from_published(case.config)
    graphdef, params = nnx.split(nnx.eval_shape(lambda: BaselineTransformer(config, rngs=nnx.Rngs(0))))
    weights = {key: value for key, value in case.w.items() if not (config.tie_embeddings and ".head.w" in key)}
    params, unused = load_weights(params, config, weights, BASELINE_PREFIXES)
    assert not [each for each in unused if ".rope." not in each]
    model = nnx.merge(graphdef, params)
    ids, real = case.i["ids"].astype(jnp.int32), case.i["mask"] > 0
    everything = jnp.ones(ids.shape, bool)
    hidden, balance = call(model, "decode_hidden", ids, everything)
    case.check(model.logits(hidden), "logits")
    if "router_loss" in case.o:
        case.check(balance, "router_loss")
    masked = model.logits(call(model, "decode_hidden", ids, real)[0])
    case.check(masked, "logits_masked", rows=np.asarray(real))

    prompt = case.i["prompt"].astype(jnp.int32)
    length = prompt.shape[1]
    first = ids[:1, :length]
    positions, seen = jnp.arange(length)[None], jnp.ones((1, length), bool)
    nothing = model.project_memory()
    cache = model.empty_cache(1, ids.shape[1])
    logits, cache = call(model, "decode_cached", first, positions, seen, cache, nothing)
    case.check(logits, "prefill_logits")
    following = ids[:1, length : length + 1]
    step, _ = call(model, "decode_cached", following, jnp.array([[length]]), seen[:, :1], cache, nothing)
    case.check(step, "step_logits")

    expected = case.o["generated_no_cache"]
    expected = expected[expected >= 0]
    rules = make_rules(1, jax.random.key(0), first=(ANSWER,))
    graphdef, params = nnx.split(model)

    @jax.jit
    def answer(params, prompt):
        policy = nnx.merge(graphdef, params)
        return generate(policy, None, prompt, seen, rules, max_new_tokens=len(expected) + 1, end_id=END)

    made = answer(params, prompt)
    np.testing.assert_array_equal(np.asarray(made.ids)[0, 1 : 1 + len(expected)], expected)
