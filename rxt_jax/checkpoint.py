"""Checkpoints: Orbax does the work; this file says what is in one, which are kept, and what a bad one means.

A checkpoint has three items: `params` (path → array, readable on its own), `optimizer` (leaves by number)
and `meta` (JSON). The last good one wins: one that cannot be read is reported and passed over.
"""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import preservation_policy as keep

__all__ = ["Checkpoint", "CheckpointStore"]

_CHUNK_BYTES = 4 * 2**20
_FILE_BYTES = 16 * 2**20
_PART_BYTES = 64 * 2**20

_log = logging.getLogger(__name__)


class Checkpoint(NamedTuple):
    """What was saved at an update."""

    update: int
    params: dict[str, Any]
    optimizer: Any
    meta: dict[str, Any]


class CheckpointStore:
    """Checkpoints of one stage in one folder; the `keep_last` newest and the best one stay.

    `streamed` is for conversions: parameters are written while the caller waits, a few chunks at a time, so that
    hardly more memory is needed than the model itself takes.
    """

    def __init__(self, folder: str | Path, *, keep_last: int = 2, streamed: bool = False):
        self.folder = Path(folder).absolute()
        self._streamed = streamed
        self._unreadable: set[int] = set()
        policies = [
            keep.LatestN(keep_last),
            keep.BestN(
                get_metric_fn=lambda metrics: metrics["loss"], reverse=True, n=1, keep_checkpoints_without_metrics=False
            ),
        ]
        self._manager = ocp.CheckpointManager(
            self.folder,
            item_names=("params", "optimizer", "meta"),
            options=ocp.CheckpointManagerOptions(
                preservation_policy=keep.AnyPreservationPolicy(policies),
                create=True,
                enable_async_checkpointing=not streamed,
            ),
            item_handlers={"params": ocp.PyTreeCheckpointHandler(save_concurrent_gb=1 if streamed else None)},
        )

    @property
    def updates(self) -> list[int]:
        """Return the updates that have a checkpoint, oldest first."""
        return sorted(self._manager.all_steps())

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
        leaves = {str(number): leaf for number, leaf in enumerate(jax.tree.leaves(optimizer))}
        self._manager.save(
            update,
            args=ocp.args.Composite(
                params=saved,
                optimizer=ocp.args.StandardSave(leaves or {"none": jax.numpy.zeros(())}),
                meta=ocp.args.JsonSave(meta),
            ),
            metrics=None if loss is None else {"loss": loss},
        )

    def restore(
        self, params: dict[str, Any], optimizer: Any, check: Callable[[dict[str, Any]], None] | None = None
    ) -> Checkpoint | None:
        """Read the newest checkpoint that can be read, None if there is none.

        `params` and `optimizer` are arrays or `jax.ShapeDtypeStruct` with the shardings wanted;
        `optimizer=None` reads the parameters alone. `check` sees the metadata first and may refuse it.
        """
        leaves, treedef = jax.tree.flatten(optimizer)
        wanted: dict[str, Any] = {"meta": ocp.args.JsonRestore()}
        if leaves:
            wanted["optimizer"] = ocp.args.StandardRestore({str(n): leaf for n, leaf in enumerate(leaves)})
        for update in reversed(self.updates):
            try:
                meta = self._manager.restore(update, args=ocp.args.Composite(meta=ocp.args.JsonRestore()))["meta"]
            except Exception as error:
                self._pass_over(update, error)
                continue
            if check is not None:
                check(meta)
            try:
                restored_params = self._restore_parameters(update, params)
                items = self._manager.restore(update, args=ocp.args.Composite(**wanted))
            except Exception as error:
                self._pass_over(update, error)
                continue
            restored = None
            if leaves:
                restored = jax.tree.unflatten(treedef, [items["optimizer"][str(n)] for n in range(len(leaves))])
            return Checkpoint(update, restored_params, restored, meta)
        return None

    def _restore_parameters(self, update: int, params: dict[str, Any]) -> dict[str, Any]:
        """Read parameters part by part: Orbax holds what it reads at once in memory twice."""
        parts: list[dict[str, Any]] = [{}]
        filled = 0
        for path, leaf in params.items():
            size = leaf.size * leaf.dtype.itemsize
            if parts[-1] and filled + size > _PART_BYTES:
                parts.append({})
                filled = 0
            parts[-1][path] = leaf
            filled += size
        restored: dict[str, Any] = {}
        for part in parts:
            arguments = ocp.args.PyTreeRestore(
                part, ocp.checkpoint_utils.construct_restore_args(part), partial_restore=len(parts) > 1
            )
            restored |= self._manager.restore(update, args=ocp.args.Composite(params=arguments))["params"]
        # A partial restore gives back, without a word, what was asked for where nothing is stored.
        missing = [path for path, leaf in restored.items() if isinstance(leaf, jax.ShapeDtypeStruct)]
        if missing:
            raise ValueError(f"it lacks the parameters {', '.join(missing)}")
        return restored

    def wait(self) -> None:
        """Wait until everything is written."""
        self._manager.wait_until_finished()

    def close(self) -> None:
        """Finish writing and let go of the folder."""
        self._manager.close()

    def _pass_over(self, update: int, error: Exception) -> None:
        self._unreadable.add(update)
        _log.warning(
            "the checkpoint of update %d in %s cannot be read and is passed over: %s",
            update,
            self.folder,
            str(error).strip().split("\n")[0][:200] or type(error).__name__,
        )
