"""Which activations of a forward pass are kept for the gradient, and which are computed again when it is due.

    none                     everything is kept: fastest, if it fits
    full                     nothing is kept but what goes in
    names, names:a,b         the activations of these names are kept (all of `REMAT_NAMES`, or some), the rest is not
    offload, offload:a,b     the same, kept in the host's memory meanwhile; on a CPU that is `names`

It is an option of layers (`ModelConfig.remat`) and of interactions (`remat` of a stage), and changes no number beyond
rounding.
"""

from collections.abc import Callable
from typing import Any

import jax
from jax.ad_checkpoint import checkpoint_name

__all__ = ["REMAT_NAMES", "check_remat", "named_activation", "rematerialised"]

REMAT_NAMES = {
    "attended": "what attention gives before its output map, of every attention layer",
    "hidden": "hidden vectors of dense feed-forward layers",
    "states": "tokens after every layer",
    "slots": "slots after every memory layer",
}
"""Names of activations, and what they are."""

_POLICIES = ("none", "full", "names", "offload")


def check_remat(remat: Any, field: str) -> None:
    """Raise a `ValueError` that names the field where this is no option of the table above."""
    policy, _, listed = remat.partition(":") if isinstance(remat, str) else (remat, "", "")
    if policy not in _POLICIES or (":" in str(remat) and policy in ("none", "full")):
        raise ValueError(
            f"{field} must be none, full, names or offload, the last two with or without names such as "
            f"'names:attended,states', got {remat!r}."
        )
    unknown = [name for name in _listed(remat) if name not in REMAT_NAMES]
    if unknown or (":" in remat and not listed):
        raise ValueError(
            f"{field} = {remat!r} names {', '.join(repr(name) for name in unknown) or 'nothing'}; activations that can "
            f"be kept are {', '.join(REMAT_NAMES)}."
        )


def rematerialised(function: Callable[..., Any], remat: str) -> Callable[..., Any]:
    """Return a function, the body of a scan, that keeps for its gradient what `remat` says."""
    policy = remat.partition(":")[0]
    if policy == "none":
        return function
    policies = jax.checkpoint_policies
    if policy == "full":
        keep = policies.nothing_saveable
    elif policy == "names":
        keep = policies.save_only_these_names(*_listed(remat))
    else:
        keep = policies.save_and_offload_only_these_names(
            names_which_can_be_saved=[],
            names_which_can_be_offloaded=list(_listed(remat)),
            offload_src="device",
            offload_dst="pinned_host",
        )
    # `prevent_cse` guards against an optimisation that cannot reach into a scan, and costs speed.
    return jax.checkpoint(function, prevent_cse=False, policy=keep)


def named_activation(x: jax.Array, name: str) -> jax.Array:
    """Give an activation a name of `REMAT_NAMES`, by which it can be kept."""
    return checkpoint_name(x, name)


def _listed(remat: str) -> tuple[str, ...]:
    listed = remat.partition(":")[2]
    return tuple(listed.split(",")) if listed else tuple(REMAT_NAMES)
