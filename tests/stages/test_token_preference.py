"""Preferences of models without memory: the contract of four log-probabilities, token rows, the trainer."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from small import call, small_config, small_model

import rxt_jax
from rxt_jax.losses import PreferenceConfig, projected_sequence_log_probs, sequence_log_probs
from rxt_jax.model import presets
from rxt_jax.stages.preference import (
    DPOConfig,
    DPOTrainer,
    TokenPairs,
    compute_log_probs,
    dpo_loss,
    pack_rows,
    prepare_dpo_batch,
    token_preference_loss,
)

PROMPTS = [[2, 5, 9, 11], [2, 5, 12], [2, 5, 9, 9, 8, 14]]
CHOSEN = [[6, 20, 21, 3], [6, 22, 3], [6, 23, 24, 25, 3]]
REJECTED = [[6, 30, 3], [6, 31, 32, 33, 3], [6, 3]]


def model(seed=0):
    return small_model(presets.baseline_like(small_config(), max_length=32), seed)


def test_log_probabilities_are_those_of_each_token_after_all_before_it():
    policy = model()
    found = compute_log_probs(policy, PROMPTS, CHOSEN)
    for row, (prompt, response) in enumerate(zip(PROMPTS, CHOSEN, strict=True)):
        ids = np.zeros((1, 16), np.int32)  # one width for all rows
        ids[0, : len(prompt + response)] = prompt + response
        log_probs = jax.nn.log_softmax(call(policy, "decode", ids, np.arange(16)[None] < len(prompt + response))[0])
        total = sum(float(log_probs[len(prompt) - 1 + i, token]) for i, token in enumerate(response))
        np.testing.assert_allclose(found[row], total, rtol=1e-5)
    means = compute_log_probs(policy, PROMPTS, CHOSEN, reduction="mean")
    np.testing.assert_allclose(means, found / np.array([4.0, 3.0, 5.0]), rtol=1e-6)


def test_projected_and_plain_log_probabilities_agree_in_value_and_gradient():
    rng = np.random.default_rng(0)
    hidden, kernel = jnp.asarray(rng.normal(size=(3, 150, 8)), jnp.float32), jnp.asarray(rng.normal(size=(8, 20)))
    ids, mask = jnp.asarray(rng.integers(0, 20, (3, 150))), jnp.asarray(rng.random((3, 150)) < 0.4)
    kernel = kernel.astype(jnp.float32)

    def plain(hidden):
        return jnp.sum(sequence_log_probs(hidden @ kernel, ids, mask).reduced("sqrt_len") ** 2)

    def projected(hidden):
        return jnp.sum(projected_sequence_log_probs(lambda h: h @ kernel, hidden, ids, mask).reduced("sqrt_len") ** 2)

    np.testing.assert_allclose(projected(hidden), plain(hidden), rtol=1e-5)
    np.testing.assert_allclose(jax.grad(projected)(hidden), jax.grad(plain)(hidden), rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_the_loss_of_tokens_is_that_of_their_log_probabilities():
    policy, reference = model(0), model(1)
    batch = prepare_dpo_batch(policy, reference, PROMPTS, CHOSEN, REJECTED)
    config = DPOConfig(beta=0.3, label_smoothing=0.1)
    trainer = DPOTrainer(policy, optax.sgd(0.0), config, reference_model=reference)
    texts = {"prompts": PROMPTS, "chosen_responses": CHOSEN, "rejected_responses": REJECTED}
    for name, value in dpo_loss(batch, config)[1].items():
        np.testing.assert_allclose(trainer.train_step(texts)[name], value, rtol=2e-5, err_msg=name)
        np.testing.assert_allclose(trainer.train_step(batch)[name], value, rtol=2e-5, err_msg=name)


@pytest.mark.parametrize(
    "config",
    [
        DPOConfig(),
        pytest.param(DPOConfig(beta=2.0, reference_free=True), marks=pytest.mark.slow),
        pytest.param(DPOConfig(preference=PreferenceConfig(loss="ipo", beta=0.2)), marks=pytest.mark.slow),
    ],
    ids=["dpo", "reference_free", "ipo"],
)
def test_training_learns_to_prefer_and_leaves_the_reference_alone(config):
    policy = model()
    trainer = DPOTrainer(policy, optax.adam(3e-3), config)
    texts = {"prompts": PROMPTS, "chosen_responses": CHOSEN, "rejected_responses": REJECTED}
    first = trainer.train_step(texts)
    for _ in range(30):
        last = trainer.train_step(texts)
    assert last["reward_accuracy"] == 1.0 and last["dpo_loss"] < first["dpo_loss"]
    assert last["margin"] > first["margin"] + 0.5
    if not config.reference_free:
        frozen = compute_log_probs(trainer.reference_model, PROMPTS, CHOSEN)
        np.testing.assert_array_equal(frozen, compute_log_probs(model(), PROMPTS, CHOSEN))


def test_without_a_gradient_there_is_no_update():
    policy = model()
    trainer = rxt_jax.DPOTrainer(policy, optax.adam(1e-2), rxt_jax.DPOConfig())
    before = jax.tree.map(np.asarray, nnx.state(policy))
    trainer.train_step(prepare_dpo_batch(policy, model(1), PROMPTS, CHOSEN, REJECTED))
    jax.tree.map(np.testing.assert_array_equal, before, nnx.state(policy))


def test_a_long_prompt_gives_way_before_its_response():
    rows = pack_rows([[2, 5, 7, 8, 9]], [[6, 3]], max_length=4)
    np.testing.assert_array_equal(rows.ids, [[8, 9, 6, 3]])
    np.testing.assert_array_equal(rows.loss_mask, [[False, False, True, True]])


def test_incomplete_batches_are_refused():
    with pytest.raises(ValueError, match="lacks ref_chosen_log_probs"):
        dpo_loss({"chosen_log_probs": np.zeros(2), "rejected_log_probs": np.zeros(2)}, DPOConfig())
    with pytest.raises(ValueError, match="shape"):
        dpo_loss({"chosen_log_probs": np.zeros(2), "rejected_log_probs": np.zeros(3)}, DPOConfig(reference_free=True))
    with pytest.raises(ValueError, match="lacks rejected_responses"):
        DPOTrainer(model(), optax.sgd(0.1)).train_step({"prompts": PROMPTS, "chosen_responses": CHOSEN})
    with pytest.raises(ValueError, match="reference model"):
        rows = pack_rows(PROMPTS, CHOSEN)
        token_preference_loss(model(), None, TokenPairs(rows, rows), DPOConfig())
