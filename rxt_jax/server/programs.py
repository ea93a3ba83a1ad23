"""The compiled programs of a server: read prompts into slots, make tokens in them, write memories.

All of them are compiled before the first turn, at a few numbers of rows and widths each. They are called as compiled
executables, which refuse other shapes, so nothing can compile while turns are waiting.
"""

import functools
import hashlib
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from rxt_jax.data.special_tokens import SpecialTokens
from rxt_jax.data.tokenizer import Tokenizer
from rxt_jax.model import ReactiveTransformer
from rxt_jax.model.generation import Generated, Generation, extend, prefill, prompt_widths
from rxt_jax.model.generation_rules import Rules, SamplingConfig
from rxt_jax.model.initial_memory import beginning_memory
from rxt_jax.nn.parameters import flat_parameters
from rxt_jax.ops.sampling import Sampling
from rxt_jax.types import Array, ShapedArray

__all__ = ["Programs", "RowSettings", "model_fingerprint", "row_counts"]


class RowSettings(NamedTuple):
    """`Rules` as the host writes them: a seed in place of a key."""

    sampling: Sampling
    limit: ShapedArray  # int32 [B]
    first: ShapedArray  # int32 [B 2]
    seed: ShapedArray  # uint32 [B]


def row_counts(most: int) -> tuple[int, ...]:
    """List the numbers of rows that programs are compiled for: 1, 4, 16, … and `most`.

    A batch is filled up to the next one. More of them would waste less, and each costs a compilation.
    """
    counts, count = [], 1
    while count < most:
        counts.append(count)
        count *= 4
    return (*counts, most)


def model_fingerprint(model: Any, tokenizer: Tokenizer) -> str:
    """Name a model by its config, its parameters bit for bit, and its tokenizer.

    Memories mean something to the parameters that wrote them alone: a run that trained on is another model.
    """
    digest = hashlib.sha256((repr(model.config) + tokenizer.fingerprint).encode())
    for path, variable in sorted(flat_parameters(nnx.split(model)[1]).items()):
        digest.update(path.encode())
        digest.update(np.ascontiguousarray(jax.device_get(variable[...])).reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


class Programs:
    """A model's programs for `slots` running turns of `max_length` tokens each, compiled by `compile`.

    `prompt_rows` prompts are read and `write_rows` memories are written in one call at most; `chunk_tokens` are made
    between two looks at the device.
    """

    def __init__(
        self,
        model: Any,
        special: SpecialTokens,
        *,
        max_length: int,
        slots: int = 8,
        prompt_rows: int = 4,
        write_rows: int = 4,
        chunk_tokens: int = 4,
    ):
        self.special, self.max_length, self.slots = special, max_length, slots
        self.prompt_rows, self.write_rows = min(prompt_rows, slots), min(write_rows, slots)
        self.widths = prompt_widths(max_length)
        self._chunk_tokens = chunk_tokens
        self._graphdef, params = nnx.split(model)
        # What is committed to its device stays there, and so does what is computed from it: one place for everything.
        self._device = jax.tree.leaves(params)[0].sharding
        self._params = jax.device_put(params, self._device)
        self.has_memory = isinstance(model, ReactiveTransformer)
        self.initial_memory: Array = self._run_once(_initial_memory if self.has_memory else _no_memory, self._params)
        self._pool: Generation | None = None
        self._read: dict[tuple[int, int], Callable] = {}
        self._make: dict[int, Callable] = {}
        self._write: dict[int, Callable] = {}

    @property
    def memory_shape(self) -> tuple[int, ...]:
        """The shape `[L 1 S D]` of the memory of one conversation."""
        return self.initial_memory.shape

    def compile(self) -> None:
        """Compile everything, side by side, and empty the slots. A second time there is nothing to do."""
        pool = self._pool = self._empty_pool()
        if self._make:
            return
        jobs: list[tuple[dict, Any, Future]] = []
        with ThreadPoolExecutor(2) as threads:

            def add(into: dict, place: Any, function: Callable, donated: tuple[int, ...], *given: Any) -> None:
                # XLA compiles without holding Python's lock, tracing holds it.
                lowered = self._jit(function, donated).lower(*given)
                jobs.append((into, place, threads.submit(lowered.compile)))

            for rows in row_counts(self.prompt_rows):
                for width in self.widths:
                    given = self._prompt_arguments([[self.special.bos]], [self.initial_memory], rows, width)
                    settings = self._settings([(SamplingConfig(), None, (), 0)], rows)
                    slots = np.zeros(rows, np.int32)
                    add(self._read, (rows, width), _read_into, (1,), self._params, pool, *given, settings, slots)
            for rows in row_counts(self.slots):
                function = functools.partial(
                    _make_in, count=self._chunk_tokens, end_id=self.special.eos, pad_id=self.special.pad
                )
                add(self._make, rows, function, (1,), self._params, pool, np.zeros(rows, np.int32))
            for rows in row_counts(self.write_rows) if self.has_memory else ():
                given = self._prompt_arguments([[self.special.bos]], [self.initial_memory], rows, self.max_length)
                add(self._write, rows, _write_rows, (), self._params, *given)
            for into, place, compiled in jobs:
                into[place] = compiled.result()

    def reset(self) -> None:
        """Empty all slots; what was running in them is lost."""
        self._pool = self._empty_pool()

    def read(
        self,
        prompts: Sequence[Sequence[int]],
        memories: Sequence[ShapedArray],
        settings: Sequence[tuple[SamplingConfig, int | None, Sequence[int], int]],
        slots: Sequence[int],
    ) -> None:
        """Read prompts into slots, each with the memory `[L 1 S D]` that it is answered from.

        The settings of a prompt are its sampling, the limit of its reply, the ids among which the first token is
        chosen, and its seed. There may be `prompt_rows` at most.
        """
        rows = self._rows(len(prompts), self.prompt_rows)
        longest = max(map(len, prompts))
        width = next(width for width in self.widths if longest <= width)
        given = self._prompt_arguments(prompts, memories, rows, width)
        into = np.full(rows, self.slots, np.int32)  # beyond the last slot: dropped
        into[: len(slots)] = slots
        self._pool = self._read[rows, width](self._params, self._pool, *given, self._settings(settings, rows), into)

    def make(self, slots: Sequence[int]) -> tuple[list[list[int]], list[bool]]:
        """Make the next few tokens in these slots; give them, and whether each goes on. Waits for the device."""
        rows = self._rows(len(slots), self.slots)
        chosen = np.full(rows, self.slots, np.int32)
        chosen[: len(slots)] = slots
        self._pool, made, active = self._make[rows](self._params, self._pool, chosen)
        ids, mask, going = jax.device_get((made.ids, made.mask, active))
        return [ids[row][mask[row]].tolist() for row in range(len(slots))], going[: len(slots)].tolist()

    def write(self, interactions: Sequence[Sequence[int]], memories: Sequence[ShapedArray]) -> list[Array]:
        """Write interactions into their memories `[L 1 S D]`, `write_rows` at most. Waits for nobody."""
        rows = self._rows(len(interactions), self.write_rows)
        written = self._write[rows](
            self._params, *self._prompt_arguments(interactions, memories, rows, self.max_length)
        )
        return list(written[: len(interactions)])

    def place(self, memory: np.ndarray) -> Array:
        """Put a memory on the device."""
        return jax.device_put(memory, self._device)

    def _jit(self, function: Callable, donated: tuple[int, ...]) -> Any:
        graphdef = self._graphdef

        @functools.wraps(getattr(function, "func", function))
        def bound(params: Any, *given: Any) -> Any:
            return function(nnx.merge(graphdef, params), *given)

        return jax.jit(bound, donate_argnums=donated)

    def _run_once(self, function: Callable, *given: Any) -> Any:
        return jax.block_until_ready(self._jit(function, ())(*given))

    def _empty_pool(self) -> Generation:
        """Make a pool in which nothing runs, in the shapes and places that a prefill gives."""
        given = self._prompt_arguments([[self.special.bos]], [self.initial_memory], self.slots, 1)
        settings = self._settings([(SamplingConfig(), None, (), 0)], self.slots)
        # Donated buffers must not be those of another leaf, nor constants that a program shares.
        shapes = jax.eval_shape(
            self._jit(functools.partial(_prefill, width=self.max_length), ()), self._params, *given, settings
        )

        def zeros(leaf: Any) -> Array:
            if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
                seeds = np.zeros((*leaf.shape, *jax.random.key_data(jax.random.key(0)).shape), np.uint32)
                return jax.device_put(jax.random.wrap_key_data(jnp.asarray(seeds)), self._device)
            return jax.device_put(np.zeros(leaf.shape, leaf.dtype), self._device)

        return jax.tree.map(zeros, shapes)

    def _rows(self, wanted: int, most: int) -> int:
        return next(rows for rows in row_counts(most) if wanted <= rows)

    def _prompt_arguments(
        self, prompts: Sequence[Sequence[int]], memories: Sequence[ShapedArray], rows: int, width: int
    ) -> tuple[tuple[ShapedArray, ...], np.ndarray, np.ndarray]:
        """Pad prompts on the right, and fill rows up with the first of them."""
        ids = np.full((rows, width), self.special.pad, np.int32)
        mask = np.zeros((rows, width), bool)
        for row in range(rows):
            prompt = prompts[row if row < len(prompts) else 0]
            ids[row, : len(prompt)], mask[row, : len(prompt)] = prompt, True
        filled = (*memories, *[memories[0]] * (rows - len(memories)))
        placed = tuple(self.place(each) if isinstance(each, np.ndarray) else each for each in filled)
        return placed, ids, mask

    @staticmethod
    def _settings(settings: Sequence[tuple[SamplingConfig, int | None, Sequence[int], int]], rows: int) -> RowSettings:
        filled = [settings[row if row < len(settings) else 0] for row in range(rows)]
        sampling = [each[0].rows(1) for each in filled]
        unlimited = np.iinfo(np.int32).max
        return RowSettings(
            sampling=Sampling(*(np.concatenate(values) for values in zip(*sampling, strict=True))),
            limit=np.array([unlimited if limit is None else limit for _, limit, _, _ in filled], np.int32),
            first=np.array([(*first, -1, -1)[:2] for _, _, first, _ in filled], np.int32),
            seed=np.array([seed for *_, seed in filled], np.uint32),
        )


def _initial_memory(model: Any) -> Array:
    """Make the memory before any conversation, that of a `ChatSession` with seed 0."""
    return beginning_memory(model, 1, None)


def _no_memory(_: Any) -> Array:
    """Make the memory of a model that has none, `[0 1 0 0]`."""
    return jnp.zeros((0, 1, 0, 0), jnp.float32)


def _key(seed: Array) -> Array:
    """Make the key that a new `ChatSession` of this seed has in its first turn."""
    return jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), 1), 0)


def _prefill(
    model: Any, memories: tuple[Array, ...], ids: Array, mask: Array, settings: RowSettings, *, width: int
) -> Generation:
    rules = Rules(settings.sampling, settings.limit, settings.first, jax.vmap(_key)(settings.seed))
    return prefill(model, jnp.concatenate(memories, axis=1), ids, mask, rules, width)


def _read_into(
    model: Any,
    pool: Generation,
    memories: tuple[Array, ...],
    ids: Array,
    mask: Array,
    settings: RowSettings,
    slots: Array,
) -> Generation:
    """Read prompts `[P T]` and put them into the slots `[P]` of the pool."""
    width = pool.cache.mask.shape[1]
    return _put(pool, _prefill(model, memories, ids, mask, settings, width=width), slots)


def _make_in(
    model: Any, pool: Generation, slots: Array, *, count: int, end_id: int, pad_id: int
) -> tuple[Generation, Generated, Array]:
    """Make tokens in the slots `[n]`; those beyond the last slot are filler."""
    total = len(pool.position)
    rows = _take(pool, slots)
    rows, made = extend(model, rows._replace(active=rows.active & (slots < total)), count, end_id=end_id, pad_id=pad_id)
    return _put(pool, rows, slots), made, rows.active


def _write_rows(model: Any, memories: tuple[Array, ...], ids: Array, mask: Array) -> tuple[Array, ...]:
    """Write interactions `[W T]` into their memories."""
    memory = jnp.concatenate(memories, axis=1)
    written = model.update_memory(memory, model.encode(ids, mask), mask)
    return tuple(written[:, row : row + 1] for row in range(len(memories)))


def _batch_axes(generation: Generation) -> Generation:
    """Tell for every leaf which axis the rows are: behind the layers in caches and projections, else the first."""
    behind = functools.partial(jax.tree.map, lambda _: 1)
    first = jax.tree.map(lambda _: 0, generation)
    cache = behind(generation.cache)._replace(mask=0)
    return first._replace(cache=cache, memory=behind(generation.memory))


def _take(pool: Generation, slots: Array) -> Generation:
    def take(leaf: Array, axis: int) -> Array:
        return jnp.take(leaf, slots, axis=axis, mode="clip")

    return jax.tree.map(take, pool, _batch_axes(pool))


def _put(pool: Generation, rows: Generation, slots: Array) -> Generation:
    def put(into: Array, new: Array, axis: int) -> Array:
        return into.at[(slice(None),) * axis + (slots,)].set(new, mode="drop")

    return jax.tree.map(put, pool, rows, _batch_axes(pool))
