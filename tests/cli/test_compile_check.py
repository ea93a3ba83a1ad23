"""Compile-check: a recipe compiled for devices that are not there, what it says, and what it refuses."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from small import small_recipe

from rxt_jax.cli.compile_check_program import CheckOptions
from rxt_jax.cli.main import main
from rxt_jax.cli.options import split_arguments
from rxt_jax.compile_check.measure import CompiledStage, _needed, check_stage, peak_bytes, resident_bytes
from rxt_jax.compile_check.search import suggest
from rxt_jax.compile_check.topology import parse_topology
from rxt_jax.model.operation_count import episode_operations
from rxt_jax.sharding import MeshConfig
from rxt_jax.stages import MemoryAware

TESTS = Path(__file__).parents[1]
LIBTPU = TESTS.parent / "build" / "libtpu"
RECIPE = """
from dataclasses import replace
from small import small_recipe
from rxt_jax.model import CriticConfig
from rxt_jax.rewards import FactReward, FormatReward, RetentionReward, RewardSum, RewardTerm
from rxt_jax.stages import JointPretraining, MemoryReinforcement
rewards = RewardSum(terms=tuple(RewardTerm(reward=each) for each in (FactReward(), FormatReward(), RetentionReward())))
stages = {"joint": JointPretraining(), "reinforced": MemoryReinforcement(reward=rewards)}
recipe = small_recipe("unnamed", stages)
recipe = replace(recipe, model=replace(recipe.model, critic=CriticConfig()))
"""


def memory_recipe(mesh, **changes):
    recipe = small_recipe("unnamed", {"memory": MemoryAware()}, mesh=mesh)
    return replace(recipe, stages={"memory": replace(recipe.stages["memory"], **changes)})


@pytest.mark.slow
def test_a_stage_says_where_its_memory_goes_and_what_it_computes():
    recipe = memory_recipe(MeshConfig(data=1, fsdp=8))
    compiled = check_stage(recipe, "memory", jax.devices(), 2**40)
    assert compiled.peak >= compiled.parameters + compiled.batch > 0 and compiled.activations > 0
    # Moments of Adam are two of every parameter that trains.
    assert compiled.parameters < compiled.optimizer < 2.01 * compiled.parameters
    whole = resident_bytes(memory_recipe(MeshConfig(data=8)), "memory", jax.devices())
    assert whole / 8 < compiled.parameters + compiled.optimizer + compiled.carry < whole / 2
    data = recipe.data_of(recipe.stages["memory"])
    count, length = data.max_interactions, data.max_length
    scored = 8 * count * (length - length // 2)
    expected = episode_operations(recipe.model, rows=8, interactions=count, length=length, scored_tokens=scored)
    assert compiled.operations == pytest.approx(expected / 8)
    assert compiled.seconds_at_peak is None and compiled.fits
    assert compiled.collectives["all-gather"].bytes > 0


def test_what_does_not_fit_is_given_up_before_it_is_compiled_and_what_fits_is_found(monkeypatch):
    tried, recipe = [], memory_recipe(MeshConfig(), batch_size=32)
    state = resident_bytes(recipe, "memory", jax.devices())
    numbers = dict.fromkeys(("memory", "parameters", "optimizer", "carry", "batch", "activations", "accumulation"), 0)
    unmeasured = {"operations": None, "seconds_at_peak": None, "compile_seconds": 0.0, "collectives": {}}

    def check(recipe, name, devices, memory):
        """Compile nothing: as if activations were as large as the state, and halved with twice the micro-batches."""
        tried.append((recipe.mesh.fsdp, recipe.stages[name].accumulation))
        peak = resident_bytes(recipe, name, devices) + state // recipe.stages[name].accumulation
        size = {"batch_size": 32, "peak": peak, "mesh": {"fsdp": recipe.mesh.fsdp}}
        return CompiledStage(stage=name, **numbers, **unmeasured, **size)

    monkeypatch.setattr("rxt_jax.compile_check.search.check_stage", check)
    found = suggest(recipe, "memory", jax.devices(), state, tries=20)
    # The whole state on every device leaves no room, so it is not tried; half of it and half of the activations do not.
    assert tried == [(2, 1), (4, 1), (8, 1), (2, 2), (4, 2)]
    assert found is not None and found.mesh == {"fsdp": 4}
    assert suggest(recipe, "memory", jax.devices(), state, tries=1) is None


@pytest.mark.slow
@pytest.mark.skipif(not (LIBTPU / "libtpu").exists(), reason="needs libtpu in build/libtpu, see .ci/run")
def test_the_command_compiles_for_a_tpu_that_is_not_there(tmp_path):
    (tmp_path / "recipe.py").write_text(
        "from small import small_recipe\n"
        "from rxt_jax.sharding import MeshConfig\n"
        "from rxt_jax.stages import InteractionSft, MemoryAware\n"
        "stages = {'sft': InteractionSft(), 'memory': MemoryAware()}\n"
        "recipe = small_recipe('unnamed', stages, mesh=MeshConfig(data=4))\n",
        encoding="utf-8",
    )
    command = [sys.executable, "-m", "rxt_jax", "compile-check", str(tmp_path / "recipe.py"), "--json"]
    search = os.pathsep.join([str(TESTS.parent), str(TESTS), str(LIBTPU)])
    done = subprocess.run(
        [*command, "--topology", "v5e:2x2"], capture_output=True, text=True, env={**os.environ, "PYTHONPATH": search}
    )
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert said["devices"] == 4
    for stage in said["stages"].values():
        assert stage["fits"] and all(check["passed"] for check in stage["checks"]), stage
        assert stage["memory"] > 15 * 2**30 and stage["seconds_at_peak"] > 0
        assert set(stage["collectives"]) == {"all-reduce"}


@pytest.mark.slow
def test_the_command_compiles_in_a_process_of_its_own(tmp_path):
    (tmp_path / "recipe.py").write_text(RECIPE, encoding="utf-8")
    command = [sys.executable, "-m", "rxt_jax", "compile-check", str(tmp_path / "recipe.py"), "--json"]
    command += ["--topology", "cpu:2", "--memory", "0.0001", "--mesh.data=1", "--mesh.fsdp", "2"]
    search = os.pathsep.join([str(TESTS.parent), str(TESTS)])
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": search})
    assert done.returncode == 1, done.stderr
    said = json.loads(done.stdout)
    assert said["topology"] == "cpu:2" and said["devices"] == 2
    assert said["stages"]["joint"]["fits"] is False and said["stages"]["joint"]["mesh"]["fsdp"] == 2
    acting, step = (said["stages"][name] for name in ("reinforced, acting", "reinforced"))
    # A stage that acts is two programs, which share a device with the same parameters and moments.
    for part in ("parameters", "optimizer", "carry"):
        assert acting[part] == step[part] > 0
    assert acting["peak"] > acting["parameters"] + acting["optimizer"]
    # Every device leads the conversations of its own rows.
    assert all(check["passed"] for check in acting["checks"] + step["checks"]), (acting["checks"], step["checks"])
    # What is read has room for facts, what is learnt from has rewards, memories and log-probabilities instead.
    assert acting["batch"] > 0 and step["batch"] > 0 and acting["batch"] != step["batch"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "--topology is missing"),
        (["--topology", "v9:2x2"], "of cpu, v4, v5e, v5p, v6e; got 'v9:2x2'"),
        (["--topology=cpu:0"], "every length must be at least 1"),
    ],
)
def test_devices_that_are_none_are_refused(capsys, options, message):
    assert main(["compile-check", "recipe.py", *options]) == 2
    assert message in capsys.readouterr().err


def test_what_is_temporary_counts():
    def function(x):
        return x @ x, jnp.sin(x) @ jnp.cos(x)

    shape = jax.ShapeDtypeStruct((256, 256), jnp.float32)
    found = jax.jit(function).lower(shape).compile().memory_analysis()
    # One matrix comes in and two go out; sine and cosine lie between, at least one of them in memory of its own.
    assert peak_bytes(found, "cpu") >= 4 * 256 * 256 * 4
    assert peak_bytes(found, "tpu") == found.peak_memory_in_bytes


def test_topologies_know_their_devices():
    pod = parse_topology("v5p:2x4x4")
    assert pod.size == 32 and pod.memory_bytes == 95 * 2**30 and pod.environment()["JAX_PLATFORMS"] == "cpu"
    assert parse_topology("cpu:8").memory_bytes is None
    assert "device_count=8" in parse_topology("cpu:8").environment()["XLA_FLAGS"]


def test_options_of_the_command_are_told_from_those_of_the_recipe():
    words = ["--seed", "3", "--suggest", "--tries=2", "--data.max-length", "8", "--topology", "cpu:2"]
    assert split_arguments(CheckOptions, words) == (
        ["--suggest", "--tries=2", "--topology", "cpu:2"],
        ["--seed", "3", "--data.max-length", "8"],
    )


def test_the_compiler_says_how_much_is_needed():
    message = "RESOURCE_EXHAUSTED: XLA:TPU compile permanent error. Ran out of memory. Used 20.50G of 15.75G hbm."
    assert _needed(message) == int(20.5 * 2**30)
    with pytest.raises(ValueError, match="does not compile: INTERNAL: something"):
        _needed("INTERNAL: something else\nstack")
