"""One process of two, or one alone, which acts with a reward on the host and computes a reference, for the test in
`test_acting_together.py`: FOLDER ADDRESS PROCESSES PROCESS."""

import sys
from pathlib import Path

import jax
import numpy as np
from flax import nnx
from jax.sharding import NamedSharding, PartitionSpec
from small import dialogue_tokenizer, random_conversations, small_config, small_model

from rxt_jax.data.config import DataConfig, FileData
from rxt_jax.data.rows import RowEncoder
from rxt_jax.data.sources import open_source
from rxt_jax.nn.parameters import flat_parameters, with_parameters
from rxt_jax.processes import gather, start_processes, wait_for_all
from rxt_jax.rewards import FunctionReward
from rxt_jax.sharding import MeshConfig, make_mesh, parameter_shardings, place_batch, process_rows
from rxt_jax.stages import DirectMemoryPreference, OnlineMemoryPreference
from rxt_jax.stages.precomputed_reference import precompute_reference
from rxt_jax.stages.rollout import RolloutConfig
from rxt_jax.stages.stage import Reading
from rxt_jax.train.acting import make_acting
from rxt_jax.train.samples import make_sampler
from rxt_jax.train.state import TrainState

ROWS, GROUP = 4, 2
asked = []


def low_ids(given, context):
    """Reward small ids, on the host, and note how many rows were asked for."""
    asked.append(len(given.valid))
    low = (given.generated.ids < context.special.size // 2) & given.generated.mask
    return low.sum(axis=1) / np.maximum(given.generated.mask.sum(axis=1), 1)


def act(folder, graphdef, params, mesh):
    """Lead conversations, write a sample of them, and return what came out."""
    rollout = RolloutConfig(group="branch", group_size=GROUP, continuation="best", answer_length=3)
    stage = OnlineMemoryPreference(reward=FunctionReward(function=low_ids, on_host=True), rollout=rollout)
    whole = random_conversations(interactions=3, rows=ROWS, length=10)
    rows = list(process_rows(mesh, ROWS) or range(ROWS))
    batch = place_batch(jax.tree.map(lambda leaf: leaf[:, rows], whole), mesh, stage.batch_axis, ROWS)
    table = jax.device_put(np.zeros((640, 1), np.float32), NamedSharding(mesh, PartitionSpec()))
    state = TrainState(params, (), jax.numpy.int32(0), {"table": table})
    acting = make_acting(graphdef, stage, dialogue_tokenizer(), seed=0, mesh=mesh)
    made = acting(state, batch, 0)
    for leaf in jax.tree.leaves(made):
        assert [part.data.shape[1] for part in leaf.addressable_shards] == [ROWS // 2] * jax.local_device_count()
    make_sampler(stage, acting, batch, dialogue_tokenizer(), folder / "samples")(state, 1)
    expected = ROWS * GROUP // (2 if jax.process_count() > 1 else 1)
    assert asked and set(asked) == {expected}, asked
    leaves = {"rewards": made.drawn.rewards, "chosen": made.chosen.ids, "rejected": made.rejected.ids}
    return {name: gather(leaf) for name, leaf in leaves.items()}


def compute_reference(folder, graphdef, params):
    """Compute log-probabilities with parameters that both processes have parts of, and find them ready."""
    source = open_source(FileData(path=str(folder / "pairs.jsonl"), kind="preference_episode"))
    encoder = RowEncoder(dialogue_tokenizer(), DataConfig(max_length=40, max_interactions=4))
    model = nnx.merge(graphdef, params)
    reading = Reading(source, encoder, 4, 0, model=lambda: model, file=folder / "reference.npy")
    stage = DirectMemoryPreference(reference="precomputed")
    found = precompute_reference(stage, reading)
    np.testing.assert_array_equal(precompute_reference(stage, reading), found)
    return found


def main(folder, address, processes, process):
    jax.config.update("jax_num_cpu_devices", 2 // processes)
    if processes > 1:
        start_processes(address, processes, process)
    mesh = make_mesh(MeshConfig(data=1, fsdp=2))
    graphdef, params = nnx.split(small_model(small_config(max_length=40, vocab_size=640)))
    variables = flat_parameters(params)
    places = parameter_shardings(variables, mesh)
    placed = {path: jax.device_put(np.asarray(each[...]), places[path]) for path, each in variables.items()}
    params = with_parameters(params, placed)
    found = act(folder, graphdef, params, mesh) | {"reference": compute_reference(folder, graphdef, params)}
    if jax.process_index() == 0:
        np.savez(folder / "found.npz", **found)
    wait_for_all("done")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
