"""Profiles: files that TensorBoard and Perfetto open, with the parts of a step by name; and where the time goes."""

import gzip
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small import random_conversations, small_config

from rxt_jax.model.fresh_parameters import abstract_model
from rxt_jax.stages import MemoryAware
from rxt_jax.train import phases
from rxt_jax.train.loop import LoopConfig, run_loop
from rxt_jax.train.optimizer import OptimizerConfig, make_optimizer
from rxt_jax.train.phases import Phases
from rxt_jax.train.profiling import Profile, Profiler
from rxt_jax.train.state import TrainState, make_train_state
from rxt_jax.train.step import make_train_step
from rxt_jax.types import RowBatch


def test_the_parts_of_a_step_have_names():
    graphdef, params = abstract_model(small_config())
    params = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), params)
    stage = MemoryAware()
    optimizer = make_optimizer(OptimizerConfig(), params, total_updates=2, trainable=stage.trainable)
    state = jax.eval_shape(lambda params: make_train_state(params, optimizer, stage), params)
    step = make_train_step(graphdef, stage, optimizer, seed=0)
    text = step.lower(state, random_conversations(rows=2)).as_text(debug_info=True)
    for name in ("encode", "write", "read", "head", "optimizer"):
        assert f"/{name}/" in text or f"({name})/" in text, name


def steps(count, profiler=None, **options):
    """Run the loop on a step that does next to nothing; return what it reports and its result."""
    reports = []

    @jax.jit
    def step(state, batch):
        loss = jnp.sum(batch.ids * state.params["w"])
        return TrainState(state.params, {}, state.update + 1), {"loss": (loss, jnp.float32(1.0))}

    row = np.ones((1, 4), np.int32)
    batches = (RowBatch(row, row > 0, row > 0, row > 0) for _ in range(count))
    result = run_loop(
        "tiny",
        step,
        TrainState({"w": jnp.float32(2.0)}, {}, jnp.int32(0)),  # type: ignore[arg-type]
        batches,
        start=0,
        updates=count,
        config=LoopConfig(log_every=1, evaluate_every=2, save_every=2),
        place=jax.device_put,
        report=lambda split, update, metrics: reports.append((split, update, metrics)),
        profiler=profiler,
        quiet=True,
        **options,
    )
    return reports, result


def test_a_profile_is_written_for_the_updates_it_names_counted_over_stages(tmp_path):
    steps(5, Profiler(Profile.parse("12:2"), tmp_path, first=10), first=10)
    (folder,) = (tmp_path / "plugins" / "profile").iterdir()
    assert len(list(folder.glob("*.xplane.pb"))) == 1
    (trace,) = folder.glob("perfetto_trace.json.gz")
    with gzip.open(trace) as file:
        events = json.load(file)["traceEvents"]
    names = [event.get("name") for event in events]
    assert names.count("update") == 2
    steps(3, Profiler(Profile.parse("12:2"), tmp_path / "never"))
    assert not (tmp_path / "never").exists()


@pytest.mark.parametrize("text", ["", "3", "a:b", "3:0", "-1:2"])
def test_a_profile_that_is_none_is_refused(text):
    with pytest.raises(ValueError, match=r"START:COUNT|at least one"):
        Profile.parse(text)


def test_shares_of_time_add_up_and_every_phase_has_its_own(monkeypatch):
    clock = iter([10.0, 14.0])
    monkeypatch.setattr(phases.time, "perf_counter", lambda: next(clock))
    account = Phases()
    account.add("data", 0.5)
    account.add("checkpoints", 1.0)
    account.add("checkpoints", 1.0)
    spent = {"step": 0.375, "data": 0.125, "checkpoints": 0.5}
    assert account.shares() == dict.fromkeys(phases.PHASES, 0.0) | spent


def test_training_reports_where_its_time_went_and_the_share_of_the_peak():
    import time

    def slowly(seconds, value=None):
        time.sleep(seconds)
        return value

    reports, result = steps(
        5,
        evaluate=lambda state: slowly(0.05, {"loss": 1.0}),
        save=lambda *_: slowly(0.02),
        peak_seconds=lambda batch: 1e-3,
    )
    trained = {update: metrics for split, update, metrics in reports if split == "train"}
    # Update 2 is evaluated and saved behind its report, so that the next report says so.
    assert trained[3]["time/evaluation"] > trained[3]["time/checkpoints"] > 0.0
    assert trained[2]["time/evaluation"] == trained[2]["time/checkpoints"] == 0.0
    for metrics in trained.values():
        shares = [value for name, value in metrics.items() if name.startswith("time/")]
        assert len(shares) == len(phases.PHASES) and sum(shares) == pytest.approx(1.0)
        assert metrics.get("mfu", 0.0) >= 0.0
    assert 0.0 < trained[3]["mfu"] < 1e-3 / 0.07
    assert "mfu" not in steps(2)[0][-1][2]
    assert sum(result.time_shares.values()) == pytest.approx(1.0)
    assert result.time_shares["evaluation"] > result.time_shares["checkpoints"] > 0.0
