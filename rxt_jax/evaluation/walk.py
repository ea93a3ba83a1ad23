"""Walking conversations once, and reading the memory that every interaction finds, as it is and spoilt.

    memory i−1, interaction i−1 ──▶ write ──▶ memory i
    memory i as it is · zeroed · shuffled · frozen, interaction i ──▶ read ──▶ findings i

All of it is one scan: of a conversation only the current memory exists, and the one after its first interaction. A
batch walks in chunks of rows. `shuffled` reads the memory of the row before one's own, so the row before the first one
of a chunk walks along and is not read.
"""

import functools
from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from rxt_jax.evaluation.config import EvaluationConfig
from rxt_jax.evaluation.groups import group_rows, ungroup
from rxt_jax.model.episode import real_before, scan_findings, with_previous
from rxt_jax.model.initial_memory import beginning_memory
from rxt_jax.nn.parameters import flat_parameters
from rxt_jax.sharding import batch_parts, batch_shardings, make_mesh, state_shardings
from rxt_jax.stages.memory_writing import write_previous
from rxt_jax.types import Array, EpisodeBatch, Interaction, Key

__all__ = ["Findings", "PlacedModel", "Reader", "place_model", "read_batch", "split_rows", "under_conditions", "walk"]


class Findings(NamedTuple):
    """What a reader found, arrays of its own choice.

    On the device, of one interaction: `rows` `[C B ...]` of all rows, `groups` `[N P·C·g ...]` of those that are
    asked something (`rxt_jax/evaluation/groups.py`). On the host, of a batch: `[C I B ...]` both, zeros where nothing
    is asked.
    """

    rows: Any
    groups: Any


class Reader(Protocol):
    """What is read of an interaction: a function of the memories `[C L B S D]` under all conditions.

    `rows` are arrays `[B ...]` of this interaction, `groups` `[N P g]` the rows that are asked something. Equal
    readers share a compiled program, so a reader is hashable by its values.
    """

    answers_per_row: ClassVar[int]
    """Rows that the decoder has to read for every row that is asked something."""

    def __call__(self, model: Any, memories: Array, rows: Any, groups: Array) -> Findings: ...


class PlacedModel(NamedTuple):
    """A model and the mesh on which its parameters lie; None is a single device."""

    graphdef: Any
    params: Any
    mesh: Mesh | None

    @property
    def parts(self) -> int:
        """Count the devices that have rows of their own."""
        return 1 if self.mesh is None else batch_parts(self.mesh)


class _Step(NamedTuple):
    """An interaction with its number, and what its reader is given."""

    interaction: Interaction
    index: Array
    rows: Any
    groups: Array

    @property
    def valid(self) -> Array:
        return self.interaction.valid


def place_model(model: Any, config: EvaluationConfig) -> PlacedModel:
    """Put a model where it is evaluated, on the first devices of this process that the mesh asks for."""
    graphdef, params = nnx.split(model)
    sizes = [config.mesh.data, config.mesh.fsdp, config.mesh.tensor, config.mesh.expert]
    devices = jax.local_devices()
    mesh = make_mesh(config.mesh, devices if -1 in sizes else devices[: int(np.prod(sizes))])
    if mesh.size == 1:
        return PlacedModel(graphdef, params, None)
    shardings = state_shardings(params, flat_parameters(params), mesh, config.mesh.replicate_indivisible)
    placed = jax.device_put(params, shardings)
    return PlacedModel(graphdef, placed, mesh)


def split_rows(count: int, config: EvaluationConfig, length: int, parts: int) -> list[np.ndarray]:
    """Split the rows of a batch into chunks of one size, `[P m]`: m neighbouring rows for each of P devices.

    A chunk has about `config.tokens_per_call` tokens per device, with `length` tokens in a row. Where rows are left
    over the first ones come again.
    """
    rows = max(config.tokens_per_call // length, 1) * parts
    chunks = -(-count // rows)
    rows = -(-count // (chunks * parts)) * parts
    return [np.arange(first, first + rows).reshape(parts, -1) % count for first in range(0, chunks * rows, rows)]


def read_batch(
    placed: PlacedModel,
    batch: EpisodeBatch,
    rows: Any,
    asked: np.ndarray,
    read: Reader,
    config: EvaluationConfig,
    *,
    first: int = 0,
) -> Findings:
    """Walk a batch `[I B T]` chunk by chunk, and return what the reader finds under `config.conditions`.

    `rows` are arrays `[I B ...]` for the reader, `asked` `[I B]` are the rows that are asked something. `first` is the
    number of the batch's first conversation: a random initial memory belongs to a conversation, however conversations
    are cut into batches.
    """
    (interactions, count, length), conditions = batch.ids.shape, config.conditions
    if "shuffled" in conditions and count < 2:
        raise ValueError("shuffled memory needs at least 2 conversations in a batch; raise evaluation.batch_size.")
    whole: Findings | None = None
    for chunk in split_rows(count, config, length, placed.parts):
        own = chunk.reshape(-1)
        # All conditions are read side by side: so few rows that a call has as many as one for every row has.
        size = max(chunk.shape[1] // (len(conditions) * read.answers_per_row), 1)
        groups = group_rows(asked[:, own], placed.parts, size)
        walked = np.concatenate([(chunk[:, :1] - 1) % count, chunk], axis=1).reshape(-1)
        given = (
            jax.tree.map(lambda leaf: leaf[:, walked], batch),  # noqa: B023
            jax.tree.map(lambda leaf: leaf[:, own], rows),  # noqa: B023
            groups,
            (first + walked).astype(np.int32),
        )
        if placed.mesh is not None:
            axes = (1, 1, 2, 0)
            places = (batch_shardings(each, placed.mesh, axis) for each, axis in zip(given, axes, strict=True))
            given = jax.device_put(given, tuple(places))
        found = walk(placed.graphdef, placed.params, *given, read=read, conditions=conditions, parts=placed.parts)
        found = jax.device_get(found)
        found = Findings(
            jax.tree.map(lambda leaf: np.moveaxis(leaf, 0, 1), found.rows),
            jax.tree.map(lambda leaf: ungroup(leaf, groups, len(conditions), len(own)), found.groups),  # noqa: B023
        )
        if whole is None:
            shape = (len(conditions), interactions, count)
            whole = jax.tree.map(lambda leaf: np.zeros((*shape, *leaf.shape[3:]), leaf.dtype), found)  # noqa: B023
        for leaf, part in zip(jax.tree.leaves(whole), jax.tree.leaves(found), strict=True):
            leaf[:, :, own] = part
    assert whole is not None  # a batch has rows
    return whole


@functools.partial(jax.jit, static_argnames=("graphdef", "read", "conditions", "parts"))
def walk(
    graphdef: Any,
    params: Any,
    batch: EpisodeBatch,
    rows: Any,
    groups: Array,
    numbers: Array,
    *,
    read: Reader,
    conditions: tuple[str, ...],
    parts: int,
) -> Findings:
    """Walk P·(m + 1) rows and read P·m of them, the program of `read_batch`; `numbers` are the conversations'."""
    model = nnx.merge(graphdef, params)

    def step(model: Any, carry: tuple[Array, Array], step: _Step, key: Key | None) -> tuple[Array, tuple]:
        memory, after_first = carry
        memory, _ = write_previous(model, memory, step.interaction, key)
        after_first = jnp.where(step.index <= 1, memory, after_first)
        found = read(model, under_conditions(memory, after_first, conditions, parts), step.rows, step.groups)
        return jnp.float32(0.0), ((memory, after_first), found)

    start = _initial_memories(model, numbers)
    # All rows go on: an ended conversation keeps its last memory, whoever shares the chunk with it.
    everyone = jnp.ones(batch.valid.shape, bool)
    interactions = with_previous(batch._replace(valid=everyone))
    interactions = interactions._replace(previous_valid=real_before(jnp.asarray(batch.valid), everyone))
    steps = _Step(interactions, jnp.arange(len(batch.ids)), rows, groups)
    return scan_findings(step, model, (start, start), steps)[1]


def under_conditions(memory: Array, after_first: Array, conditions: Sequence[str], parts: int) -> Array:
    """Make the memories `[C L P·m S D]` that are read from those of P·(m + 1) rows that walked.

    The first row of every part is there for the second one, which reads it where memory is `shuffled`: no row has its
    own. `after_first` is memory after the first interaction.
    """
    layers, _, slots, width = memory.shape

    def kept(memory: Array, rows: slice) -> Array:
        return memory.reshape(layers, parts, -1, slots, width)[:, :, rows].reshape(layers, -1, slots, width)

    own, before = slice(1, None), slice(None, -1)
    make = {
        "memory": lambda: kept(memory, own),
        "zeroed": lambda: jnp.zeros_like(kept(memory, own)),
        "shuffled": lambda: kept(memory, before),
        "frozen": lambda: kept(after_first, own),
    }
    return jnp.stack([make[name]() for name in conditions])


def _initial_memories(model: Any, numbers: Array) -> Array:
    """Draw the initial memory of every conversation from its number: `[L B S D]`."""

    def draw(number: Array) -> Array:
        return beginning_memory(model, 1, jax.random.fold_in(jax.random.key(0), number))[:, 0]

    return jax.vmap(draw, out_axes=1)(numbers)
