"""Rollouts, updates, freezing and replay of memory reinforcement against published numbers.

Source: docs/method.md §19.5 to §19.8.
"""

from functools import lru_cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from golden_case import GoldenCase, case_names, golden_json

from rxt_jax.compatibility import Compatibility
from rxt_jax.interop.rxlm_config import model_from_published
from rxt_jax.interop.rxlm_weights import COMPONENT_PREFIXES, load_weights
from rxt_jax.losses.memory_policy import AnswerBefore, MemoryPolicyConfig
from rxt_jax.model import CriticConfig, ReactiveTransformer, SamplingConfig
from rxt_jax.nn.parameters import flat_parameters, with_parameters
from rxt_jax.ops.joining import join_masks, join_parts
from rxt_jax.rewards import RewardContext, published_retention
from rxt_jax.stages import MemoryReinforcement
from rxt_jax.stages.episode_strategy import make_strategy
from rxt_jax.stages.reinforcement_plans import unfreeze_plan
from rxt_jax.stages.replay import ReplayConfig, choose_replay, episode_scores
from rxt_jax.stages.rollout import RolloutConfig, SpecialIds, collect
from rxt_jax.stages.trajectory import Trajectory
from rxt_jax.stages.trajectory_learning import Chain
from rxt_jax.train.groups import assign_groups
from rxt_jax.train.optimizer import OptimizerConfig, make_optimizer
from rxt_jax.types import EpisodeBatch

PREFIXES = {part: prefix for part, prefix in COMPONENT_PREFIXES.items() if part != "masked_language_head"}
PAD, END, ANSWER = 0, 3, 6
STRATEGIES = {"MULTI_STEP_STRATEGY": "multi_step", "LONG_RANGE_STRATEGY": "long_range"}


def first_is_quick(names: list) -> list:
    """Leave all cases but one to the slow tests: each compiles programs of its own."""
    return [*names[:1], *(pytest.param(name, marks=pytest.mark.slow) for name in names[1:])]


class ReinforcementCase(GoldenCase):
    """A case with its model."""

    def __init__(self, name: str):
        super().__init__("rl", name)
        parts = self.config["model"]
        memory = dict(parts["memory_attention"])
        critic = CriticConfig() if "critic" in self.config else None
        compatibility = Compatibility(causal_ignores_padding=True)
        config = model_from_published(
            parts["decoder"], parts["encoder"], memory, memory.pop("variant"), compatibility=compatibility
        )
        self.model_config = config.__class__(**{**vars(config), "critic": critic})
        self.graphdef, self.fresh = nnx.split(ReactiveTransformer(self.model_config, rngs=nnx.Rngs(0)))
        self.params = self.parameters(self.w)

    def parameters(self, weights):
        """Fill the model; the critic reads like an encoder, so its weights have an encoder's names."""
        params = load_weights(self.fresh, self.model_config, weights, PREFIXES)[0]
        if self.model_config.critic is None:
            return params
        names = {"embedding": "critic.encoder.model.embedding", "encoder": "critic.encoder.model"}
        read = load_weights(self.fresh, self.model_config, weights, names)[0]
        flat = {path: value[...] for path, value in flat_parameters(read).items()}
        own = MemoryReinforcement(reward=published_retention()).first_params(flat)
        width = self.model_config.embed_dim
        head = {
            "critic/head/gate/kernel": weights["critic.value_head.0.linear.weight"].T.reshape(width, 2, width),
            "critic/head/gate/bias": weights["critic.value_head.0.linear.bias"].reshape(2, width),
            "critic/head/norm/scale": weights["critic.value_head.1.weight"],
            "critic/head/norm/bias": weights["critic.value_head.1.bias"],
            "critic/head/value/kernel": weights["critic.value_head.2.weight"].T,
            "critic/head/value/bias": weights["critic.value_head.2.bias"],
            "critic/head/scale": weights["critic.scale"],
            "critic/head/shift": weights["critic.shift"],
        }
        filled = {path: value for path, value in own.items() if path.startswith("critic/")}
        return with_parameters(params, filled | {path: jnp.asarray(value) for path, value in head.items()})

    def rows(self, query: str, answer: str):
        """Join a query and an answer; also where the answer begins."""
        ids, masks = ([self.i[f"{part}.{leaf}"] for part in (query, answer)] for leaf in ("ids", "mask"))
        masks, width = [mask.astype(bool) for mask in masks], self.config["max_seq_len"]
        begin = jnp.sum(masks[0], axis=1)
        return join_parts(ids, masks, width).astype(jnp.int32), join_masks(masks, width), begin

    def close(self, found, name: str, rtol_factor: float = 1.0) -> None:
        tolerance = self.facts["tolerance"]
        atol = tolerance.get("atol_by_tensor", {}).get(name, tolerance["atol"])
        np.testing.assert_allclose(
            found, self.tensors[name], rtol=rtol_factor * tolerance["rtol"], atol=atol, err_msg=name
        )


@lru_cache(maxsize=1)
def load(name: str) -> ReinforcementCase:
    return ReinforcementCase(name)


@pytest.mark.parametrize(
    "name",
    first_is_quick(case_names("rl", "mrl_collect_")),
)
def test_greedy_rollouts_answers_memories_and_rewards(name):
    """Source: docs/method.md §19.7, with an opening token that is written once."""
    case = load(name)
    count = case.config["interactions"]
    labels = [("first.query", "first.answer")]
    labels += [(f"interaction{i}.query", f"interaction{i}.answer") for i in range(count)]
    rows = [case.rows(*label) for label in labels]
    ids, masks, begins = (jnp.stack([row[leaf] for row in rows]) for leaf in range(3))
    places = jnp.arange(case.config["max_seq_len"])
    batch = EpisodeBatch(ids, masks, masks & (places >= begins[..., None]), jnp.ones(ids.shape[:2], bool))
    size = case.model_config.vocab_size
    config = RolloutConfig(
        strategy=make_strategy(STRATEGIES[case.config["strategy"]]),
        sampling=SamplingConfig(),
        continuation="data" if case.config["teacher_forcing"] else "generated",
    )

    @jax.jit
    def roll(params):
        model = nnx.merge(case.graphdef, params)
        nothing = jnp.zeros(size, bool)
        context = RewardContext(nothing, jnp.int32(END), nothing, nothing, model.embedding.table[...])
        fresh = jnp.zeros(ids.shape[1], bool)
        special = SpecialIds(END, PAD, (ANSWER,))
        key = jax.random.key(0)
        return collect(model, batch, case.i["stm0"], fresh, key, config, published_retention(), context, special)

    made = roll(case.params)
    case.close(made.last_memory, f"out.fixed.stm_after_update{count - 1}")
    for number in range(count):
        expected, mask = (case.o[f"fixed.step{number}.action.{leaf}"] for leaf in ("ids", "mask"))
        found = jnp.where(made.action_mask, made.actions, PAD)[number + 1]
        length = expected.shape[1] - 1
        np.testing.assert_array_equal(made.action_mask[number + 1][:, :length], mask[:, 1:] > 0)
        np.testing.assert_array_equal(found[:, :length], expected[:, 1:] * (mask[:, 1:] > 0))
        case.close(made.rewards[number + 1], f"out.fixed.step{number}.reward")


def trajectory_of(case: ReinforcementCase) -> Trajectory:
    """Write the stored steps of a case as a trajectory: interaction i + 1 is answered in step i."""
    count, width = case.config["interactions"], case.config["max_seq_len"]
    steps = [{k: case.i[f"step{t}.{k}"] for k in ("action.ids", "action.mask")} for t in range(count)]
    batch = len(steps[0]["action.ids"])
    nothing, blank = jnp.zeros((1, batch)), jnp.zeros((1, batch, width - 1))
    written = [case.rows(f"step{t}.query", f"step{t}.answer") for t in range(count)]
    answered = [case.rows(f"step{t}.next_query", f"step{t}.action") for t in range(count)]

    def stacked(leaf: int, rows) -> jax.Array:
        return jnp.stack([row[leaf] for row in rows])

    def given(name: str, first=nothing) -> jax.Array:
        return jnp.concatenate([first, jnp.stack([case.i[f"step{t}.{name}"] for t in range(count)])])

    lengths = jnp.concatenate([jnp.zeros((1, batch), jnp.int32), stacked(2, answered)])
    masks = given("action.mask", jnp.zeros((1, batch, width))).astype(bool)[..., 1:]
    everyone = jnp.ones((count + 1, batch), bool)
    number = jnp.arange(count + 1)[:, None]
    return Trajectory(
        ids=stacked(0, [written[0], *answered]),
        token_mask=stacked(1, [written[0], *answered]),
        valid=everyone,
        answered=everyone & (number > 0),
        done=everyone & (number == count),
        query_length=lengths,
        start=lengths + 1,
        actions=given("action.ids", jnp.zeros((1, batch, width))).astype(jnp.int32)[..., 1:],
        action_mask=masks,
        ended=everyone,
        behaviour_log_probs=given("old_log_probs", blank) * masks,
        old_log_probs=given("old_log_probs", blank) * masks,
        reference_log_probs=given("ref_log_probs", blank) * masks,
        # The last interaction is never written, so anything may stand there.
        written_ids=stacked(0, [*written, written[0]]),
        written_mask=stacked(1, [*written, written[0]]),
        rewards=given("critic_targets"),
        values=jnp.zeros((count + 1, batch)),
        advantages=given("advantages"),
        returns=given("critic_targets"),
        components={},
        memory=case.i["stm0"],
        last_memory=case.i["stm0"],
        is_fresh=jnp.zeros((1, batch), bool),
    )


GROUPS_CLIPPED = (("embedding", "encoder"), ("decoder", "cross_attention"), ("memory_attention",), ("critic",))


@pytest.mark.parametrize(
    "name",
    case_names("rl", "mrl_update_", slow=lambda _: True),  # tests/stages have the same code in quick tests
)
def test_updates_interaction_by_interaction(name):
    """Losses, values, log-probabilities, memories and all gradients, then a run with SGD that clips by component."""
    case = load(name)
    given = case.config["algorithm"]
    stage = MemoryReinforcement(
        reward=published_retention(),
        policy=MemoryPolicyConfig(
            terms="published",
            reference_estimator="published",
            entropy_weight=given["entropy_coef"],
            reference_weight=given["ref_kl_coef"],
            consistency_weight=given["interstep_kl_coef"],
            memory_change_weight=given["stm_diff_coef"],
            memory_cosine_weight=given["cosine_sim_coef"],
        ),
        memory_gradient_steps=1,
        interactions_per_update=1,
        balance_loss_scale=0.0,
        remat="none",
    )
    made = trajectory_of(case)
    steps = stage.interactions(made)

    @jax.jit
    def gradient(params, chain, number):
        window = jax.tree.map(lambda leaf: jax.lax.dynamic_slice_in_dim(leaf, number, 1), steps)

        def loss(params):
            model = nnx.merge(case.graphdef, params)
            counts = stage.label_counts(window)
            value, (chain_after, metrics) = stage.window_objective(model, chain, window, None, counts, start=number)
            return value, (chain_after, metrics)

        return jax.value_and_grad(loss, has_aux=True)(params)

    def first_chain():
        blank = made.actions.shape[1:]
        uniform = jnp.zeros((1, *blank, case.model_config.vocab_size))
        return Chain(case.i["stm0"], AnswerBefore(uniform, jnp.zeros((1, *blank), bool)))

    chain = first_chain()
    for number in range(case.config["interactions"]):
        (_, (chain, metrics)), slopes = gradient(case.params, chain, number + 1)
        case.close(metrics["policy/loss"][0], f"out.step{number}.policy_loss")
        case.close(metrics["critic/loss"][0] / metrics["critic/loss"][1], f"out.step{number}.critic_loss")
        case.close(chain.memory, f"out.step{number}.stm")
        kind = f"grad.step{number}."
        named = {key.removeprefix(kind): value for key, value in case.tensors.items() if key.startswith(kind)}
        wanted = case.parameters({k: np.zeros_like(v) for k, v in case.w.items()} | named)
        found = flat_parameters(slopes)
        for path, variable in flat_parameters(wanted).items():
            if path.split("/")[0] not in ("masked_language_head", "learned_memory"):
                largest = max(float(np.abs(variable[...]).max()), 1e-3)
                np.testing.assert_allclose(
                    found[path][...], variable[...], rtol=2e-3, atol=5e-4 * largest, err_msg=f"step {number} {path}"
                )

    params, chain = case.params, first_chain()
    for number in range(case.config["interactions"]):
        (_, (chain, metrics)), slopes = gradient(params, chain, number + 1)
        case.close(metrics["policy/loss"][0], f"out.sgd.step{number}.policy_loss")
        case.close(metrics["critic/loss"][0] / metrics["critic/loss"][1], f"out.sgd.step{number}.critic_loss")
        flat, moved = {path: value[...] for path, value in flat_parameters(slopes).items()}, {}
        group_of = assign_groups(flat)
        for groups in GROUPS_CLIPPED:
            mine = [path for path in flat if group_of[path] in groups]
            norm = jnp.sqrt(sum(jnp.sum(flat[path] ** 2) for path in mine))
            scale = jnp.minimum(1.0, 1.0 / (norm + 1e-6))
            moved |= {path: flat_parameters(params)[path][...] - 0.03 * scale * flat[path] for path in mine}
        params = with_parameters(params, moved)
    final = {k.removeprefix("out.sgd.final."): v for k, v in case.tensors.items() if k.startswith("out.sgd.final.")}
    expected, found = flat_parameters(case.parameters(case.w | final)), flat_parameters(params)
    for path in ("decoder/head/kernel", "embedding/table", "critic/head/value/kernel"):
        np.testing.assert_allclose(found[path][...], expected[path][...], rtol=1e-3, atol=1e-4, err_msg=path)


@pytest.mark.parametrize("stem", case_names("rl", "replay_buffer_"))
def test_replay_keeps_and_gives_up_what_the_published_buffer_does(stem):
    case = golden_json("rl", f"{stem}.json")
    config = ReplayConfig(size=case["size"], update_size=case["update_size"], max_age=case["max_age"])
    kept = np.full(config.size, -1)
    ages, scores = jnp.full(config.size, -1), jnp.zeros(config.size)
    for number, each in enumerate(case["rounds"]):
        new = each["collected"][config.size if number else 0 :]
        rewards = jnp.asarray([episode["rewards"] for episode in new], jnp.float32)
        new_scores = episode_scores(rewards, jnp.ones(rewards.shape, bool))
        source, ages = choose_replay(config, scores, ages, new_scores)
        kept = np.concatenate([kept, [episode["id"] for episode in new]])[source]
        scores = jnp.concatenate([scores, new_scores])[source]
        expected = sorted(((k["id"], k["age"], k["score"]) for k in each["kept"]), key=lambda k: k[0])
        found = sorted(zip(kept.tolist(), ages.tolist(), scores.tolist(), strict=True), key=lambda k: k[0])
        np.testing.assert_allclose(found, expected, **case["tolerance"])


FREEZE_STAGES = {
    # Name in the case → the update at which a plan of updates 0, 10, 20, 30 is in it, and what differs on purpose.
    "warmup": (5, {}),
    "fetch": (15, {}),
    "update": (25, {}),
    "all": (35, {}),
}


def test_freezing_by_plan_trains_what_the_published_stages_train():
    """A plan of ours leaves the shared embedding frozen until everything trains, as the published "update" does."""
    case = golden_json("rl", "mrl_freeze_stages.json")
    reference = load("mrl_collect_long_range")
    plan = unfreeze_plan(fetch=10, update=20, everything=30)
    stage = MemoryReinforcement(reward=published_retention(), unfreeze=plan)
    optimizer = make_optimizer(
        OptimizerConfig(), reference.params, total_updates=40, trainable=stage.trainable, unfreeze=stage.unfreeze
    )
    group_of = {path: group for group, paths in optimizer.members.items() for path in paths}
    group_names = {
        "embedding": "embedding",
        "encoder": "encoder_not_memory",
        "cross_attention": "decoder_memory",
        "decoder": "decoder_not_memory",
        "memory_attention": "memory_attention",
    }
    for label, (update, _) in FREEZE_STAGES.items():
        flags = case["trainable"][label]
        for group, published in group_names.items():
            moves = update >= optimizer.starts.get(group, 0)
            assert {flags[name] for name in case["optimizer_groups"][published]} == {moves}, (label, group)
    assert set(group_of.values()) == set(group_names)
