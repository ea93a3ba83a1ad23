"""`/v1/conversations`: conversations that move on with every turn, and the memory that each one stands at."""

import asyncio

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from rxt_jax.server.context import context_of, read_body
from rxt_jax.server.errors import ApiError, not_found, unsupported
from rxt_jax.server.exchange import busy_error
from rxt_jax.server.fields import Fields, parse_body
from rxt_jax.server.index import Conversation, ConversationMovedError
from rxt_jax.server.item_lists import conversation_items, find_item, page_of
from rxt_jax.server.memory_files import DamagedMemoryError, ForeignMemoryError
from rxt_jax.server.service import BusyError

__all__ = ["ROUTES"]

_HEADER_BYTES = 1 << 16


async def _create(request: Request) -> Response:
    context = context_of(request)
    owner = context.owner(request)
    fields = Fields(parse_body(await read_body(request, context.body_bytes)))
    metadata = fields.metadata()
    if fields.items("items"):
        raise unsupported("items", "a conversation begins empty; send its history with the first response")
    fields.end()
    identity = context.service.create_conversation(owner, metadata)
    return JSONResponse(_object(_find(request, identity)))


async def _get(request: Request) -> Response:
    return JSONResponse(_object(_find(request, request.path_params["id"])))


async def _update(request: Request) -> Response:
    context, found = context_of(request), _find(request, request.path_params["id"])
    fields = Fields(parse_body(await read_body(request, context.body_bytes)))
    metadata = fields.metadata()
    fields.end()
    context.service.index.set_metadata(found.id, context.owner(request), metadata)
    return JSONResponse(_object(found._replace(metadata=metadata)))


async def _delete(request: Request) -> Response:
    context, identity = context_of(request), request.path_params["id"]
    owner = context.owner(request)
    if context.service.is_busy(identity) and context.service.index.conversation(identity, owner) is not None:
        raise busy_error()
    if not context.service.index.delete_conversation(identity, owner):
        raise not_found("conversation", identity)
    return JSONResponse({"id": identity, "object": "conversation.deleted", "deleted": True})


async def _get_memory(request: Request) -> Response:
    context, identity = context_of(request), request.path_params["id"]
    origin = context.service.from_conversation(identity, context.owner(request))
    if origin.memory is None:
        raise ApiError(404, f"conversation {identity!r} has no turn yet", code="memory_not_found")
    content = await asyncio.to_thread(context.service.memory_content, origin)
    return Response(content, media_type="application/octet-stream")


async def _put_memory(request: Request) -> Response:
    context, found = context_of(request), _find(request, request.path_params["id"])
    size = context.service.initial_memory.nbytes + _HEADER_BYTES
    content = await read_body(request, max(size, context.body_bytes))
    try:
        await asyncio.to_thread(context.service.set_memory, found.id, context.owner(request), content)
    except (BusyError, ConversationMovedError):
        raise busy_error() from None
    except ForeignMemoryError as error:
        raise ApiError(400, str(error), code="foreign_memory") from error
    except DamagedMemoryError as error:
        raise ApiError(400, str(error), code="damaged_memory") from error
    return JSONResponse(_object(found))


async def _list_items(request: Request) -> Response:
    return JSONResponse(page_of(_items(request), request.query_params))


async def _get_item(request: Request) -> Response:
    return JSONResponse(find_item(_items(request), request.path_params["item"]))


async def _refuse_items(request: Request) -> Response:
    _find(request, request.path_params["id"])
    raise unsupported(
        "items",
        "items are what turns leave, and memory has no parts that could be added or taken away: send them as the input "
        "of a response, or go on from an earlier response",
    )


def _items(request: Request) -> list[dict]:
    context, found = context_of(request), _find(request, request.path_params["id"])
    return conversation_items(context.service.index.responses(found.id, context.owner(request)))


def _find(request: Request, identity: str) -> Conversation:
    context = context_of(request)
    found = context.service.index.conversation(identity, context.owner(request))
    if found is None:
        raise not_found("conversation", identity)
    return found


def _object(found: Conversation) -> dict:
    return {
        "id": found.id,
        "object": "conversation",
        "created_at": int(found.created),
        "metadata": found.metadata,
    }


ROUTES = [
    Route("/v1/conversations", _create, methods=["POST"]),
    Route("/v1/conversations/{id}", _get, methods=["GET"]),
    Route("/v1/conversations/{id}", _update, methods=["POST"]),
    Route("/v1/conversations/{id}", _delete, methods=["DELETE"]),
    Route("/v1/conversations/{id}/items", _list_items, methods=["GET"]),
    Route("/v1/conversations/{id}/items", _refuse_items, methods=["POST"]),
    Route("/v1/conversations/{id}/items/{item}", _get_item, methods=["GET"]),
    Route("/v1/conversations/{id}/items/{item}", _refuse_items, methods=["DELETE"]),
    Route("/v1/conversations/{id}/memory", _get_memory, methods=["GET"]),
    Route("/v1/conversations/{id}/memory", _put_memory, methods=["PUT"]),
]
