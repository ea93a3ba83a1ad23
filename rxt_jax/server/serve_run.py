"""From a run's folder to its application: what `rxt serve` and the adapter for Ray Serve share."""

from pathlib import Path
from typing import Any

from starlette.applications import Starlette

from rxt_jax.model import ReactiveTransformer
from rxt_jax.paths import local_only
from rxt_jax.run_folder import load, run_and_stage
from rxt_jax.server.access import read_keys
from rxt_jax.server.app import ServerConfig, make_app
from rxt_jax.server.programs import Programs, model_fingerprint
from rxt_jax.shipped import is_shipped

__all__ = ["app_of_run"]


def app_of_run(
    run: str,
    *,
    folder: str | Path | None = None,
    config: ServerConfig | None = None,
    keys: str | Path | None = None,
    **programs: Any,
) -> Starlette:
    """Load a run, or `companion`, and make its application; `programs` are options of `Programs`.

    Conversations are kept in `folder`, without one in `serving` in the folder of the run. `keys` is a file of API keys.
    Raises a `ValueError` for the stateless baseline.
    """
    # Nothing is written into an installed package.
    source = Path("runs") / run if is_shipped(run) else run_and_stage(run)[0]
    place = local_only(
        folder or source / "serving",
        "conversations are kept in an SQLite file",
        "Name a local folder for them (rxt serve RUN --folder FOLDER)",
    )
    known = None if keys is None else read_keys(keys)
    loaded = load(run)
    if not isinstance(loaded.model, ReactiveTransformer):
        raise ValueError(f"{run} is the stateless baseline: it has no memory to serve conversations from")
    return make_app(
        Programs(loaded.model, loaded.tokenizer.special, max_length=loaded.recipe.data.max_length, **programs),
        loaded.tokenizer,
        name=run if is_shipped(run) else Path(run).resolve().name,
        fingerprint=model_fingerprint(loaded.model, loaded.tokenizer),
        folder=place,
        config=config,
        keys=known,
    )
