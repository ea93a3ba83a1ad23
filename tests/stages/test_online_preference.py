"""Online DMPO: the policy's own answers become pairs, scored with the memory that they were drawn from."""

from dataclasses import replace
from functools import lru_cache
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from planted import TOKENIZER, SavedShare, conversations, tiny_config
from small import small_model

from rxt_jax.compatibility import PreferenceCompatibility
from rxt_jax.stages import OnlineMemoryPreference
from rxt_jax.stages.online_preference import rank_answers
from rxt_jax.stages.rollout import RolloutConfig, collect, special_ids, tile_rows
from rxt_jax.train.acting import make_acting
from rxt_jax.train.optimizer import OptimizerConfig, make_optimizer
from rxt_jax.train.state import make_train_state
from rxt_jax.train.step import make_train_step

SIZE, ROWS = 4, 3
ROLLOUT = RolloutConfig(group="branch", group_size=SIZE, continuation="best", answer_length=4)
# Memory is drawn at random, so that it matters which one a conversation began with.
STAGE = OnlineMemoryPreference(reward=SavedShare(), rollout=ROLLOUT, remat="none")
CONFIG = tiny_config(initial_memory="standard")


@lru_cache(maxsize=1)
def begun():
    graphdef, params = nnx.split(small_model(CONFIG))
    optimizer = make_optimizer(OptimizerConfig(learning_rate=3e-3), params, total_updates=50, trainable=STAGE.trainable)
    batch = conversations(rows=ROWS)
    state = make_train_state(params, optimizer, STAGE, graphdef=graphdef, tokenizer=TOKENIZER, batch=batch)
    return graphdef, optimizer, state, make_acting(graphdef, STAGE, TOKENIZER, seed=0)


@lru_cache(maxsize=1)
def acted():
    _, _, state, act = begun()
    return act(state, conversations(rows=ROWS), 0)


@pytest.mark.slow
def test_the_best_and_the_worst_of_a_group_are_paired_and_equal_rewards_are_no_pair():
    graphdef, _, state, _ = begun()

    @jax.jit
    def roll(params):
        model = nnx.merge(graphdef, params)
        batch = tile_rows(conversations(rows=ROWS), SIZE)
        memory = jnp.repeat(model.initial_memory(ROWS, jax.random.key(1)), SIZE, axis=1)
        here = SimpleNamespace(special=jnp.zeros(CONFIG.vocab_size, bool))
        fresh = jnp.ones(ROWS * SIZE, bool)
        return collect(
            model, batch, memory, fresh, jax.random.key(2), ROLLOUT, SavedShare(), here, special_ids(TOKENIZER)
        )

    made = roll(state.params)
    ranked = rank_answers(made, SIZE)
    rewards, answered = (np.asarray(leaf).reshape(4, ROWS, SIZE) for leaf in (made.rewards, made.answered))
    rows = np.asarray(made.ids).reshape(4, ROWS, SIZE, -1)
    paired = np.asarray(ranked.rejected.valid)
    assert paired.sum() > 2
    for turn, row in np.argwhere(answered.any(-1)):
        here = rewards[turn, row]
        assert paired[turn, row] == (here.max() > here.min())
        np.testing.assert_array_equal(ranked.chosen.ids[turn, row], rows[turn, row, here.argmax()])
        if paired[turn, row]:
            np.testing.assert_array_equal(ranked.rejected.ids[turn, row], rows[turn, row, here.argmin()])
    assert not paired[0].any() and not np.any(ranked.chosen.loss_mask[~paired])
    written = np.asarray(made.written_ids)[:, ::SIZE]
    np.testing.assert_array_equal(ranked.chosen.ids, written)

    # DMPO finds for the chosen answers the log-probabilities that they were drawn with: the memories are the same.
    stage = replace(STAGE, reference="none")
    _, metrics = jax.jit(
        lambda params: stage.objective(nnx.merge(graphdef, params), ranked, None, stage.label_counts(ranked))
    )(state.params)
    drawn = np.where(made.action_mask, made.old_log_probs, 0.0).sum(-1).reshape(4, ROWS, SIZE)
    best, worst = (
        np.take_along_axis(drawn, find(rewards, -1)[..., None], -1)[..., 0] for find in (np.argmax, np.argmin)
    )
    np.testing.assert_allclose(metrics["logps/chosen"][0], best[paired].sum(), rtol=1e-4)
    np.testing.assert_allclose(metrics["logps/rejected"][0], worst[paired].sum(), rtol=1e-4)


@pytest.mark.slow
def test_an_update_makes_the_best_likelier_than_the_worst_and_reports_the_rollout():
    graphdef, optimizer, state, act = begun()
    batch = acted()
    step = make_train_step(graphdef, STAGE, optimizer, seed=0)
    state = jax.tree.map(jnp.copy, state)
    found = []
    for _ in range(3):
        state, metrics = step(state, batch)
        found.append({name: float(value) / max(float(count), 1e-9) for name, (value, count) in metrics.items()})
    assert found[0]["rewards/margins"] == pytest.approx(0.0, abs=1e-5)
    assert found[2]["rewards/margins"] > 0.0 and found[2]["preference/loss"] < found[0]["preference/loss"]
    assert 0.0 < found[0]["pairs/share"] <= 1.0 and found[0]["pairs/reward_gap"] > 0.0
    assert {"reward/total", "answer/length", "turn", "reward/total/interaction_2"} <= found[0].keys()
    text = STAGE.transcripts(jax.device_get(batch), Words())
    assert len(text) == ROWS and text[0].startswith("conversation 1\nyou    ")
    assert "\ndata   " in text[0] and "\nbest   " in text[0] and "(reward " in text[0]
    again = act(begun()[2], conversations(rows=ROWS), 0)
    np.testing.assert_array_equal(again.chosen.ids, batch.chosen.ids)


class Words:
    """Decodes ids as numbers."""

    special = TOKENIZER.special

    def decode(self, ids):
        return " ".join(map(str, ids))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rollout": RolloutConfig(group_size=4)}, "rollout.group='branch'"),
        ({"rollout": replace(ROLLOUT, soft_warmup=True)}, "soft_warmup"),
        ({"reference": "precomputed"}, "made on the way"),
        ({"anchor_weight": 0.1}, "neutral answers"),
        ({"compatibility": PreferenceCompatibility(memory_rule="published")}, "memory_rule='causal'"),
    ],
)
def test_impossible_options(options, message):
    with pytest.raises(ValueError, match=message):
        replace(STAGE, **options)
