"""Tools that the model calls with a remembered value, and what they give back to be asked for later."""

from typing import NamedTuple

__all__ = ["TOOLS", "Tool"]


class Tool(NamedTuple):
    """`request` holds {n}, the fact whose value becomes the argument `field`; `result` is the key of the answer."""

    name: str
    field: str
    request: str
    result: str


TOOLS: dict[str, Tool] = {
    tool.name: tool
    for tool in (
        Tool("search", "query", "look up {n}", "search number"),
        Tool("note", "text", "write down {n}", "note number"),
        Tool("message", "text", "send {n} to my phone", "message number"),
        Tool("print", "text", "print {n}", "print job number"),
    )
}
