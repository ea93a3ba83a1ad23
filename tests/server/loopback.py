"""A real server in a thread, on a free port of loopback."""

import threading
import time

import httpx
import uvicorn

from rxt_jax.server import make_app

PATIENT = 120.0
"""Seconds after which something is broken and not just slow: continuous integration has busy machines."""

http = httpx.Client(timeout=PATIENT)


class Loopback:
    """A server that runs until `stop`."""

    def __init__(self, programs, tokenizer, folder, *, fingerprint="parrot", **options):
        self.app = make_app(programs, tokenizer, name="parrot", fingerprint=fingerprint, folder=folder, **options)
        self.service = self.app.state.context.service
        config = uvicorn.Config(self.app, port=0, log_level="warning", timeout_graceful_shutdown=30)
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, daemon=True)
        self._thread.start()
        until(lambda: self._server.started and self.service.engine.is_ready, 300)
        self.address = f"http://127.0.0.1:{self._server.servers[0].sockets[0].getsockname()[1]}"
        self.url = f"{self.address}/v1"

    def stop(self):
        self._server.should_exit = True
        self._thread.join()


def until(condition, seconds=PATIENT):
    """Wait for a condition."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come true in time"
        time.sleep(0.01)
