"""Several real processes act: they lead, reward and learn from the conversations that one process would."""

import json
import signal
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small import preference_file, small_config, small_recipe
from test_several_processes import Together, parameters_of

from rxt_jax import run as runs
from rxt_jax.model import CriticConfig
from rxt_jax.rewards import FactReward, FunctionReward, RewardSum, RewardTerm
from rxt_jax.run import run_recipe
from rxt_jax.sharding import MeshConfig, make_mesh
from rxt_jax.stages import MemoryReinforcement
from rxt_jax.stages.memory_resets import MemoryResets
from rxt_jax.stages.replay import ReplayConfig
from rxt_jax.stages.rollout import RolloutConfig
from rxt_jax.train.loop import LoopConfig

UPDATES = 5


def low_ids(given, context):
    """Reward small ids: an untrained model answers no question right."""
    low = (given.generated.ids < context.special.size // 2) & given.generated.mask
    return low.sum(axis=1) / jnp.maximum(given.generated.mask.sum(axis=1), 1)


STAGE = MemoryReinforcement(
    reward=RewardSum(
        terms=(
            RewardTerm(reward=FactReward()),
            RewardTerm(reward=FunctionReward(function="test_acting_together:low_ids")),
        )
    ),
    rollout=RolloutConfig(answer_length=4),
    resets=MemoryResets(ratio=0.5),
    replay=ReplayConfig(size=4, update_size=2),
    remat="none",
)
COMPARED = ("loss", "reward/total", "facts/asked", "critic/loss", "policy/entropy")


def recipe_in(folder):
    """A stage on four devices, whose parameters both processes have parts of."""
    recipe = small_recipe(folder, {"reinforced": STAGE}, mesh=MeshConfig(data=2, fsdp=2))
    # One layer of everything compiles in half the time.
    model = small_config(max_length=40, critic=CriticConfig(), num_layers=1)
    model = replace(model, decoder=replace(model.decoder, stateless=()))
    loop = LoopConfig(log_every=1, evaluate_every=2, sample_every=2)
    run = replace(recipe.stages["reinforced"], updates=UPDATES, loop=loop)
    return replace(recipe, model=model, stages={"reinforced": run})


def start(tmp_path, folder):
    """Start two processes."""
    recipe = "from test_acting_together import recipe_in\nrecipe = recipe_in('unnamed')\n"
    return Together(tmp_path, folder, 2, recipe=recipe)


def metrics_of(folder, *names):
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return {(line["split"], line["update"]): [line[name] for name in names] for line in lines}


def samples_of(folder):
    return {file.name: file.read_text() for file in (folder / "samples").glob("*/*.txt")}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run of two processes from its beginning to its end."""
    path = tmp_path_factory.mktemp("whole")
    codes, outputs = start(path, path / "run").end()
    assert codes == [0, 0], outputs
    return path / "run"


@pytest.mark.slow
def test_two_processes_reinforce_what_one_does_and_one_of_them_writes_samples(whole, tmp_path, monkeypatch):
    monkeypatch.setattr(runs, "make_mesh", lambda config: make_mesh(config, jax.devices()[:4]))
    assert run_recipe(recipe_in(tmp_path / "one"), quiet=True)
    expected, found = (metrics_of(folder, *COMPARED) for folder in (tmp_path / "one", whole))
    assert list(found) == list(expected) and len(found) == UPDATES + UPDATES // 2
    for place, values in expected.items():
        np.testing.assert_allclose(found[place], values, rtol=1e-3, atol=1e-5, err_msg=str(place))
    samples = samples_of(whole)
    assert samples == samples_of(tmp_path / "one")
    assert len(samples) == 3 and all("(reward " in text for text in samples.values())
    rewards = [found for (found,) in metrics_of(whole, "reward/total").values()]
    assert min(rewards) > 0.0 and len(set(rewards)) > 2


@pytest.mark.slow
def test_a_reward_on_the_host_and_a_reference_computed_before_are_those_of_one_process(tmp_path):
    """With two processes, each of which asks for the rewards of its own rows and has half of every parameter."""
    found = []
    for count in (1, 2):
        folder = tmp_path / str(count)
        folder.mkdir()
        preference_file(folder / "pairs.jsonl", 6)
        both = Together(tmp_path, folder, count, program="one_of_two_acting.py")
        codes, outputs = both.end()
        assert codes == [0] * count, outputs
        found.append(dict(np.load(folder / "found.npz")) | {"stored": np.load(folder / "reference.npy")})
        assert "best" in (folder / "samples" / "update-000001.txt").read_text()
    assert found[0].keys() == found[1].keys() and found[0]["rewards"].any() and found[0]["stored"].any()
    for name, value in found[0].items():
        np.testing.assert_allclose(found[1][name], value, rtol=1e-4, atol=1e-5, err_msg=name)


@pytest.mark.slow
def test_sigterm_to_one_process_stops_all_and_they_go_on_as_if_nothing_had_been(whole, tmp_path):
    """Memories, replay, reference and critic included."""
    both = start(tmp_path, tmp_path / "run")
    both.wait_for("reinforced", 2)
    both.processes[1].send_signal(signal.SIGTERM)
    codes, outputs = both.end()
    assert codes == [1, 1], outputs
    assert "stopped in reinforced" in outputs[0]
    assert 2 <= max(update for _, update in metrics_of(tmp_path / "run")) < UPDATES
    codes, outputs = start(tmp_path, tmp_path / "run").end()
    assert codes == [0, 0], outputs
    assert metrics_of(tmp_path / "run", *COMPARED) == metrics_of(whole, *COMPARED)
    assert samples_of(tmp_path / "run") == samples_of(whole)
    expected, found = parameters_of(whole), parameters_of(tmp_path / "run")
    assert expected.keys() == found.keys()
    for path, value in expected.items():
        np.testing.assert_array_equal(found[path], value, err_msg=path)
