"""Checkpoints: Orbax does the work; this file says what is in one, which are kept, and what a bad one means.

A checkpoint has three items: `params` and `optimizer` (path → array, each readable on its own) and `meta` (JSON).
The last good one wins: one that cannot be read is reported and passed over. One that can be read but has other
optimizer state than is wanted is an error. Whatever is read goes directly to the devices that are to have it.

Several processes write a checkpoint together, each the arrays of its devices, into one folder that all of them see.
They read it each on its own, and agree on the newest one that all of them can read.
"""

import logging
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import preservation_policy as keep

from rxt_jax.paths import absolute, is_remote
from rxt_jax.processes import agree, said_by_writer

__all__ = ["Checkpoint", "CheckpointStore", "check_place"]

_CHUNK_BYTES = 4 * 2**20
_FILE_BYTES = 16 * 2**20
_PART_BYTES = 64 * 2**20

_log = logging.getLogger(__name__)

T = TypeVar("T")


class Checkpoint(NamedTuple):
    """What was saved at an update."""

    update: int
    params: dict[str, Any]
    optimizer: Any
    meta: dict[str, Any]


def check_place(folder: str | Path) -> None:
    """Raise a `ValueError` for an object store that Orbax writes no arrays to."""
    if is_remote(folder) and not str(folder).startswith("gs://"):
        raise ValueError(
            f"{folder}: checkpoints go to local folders and to gs:// alone. Mount the bucket and name the mounted "
            f"folder, or train in a local one and export the model there (rxt export RUN FOLDER)."
        )


class _Manager(ocp.CheckpointManager):
    """Asks nobody whether the run is to stop: the training loop does, and counts updates over all stages."""

    def reached_preemption(self, step: int) -> bool:
        return False


class CheckpointStore:
    """Checkpoints of one stage in one folder; the `keep_last` newest and the best one stay.

    `streamed` is for conversions: parameters are written while the caller waits, a few chunks at a time, so that
    hardly more memory is needed than the model itself takes. `together`: all processes of a run have this store open
    and call the same methods; False: one process reads for itself, whatever the others do.
    """

    def __init__(self, folder: str | Path, *, keep_last: int = 2, streamed: bool = False, together: bool = False):
        check_place(folder)
        self.folder = absolute(folder)
        self._streamed = streamed
        self._together = together and jax.process_count() > 1
        self._unreadable: set[int] = set()
        policies = [
            keep.LatestN(keep_last),
            keep.BestN(
                get_metric_fn=lambda metrics: metrics["loss"], reverse=True, n=1, keep_checkpoints_without_metrics=False
            ),
        ]
        alone = jax.process_count() > 1 and not self._together
        if alone:
            self.folder.mkdir(parents=True, exist_ok=True)
        self._manager = self._open(alone, policies)
        # Who reads waits for nobody: another process may fail to read what this one can.
        self._reader = self._open(True, policies) if self._together else self._manager

    def _open(self, alone: bool, policies: list[Any]) -> ocp.CheckpointManager:
        """Open the folder for all processes, or for this one alone."""
        me = jax.process_index()
        processes = ocp.options.MultiprocessingOptions()
        if alone:
            # One process creates no folders, Orbax says, and names its barriers.
            processes = ocp.options.MultiprocessingOptions(me, {me}, f"process_{me}")
        return _Manager(
            self.folder,
            options=ocp.CheckpointManagerOptions(
                preservation_policy=keep.AnyPreservationPolicy(policies),
                create=not alone,
                enable_async_checkpointing=not (self._streamed or alone),
                multiprocessing_options=processes,
            ),
            item_handlers={
                "params": ocp.PyTreeCheckpointHandler(
                    save_concurrent_gb=1 if self._streamed else None, multiprocessing_options=processes
                ),
                "optimizer": ocp.PyTreeCheckpointHandler(multiprocessing_options=processes),
                "meta": ocp.JsonCheckpointHandler(multiprocessing_options=processes),
            },
        )

    @property
    def updates(self) -> list[int]:
        """Return the updates that have a checkpoint, oldest first."""
        found = sorted(self._manager.all_steps())
        return said_by_writer(found) if self._together else found

    def save(
        self, update: int, params: dict[str, Any], optimizer: Any, meta: dict[str, Any], loss: float | None = None
    ) -> None:
        """Save in the background. Arrays are copied before this returns, so a donated step may go on.

        A checkpoint that could not be read is replaced; any other one stays as it is.
        """
        if update in self._unreadable:
            self._manager.delete(update)
            self._unreadable.discard(update)
        if update in self._manager.all_steps():
            return
        if self._streamed:
            chunked = ocp.SaveArgs(chunk_byte_size=_CHUNK_BYTES)
            saved = ocp.args.PyTreeSave(params, jax.tree.map(lambda _: chunked, params), _FILE_BYTES)
        else:
            saved = ocp.args.PyTreeSave(params)
        self._manager.save(
            update,
            args=ocp.args.Composite(
                params=saved,
                optimizer=ocp.args.PyTreeSave(_by_path(optimizer) or {"none": jax.numpy.zeros(())}),
                meta=ocp.args.JsonSave(meta),
            ),
            metrics=None if loss is None else {"loss": loss},
        )

    def restore(
        self, params: dict[str, Any], optimizer: Any, check: Callable[[dict[str, Any]], None] | None = None
    ) -> Checkpoint | None:
        """Read the newest checkpoint that can be read, None if there is none.

        `params` (path → array) and `optimizer` (any pytree) are arrays or `jax.ShapeDtypeStruct` with the shardings
        wanted; `optimizer=None` reads the parameters alone. `check` sees the metadata first and may refuse it.
        Raises a `ValueError` where the optimizer state is another one: what it lacks, or has in another shape.
        """
        wanted = _by_path(optimizer)
        for update, meta in self._described(check):
            stored = self._attempt(update, self._stored_optimizer) if wanted else {}
            if stored is None:
                continue
            named = self._as_stored(update, wanted, stored) if wanted else {}
            read = self._attempt(update, self._restore_arrays, params, named)
            if read is None:
                continue
            restored_params, leaves = read
            restored = jax.tree.unflatten(jax.tree.structure(optimizer), list(leaves.values()))
            return Checkpoint(update, restored_params, restored, meta)
        return None

    def newest(self, check: Callable[[dict[str, Any]], None] | None = None) -> int | None:
        """Return the update of the newest checkpoint that says what it is, None if there is none; see `restore`."""
        return next((update for update, _ in self._described(check)), None)

    def _described(self, check: Callable[[dict[str, Any]], None] | None) -> Iterator[tuple[int, dict[str, Any]]]:
        """Yield updates and metadata, newest first."""
        for update in reversed(self.updates):
            meta = self._attempt(update, self._restore_meta)
            if meta is None:
                continue
            if check is not None:
                check(meta)
            yield update, meta

    def _attempt(self, update: int, read: Callable[..., T], *arguments: Any) -> T | None:
        """Call `read(update, *arguments)`; None where that cannot be read, here or in another process."""
        found, reason = None, None
        try:
            found = read(update, *arguments)
        except Exception as error:
            reason = error
        if not (agree(reason is None) if self._together else reason is None):
            self._pass_over(update, reason or RuntimeError("another process cannot read it"))
            return None
        return found

    def _restore_meta(self, update: int) -> dict[str, Any]:
        return self._reader.restore(update, args=ocp.args.Composite(meta=ocp.args.JsonRestore()))["meta"]

    def _stored_optimizer(self, update: int) -> Mapping[str, Any]:
        stored = self._reader.item_metadata(update)["optimizer"]
        if stored is None:
            raise ValueError("it has no optimizer state")
        return stored

    def _restore_arrays(self, update: int, params: dict[str, Any], optimizer: dict[str, Any]) -> tuple[dict, dict]:
        return self._restore_parts(update, "params", params), self._restore_parts(update, "optimizer", optimizer)

    def _as_stored(self, update: int, wanted: dict[str, Any], stored: Mapping[str, Any]) -> dict[str, Any]:
        """Name what is wanted as the checkpoint does: by path, or by number as checkpoints were written before."""
        names = {path: path for path in wanted}
        if all(name.isdigit() for name in stored):
            names = {path: str(number) for number, path in enumerate(wanted)}
        unknown = sorted(set(stored) - set(names.values()))
        faults = [f"lacks {path}" for path, name in names.items() if name not in stored]
        faults += [f"also has {', '.join(unknown)}"] if unknown else []
        faults += [
            f"has {path} in the shape {list(stored[name].shape)} instead of {list(wanted[path].shape)}"
            for path, name in names.items()
            if name in stored and tuple(stored[name].shape) != tuple(wanted[path].shape)
        ]
        if faults:
            raise ValueError(
                f"the checkpoint of update {update} in {self.folder} has the state of another optimizer: it "
                f"{', it '.join(faults)}. Use the version of optax that wrote it (recipe.json of the run names it), or "
                f"begin a new run with its parameters (start_from)."
            )
        return {names[path]: leaf for path, leaf in wanted.items()}

    def _restore_parts(self, update: int, item: str, wanted: dict[str, Any]) -> dict[str, Any]:
        """Read arrays (path → array) part by part: Orbax holds what it reads at once in memory twice."""
        parts: list[dict[str, Any]] = [{}]
        filled = 0
        for path, leaf in wanted.items():
            size = leaf.size * leaf.dtype.itemsize
            if parts[-1] and filled + size > _PART_BYTES:
                parts.append({})
                filled = 0
            parts[-1][path] = leaf
            filled += size
        restored: dict[str, Any] = {}
        for part in parts if wanted else ():
            arguments = ocp.args.PyTreeRestore(
                part, ocp.checkpoint_utils.construct_restore_args(part), partial_restore=len(parts) > 1
            )
            restored |= self._reader.restore(update, args=ocp.args.Composite(**{item: arguments}))[item]
        # A partial restore gives back, without a word, what was asked for where nothing is stored.
        missing = [path for path, leaf in restored.items() if isinstance(leaf, jax.ShapeDtypeStruct)]
        if missing:
            raise ValueError(f"it lacks the parameters {', '.join(missing)}")
        return {path: restored[path] for path in wanted}

    def wait(self) -> None:
        """Wait until everything is written."""
        self._manager.wait_until_finished()

    def close(self) -> None:
        """Finish writing and let go of the folder."""
        self._manager.close()
        if self._reader is not self._manager:
            self._reader.close()

    def _pass_over(self, update: int, error: Exception) -> None:
        self._unreadable.add(update)
        _log.warning(
            "the checkpoint of update %d in %s cannot be read and is passed over: %s",
            update,
            self.folder,
            str(error).strip().split("\n")[0][:200] or type(error).__name__,
        )


def _by_path(tree: Any) -> dict[str, Any]:
    """List the leaves of a pytree by path, in the order of the tree."""
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }
