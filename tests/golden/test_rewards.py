"""Rewards and the benchmark's score against published numbers. Source: docs/method.md §19.1."""

import jax
import jax.numpy as jnp
import pytest
from golden_case import GoldenCase, case_names

from rxt_jax.rewards import LONG_RANGE, NEGATIVE, STANDARD, RewardContext, RewardInput, Tokens
from rxt_jax.rewards.retention import RetentionReward, text_embedding

# Name in the case → our name; what is missing has the same name or is read by `reward_of`.
NAMES = {
    "cos_factor": "cosine_factor",
    "bleu_ref_factor": "bleu_answer_factor",
    "bleu_first_ref_factor": "first_bleu_answer_factor",
    "bleu_first_saved_factor": "first_bleu_saved_factor",
    "cos_ref_factor": "cosine_answer_factor",
    "cos_saved_factor": "cosine_saved_factor",
    "multi_cos_ref_factor": "history_cosine_answer_factor",
    "multi_cos_saved_factor": "history_cosine_saved_factor",
    "multi_cos_running_mean_factor": "history_cosine_mean_factor",
    "neg_bleu_factor": "negative_bleu_factor",
    "neg_cos_factor": "negative_cosine_factor",
    "neg_bleu_ref_factor": "negative_bleu_answer_factor",
    "neg_bleu_saved_factor": "negative_bleu_saved_factor",
    "neg_cos_ref_factor": "negative_cosine_answer_factor",
    "neg_cos_saved_factor": "negative_cosine_saved_factor",
    "bleu_ref_weights": "bleu_answer_weights",
    "tanh_reward_scale": "symmetric",
    "rewards_scale": "scale",
    "neg_reward_len": "punish_longer",
}
READ = ("bleu_with_saved_data", "bleu_mode", "reward_len", "target_len_as_ref", "max_rewarded_len", "len_factor")
READ += ("use_tensor_bleu", "tensor_bleu_smoothing")

SCORE = jax.jit(lambda reward, *arguments: reward(*arguments), static_argnums=0)  # equal rewards compile once


def reward_of(given, benchmark=False) -> RetentionReward:
    """Translate a published configuration; the benchmark's differs in what it has by default."""
    fields = {NAMES.get(name, name): value for name, value in given.items() if name not in READ}
    fields = {name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()}
    if benchmark or given.get("reward_len"):
        fields["length_factor"] = given["len_factor"]
        if not given.get("target_len_as_ref"):
            fields["target_length"] = given["max_rewarded_len"]
    fields["bleu_references"] = "answer"
    if benchmark or given.get("bleu_with_saved_data"):
        fields["bleu_references"] = given.get("bleu_mode", "separate")
    else:
        fields["negative_bleu_smoothing"] = "none"  # published: unsmoothed where nothing is saved
    if given.get("use_tensor_bleu"):
        fields["bleu_smoothing"] = "published_" + given.get("tensor_bleu_smoothing", "exp").replace("-", "_")
    return RetentionReward(**fields)


ROWS, WIDTH = 4, 24  # all cases in one shape, so that one program serves all of them
NO_TEXT = Tokens(jnp.zeros((ROWS, WIDTH), jnp.int32), jnp.zeros((ROWS, WIDTH), bool))


def tokens(case, name) -> Tokens:
    ids, mask = case.i[f"{name}.ids"].astype(jnp.int32), case.i[f"{name}.mask"] > 0
    room = [(0, full - size) for full, size in zip((ROWS, WIDTH), ids.shape, strict=True)]
    return Tokens(jnp.pad(ids, room), jnp.pad(mask, room))


def given_of(case, mode=STANDARD, generated="generated", saved="saved", history=None) -> RewardInput:
    return RewardInput(
        generated=tokens(case, generated),
        answer=tokens(case, "reference"),
        query=NO_TEXT,
        saved=tokens(case, saved),
        history=NO_TEXT if history is None else tokens(case, history),
        mode=jnp.full(ROWS, mode),
        valid=jnp.arange(ROWS) < case.config["B"],
    )


def context_of(case) -> RewardContext:
    nothing = jnp.zeros(len(case.i["embedding"]), bool)
    return RewardContext(nothing, jnp.int32(3), nothing, nothing, embedding=case.i["embedding"])


SETTINGS = [
    pytest.param(name, setting, id=f"{name}-{setting}")
    for name in case_names("rl", "reward_components_")
    for setting in GoldenCase("rl", name).config["configs"]
]


@pytest.mark.parametrize(("name", "setting"), SETTINGS)
def test_reward_and_components(name, setting):
    case = GoldenCase("rl", name)
    reward, context = reward_of(case.config["configs"][setting]), context_of(case)
    begin = reward.first_carry(ROWS, context)
    first = SCORE(reward, given_of(case), context, begin)
    second = SCORE(reward, given_of(case, history="prev1"), context, first.carry)
    third = SCORE(reward, given_of(case, history="prev2"), context, second.carry)
    negative = SCORE(reward, given_of(case, NEGATIVE), context, begin)
    long = SCORE(reward, given_of(case, LONG_RANGE), context, begin)
    longer = SCORE(reward, given_of(case, LONG_RANGE, history="prev1"), context, begin)
    found = {
        "bleu_first": first.components["retention/bleu"],
        "bleu": second.components["retention/bleu"],
        "bleu_negative": negative.components["retention/bleu"],
        "cosine_first": first.components["retention/cosine"],
        "cosine_negative": negative.components["retention/cosine"],
        "reward_standard_step1": first.total,
        "reward_standard_step2": second.total,
        "reward_standard_step3": third.total,
        "reward_negative": negative.total,
        "reward_long_step1": long.total,
        "reward_long_step2": longer.total,
    }
    if reward.use_running_mean:
        found |= {"running_mean_after1": second.carry.mean, "running_mean_after2": third.carry.mean}
    if reward.length_factor:
        found["length"] = first.components["retention/length"]
    missed = {each.removeprefix(f"{setting}.") for each in case.o if each.startswith(f"{setting}.")} - found.keys()
    assert missed <= {"running_mean_after1", "running_mean_after2"}
    for key, value in found.items():
        case.check(value[: case.config["B"]], f"{setting}.{key}")


@pytest.mark.parametrize("name", case_names("rl", "reward_components_"))
def test_embedding_of_a_text(name):
    case = GoldenCase("rl", name)
    for text in ("generated", "reference", "saved"):
        found = text_embedding(case.i["embedding"], tokens(case, text))
        case.check(found[: case.config["B"]], f"sequence_embedding.{text}")


BENCHMARKS = [
    pytest.param(name, setting, id=f"{name}-{setting}")
    for name in case_names("rl", "mrq_score_")
    for setting in GoldenCase("rl", name).config["configs"]
]


@pytest.mark.parametrize(("name", "setting"), BENCHMARKS)
def test_score_of_the_benchmark(name, setting):
    case = GoldenCase("rl", name)
    reward, context = reward_of(case.config["configs"][setting], benchmark=True), context_of(case)
    carry = reward.first_carry(ROWS, context)
    for step in range(3):
        history = f"saved{step - 1}" if step else None
        given = given_of(case, generated=f"generated{step}", saved=f"saved{step}", history=history)
        found = SCORE(reward, given, context, carry)
        carry = found.carry
        parts = {part: found.components[f"retention/{part}"] for part in ("bleu", "cosine", "length", "raw")}
        for part, value in (parts | {"score": found.total}).items():
            case.check(value[: case.config["B"]], f"{setting}.step{step}.{part}")
