"""Several real processes train one model: as one process would, stopped together, resumed by another number of them."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest
from flax import nnx
from object_store import use_bucket
from quick_flags import QUICK_FLAGS
from small import small_recipe

from rxt_jax.cli.main import main
from rxt_jax.nn.parameters import flat_parameters
from rxt_jax.paths import as_path
from rxt_jax.processes import start_processes
from rxt_jax.run_folder import load
from rxt_jax.sharding import MeshConfig
from rxt_jax.stages import InteractionSft, MemoryAware
from rxt_jax.train.loop import LoopConfig

HERE = Path(__file__).parent
UPDATES = {"sft": 2, "memory": 10}
RECIPE = """
from test_several_processes import recipe_in
recipe = recipe_in("unnamed")
"""
IN_BUCKET = """
from pathlib import Path
import pytest
from object_store import use_bucket
use_bucket(pytest.MonkeyPatch(), Path({folder!r}))
"""
ONE_ORDER = "--xla_cpu_enable_concurrency_optimized_scheduler=false"
QUICKLY_COMPILED = {"XLA_FLAGS": QUICK_FLAGS}  # each has devices of its own


def recipe_in(folder):
    """A run of two stages on four devices, whose parameters both processes have parts of."""
    recipe = small_recipe(folder, {"sft": InteractionSft(), "memory": MemoryAware()}, mesh=MeshConfig(data=2, fsdp=2))
    # Often: it is the evaluation that once stood still, its devices in different collectives.
    loop = LoopConfig(log_every=1, evaluate_every=1)
    stages = {
        name: replace(run, updates=UPDATES[name], max_interactions=2, loop=loop) for name, run in recipe.stages.items()
    }
    few = replace(recipe.evaluation, episodes=2, batch_size=2, splits=("iid",), max_new_tokens=2)
    return replace(recipe, stages=stages, evaluation=few)


class Together:
    """Processes that were started as `rxt train` is, and what became of them."""

    def __init__(self, tmp_path, folder, count, *options, devices=4, recipe=RECIPE, first="", program=None):
        config = tmp_path / "recipe.py"
        config.write_text(first + recipe, encoding="utf-8")
        self.folder = folder
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            address = f"127.0.0.1:{free.getsockname()[1]}"
        search = [str(HERE), str(HERE.parent), str(HERE.parent.parent)]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(search), "JAX_PLATFORMS": "cpu"} | QUICKLY_COMPILED
        command = [sys.executable, str(HERE / "one_of_several.py"), str(config), "--folder", str(folder), *options]
        command += ["--cpu-devices", str(devices // count)]
        many = ["--coordinator", address, "--processes", str(count), "--process"]
        if program is not None:
            command, many = [sys.executable, str(HERE / program), str(folder)], [address, str(count)]
        self.processes = [
            subprocess.Popen(
                [*command, *(() if count == 1 and program is None else (*many, str(number)))],
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                env=environment,
            )
            for number in range(count)
        ]

    def wait_for(self, stage, update):
        """Wait until an update of a stage is reported."""
        for _ in range(1500):
            if any(done >= update for done in losses_of(self.folder, stage)):
                return
            if any(process.poll() is not None for process in self.processes):
                break
            time.sleep(0.2)
        raise AssertionError(f"update {update} of {stage} never came: {self.end(timeout=1)}")

    def end(self, timeout=300):
        """Return exit codes and outputs."""
        ended = threading.Timer(timeout, lambda: [process.kill() for process in self.processes])
        ended.start()
        outputs = [process.communicate()[0] for process in self.processes]
        ended.cancel()
        return [process.returncode for process in self.processes], outputs


def losses_of(folder, stage):
    file = folder / "metrics.jsonl"
    lines = [json.loads(line) for line in file.read_text().splitlines()] if file.is_file() else []
    return {line["update"]: line["loss"] for line in lines if (line["stage"], line["split"]) == (stage, "train")}


def parameters_of(folder):
    return {path: np.asarray(each[...]) for path, each in flat_parameters(nnx.split(load(folder).model)[1]).items()}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run of two processes from its beginning to its end, shown and traced."""
    path = tmp_path_factory.mktemp("whole")
    codes, outputs = Together(path, path / "run", 2, "--show", "--profile", "3:2").end()
    assert codes == [0, 0], outputs
    assert "talk to it" in outputs[0] and "talk to it" not in outputs[1]
    return path / "run"


@pytest.mark.slow
def test_two_processes_learn_what_one_does_and_one_of_them_writes(whole, tmp_path):
    (code,), (output,) = Together(tmp_path, tmp_path / "run", 1).end()
    assert code == 0, output
    for stage in UPDATES:
        one, two = (losses_of(folder, stage) for folder in (tmp_path / "run", whole))
        assert list(two) == list(one) == list(range(1, UPDATES[stage] + 1))
        np.testing.assert_allclose([*two.values()], [*one.values()], rtol=1e-4)
    assert len((whole / "metrics.jsonl").read_text().splitlines()) == 2 * sum(UPDATES.values())
    assert (whole / "evaluation" / "recall.json").is_file()
    assert list((whole / "tensorboard" / "plugins" / "profile").glob("*/*.xplane.pb"))


@pytest.mark.slow
def test_sigterm_to_one_process_stops_all_at_one_update_and_any_number_of_processes_goes_on(whole, tmp_path):
    both = Together(tmp_path, tmp_path / "run", 2)
    both.wait_for("memory", 3)
    both.processes[1].send_signal(signal.SIGTERM)
    codes, outputs = both.end()
    assert codes == [1, 1], outputs
    assert "stopped in memory" in outputs[0]
    (saved,) = (int(each.name) for each in (tmp_path / "run" / "stages" / "memory").iterdir() if each.name.isdigit())
    assert 3 <= saved < UPDATES["memory"] and list(losses_of(tmp_path / "run", "memory"))[-1] == saved

    shutil.copytree(tmp_path / "run", tmp_path / "one")
    codes, outputs = Together(tmp_path, tmp_path / "run", 2).end()
    assert codes == [0, 0], outputs
    assert losses_of(tmp_path / "run", "memory") == losses_of(whole, "memory")
    expected, found = parameters_of(whole), parameters_of(tmp_path / "run")
    assert expected.keys() == found.keys()
    for path, value in expected.items():
        np.testing.assert_array_equal(found[path], value, err_msg=path)

    (code,), (output,) = Together(tmp_path, tmp_path / "one", 1, "--mesh.data", "4", "--mesh.fsdp", "1").end()
    assert code == 0, output
    one = losses_of(tmp_path / "one", "memory")
    assert list(one) == list(range(1, UPDATES["memory"] + 1))
    later = [update for update in one if saved < update <= saved + 10]
    np.testing.assert_allclose([one[u] for u in later], [losses_of(whole, "memory")[u] for u in later], rtol=1e-3)


@pytest.mark.slow
def test_two_processes_share_a_run_folder_in_a_bucket(whole, tmp_path, monkeypatch):
    first = IN_BUCKET.format(folder=str(tmp_path))
    codes, outputs = Together(tmp_path, "gs://bucket/run", 2, first=first).end()
    assert codes == [0, 0], outputs
    use_bucket(monkeypatch, tmp_path)
    for stage in UPDATES:
        assert losses_of(as_path("gs://bucket/run"), stage) == losses_of(whole, stage)
    expected, found = parameters_of(whole), parameters_of("gs://bucket/run")
    assert expected.keys() == found.keys()
    for path, value in expected.items():
        np.testing.assert_array_equal(found[path], value, err_msg=path)


@pytest.mark.slow
def test_a_process_that_is_killed_ends_the_other_with_a_message(tmp_path):
    both = Together(tmp_path, tmp_path / "run", 2)
    both.wait_for("memory", 3)
    both.processes[1].kill()
    codes, outputs = both.end()
    assert codes[0] not in (0, None) and codes[1] == -signal.SIGKILL
    # Ours where the collective fails first, JAX's own where the missing heartbeat is noticed first.
    ours = "another process has ended" in outputs[0] and "same command" in outputs[0]
    assert ours or "another task died" in outputs[0], outputs[0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--processes", "2"], "--coordinator, --process not given"),
        (["--coordinator", "here", "--processes", "2", "--process", "0"], "HOST:PORT of process 0, got 'here'"),
        (["--coordinator=here:1", "--processes=2", "--process=2"], "must lie in [0, --processes), got 2 of 2"),
        (["--profile", "3"], "must be START:COUNT, such as 10:5, got '3'"),
    ],
)
def test_a_launch_that_is_not_meant_is_refused_before_anything_begins(tmp_path, capsys, options, message):
    config = tmp_path / "recipe.py"
    config.write_text(RECIPE, encoding="utf-8")
    assert main(["train", str(config), *options]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("variables", "joins"),
    [
        ({"SLURM_STEP_NODELIST": "node[1-2]", "SLURM_NTASKS": "2"}, True),
        ({"SLURM_STEP_NODELIST": "node1", "SLURM_NTASKS": "1"}, False),
        ({"SLURM_JOB_ID": "7", "SLURM_NTASKS": "8"}, False),
        ({"OMPI_COMM_WORLD_SIZE": "4"}, True),
        ({"OMPI_COMM_WORLD_SIZE": "1"}, False),
        ({"JAX_COORDINATOR_ADDRESS": "here:1"}, True),
        ({}, False),
    ],
    ids=str,
)
def test_launchers_say_themselves_how_many_they_started(monkeypatch, variables, joins):
    for name in ("SLURM_STEP_NODELIST", "SLURM_NTASKS", "OMPI_COMM_WORLD_SIZE", "JAX_COORDINATOR_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("XLA_FLAGS", "--xla_mine=1")
    called = []
    monkeypatch.setattr(jax.distributed, "initialize", lambda *given, **named: called.append((given, named)))
    assert start_processes() == (0, 1)
    assert called == ([((), {})] if joins else [])
    assert os.environ["XLA_FLAGS"].split() == [*([ONE_ORDER] if joins else []), "--xla_mine=1"]
    start_processes("here:1", 2, 1)
    assert called[-1][0] == ("here:1", 2, 1)
    assert os.environ["XLA_FLAGS"].split() == [ONE_ORDER, "--xla_mine=1"]
