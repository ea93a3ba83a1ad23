"""Reinforcement reaches the optimum of a task where it is known, from where supervised training stood at half of it."""

import importlib.util
from functools import lru_cache
from pathlib import Path

import pytest
from flax import nnx

from rxt_jax.model import ReactiveTransformer

PATH = Path(__file__).parents[2] / "benchmarks" / "reinforcement.py"


@lru_cache(maxsize=1)
def task():
    spec = importlib.util.spec_from_file_location("reinforcement_task", PATH)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@lru_cache(maxsize=1)
def start():
    """A model that stage 4 taught half of the answers."""
    graphdef, params = nnx.split(ReactiveTransformer(task().make_config(), rngs=nnx.Rngs(0)))
    measure = task().accuracy_of(graphdef, 2)
    params, _, right = task().pretrain(graphdef, params, measure, 0, 2)
    return graphdef, params, measure, right


@pytest.mark.slow
@pytest.mark.parametrize(("name", "updates"), [("impo", 160), ("ppo", 160), ("grpo", 280), ("rloo", 280)])
def test_every_algorithm_reaches_nine_tenths_of_the_optimum(name, updates):
    graphdef, params, measure, right = start()
    assert 0.3 < right < 0.8
    curve = task().reinforce(graphdef, params, task().make_stage(name), measure, 0, 2, updates, 1e-3)
    assert max(value for _, value in curve[-3:]) >= 0.9, curve
