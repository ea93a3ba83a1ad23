"""Several real processes act: they lead, reward and learn from the conversations that one process would."""

import json
import signal
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small import preference_file, small_config, small_recipe
from test_several_processes import QUICKLY_COMPILED, Together, parameters_of

from rxt_jax import run as runs
from rxt_jax.data.config import FileData
from rxt_jax.model import CriticConfig
from rxt_jax.rewards import FactReward, FunctionReward, RewardSum, RewardTerm
from rxt_jax.run import run_recipe
from rxt_jax.sharding import MeshConfig, make_mesh
from rxt_jax.stages import DirectMemoryPreference, MemoryReinforcement, OnlineMemoryPreference
from rxt_jax.stages.memory_resets import MemoryResets
from rxt_jax.stages.replay import ReplayConfig
from rxt_jax.stages.rollout import RolloutConfig
from rxt_jax.train.loop import LoopConfig

ROWS = 8
UPDATES = {"reinforced": 5, "ranked": 3, "precomputed": 3}


def low_ids(given, context):
    """Reward small ids."""
    low = (given.generated.ids < context.special.size // 2) & given.generated.mask
    return low.sum(axis=1) / jnp.maximum(given.generated.mask.sum(axis=1), 1)


def low_ids_on_host(given, context):
    """Reward small ids, of the rows of one device where several processes ask; two answers to a query are ranked."""
    assert isinstance(given.generated.ids, np.ndarray)
    low = (given.generated.ids < context.special.size // 2) & given.generated.mask
    assert len(given.generated.ids) == 2 * ROWS // (4 if jax.process_count() > 1 else 1)
    return low.sum(axis=1) / np.maximum(given.generated.mask.sum(axis=1), 1)


def rewarded(**function):
    """Look for facts too, though an untrained model answers nothing right."""
    return RewardSum(terms=(RewardTerm(reward=FactReward()), RewardTerm(reward=FunctionReward(**function))))


STAGES = {
    "reinforced": MemoryReinforcement(
        reward=rewarded(function="test_acting_together:low_ids"),
        rollout=RolloutConfig(answer_length=4),
        resets=MemoryResets(ratio=0.5),
        replay=ReplayConfig(size=4, update_size=2),
        remat="none",
    ),
    "ranked": OnlineMemoryPreference(
        reward=rewarded(function="test_acting_together:low_ids_on_host", on_host=True),
        rollout=RolloutConfig(group="branch", group_size=2, continuation="best", answer_length=4),
        remat="none",
    ),
    "precomputed": DirectMemoryPreference(reference="precomputed", remat="none"),
}
COMPARED = {
    "reinforced": ("loss", "reward/total", "facts/asked", "critic/loss", "policy/entropy"),
    "ranked": ("loss", "reward/total", "facts/asked", "pairs/share", "pairs/reward_gap"),
    "precomputed": ("loss", "preference/loss", "kl/chosen", "logps/rejected"),
}


def recipe_in(folder, kind, data=None):
    """One stage on four devices, whose parameters both processes have parts of. `data` is a file of preferences."""
    recipe = small_recipe(folder, {kind: STAGES[kind]}, mesh=MeshConfig(data=2, fsdp=2))
    model = small_config(max_length=40, critic=CriticConfig() if kind == "reinforced" else None)
    # One layer of everything compiles in half the time.
    model = replace(model, num_layers=1, decoder=replace(model.decoder, stateless=()))
    loop = LoopConfig(log_every=1)
    if kind == "reinforced":
        loop = LoopConfig(log_every=1, evaluate_every=2, sample_every=2)
    run = replace(recipe.stages[kind], updates=UPDATES[kind], batch_size=ROWS, loop=loop)
    if data is not None:
        source = FileData(path=data, kind="preference_episode")
        recipe = replace(recipe, data=replace(recipe.data, source=source, preference_evaluation_source=source))
    return replace(recipe, model=model, stages={kind: run})


def start(tmp_path, folder, *given):
    """Start two processes with the recipe of these arguments."""
    recipe = f"from test_acting_together import recipe_in\nrecipe = recipe_in('unnamed', *{given!r})\n"
    return Together(tmp_path, folder, 2, recipe=recipe, variables=QUICKLY_COMPILED)


def metrics_of(folder, *names):
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return {(line["split"], line["update"]): [line[name] for name in names] for line in lines}


def samples_of(folder):
    return {file.name: file.read_text() for file in (folder / "samples").glob("*/*.txt")}


@pytest.fixture(scope="module")
def reinforced(tmp_path_factory):
    """A run of two processes from its beginning to its end."""
    path = tmp_path_factory.mktemp("reinforced")
    codes, outputs = start(path, path / "run", "reinforced").end()
    assert codes == [0, 0], outputs
    return path / "run"


def learns_what_one_does(two, kind, tmp_path, monkeypatch, *data):
    monkeypatch.setattr(runs, "make_mesh", lambda config: make_mesh(config, jax.devices()[:4]))
    assert run_recipe(recipe_in(tmp_path / "one", kind, *data), quiet=True)
    expected, found = (metrics_of(folder, *COMPARED[kind]) for folder in (tmp_path / "one", two))
    assert list(found) == list(expected) and len(found) >= UPDATES[kind]
    for place, values in expected.items():
        np.testing.assert_allclose(found[place], values, rtol=1e-3, atol=1e-5, err_msg=str(place))
    assert samples_of(two) == samples_of(tmp_path / "one")


@pytest.mark.slow
def test_two_processes_reinforce_what_one_does_and_one_of_them_writes_samples(reinforced, tmp_path, monkeypatch):
    learns_what_one_does(reinforced, "reinforced", tmp_path, monkeypatch)
    assert len(samples_of(reinforced)) == 3 and all("(reward " in text for text in samples_of(reinforced).values())
    rewards = [found for (found,) in metrics_of(reinforced, "reward/total").values()]
    assert min(rewards) > 0.0 and len(set(rewards)) > 2


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["ranked", "precomputed"])
def test_two_processes_prefer_what_one_does(kind, tmp_path, monkeypatch):
    """With answers of their own, and with a reference that they compute together before."""
    data = []
    if kind == "precomputed":
        data.append(str(tmp_path / "pairs.jsonl"))
        preference_file(tmp_path / "pairs.jsonl", 12)
    codes, outputs = start(tmp_path, tmp_path / "two", kind, *data).end()
    assert codes == [0, 0], outputs
    learns_what_one_does(tmp_path / "two", kind, tmp_path, monkeypatch, *data)
    if data:
        both = (np.load(tmp_path / name / "references" / "precomputed_train.npy") for name in ("one", "two"))
        np.testing.assert_allclose(*both, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_sigterm_to_one_process_stops_all_and_they_go_on_as_if_nothing_had_been(reinforced, tmp_path):
    """Memories, replay, reference and critic included."""
    both = start(tmp_path, tmp_path / "run", "reinforced")
    both.wait_for("reinforced", 2)
    both.processes[1].send_signal(signal.SIGTERM)
    codes, outputs = both.end()
    assert codes == [1, 1], outputs
    assert "stopped in reinforced" in outputs[0]
    assert 2 <= max(update for _, update in metrics_of(tmp_path / "run")) < UPDATES["reinforced"]
    codes, outputs = start(tmp_path, tmp_path / "run", "reinforced").end()
    assert codes == [0, 0], outputs
    names = COMPARED["reinforced"]
    assert metrics_of(tmp_path / "run", *names) == metrics_of(reinforced, *names)
    assert samples_of(tmp_path / "run") == samples_of(reinforced)
    expected, found = parameters_of(reinforced), parameters_of(tmp_path / "run")
    assert expected.keys() == found.keys()
    for path, value in expected.items():
        np.testing.assert_array_equal(found[path], value, err_msg=path)
