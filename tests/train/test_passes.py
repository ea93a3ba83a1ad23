"""Learning from a batch in several passes, and clipping sets of groups apart."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from small import small_config, small_model

from rxt_jax.model import CriticConfig
from rxt_jax.stages.stage import Passes
from rxt_jax.train.optimizer import OptimizerConfig, make_optimizer
from rxt_jax.train.passes import make_passes

BATCH = {"row": jnp.arange(12)[None], "other": 100 + jnp.arange(24).reshape(2, 12)}


def learn(seen, number, batch, key, update):
    """Write down which rows come when; the metric grows by 1 with every update."""
    places = batch["row"][0]
    assert batch["other"].shape == (2, len(places))
    aligned = jnp.all(batch["other"][0] == 100 + places)
    seen = seen.at[number, places].add(jnp.where(aligned, 1, 100))
    metrics = {"distance": (number.astype(jnp.float32), jnp.float32(1.0)), "update": (update, jnp.float32(1.0))}
    return seen, number + 1, metrics


def run(passes):
    start = (jnp.zeros((12, 12), jnp.int32), jnp.int32(0))
    return jax.jit(lambda: make_passes(passes, learn, start, BATCH, 1, jax.random.key(3), jnp.float32(7.0)))()


def test_every_pass_sees_every_row_once_in_another_order():
    seen, number, metrics = run(Passes(epochs=3, minibatches=4))
    assert number == 12
    seen = np.asarray(seen).reshape(3, 4, 12)
    np.testing.assert_array_equal(seen.sum(1), 1)
    np.testing.assert_array_equal(seen.sum(2), 3)
    assert not np.array_equal(seen[0], seen[1])
    # An update is shared out evenly: 7, 7 + 1/12, …
    np.testing.assert_allclose(metrics["update"][0] / 12, 7.0 + 11 / 24, rtol=1e-6)


def test_no_pass_begins_after_the_limit_and_one_pass_is_the_batch_as_it_is():
    seen, number, metrics = run(Passes(epochs=5, minibatches=2, limit=("distance", 2.0)))
    # Mean distances of the passes are 0.5, 2.5, …: the second is above 2, so there is no third.
    assert number == 4 and float(metrics["passes/made"][0]) == 2.0 and float(metrics["distance"][1]) == 4.0
    assert int(np.asarray(seen).sum()) == 24
    seen, number, metrics = run(Passes())
    assert number == 1 and float(metrics["update"][0]) == 7.0 and "passes/made" not in metrics
    with pytest.raises(ValueError, match="minibatches must divide the rows of a batch, got 5 for 12"):
        run(Passes(minibatches=5))


@pytest.mark.slow
def test_groups_that_are_clipped_apart_do_not_slow_the_others():
    params = nnx.split(small_model(small_config(critic=CriticConfig())))[1]

    def moved(critic_gradient, **options):
        optimizer = make_optimizer(OptimizerConfig(name="lion", weight_decay=0.0, **options), params, total_updates=9)
        trained = optimizer.trained(params)
        slopes = {
            path: jnp.full_like(v, critic_gradient if path.startswith("critic") else 1e-3)
            for path, v in trained.items()
        }
        state = optimizer.apply(slopes, optimizer.init(params), trained, jnp.int32(1))[1]
        # Lion's momentum is (1 − b2) times the clipped gradient.
        return {group: float(jax.tree.leaves(state[group].mu)[0].max()) for group in ("critic", "decoder")}

    together, apart = moved(1e3), moved(1e3, clip_groups=(("critic",),))
    alone = moved(1e-9, clip_groups=(("critic",),))
    assert together["decoder"] < 1e-3 * alone["decoder"]
    np.testing.assert_allclose(apart["decoder"], alone["decoder"], rtol=1e-5)
    np.testing.assert_allclose(apart["critic"], together["critic"], rtol=1e-4)
    with pytest.raises(ValueError, match="every group once"):
        OptimizerConfig(clip_groups=(("critic",), ("critic", "decoder")))
