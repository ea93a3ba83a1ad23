"""The application: a model behind all routes, from start to stop."""

import asyncio
import contextlib
import importlib.resources
import json
import logging
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from rxt_jax.data.template import ThinkingMode
from rxt_jax.data.tokenizer import Tokenizer
from rxt_jax.model.generation_rules import SamplingConfig
from rxt_jax.server import chat_api, conversations_api, responses_api
from rxt_jax.server.access import Access
from rxt_jax.server.context import Context, context_of
from rxt_jax.server.engine import Engine
from rxt_jax.server.errors import ApiError
from rxt_jax.server.index import Index
from rxt_jax.server.memories import Memories, TierLimits
from rxt_jax.server.programs import Programs
from rxt_jax.server.service import Service
from rxt_jax.server.watching import Counters, metrics_text

__all__ = ["INDEX_FILE", "ServerConfig", "make_app"]

INDEX_FILE = "index.sqlite"
SWEEP_SECONDS = 60.0
"""How often memories are looked through that nobody uses."""

_LOG = logging.getLogger("rxt_jax.server")


@dataclass(frozen=True, kw_only=True)
class ServerConfig:
    """What a server allows, and what turns are like that say nothing about it."""

    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    """Of replies whose request names no temperature or top-p."""
    mode: ThinkingMode = "fast"
    """How replies begin: with the answer, with a thought, or as the model likes."""
    queue_size: int = 64
    """Turns that may wait for a slot; one more gets 429."""
    queue_seconds: float = 60.0
    """How long a turn may wait for a slot."""
    turn_seconds: float = 300.0
    """How long a turn may take from then on."""
    finish_seconds: float = 10.0
    """How long running turns may go on when the server is stopped."""
    body_bytes: int = 1 << 20
    """The largest body of a request, in bytes."""
    conversations_per_key: int | None = None
    """Conversations that an API key may keep, None for any number."""
    limits: TierLimits = field(default_factory=TierLimits)


def make_app(
    programs: Programs,
    tokenizer: Tokenizer,
    *,
    name: str,
    fingerprint: str,
    folder: str | Path,
    config: ServerConfig | None = None,
    keys: dict[str, str] | None = None,
) -> Starlette:
    """Make the application. Its programs are compiled, and `/ready` says so, after it has started.

    Conversations are kept in `folder`. `keys` (key → name) are those that are let in; None: everybody is.
    """
    config, folder = config or ServerConfig(), Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    index = Index(folder / INDEX_FILE)
    memories = Memories(
        folder / "memories", index, fingerprint=fingerprint, shape=programs.memory_shape, limits=config.limits
    )
    engine = Engine(programs, queue_size=config.queue_size)
    service = Service(
        engine,
        memories,
        index,
        initial_memory=programs.initial_memory,
        conversations_per_owner=config.conversations_per_key,
    )

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        engine.start(wait=False)
        sweeping = asyncio.create_task(_sweep(memories))
        try:
            yield
        finally:
            sweeping.cancel()
            await asyncio.to_thread(service.close, config.finish_seconds)

    app = Starlette(
        routes=[*_ROUTES, *responses_api.ROUTES, *conversations_api.ROUTES, *chat_api.ROUTES],
        lifespan=lifespan,
        exception_handlers={ApiError: _api_error, HTTPException: _http_error, Exception: _unexpected},
    )
    app.add_middleware(_OwnPagesOnly)
    app.state.context = Context(
        name=name,
        tokenizer=tokenizer,
        max_length=programs.max_length,
        created=time.time(),
        service=service,
        access=Access(keys),
        counters=Counters(),
        sampling=config.sampling,
        mode=config.mode,
        body_bytes=config.body_bytes,
        queue_seconds=config.queue_seconds,
        turn_seconds=config.turn_seconds,
    )
    return app


async def _sweep(memories: Memories) -> None:
    """Bring the tiers back to their limits now and then, also where nobody says anything."""
    while True:
        await asyncio.sleep(SWEEP_SECONDS)
        try:
            await asyncio.to_thread(memories.sweep)
        except Exception:  # a disk that is full or gone: the turns say so themselves
            _LOG.exception("memories could not be swept")


class _OwnPagesOnly:
    """Refuse what a browser sends for the pages of other sites: a server on loopback is open to whoever sits there."""

    def __init__(self, app: ASGIApp):
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] not in ("GET", "HEAD") and _is_foreign(Request(scope)):
            error = ApiError(403, "pages of other sites may not use this server", code="foreign_origin")
            await JSONResponse(error.body(), 403)(scope, receive, send)
            return
        await self._app(scope, receive, send)


def _is_foreign(request: Request) -> bool:
    """Tell by what browsers say of the page that asks; other clients say nothing."""
    site, origin = request.headers.get("sec-fetch-site"), request.headers.get("origin")
    if site is not None:
        return site in ("cross-site", "same-site")
    # Not said where the page itself came over an unencrypted network; a proxy may have changed the host only here.
    return origin is not None and urlsplit(origin).netloc != request.headers.get("host")


async def _page(request: Request) -> Response:
    page = importlib.resources.files("rxt_jax.server").joinpath("page.html").read_text(encoding="utf-8")
    # Nothing is loaded from anywhere, and nothing is sent elsewhere.
    policy = (
        "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; img-src data:"
    )
    served = json.dumps(context_of(request).name).replace("<", "\\u003c")
    return HTMLResponse(page.replace('"{{model}}"', served), headers={"Content-Security-Policy": policy})


async def _health(request: Request) -> Response:
    alive = context_of(request).service.engine.is_alive
    return JSONResponse({"status": "ok" if alive else "failed"}, 200 if alive else 503)


async def _ready(request: Request) -> Response:
    ready = context_of(request).service.engine.is_ready
    return JSONResponse({"ready": ready}, 200 if ready else 503)


async def _metrics(request: Request) -> Response:
    context = context_of(request)
    text = metrics_text(context.counters, context.service)
    return PlainTextResponse(text, media_type="text/plain; version=0.0.4")


async def _api_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    return JSONResponse(error.body(), error.status, headers=error.headers)


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    message = f"{request.method} {request.url.path}: {error.detail}"
    return JSONResponse(ApiError(error.status_code, message, code="unknown_route").body(), error.status_code)


async def _unexpected(_: Request, error: Exception) -> Response:
    return JSONResponse(ApiError(500, "the server failed; its log says why", code="server_error").body(), 500)


_ROUTES = [
    Route("/", _page, methods=["GET"]),
    Route("/health", _health, methods=["GET"]),
    Route("/ready", _ready, methods=["GET"]),
    Route("/metrics", _metrics, methods=["GET"]),
]
