"""Two real processes: each makes its rows, together they hold the global batch."""

import socket
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import sys
import jax
jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 2)
jax.distributed.initialize(sys.argv[1], 2, int(sys.argv[2]))
import numpy as np
from jax.experimental import multihost_utils
from small import dialogue_tokenizer
from rxt_jax.data.config import DataConfig, DialogueData
from rxt_jax.data.loader import EpisodeBatches, Shard
from rxt_jax.data.rows import RowEncoder
from rxt_jax.data.sources import open_source
from rxt_jax.sharding import MeshConfig, batch_shardings, make_mesh, place_batch

def make(shard):
    return EpisodeBatches(
        open_source(DialogueData()), RowEncoder(dialogue_tokenizer(), DataConfig()), batch_size=8, seed=0, shard=shard
    )

whole = make(Shard())[3]
mine = make(Shard(jax.process_index(), jax.process_count()))[3]
assert mine.ids.shape[1] == 4
placed = place_batch(mine, batch_shardings(mine, make_mesh(MeshConfig()), 1))
for leaf, expected in zip(placed, whole, strict=True):
    assert leaf.shape == expected.shape
    np.testing.assert_array_equal(multihost_utils.process_allgather(leaf, tiled=True), expected)
print("equal")
"""


@pytest.mark.slow
def test_processes_hold_the_global_batch_together():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    here = Path(__file__).parent.parent
    program = [sys.executable, "-c", f"import sys; sys.path[:0] = [{str(here)!r}, {str(here.parent)!r}]\n{PROGRAM}"]
    both = [
        subprocess.Popen([*program, address, str(number)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for number in range(2)
    ]
    for process in both:
        out, error = process.communicate(timeout=300)
        assert process.returncode == 0, error
        assert out.strip().endswith("equal")
