"""What every handler needs: the model's name and words, the service, who may ask, and how turns are asked for."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request

from rxt_jax.data.template import ThinkingMode, first_tokens
from rxt_jax.data.tokenizer import Tokenizer
from rxt_jax.model.generation_rules import SamplingConfig
from rxt_jax.server.access import Access
from rxt_jax.server.errors import ApiError, invalid, unsupported
from rxt_jax.server.exchange import Exchange, begin_turn
from rxt_jax.server.rows import TurnRows, turn_rows
from rxt_jax.server.service import Committed, Leaves, Origin, Outcome, RunningTurn, Service
from rxt_jax.server.spoken import Spoken
from rxt_jax.server.turns import Event, Turn
from rxt_jax.server.watching import Counters, TurnWatch

__all__ = ["Context", "Wanted", "check_results", "context_of", "read_body"]


@dataclass(frozen=True, kw_only=True)
class Context:
    """A served model."""

    name: str
    tokenizer: Tokenizer
    max_length: int
    created: float
    service: Service
    access: Access
    counters: Counters
    sampling: SamplingConfig
    mode: ThinkingMode
    body_bytes: int
    queue_seconds: float
    turn_seconds: float

    def owner(self, request: Request) -> str:
        """Tell whose request this is."""
        return self.access.owner(request.headers.get("authorization"))


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What a request wants of a turn, whichever API it came by."""

    api: str
    identity: str
    owner: str
    place: str
    """The field that what is said comes from."""
    tools: Sequence[dict[str, Any]]
    must_call: bool
    mode: ThinkingMode
    sampling: SamplingConfig
    limit: int | None
    seed: int | None
    keeps_memory: bool

    async def begin(
        self,
        context: Context,
        origin_of: Callable[[], tuple[Origin, Spoken]],
        leaves: Callable[[Outcome, Origin, TurnRows], Leaves],
    ) -> tuple[RunningTurn, Exchange]:
        """Begin the turn. `origin_of` is asked again while the conversation is busy."""
        if not context.service.engine.is_ready:
            raise ApiError(503, "the server is starting or stopping", code="not_ready", headers={"Retry-After": "1"})
        exchange = Exchange()
        watch = TurnWatch(context.counters, self.api, self.identity, self.owner)

        def hear(event: Event | Committed) -> None:
            watch.hear(event)
            exchange.hear(event)

        def begin() -> RunningTurn:
            origin, spoken = origin_of()
            rows = turn_rows(
                spoken,
                self.tools,
                origin.state,
                is_new=origin.memory is None,
                tokenizer=context.tokenizer,
                max_length=context.max_length,
                place=self.place,
            )
            watch.read_tokens, watch.stateless_tokens = rows.read_tokens, origin.state.tokens + rows.read_tokens
            turn = Turn(
                memory=context.service.memory(origin),
                prompt=rows.prompt,
                preface=rows.preface,
                first=self._first(context, may_call=bool(rows.state.tools)),
                sampling=self.sampling,
                limit=self.limit,
                seed=_seed(self.identity) if self.seed is None else self.seed,
                keeps_memory=self.keeps_memory,
                queue_seconds=context.queue_seconds,
                turn_seconds=context.turn_seconds,
            )
            return context.service.begin(
                self.identity, self.owner, origin, turn, lambda outcome: leaves(outcome, origin, rows), hear
            )

        return await begin_turn(begin), exchange

    def _first(self, context: Context, *, may_call: bool) -> tuple[int, ...]:
        """List the ids among which the first token is chosen; where memory holds tools, a call may come first."""
        special = context.tokenizer.special
        try:
            if self.must_call:
                return (special.require("tool_call"),)
            first = first_tokens(self.mode, special)
        except ValueError as error:
            raise unsupported("tool_choice" if self.must_call else "reasoning.effort", str(error)) from error
        if not may_call or self.mode == "extended":
            return first
        # Answer or call; and where the model may think as well, it chooses among all tokens.
        return (special.answer, special.tool_call) if self.mode == "fast" else ()


def context_of(request: Request) -> Context:
    """Give what the application serves."""
    return request.app.state.context


async def read_body(request: Request, limit: int) -> bytes:
    """Read the body of a request, up to a limit in bytes."""
    content = bytearray()
    async for part in request.stream():
        content += part
        if len(content) > limit:
            raise ApiError(413, f"the body has more than {limit} bytes", code="body_too_large")
    return bytes(content)


def check_results(open_calls: Sequence[str], given: Sequence[str], place: str) -> None:
    """Check that exactly the tool calls that wait for results get theirs."""
    unknown = [each for each in given if each not in open_calls]
    if unknown:
        raise invalid(place, f"no tool call {unknown[0]!r} waits for a result")
    missing = [each for each in open_calls if each not in given]
    if missing:
        raise invalid(place, f"no tool output found for function call {missing[0]!r}")


def _seed(identity: str) -> int:
    """Make a seed of an id, so that every turn is sampled anew."""
    return int(identity[-8:], 16)
