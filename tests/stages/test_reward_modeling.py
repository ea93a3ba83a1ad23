"""A reward model learns from pairs what is better, with a memory of its own, and scores rollouts by it."""

import json
from dataclasses import replace
from functools import lru_cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from planted import TOKENIZER, conversations, planted_preferences, tiny_config
from small import small_model, small_recipe

from rxt_jax.data.config import DialogueData
from rxt_jax.export import export_model
from rxt_jax.losses import RewardPairConfig, make_algorithm, reward_pair_losses
from rxt_jax.model import RewardModelConfig
from rxt_jax.nn.parameters import flat_parameters, with_parameters
from rxt_jax.rewards import LearnedReward, learned_and_retention, published_retention, with_held_out
from rxt_jax.run import run_recipe
from rxt_jax.run_evaluation import evaluate_run
from rxt_jax.run_folder import load
from rxt_jax.stages import MemoryReinforcement, RewardModeling
from rxt_jax.stages.rollout import RolloutConfig
from rxt_jax.train.optimizer import OptimizerConfig, make_optimizer
from rxt_jax.train.schedule import ScheduleConfig
from rxt_jax.train.state import make_train_state
from rxt_jax.train.step import make_train_step

STAGE = RewardModeling(remat="none")
CONFIG = tiny_config(reward_model=RewardModelConfig())


def by_path(params):
    return {path: variable[...] for path, variable in flat_parameters(params).items()}


@lru_cache(maxsize=1)
def begun():
    graphdef, params = nnx.split(small_model(CONFIG))
    return graphdef, with_parameters(params, STAGE.first_params(by_path(params)))


@lru_cache(maxsize=1)
def measure():
    """Loss, metrics and gradients without a key, one program for all tests."""
    graphdef = begun()[0]

    @jax.jit
    def found(params, batch):
        def loss(params):
            return STAGE.objective(nnx.merge(graphdef, params), batch, None, STAGE.label_counts(batch))

        return jax.value_and_grad(loss, has_aux=True)(params)

    return found


def test_the_loss_is_bradley_terry_with_a_margin_and_pulls_scores_to_zero():
    rng = np.random.default_rng(0)
    chosen, rejected = (jnp.asarray(rng.normal(size=7), jnp.float32) for _ in range(2))
    config = RewardPairConfig(margin=0.3, centring=0.1, label_smoothing=0.2)
    d = np.asarray(chosen - rejected, np.float64) - 0.3
    expected = 0.8 * np.log1p(np.exp(-d)) + 0.2 * np.log1p(np.exp(d)) + 0.1 * np.asarray(chosen + rejected) ** 2
    np.testing.assert_allclose(reward_pair_losses(chosen, rejected, config), expected, rtol=1e-5)
    slope = jax.grad(lambda c: jnp.sum(reward_pair_losses(c, rejected, RewardPairConfig(centring=0.0))))(chosen)
    np.testing.assert_allclose(slope, -1.0 / (1.0 + np.exp(np.asarray(chosen - rejected))), rtol=1e-5)
    for bad in ({"margin": -1.0}, {"centring": -1.0}, {"label_smoothing": 0.5}):
        with pytest.raises(ValueError, match=next(iter(bad))):
            RewardPairConfig(**bad)


@pytest.mark.slow
def test_it_begins_as_a_copy_and_only_itself_gets_a_gradient():
    _, params = begun()
    flat = by_path(params)
    own = [path for path in flat if path.startswith("reward_model/") and "/head/" not in path]
    for path in own:
        of = path.removeprefix("reward_model/")
        if of.startswith("reader/"):
            of = of.removeprefix("reader/")
            part = "decoder" if "cross_attention" in of else "encoder"
            of = of if of.startswith("embedding") else f"{part}/{of}"
        np.testing.assert_array_equal(flat[path], flat[of], err_msg=path)
    assert len(own) > 20 and any("cross_attention" in path for path in own)
    _, slopes = measure()(params, planted_preferences())
    size = {path: float(jnp.abs(slope).sum()) for path, slope in by_path(slopes).items()}
    assert all(value == 0.0 for path, value in size.items() if not path.startswith("reward_model/"))
    for part in ("encoder/layers", "memory_attention", "reader/layers", "reader/head/value"):
        assert max(value for path, value in size.items() if path.startswith(f"reward_model/{part}")) > 0.0, part


@pytest.mark.slow
def test_rejected_answers_are_in_no_memory_and_no_answer_is_in_the_memory_that_scores_it():
    _, params = begun()
    batch = planted_preferences()
    batch = batch._replace(rejected=batch.rejected._replace(valid=np.ones_like(batch.rejected.valid)))
    before = measure()(params, batch)[0][1]

    def changed(part, turn):
        ids = getattr(batch, part).ids.copy()
        ids[turn, :, 4] = 33
        return measure()(params, batch._replace(**{part: getattr(batch, part)._replace(ids=ids)}))[0][1]

    assert before["score/rejected"] != changed("rejected", 0)["score/rejected"]
    assert before["score/chosen"] == changed("rejected", 0)["score/chosen"]
    # Answer 1 is written by nobody; answer 0 is what score 1 depends on.
    after = changed("chosen", 1)
    assert before["score/rejected"] == after["score/rejected"] and before["score/chosen"] != after["score/chosen"]
    assert before["score/rejected"] != changed("chosen", 0)["score/rejected"]


@pytest.mark.slow
def test_rollouts_are_scored_with_the_memory_of_the_reward_model():
    graphdef, params = begun()
    policy, advantage = make_algorithm("reinforce")
    stage = MemoryReinforcement(
        reward=with_held_out(LearnedReward(), published_retention()),
        rollout=RolloutConfig(answer_length=4),
        policy=policy,
        advantage=advantage,
        reference="none",
    )
    act = jax.jit(stage.make_act(graphdef, TOKENIZER))
    carry = {"table": by_path(params)["embedding/table"]}
    made = act(params, carry, conversations(), 0, jax.random.key(0))

    @jax.jit
    def by_hand(params):
        judge = nnx.merge(graphdef, params).reward_model
        memory, found = judge.initial_memory(made.ids.shape[1]), []
        for turn in range(len(made.ids)):
            found.append(judge(made.ids[turn], made.token_mask[turn], memory))
            written = judge.encode(made.written_ids[turn], made.written_mask[turn])
            memory = judge.update_memory(memory, written, made.written_mask[turn])
        return jnp.stack(found)

    answered = np.asarray(made.answered)
    assert answered.sum() > 4
    np.testing.assert_allclose(made.rewards[answered], by_hand(params)[answered], rtol=1e-4, atol=1e-5)
    # The held-out reward is reported and not learnt from.
    assert float(jnp.abs(made.components["held_out/total"]).sum()) > 0.0
    metrics = stage.batch_metrics(made)
    np.testing.assert_allclose(metrics["learned/total"][0], metrics["reward/total"][0], rtol=1e-6)
    assert not np.allclose(metrics["held_out/total"][0], metrics["reward/total"][0])


def test_who_has_no_reward_model_is_told():
    graphdef, params = nnx.split(small_model(tiny_config()))
    with pytest.raises(ValueError, match=r"set model\.reward_model to RewardModelConfig"):
        STAGE.objective(nnx.merge(graphdef, params), planted_preferences(), None, {})
    policy, advantage = make_algorithm("reinforce")
    stage = MemoryReinforcement(reward=learned_and_retention(), policy=policy, advantage=advantage, reference="none")
    with pytest.raises(ValueError, match=r"set model\.reward_model to RewardModelConfig"):
        stage.make_act(graphdef, TOKENIZER)(
            params, {"table": jnp.zeros((48, 1))}, conversations(), 0, jax.random.key(0)
        )
    with pytest.raises(ValueError, match="group 'reward_model'"):
        replace(STAGE, trainable=("decoder",))


@pytest.mark.slow
def test_where_only_memory_tells_which_answer_is_better_it_learns_to_use_it():
    graphdef, params = begun()
    optimizer = make_optimizer(
        OptimizerConfig(learning_rate=5e-3, schedule=ScheduleConfig(kind="constant", warmup_share=0.0)),
        params,
        total_updates=600,
        trainable=STAGE.trainable,
    )
    state = make_train_state(params, optimizer)
    step = make_train_step(graphdef, STAGE, optimizer, seed=0)
    accuracy = {}
    for update in range(600):
        state, _ = step(state, planted_preferences(update, rows=64))
        if update % 50 == 49:
            metrics = measure()(state.params, planted_preferences(10**6, rows=256))[0][1]
            names = ("accuracy", "accuracy_zeroed", "accuracy_shuffled")
            accuracy = {name: float(metrics[f"score/{name}"][0] / metrics[f"score/{name}"][1]) for name in names}
            if accuracy["accuracy"] > 0.99:
                break
    assert accuracy["accuracy"] > 0.97, accuracy
    assert abs(accuracy["accuracy_zeroed"] - 0.5) < 0.12 and accuracy["accuracy_shuffled"] < 0.65, accuracy


@pytest.mark.slow
def test_a_recipe_trains_one_and_rewards_with_it_and_an_export_keeps_it(tmp_path):
    policy, advantage = make_algorithm("grpo")
    stages = {
        "reward": RewardModeling(),
        "reinforced": MemoryReinforcement(
            reward=learned_and_retention(),
            rollout=RolloutConfig(group_size=2, answer_length=6),
            policy=policy,
            advantage=advantage,
        ),
    }
    recipe = small_recipe(tmp_path / "run", stages)
    data = replace(recipe.data, source=replace(recipe.data.source, preferences=True))
    model = tiny_config(max_length=40, reward_model=RewardModelConfig())
    recipe = replace(
        recipe,
        model=model,
        stages=recipe.stages | {"reward": replace(recipe.stages["reward"], data=data)},
        evaluation=replace(recipe.evaluation, episodes=8, batch_size=8),
    )
    assert run_recipe(recipe, quiet=True)
    first, last = (
        by_path(nnx.split(load(folder).model)[1]) for folder in (tmp_path / "run/stages/reward", recipe.run_folder)
    )
    moved = {path.split("/")[0] for path in first if not np.array_equal(first[path], last[path])}
    assert "decoder" in moved and "reward_model" not in moved
    export_model(tmp_path / "run", tmp_path / "exported")
    again = by_path(nnx.split(load(tmp_path / "exported").model)[1])
    path = "reward_model/reader/head/value/kernel"
    np.testing.assert_allclose(again[path], last[path], rtol=1e-2)
    found = evaluate_run(recipe.run_folder)
    assert found.preferences is not None and found.preferences.judge == "reward_model"
    written = json.loads((found.folder / "preferences.json").read_text())
    assert {"memory", "zeroed", "shuffled"} <= written["conditions"].keys() and written[
        "pairs"
    ] == found.preferences.pairs > 0
    assert isinstance(recipe.data.source, DialogueData)
