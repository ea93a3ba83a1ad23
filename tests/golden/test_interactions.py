"""Whole models in conversation: token streams and memories. Source: docs/method.md §12.2."""

import ast
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from golden_case import GoldenCase, case_names
from safetensors.numpy import save_file
from small import call

from rxt_jax.compatibility import Compatibility
from rxt_jax.data.special_tokens import SpecialTokens
from rxt_jax.data.template import first_tokens
from rxt_jax.interop import load_rxlm
from rxt_jax.model import SamplingConfig, interact, make_rules
from rxt_jax.ops import filter_logits

SPECIAL = SpecialTokens()
PROMPT_WIDTH = 12  # prompts are read at less than the width of the whole interaction


def model_of(case: GoldenCase, folder):
    """Write a case as the checkpoint it would be, and load that."""
    (folder / "config.json").write_text(json.dumps(case.config))
    save_file({name: np.ascontiguousarray(value) for name, value in case.w.items()}, folder / "model.safetensors")
    return load_rxlm(folder, compatibility=Compatibility.rxlm_0_3_93())


def padded(prompt, width):
    ids = np.full((1, width), SPECIAL.pad, np.int32)
    ids[0, : prompt.shape[1]] = prompt[0]
    return jnp.asarray(ids), jnp.arange(width)[None] < prompt.shape[1]


def answer(model, memory, ids, mask, mode, width):
    rules = make_rules(len(ids), jax.random.key(0), first=first_tokens(mode, SPECIAL))
    return interact(model, memory, ids, mask, rules, width=width, end_id=SPECIAL.eos, pad_id=SPECIAL.pad)


def is_slow(facts: dict) -> bool:
    """Those with a variant of memory attention, or a place for stateless layers, that other quick tests have too."""
    config = facts["config"]
    final = bool(config["decoder_config"].get("final_stateless_layers_config"))
    return final or config["memory_attention_variant"] == "interlayer"


@pytest.mark.parametrize("name", case_names("arch", "alpha_interact", "beta_interact", slow=is_slow))
def test_conversations(name, tmp_path):
    case = GoldenCase("arch", name)
    model = model_of(case, tmp_path)
    update = case.i["update_ids"].astype(jnp.int32)
    everything = jnp.ones(update.shape, bool)
    encoded = call(model, "encode", update, everything)
    case.check(encoded, "update_hidden")
    case.check(call(model, "update_memory", case.i["stm0"], encoded, everything), "stm_after_update")
    memory = case.i["stm0"]
    mode, width = case.config["thinking_mode"] or "fast", case.config["max_seq_len"]
    graphdef, params = nnx.split(model)

    @jax.jit
    def run(params, memory, ids, mask):
        return answer(nnx.merge(graphdef, params), memory, ids, mask, mode, width)

    @jax.jit
    def decode(params, ids, memory):
        return nnx.merge(graphdef, params).decode(ids, jnp.ones(ids.shape, bool), memory)

    # The published auto mode chooses at every step; the cases hold the intended one as well.
    prefix = "fixed_" if mode == "auto" else ""
    for number in range(3):
        before = memory
        answered = run(params, memory, *padded(np.asarray(case.i[f"query{number}"]), PROMPT_WIDTH))
        stream = np.asarray(answered.ids)[np.asarray(answered.reply_mask)]
        # RxT-Alpha does not emit the answer token that it appends.
        shown = stream[1:] if case.config["model"] == "alpha" else stream
        expected = case.o[f"{prefix}tokens{number}"]
        np.testing.assert_array_equal([*shown, -1, -2], expected, err_msg=f"{name} tokens{number}")
        memory = answered.memory
        case.check(memory, f"{prefix}stm{number}")
        if not prefix:
            whole = case.o[f"full_ids{number}"].astype(np.int32)
            length = whole.shape[1]
            np.testing.assert_array_equal(np.asarray(answered.ids)[:, :length], whole)
            # One shape for all: what follows a token does not change its logits.
            case.check(decode(params, answered.ids, before)[:, :length], f"logits{number}")


@pytest.mark.parametrize("name", case_names("arch", "alpha_batch"))
def test_a_batch_of_conversations(name, tmp_path):
    case = GoldenCase("arch", name)
    model = model_of(case, tmp_path)
    graphdef, params = nnx.split(model)

    @jax.jit
    def run(params, memory, ids, mask):
        return answer(nnx.merge(graphdef, params), memory, ids, mask, "fast", ids.shape[1])

    answered = run(params, case.i["stm"], case.i["ids"].astype(jnp.int32), case.i["mask"] > 0)
    np.testing.assert_array_equal(answered.ids, case.o["interaction_ids"])
    np.testing.assert_array_equal(answered.token_mask, case.o["interaction_mask"] > 0)
    case.check(answered.memory, "stm_after")
    for row in range(len(answered.ids)):
        reply = np.asarray(answered.ids)[row][np.asarray(answered.reply_mask)[row]]
        np.testing.assert_array_equal(reply, case.o["answers_ids"][row][: len(reply)])
        generated = case.o["generated_ids"][row][case.o["generated_mask"][row] > 0]
        np.testing.assert_array_equal(reply, generated[: len(reply)])


@pytest.mark.parametrize("name", case_names("arch", "sampler_"))
def test_sampler(name):
    """Source: docs/method.md §12.1, not the published rule for batches."""
    case = GoldenCase("arch", name)
    single = [tensor for tensor in case.facts["tensors"] if "single-stream" in tensor["meaning"]]
    assert single
    filtered = jax.jit(lambda sampling: jax.nn.softmax(filter_logits(case.i["logits"], sampling), axis=-1))
    for tensor in single:
        settings = ast.literal_eval(tensor["meaning"].split("sampler, ")[1])
        sampling = SamplingConfig(**{field: value for field, value in settings.items() if value})
        case.check(filtered(sampling.rows(len(case.i["logits"]))), tensor["name"].removeprefix("out."))
