"""Preference losses against independent implementations. Source: docs/method.md §16."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden_case import GoldenCase, case_names, golden_json, none_found

from rxt_jax.losses.preference import PairLogProbs, PreferenceConfig, preference_losses, preference_metrics
from rxt_jax.losses.sequence_log_probs import SequenceLogProbs, projected_sequence_log_probs, sequence_log_probs
from rxt_jax.stages import DirectMemoryPreference
from rxt_jax.stages.preference import DPOConfig, dpo_loss

STEMS = case_names("rl", "pref_losses_")
CASES = {stem: golden_json("rl", f"{stem}.json") for stem in STEMS if isinstance(stem, str)}
# Name in the case → our name, and what differs.
NAMES = {
    "sigmoid_smoothed": ("conservative", {}),
    "simpo": ("simpo", {"label_smoothing": 0.0}),
    "simpo_smoothed": ("simpo", {}),
    "simpo_gamma0": ("simpo", {"label_smoothing": 0.0, "margin": 0.0}),
    "orpo_total": ("orpo", {}),
}


def pair_of(case) -> PairLogProbs:
    given = case["inputs"]
    names = ("policy_chosen", "policy_rejected", "ref_chosen", "ref_rejected", "chosen_len", "rejected_len")
    return PairLogProbs(*(jnp.array(given[name], jnp.float32) for name in names))


def config_of(setting, loss: str = "sigmoid", **options) -> PreferenceConfig:
    given = {
        "beta": setting["beta"],
        "label_smoothing": setting["label_smoothing"],
        "margin": setting["simpo_gamma"],
        "temperature": setting["discopop_tau"],
        "odds_weight": setting["orpo_lambda"],
    }
    return PreferenceConfig(loss=loss, **(given | options))


SETTINGS = [
    pytest.param(case, number, name, id=f"{stem}-{number}-{name}")
    for stem, case in CASES.items()
    for number, setting in enumerate(case["settings"])
    for name in setting["losses"]
    if name != "orpo_odds"
] or none_found("no case pref_losses_*.json has settings", arguments=3)


@pytest.mark.parametrize(("case", "number", "name"), SETTINGS)
def test_losses_and_gradients(case, number, name):
    setting = case["settings"][number]
    expected = setting["losses"][name]
    loss, options = NAMES.get(name, (name, {}))
    config, pair = config_of(setting, loss, **options), pair_of(case)

    def mean(chosen, rejected):
        return jnp.mean(preference_losses(pair._replace(chosen=chosen, rejected=rejected), config))

    # The inputs are sums of up to 80 nats: float32 holds them to 4e-6, which beta doubles.
    np.testing.assert_allclose(preference_losses(pair, config), expected["per_sample"], rtol=2e-5, atol=1e-5)
    slopes = jax.grad(mean, (0, 1))(pair.chosen, pair.rejected)
    np.testing.assert_allclose(slopes[0], expected["grad_mean_wrt_policy_chosen"], rtol=1e-4, atol=2e-6)
    np.testing.assert_allclose(slopes[1], expected["grad_mean_wrt_policy_rejected"], rtol=1e-4, atol=2e-6)


@pytest.mark.parametrize("stem", STEMS)
def test_metrics_and_divergences(stem):
    case = CASES[stem]
    pair = pair_of(case)
    for setting in case["settings"]:
        found = preference_metrics(pair, setting["beta"])
        for name, value in setting["metrics"].items():
            np.testing.assert_allclose(jnp.mean(found[name]), value, rtol=1e-5, atol=1e-6, err_msg=name)
        for divergence, values in setting.get("f_divergence_sigmoid_per_sample", {}).items():
            config = config_of(setting, divergence=divergence, alpha=setting["f_alpha_divergence_coef"])
            np.testing.assert_allclose(preference_losses(pair, config), values, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("stem", STEMS)
def test_a_mixture_is_the_weighted_sum(stem):
    pair = pair_of(CASES[stem])
    parts = [(PreferenceConfig(loss="sigmoid"), 0.8), (PreferenceConfig(loss="sft"), 0.2)]
    expected = sum(weight * preference_losses(pair, config) for config, weight in parts)
    np.testing.assert_allclose(preference_losses(pair, parts), expected, rtol=1e-6)


@pytest.mark.parametrize(
    "field",
    [{"beta": 0.0}, {"label_smoothing": 0.5}, {"divergence": "alpha_divergence", "alpha": 1.0}],
)
def test_impossible_configs(field):
    with pytest.raises(ValueError, match=list(field)[-1]):
        PreferenceConfig(**field)


@pytest.mark.parametrize("name", case_names("rl", "dpo_logprob_contract_"))
def test_the_contract_of_four_log_probabilities(name):
    """Source: docs/method.md §16.7."""
    case = golden_json("rl", f"{name}.json")
    assert case["expected"]
    for expected in case["expected"]:
        fields = {name: expected[name] for name in ("beta", "label_smoothing", "reference_free")}
        _, metrics = dpo_loss(case["batch"], DPOConfig(**fields))
        for metric, value in metrics.items():
            np.testing.assert_allclose(value, expected[metric], **case["tolerance"], err_msg=f"{fields} {metric}")


@pytest.mark.parametrize("name", case_names("rl", "seq_logprob_"))
def test_sequence_log_probabilities(name):
    """Source: docs/method.md, eq. 79 and 80."""
    case = GoldenCase("rl", name)
    tolerance = case.facts["tolerance"]
    near = {"rtol": tolerance["rtol"], "atol": 6e-6}
    logits, ids = case.i["logits"], case.i["ids"].astype(jnp.int32)
    mask = case.i["answer_mask"] > 0
    weights = 1.0 + jnp.arange(len(ids))

    def plain(logits):
        return sequence_log_probs(logits, ids, mask)

    def projected(logits):  # the head is the identity
        return projected_sequence_log_probs(lambda hidden: hidden, logits, ids, mask)

    for function in (plain, projected):

        def weighted(logits, function=function):
            found = function(logits)
            mean, total = found.reduced("mean"), found.reduced("sum")
            return jnp.sum(weights * mean), (mean, total)

        (_, (mean, total)), slope = jax.jit(jax.value_and_grad(weighted, has_aux=True))(logits)
        np.testing.assert_allclose(mean, case.o["mean"], **near)
        np.testing.assert_allclose(total, case.o["sum"], rtol=1e-4, atol=2e-5)
        np.testing.assert_allclose(slope, case.tensors["grad.logits"], **near)


@pytest.mark.parametrize("name", case_names("rl", "dmpo_pref_loss_"))
def test_the_loss_of_the_memory_stage(name):
    """Source: docs/method.md, eq. 84 and 87: sigmoid with label smoothing, and the penalty on neutral answers."""
    case = GoldenCase("rl", name)
    kinds = ("accepted", "rejected", "neutral")
    policy, reference = (jnp.stack([case.i[f"{who}_{kind}"] for kind in kinds], -1)[None] for who in ("policy", "ref"))
    rows = policy.shape[1]
    counted = jnp.ones((1, rows), bool)
    counts = {"pairs": jnp.full(1, float(rows)), "tokens": jnp.float32(1.0), "calls": jnp.float32(1.0)}
    for setting, given in case.config["settings"].items():
        preference = PreferenceConfig(loss="conservative", beta=given["beta"], label_smoothing=given["label_smoothing"])
        stage = DirectMemoryPreference(preference=preference, anchor_weight=given["anchor_weight"])
        kept = 3 if given["use_anchored"] else 2

        def loss(policy, stage=stage, kept=kept):
            found = SequenceLogProbs(policy[..., :kept], jnp.ones((1, rows, kept)))
            factors = jnp.broadcast_to(stage._factors(counts)[:, None], (1, rows))
            frozen = reference[..., :kept]
            return stage._loss_of_call(found, jnp.float32(0.0), (frozen, counted, counted, factors), counts)

        value, slope = jax.value_and_grad(loss)(policy)
        np.testing.assert_allclose(value, case.o[f"{setting}.loss"], rtol=1e-4, atol=2e-6, err_msg=setting)
        for place, kind in enumerate(kinds[:kept]):
            expected = case.tensors[f"grad.{setting}.policy_{kind}"]
            np.testing.assert_allclose(slope[0, :, place], expected, rtol=1e-4, atol=2e-6, err_msg=f"{setting} {kind}")
