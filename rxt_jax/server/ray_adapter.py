"""Several replicas behind Ray Serve (extra `ray`): a conversation goes to the replica that has its memory at hand.

Ray's consistent hashing reads the header `x-session-id`, which clients set to whatever names their conversation. It
falls back to other replicas when one is busy. They share the folder, so any of them can go on: every completed turn is
on disk, and two turns of one conversation on two replicas cannot both be committed.
"""

from pathlib import Path
from typing import Any

from rxt_jax.paths import is_remote
from rxt_jax.server.serve_run import app_of_run
from rxt_jax.shipped import is_shipped

__all__ = ["ROUTER", "ray_application"]

ROUTER = "ray.serve.experimental.consistent_hash_router.ConsistentHashRouter"


def ray_application(run: str, folder: str | Path, *, replicas: int = 2, **options: Any) -> Any:
    """Make an application for `ray.serve.run`: replicas of the server of a run, which share `folder`.

    The folder has to be on a disk of one machine, as SQLite's write-ahead log wants it. `options` are those of
    `app_of_run`.
    """
    from ray import serve  # pyright: ignore[reportMissingImports]
    from ray.serve.config import RequestRouterConfig  # pyright: ignore[reportMissingImports]

    # Replicas work in folders of their own.
    run, folder = run if is_shipped(run) or is_remote(run) else str(Path(run).resolve()), Path(folder).resolve()

    def build() -> Any:
        # Called on every replica, because nothing of an application travels; Ray wants a function of no arguments.
        return app_of_run(run, folder=folder, **options)

    server = serve.deployment(
        serve.ingress(build)(),
        name="rxt",
        num_replicas=replicas,
        request_router_config=RequestRouterConfig(request_router_class=ROUTER),
    )
    return server.bind()
