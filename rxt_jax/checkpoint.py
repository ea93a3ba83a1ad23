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

_log = logging.getLogger(__name__)


class Checkpoint(NamedTuple):
    """What was saved at an update."""

    update: int
    params: dict[str, Any]
    optimizer: dict[str, Any] | None
    meta: dict[str, Any]


class CheckpointStore:
    """Checkpoints of one stage in one folder; the `keep_last` newest and the best one stay."""

    def __init__(self, folder: str | Path, *, keep_last: int = 2):
        self.folder = Path(folder).absolute()
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
                preservation_policy=keep.AnyPreservationPolicy(policies), create=True, enable_async_checkpointing=True
            ),
        )

    @property
    def updates(self) -> list[int]:
        """Return the updates that have a checkpoint, oldest first."""
        return sorted(self._manager.all_steps())

    def save(
        self, update: int, params: dict[str, Any], optimizer: Any, meta: dict[str, Any], loss: float | None = None
    ) -> None:
        """Save in the background. Arrays are copied before this returns, so a donated step may go on."""
        if update in self._manager.all_steps():
            return
        leaves = {str(number): leaf for number, leaf in enumerate(jax.tree.leaves(optimizer))}
        self._manager.save(
            update,
            args=ocp.args.Composite(
                params=ocp.args.StandardSave(params),
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
        wanted = {"params": ocp.args.StandardRestore(params), "meta": ocp.args.JsonRestore()}
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
                items = self._manager.restore(update, args=ocp.args.Composite(**wanted))
            except Exception as error:
                self._pass_over(update, error)
                continue
            restored = None
            if leaves:
                restored = jax.tree.unflatten(treedef, [items["optimizer"][str(n)] for n in range(len(leaves))])
            return Checkpoint(update, items["params"], restored, meta)
        return None

    def wait(self) -> None:
        """Wait until everything is written."""
        self._manager.wait_until_finished()

    def close(self) -> None:
        """Finish writing and let go of the folder."""
        self._manager.close()

    def _pass_over(self, update: int, error: Exception) -> None:
        _log.warning(
            "the checkpoint of update %d in %s cannot be read and is passed over: %s",
            update,
            self.folder,
            str(error).strip().split("\n")[0][:200] or type(error).__name__,
        )
