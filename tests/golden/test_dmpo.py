"""Whole DMPO episodes: losses, log-probabilities, memories, all gradients, and short runs.

Source: docs/method.md §16.2.
"""

from functools import lru_cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from golden_case import GoldenCase, blank_model, case_names
from jax.flatten_util import ravel_pytree

from rxt_jax.compatibility import Compatibility, PreferenceCompatibility
from rxt_jax.interop.rxlm_config import model_from_published
from rxt_jax.interop.rxlm_weights import COMPONENT_PREFIXES, load_weights
from rxt_jax.losses.preference import PreferenceConfig
from rxt_jax.model import ReactiveTransformer
from rxt_jax.nn.parameters import flat_parameters
from rxt_jax.stages import DirectMemoryPreference
from rxt_jax.types import EpisodeBatch, PreferenceBatch

RULES = {"causal": "causal", "as_shipped": "published", "document": "first_described"}
PREFIXES = {part: prefix for part, prefix in COMPONENT_PREFIXES.items() if part != "masked_language_head"}


class DmpoCase(GoldenCase):
    """A case with its models, batch and stage."""

    def __init__(self, name: str):
        super().__init__("rl", name)
        parts = self.config["model"]
        memory = dict(parts["memory_attention"])
        variant = memory.pop("variant")
        self.model_config = model_from_published(
            parts["decoder"],
            parts["encoder"],
            memory,
            variant,
            compatibility=Compatibility(causal_ignores_padding=True),
        )
        self.graphdef, self.blank = blank_model(lambda: ReactiveTransformer(self.model_config, rngs=nnx.Rngs(0)))
        self.params = self.parameters(self.w)
        frozen = {k.replace("ref_decoder.", "decoder."): v for k, v in self.w.items() if k.startswith("ref_decoder.")}
        embedding = next((v for k, v in frozen.items() if k.endswith("model.embedding.weight")), None)
        if embedding is not None:
            frozen["encoder.model.embedding.weight"] = embedding
        self.reference = nnx.merge(self.graphdef, self.parameters(self.w | frozen))
        anchored = self.config["anchored"]
        smoothing = self.config["label_smoothing"]
        self.stage = DirectMemoryPreference(
            preference=PreferenceConfig(loss="conservative", beta=self.config["beta"], label_smoothing=smoothing),
            logprob_reduction=self.config["log_prob_reduction"],
            anchor_weight=self.config["anchor_weight"] if anchored else 0.0,
            compatibility=PreferenceCompatibility(memory_rule=RULES[self.config["variant"]]),
            memory_gradient_steps=None if self.config["backprop_through_memory_chain"] else 1,
            balance_loss_scale=0.0,
        )

    def parameters(self, weights) -> nnx.State:
        return load_weights(self.blank, self.model_config, weights, PREFIXES)[0]

    def batch(self) -> PreferenceBatch:
        kinds = ("accepted", "rejected", "neutral" if self.config["anchored"] else "rejected")
        return PreferenceBatch(*(self._rows(kind) for kind in kinds))

    def _rows(self, kind: str) -> EpisodeBatch:
        length, rows = self.config["max_seq_len"], []
        for number in range(self.config["interactions"]):
            part = {k: np.asarray(v) for k, v in self.i.items() if k.startswith(f"step{number}.")}
            for b in range(self.config["batch"]):
                query, answer = (
                    part[f"step{number}.{side}.ids"][b][part[f"step{number}.{side}.mask"][b] > 0]
                    for side in ("query", kind)
                )
                ids = np.concatenate([query, answer])[:length]
                place = np.arange(length)
                rows.append(
                    (np.pad(ids, (0, length - len(ids))), place < len(ids), (place >= len(query)) & (place < len(ids)))
                )
        shape = (self.config["interactions"], self.config["batch"], length)
        ids, token_mask, loss_mask = (np.stack([row[i] for row in rows]).reshape(shape) for i in range(3))
        return EpisodeBatch(ids.astype(np.int32), token_mask, loss_mask, np.ones(shape[:2], bool))

    def score(self, params, memory, first=0, last=None):
        """Score interactions `first … last` from a memory."""
        batch = jax.tree.map(lambda leaf: leaf[first:last], self.batch())
        # A run that begins later has no row before its first one: give it.
        answers = jax.tree.map(lambda leaf: leaf[first:last], self.stage.interactions(self.batch()))
        model = nnx.merge(self.graphdef, params)
        counts = self.stage.label_counts(batch)
        start = self.stage.begin(model, self.config["batch"], None)._replace(policy=memory)
        return self.stage.window_objective(model, start, answers, None, counts, start=first, reference=self.reference)

    def expected(self, name, atol):
        return self.o[name], self.facts["tolerance"]["atol_by_tensor"].get(f"out.{name}", atol)


@lru_cache(maxsize=1)
def load(name: str) -> DmpoCase:
    return DmpoCase(name)


def close(case: DmpoCase, found, name: str, kind: str = "out.") -> None:
    tolerance = case.facts["tolerance"]
    atol = tolerance["atol_by_tensor"].get(kind + name, tolerance["atol"])
    np.testing.assert_allclose(
        found, case.tensors[kind + name], rtol=tolerance["rtol"], atol=atol, err_msg=f"{case.facts['case']} {name}"
    )


def is_slow(facts: dict) -> bool:
    """The rule with an anchor is a quick test; the others need the same code."""
    config = facts["config"]
    return not (config["variant"] == "causal" and config["anchored"])


@pytest.mark.parametrize("name", case_names("rl", "dmpo_step_", slow=is_slow))
def test_losses_log_probabilities_memories_and_gradients(name):
    """Source: docs/method.md §16.2, all three values of `memory_rule`."""
    case = load(name)
    count = case.config["interactions"]

    def loss(params):
        value, (memories, metrics) = case.score(params, case.i["stm0"])
        return value, (memories, metrics)

    (value, (memories, metrics)), slopes = jax.jit(jax.value_and_grad(loss, has_aux=True))(case.params)
    steps = [float(case.o[f"step{number}.loss"]) for number in range(count)]
    np.testing.assert_allclose(value, sum(steps), rtol=2e-4, atol=2e-5)
    close(case, memories.policy, f"step{count - 1}.stm")
    for number in range(count):

        def mean(metric, number=number):
            total, rows = metrics[f"{metric}/interaction_{number}"]
            return total / rows

        lengths = "logps/{}_mean" if case.config["log_prob_reduction"] == "mean" else "logps/{}"
        chosen, rejected = mean(lengths.format("chosen")), mean(lengths.format("rejected"))
        if f"step{number}.accepted_reward" in case.o:
            close(case, chosen, f"step{number}.accepted_reward")
            close(case, rejected, f"step{number}.rejected_reward")
            close(case, chosen - rejected, f"step{number}.reward_margin")
            if not case.config["anchored"]:  # there it includes the anchor, as the sum does
                close(case, mean("preference/loss"), f"step{number}.dpo_loss")
        else:
            np.testing.assert_allclose(chosen, case.o[f"step{number}.logp.p_accepted"].mean(), rtol=2e-4, atol=3e-5)
            np.testing.assert_allclose(rejected, case.o[f"step{number}.logp.p_rejected"].mean(), rtol=2e-4, atol=3e-5)
            close(case, mean("rewards/margins"), f"step{number}.implicit_reward_margin")
            close(case, mean("rewards/accuracies"), f"step{number}.preference_accuracy")
    given = {k.removeprefix("grad."): v for k, v in case.tensors.items() if k.startswith("grad.")}
    expected = flat_parameters(case.parameters({k: np.zeros_like(v) for k, v in case.w.items()} | given))
    found = flat_parameters(slopes)
    for path, variable in expected.items():
        if path.split("/")[0] in PREFIXES:
            largest = max(float(np.abs(variable[...]).max()), 1e-3)
            np.testing.assert_allclose(
                found[path][...], variable[...], rtol=2e-3, atol=3e-4 * largest, err_msg=f"{name} gradient of {path}"
            )


def has_a_run(facts: dict) -> bool:
    return any(tensor["name"].startswith("out.sgd.") for tensor in facts["tensors"])


@pytest.mark.slow
@pytest.mark.parametrize("name", case_names("rl", "dmpo_step_", where=has_a_run))
def test_a_short_run_of_one_update_per_interaction(name):
    """One SGD update of rate 0.3 per interaction, the global norm clipped to 1; the reference stays."""
    case = load(name)
    params, memory = case.params, case.i["stm0"]

    @jax.jit
    def gradient(params, memory, number):
        def loss(params):
            value, (memories, _) = case.score(params, memory, number, number + 1)
            return value, memories.policy

        return jax.value_and_grad(loss, has_aux=True)(params)

    gradient = jax.jit(gradient.__wrapped__, static_argnums=2)
    for number in range(case.config["interactions"]):
        (value, memory), slopes = gradient(params, memory, number)
        used = {path: v for path, v in flat_parameters(slopes).items() if path.split("/")[0] in PREFIXES}
        norm = jnp.linalg.norm(ravel_pytree([v[...] for v in used.values()])[0])
        close(case, value, f"sgd.step{number}.loss")
        close(case, norm, f"sgd.step{number}.grad_norm")
        clip = jnp.minimum(1.0, 1.0 / (norm + 1e-6))
        params = jax.tree.map(lambda p, g, clip=clip: p - 0.3 * clip * g, params, slopes)
    after = {k.removeprefix("out.sgd.final."): v for k, v in case.tensors.items() if k.startswith("out.sgd.final.")}
    expected, found = flat_parameters(case.parameters(case.w | after)), flat_parameters(params)
    for path in ("embedding/table", "decoder/head/kernel"):
        np.testing.assert_allclose(found[path][...], expected[path][...], rtol=2e-4, atol=2e-5, err_msg=path)
