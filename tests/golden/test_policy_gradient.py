"""Policy-gradient losses, advantages, IMPO and PPO, packing and replay against independent numbers.

Source: docs/method.md §19.2 to §19.6.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden_case import GoldenCase, case_names, golden_json

from rxt_jax.losses.advantages import (
    AdvantageInput,
    generalised_advantages,
    group_advantages,
    multi_objective_advantages,
    normalise_advantages,
)
from rxt_jax.losses.memory_policy import (
    AnswerBefore,
    MemoryPolicyConfig,
    PolicyInput,
    memory_change,
    policy_loss,
    score_answers_drawn,
)
from rxt_jax.losses.policy_gradient import SurrogateConfig, aggregate, critic_loss, kl_estimate, surrogate_loss
from rxt_jax.ops.joining import join_masks, join_parts


def facts(name: str) -> list:
    return [golden_json("rl", f"{case}.json") for case in case_names("rl", f"{name}_")]


def close(case: GoldenCase, found, name: str) -> None:
    tolerance = case.facts["tolerance"]
    atol = tolerance["atol_by_tensor"].get(name, tolerance["atol"])
    np.testing.assert_allclose(found, case.tensors[name], rtol=tolerance["rtol"], atol=atol, err_msg=name)


@pytest.mark.parametrize("name", case_names("rl", "concat_"))
def test_parts_are_joined_and_cut_on_the_right(name):
    case = GoldenCase("rl", name)
    ids, masks = ([case.i[f"{part}.{leaf}"] for part in ("query", "answer", "next_query")] for leaf in ("ids", "mask"))
    masks = [mask.astype(bool) for mask in masks]
    for kind, count in (("concat", 2), ("critic", 3)):
        for out in (key for key in case.o if key.startswith(kind) and key.endswith("ids")):
            width = int(out.split("_")[1].split(".")[0])
            np.testing.assert_array_equal(join_parts(ids[:count], masks[:count], width), case.o[out])
            np.testing.assert_array_equal(join_masks(masks[:count], width), case.o[out.replace("ids", "mask")])


@pytest.mark.parametrize("name", case_names("rl", "advantages_"))
def test_advantages_over_interactions_and_their_normalisations(name):
    case = GoldenCase("rl", name)
    rewards, values = case.i["rewards"], case.i["values"]
    done = jnp.broadcast_to(case.i["dones"][:, None] > 0, rewards.shape)
    given = AdvantageInput(rewards, values, done, jnp.ones(rewards.shape, bool))
    most = jax.tree.map(lambda leaf: leaf[:-1], given)
    config = case.config
    found = generalised_advantages(most, discount=config["gae_gamma"], trace=config["gae_lambda"], bootstrap=values[-1])
    close(case, found.advantages, "out.gae_advantages")
    close(case, found.returns, "out.gae_returns")
    close(case, normalise_advantages(found.advantages, most.valid, "all"), "out.ppo_advantages")
    modes = {"all": "all", "batch": "published_batch", "step": "published_step"}
    for label, mode in modes.items():
        close(case, found.returns, f"out.impo_gae_{label}.ref_values")
        normalised = normalise_advantages(found.advantages, most.valid, mode, most.done)
        close(case, normalised, f"out.impo_gae_{label}.advantages")
    for label, mode in (modes | {"step": "interaction"}).items():
        normalised = normalise_advantages(rewards - values, given.valid, mode, given.done)
        close(case, normalised, f"out.impo_reward_{label}.advantages")
    for label, bound in (("clip20", 20.0), ("clip5", 5.0), ("noclip", None)):
        loss = jnp.mean(critic_loss(9 * values, 9 * rewards, bound=bound))
        close(case, loss, f"out.critic_loss_{label}")


@pytest.mark.parametrize("case", facts("group_advantages"))
def test_advantages_within_groups(case):
    rewards = jnp.asarray(case["rewards"], jnp.float32)
    several, weights = (jnp.asarray(case[name], jnp.float32) for name in ("multi_rewards", "multi_weights"))
    found = {
        "grpo_population_std_eps1e-8": group_advantages(rewards, "grpo", spread="population", eps=1e-8),
        "grpo_sample_std_eps1e-6": group_advantages(rewards, "grpo", eps=1e-6),
        "grpo_sample_std_eps1e-4": group_advantages(rewards, "grpo"),
        "batch_std_eps1e-4": group_advantages(rewards, "grpo_batch"),
        "dr_grpo_no_std": group_advantages(rewards, "dr_grpo"),
        "rloo": group_advantages(rewards, "rloo"),
        "multi_objective_normalize_then_sum": multi_objective_advantages(several, weights),
        "multi_objective_sum_then_normalize": group_advantages(several @ weights, "grpo"),
    }
    assert found.keys() == case["expected"].keys()
    for name, advantages in found.items():
        np.testing.assert_allclose(advantages.reshape(-1), case["expected"][name], **case["tolerance"], err_msg=name)


@pytest.mark.parametrize("case", facts("policy_gradient"))
def test_token_losses_divergences_and_values(case):
    given = {name: jnp.asarray(value, jnp.float32) for name, value in case["inputs"].items()}
    mask = given["mask"] > 0
    new, old, reference = (given[f"{name}log_probs"] for name in ("", "old_", "ref_"))

    def loss(mode="token_mean", **options):
        found = surrogate_loss(SurrogateConfig(**options), new, old, given["advantages"], mask)
        return aggregate(found.loss, mask, mode)

    def kl(kind, mode="token_mean"):
        return aggregate(kl_estimate(kind, new, reference), mask, mode)

    value = {
        "values": given["new_values"],
        "returns": jnp.asarray(case["gae"]["returns"]),
        "old_values": given["values"],
        "bound": None,
    }
    clipped = surrogate_loss(SurrogateConfig(), new, old, given["advantages"], mask).clipped
    found = {
        "ppo_clip0.2_token_mean": loss(),
        "ppo_clip0.2_sequence_mean": loss("sequence_mean"),
        "ppo_clip_0.2_0.28_token_mean": loss(clip_high=0.28),
        "dr_grpo_constant_T": loss("constant_length"),
        "sequence_sum_mean": loss("sequence_sum"),
        "dual_clip_c3_token_mean": loss(dual_clip=3.0),
        "two_sided_delta1.5_token_mean": loss(ratio_cap=1.5),
        "gspo_clip0.2_sequence_mean": loss("sequence_mean", ratio="sequence"),
        "cispo_max5_token_mean_value": loss(kind="cispo"),
        "reinforce_token_mean": loss(kind="reinforce"),
        "kl_k1_token_mean": kl("k1"),
        "kl_k2_token_mean": kl("k2"),
        "kl_k3_token_mean": kl("k3"),
        "kl_k3_sequence_mean": kl("k3", "sequence_mean"),
        "impo_ref_penalty": kl("published", "sequence_mean"),
        "clip_fraction_token_mean": aggregate(clipped, mask, "token_mean"),
        "approx_kl_old_token_mean": aggregate(kl_estimate("k1", old, new), mask, "token_mean"),
        "value_loss_clip0.2_token_mean_half": aggregate(critic_loss(**value, clip=0.2), mask, "token_mean"),
        "value_loss_unclipped_token_mean": aggregate(critic_loss(**value), mask, "token_mean"),
    }
    assert found.keys() == case["expected"].keys()
    for name, number in found.items():
        np.testing.assert_allclose(number, case["expected"][name], **case["tolerance"], err_msg=name)


@pytest.mark.parametrize("case", facts("policy_gradient"))
def test_time_may_count_tokens_and_padding_is_passed_over(case):
    given = {name: jnp.asarray(value, jnp.float32).T for name, value in case["inputs"].items()}
    valid = given["mask"] > 0
    last = valid & ~jnp.concatenate([valid[1:], jnp.zeros_like(valid[:1])])
    config = case["gae"]
    found = generalised_advantages(
        AdvantageInput(given["token_rewards"], given["values"], last, valid),
        discount=config["gamma"],
        trace=config["lambda"],
    )
    np.testing.assert_allclose(
        found.advantages.T, config["advantages_masked_positions_valid_only"], rtol=2e-5, atol=2e-6
    )
    np.testing.assert_allclose(found.returns.T, config["returns"], rtol=2e-5, atol=2e-6)
    whitened = normalise_advantages(found.advantages, valid, "all")
    np.testing.assert_allclose(whitened.T, config["whitened_valid_only"], rtol=1e-4, atol=1e-5)


def aligned(case: GoldenCase):
    """Answer tokens 1 …, where they are, and the logits that predict them."""
    answer = case.i["answer.mask"].astype(bool)
    query_length = jnp.sum(case.i["query.mask"], axis=1, keepdims=True)
    places = query_length + jnp.arange(answer.shape[1] - 1)

    def pick(logits):
        return jnp.take_along_axis(logits, jnp.minimum(places, logits.shape[1] - 1)[..., None], axis=1)

    return case.i["answer.ids"][:, 1:], answer[:, 1:], pick


@pytest.mark.parametrize("name", case_names("rl", "impo_loss_"))
def test_published_impo_and_ppo_with_every_term_and_gradient(name):
    """Source: docs/method.md §19.5."""
    case = GoldenCase("rl", name)
    given = case.config["algorithm_config"]
    cosine_weight = given.get("cosine_sim_coef", 0.01) if given.get("use_stm_cosine_sim") else 0.0
    impo = MemoryPolicyConfig(
        surrogate=SurrogateConfig(clip_low=given.get("clip_eps", 0.2), clip_high=given.get("clip_eps", 0.2)),
        terms="published",
        reference_estimator="published",
        entropy_weight=given.get("entropy_coef", 0.01),
        reference_weight=given.get("ref_kl_coef", 0.05),
        consistency_weight=given.get("interstep_kl_coef", 0.01),
        memory_change_weight=given.get("stm_diff_coef", 1e-4),
        memory_cosine_weight=cosine_weight,
    )
    ids, mask, pick = aligned(case)
    everyone = jnp.ones(len(ids), bool)
    before = case.i.get("prev_step_log_probs")

    def loss(logits, memory, is_ppo):
        between = None if before is None or is_ppo else AnswerBefore(before, mask)
        scores = score_answers_drawn(
            lambda x: x, pick(logits), ids, mask, before=None if is_ppo else between, keep_distribution=True
        )
        held = PolicyInput(
            mask,
            everyone,
            case.i["advantages"],
            case.i["old_log_probs"] * mask,
            reference_log_probs=case.i["ref_log_probs"] * mask,
            before=between,
        )
        config = MemoryPolicyConfig(
            **{
                **{f: getattr(impo, f) for f in impo.__dataclass_fields__},
                **({"reference_aggregation": "token_mean"} if is_ppo else {}),
            }
        )
        change = None if is_ppo else memory_change(memory, case.i["prev_stm"])
        value, metrics = policy_loss(config, scores, held, change, number=case.config["step"] + 1)
        return value, (metrics, scores.distribution)

    grad = jax.jit(jax.value_and_grad(loss, argnums=(0, 1), has_aux=True), static_argnums=2)
    (value, (metrics, distribution)), slopes = grad(case.i["logits"], case.i["new_stm"], False)
    close(case, value, "out.impo.loss")
    close(case, distribution, "out.impo.step_log_probs")
    close(case, slopes[0], "grad.impo.logits")
    close(case, slopes[1], "grad.impo.new_stm")
    names = {
        "surrogate": "surrogate",
        "entropy": "entropy",
        "ref_kl": "reference_kl",
        "stm_mse_scaled": "memory_change",
        "interstep_kl": "consistency",
        "stm_cosine": "memory_cosine",
    }
    terms = [key.removeprefix("out.impo.term.") for key in case.tensors if key.startswith("out.impo.term.")]
    assert len(terms) >= 4
    for term in terms:
        close(case, metrics[f"policy/{names[term]}"][0], f"out.impo.term.{term}")
    (value, _), slopes = grad(case.i["logits"], case.i["new_stm"], True)
    close(case, value, "out.ppo.loss")
    close(case, slopes[0], "grad.ppo.logits")
