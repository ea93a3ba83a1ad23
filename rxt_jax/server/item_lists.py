"""What was said and answered, as lists of items of the API, page by page."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rxt_jax.server.errors import invalid, not_found, unsupported
from rxt_jax.server.index import Response

__all__ = ["conversation_items", "find_item", "input_items", "page_of"]

_MOST, _USUAL = 100, 20  # items of a page, as the API has it
_PARAMETERS = ("after", "include", "limit", "order")


def input_items(response: Response) -> list[dict[str, Any]]:
    """List what a response was asked, oldest first, in the form in which items are read back."""
    suffix = response.id.partition("_")[2]
    return [_item(f"in_{suffix}{number:02d}", given) for number, given in enumerate(response.input)]


def conversation_items(responses: Iterable[Response]) -> list[dict[str, Any]]:
    """List what was said and answered in the turns of a conversation, oldest first."""
    return [item for each in responses for item in (*input_items(each), *each.body["output"])]


def find_item(items: Sequence[dict[str, Any]], identity: str) -> dict[str, Any]:
    """Find an item by its id."""
    found = next((item for item in items if item["id"] == identity), None)
    if found is None:
        raise not_found("item", identity)
    return found


def page_of(items: Sequence[dict[str, Any]], query: Mapping[str, str]) -> dict[str, Any]:
    """Give the page that the parameters of an address ask for, of items that come oldest first.

    `order` (`desc`, the newest first, unless it is `asc`), `limit` (1 to 100, else 20), `after` (the id of an item).
    """
    for name in query:
        if name.removesuffix("[]") not in _PARAMETERS:
            raise unsupported(name, f"{name} is no parameter of this list; there are {', '.join(_PARAMETERS)}")
        if name.startswith("include"):
            raise unsupported("include", "items have nothing that could be included")
    order, limit, after = query.get("order", "desc"), query.get("limit", str(_USUAL)), query.get("after")
    if order not in ("asc", "desc"):
        raise invalid("order", f"order must be asc or desc, got {order!r}")
    if not limit.isdecimal() or not 1 <= int(limit) <= _MOST:
        raise invalid("limit", f"limit must be a number from 1 to {_MOST}, got {limit!r}")
    ordered = list(items) if order == "asc" else list(items)[::-1]
    first = 0 if after is None else ordered.index(find_item(ordered, after)) + 1
    page = ordered[first : first + int(limit)]
    return {
        "object": "list",
        "data": page,
        "first_id": page[0]["id"] if page else None,
        "last_id": page[-1]["id"] if page else None,
        "has_more": first + len(page) < len(ordered),
    }


def _item(identity: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """Write an item as it was given, with what one has that is read back: id, status, content in parts."""
    item = {**given, "id": identity, "status": "completed"}
    content = item.get("content")
    if item.get("type") == "message" and isinstance(content, str):
        kind = "output_text" if item.get("role") == "assistant" else "input_text"
        noted = {"annotations": []} if kind == "output_text" else {}
        item["content"] = [{"type": kind, "text": content, **noted}]
    return item
