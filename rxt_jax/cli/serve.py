"""`rxt serve RUN`: an HTTP server whose conversations live in memory tensors, with a chat page."""

import logging
import signal
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated

import tyro

from rxt_jax.cli.options import parse

try:
    import uvicorn

    from rxt_jax.server import Engine, ServerConfig, app_of_run
except ImportError as error:
    raise ValueError(f"serving needs the extra `serve` ({error}): pip install 'rxt-jax[serve]'") from error

__all__ = ["ServeOptions", "run"]


@dataclass(frozen=True, kw_only=True)
class ServeOptions:
    """Serve a trained model: a chat page at /, the Responses API and chat completions under /v1."""

    run: Annotated[str, tyro.conf.Positional]
    """Folder of the run, or `companion`: the model that comes with the package."""
    host: str = "127.0.0.1"
    """The address to listen at; 0.0.0.0 lets other machines in, which should have keys then."""
    port: int = 8000
    """0: any port that is free."""
    folder: str | None = None
    """Where conversations are kept; without it `serving` in the folder of the run."""
    keys: str | None = None
    """File of API keys, one NAME KEY a line; without it everybody is let in."""
    slots: int = 8
    """Turns that run at the same time."""
    chunk_tokens: int = 4
    """Tokens that are made between two looks at the device: more are faster, fewer stream more smoothly."""
    config: Annotated[ServerConfig, tyro.conf.arg(name="")] = field(default_factory=ServerConfig)

    def __post_init__(self) -> None:
        if not 0 <= self.port < 2**16:
            raise ValueError(f"--port must be 0 to {2**16 - 1}, got {self.port}. 0 takes any that is free.")
        for name in ("slots", "chunk_tokens"):
            if getattr(self, name) < 1:
                raise ValueError(f"--{name.replace('_', '-')} must be at least 1, got {getattr(self, name)}.")


def run(arguments: Sequence[str]) -> int:
    """Serve until the process is told to stop."""
    options = parse(ServeOptions, arguments, "rxt serve")
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
    for noisy in ("absl", "jax"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    app = app_of_run(
        options.run,
        folder=options.folder,
        config=options.config,
        keys=options.keys,
        slots=options.slots,
        chunk_tokens=options.chunk_tokens,
    )
    server = uvicorn.Server(
        uvicorn.Config(
            app,
            host=options.host,
            port=options.port,
            log_level="warning",
            access_log=False,
            timeout_graceful_shutdown=int(options.config.finish_seconds) + 1,
        )
    )
    engine = app.state.context.service.engine
    threading.Thread(target=_announce, args=(server, engine, options), daemon=True).start()
    for number in (signal.SIGINT, signal.SIGTERM):
        # Uvicorn obeys these while it runs and raises them once more at the end, where nothing is left to stop.
        signal.signal(number, lambda *_: None)
    server.run()
    return 0 if server.started else 1


def _announce(server: uvicorn.Server, engine: Engine, options: ServeOptions) -> None:
    """Say where the server is as soon as it answers."""
    while not server.started:
        time.sleep(0.05)
    host, port = server.servers[0].sockets[0].getsockname()[:2]
    place = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
    print(f"compiling the programs of {options.run}; {place}/ready says when it is done", flush=True)
    while not engine.is_ready:
        if not engine.is_alive:
            server.should_exit = True
            return
        time.sleep(0.05)
    print(f"serving {options.run}\n  chat page  {place}\n  API        {place}/v1\nCtrl-C stops it.", flush=True)
