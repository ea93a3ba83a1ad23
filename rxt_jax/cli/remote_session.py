"""A conversation with a server: the calls of a `ChatSession`, over HTTP by the standard library."""

import json
import os
import urllib.error
import urllib.request
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from rxt_jax.data.template import ThinkingMode
from rxt_jax.model import SamplingConfig
from rxt_jax.serving import Chunk

__all__ = ["RemoteSession", "is_address"]

_BLOCKS = {"response.output_text.delta": "answer", "response.reasoning_text.delta": "think"}
_CONNECT_SECONDS = 600.0  # a turn may wait for a slot


def is_address(run: str) -> bool:
    """Tell the address of a server from a folder."""
    return run.startswith(("http://", "https://"))


class RemoteSession:
    """One conversation with the model at `address`; memory stays there, known by the id of the last response.

    The API key is that of the environment, RXT_API_KEY.
    """

    def __init__(self, address: str, *, sampling: SamplingConfig | None = None, mode: ThinkingMode = "fast"):
        sampling = sampling or SamplingConfig()
        if sampling.top_k or sampling.min_p:
            raise ValueError("a server knows --sampling.temperature and --sampling.top-p; top-k and min-p are its own")
        self._base = address.rstrip("/").removesuffix("/v1") + "/v1"
        self._sampling = {"temperature": sampling.temperature or 0.0, "top_p": sampling.top_p}
        self.mode: ThinkingMode = mode
        self.reset()
        with self._open("GET", "/models") as answer:
            self.model = json.load(answer)["data"][0]["id"]

    def reset(self) -> None:
        """Forget everything."""
        self._begin: dict[str, Any] = {}
        self._calls: list[str] = []
        self._last: str | None = None
        self.change: np.ndarray | None = None
        """Which share of every memory slot the last turn changed, `[L S]`; None where there was none."""

    def send(self, query: str | None = None, *, tool_result: str | None = None) -> Generator[Chunk, None, bool]:
        """Stream the reply to a query or to a tool's result; see `ChatSession.send`.

        Results of several calls are separated by ` | `. A reply that is not read to its end writes nothing.
        """
        given: Any = query
        if tool_result is not None:
            results = tool_result.split(" | ")
            if len(results) != len(self._calls):
                raise ValueError(f"{len(self._calls)} tool calls wait for a result, got {len(results)}")
            given = [
                {"type": "function_call_output", "call_id": call, "output": result}
                for call, result in zip(self._calls, results, strict=True)
            ]
        asked = {"reasoning": {"effort": self.mode}, "include": ["memory.change"]}
        return self._stream({"input": given, "stream": True, **asked, **self._sampling, **self._begin})

    def export_memory(self, path: str | Path) -> None:
        """Write the memory to a file."""
        if self._last is None:
            raise ValueError("nothing has been said yet, so there is no memory to save")
        with self._open("GET", f"/responses/{self._last}/memory") as answer:
            Path(path).write_bytes(answer.read())

    def import_memory(self, path: str | Path) -> None:
        """Take the memory from a file of `export_memory`; the server refuses that of another model."""
        content = Path(path).read_bytes()
        with self._open("POST", "/conversations", {}) as answer:
            conversation = json.load(answer)["id"]
        self._open("PUT", f"/conversations/{conversation}/memory", content).close()
        self.reset()
        self._begin = {"conversation": conversation}

    def _stream(self, body: dict[str, Any]) -> Generator[Chunk, None, bool]:
        with self._open("POST", "/responses", body) as answer:
            for event in _events(answer):
                kind = event["type"]
                if kind in _BLOCKS:
                    yield Chunk(event["delta"], _BLOCKS[kind])  # type: ignore[arg-type]
                elif kind == "response.output_item.done" and event["item"]["type"] == "function_call":
                    item = event["item"]
                    yield Chunk(f"{item['name']} {item['arguments']}", "tool_call")
                elif kind == "response.failed":
                    error = event["response"]["error"]
                    raise ValueError(error["message"] if error else "the turn was cancelled")
                elif kind in ("response.completed", "response.incomplete"):
                    done = event["response"]
                    self._calls = [item["call_id"] for item in done["output"] if item["type"] == "function_call"]
                    self._last, self.change = done["id"], np.array(done["memory_change"])
                    self._begin = {"previous_response_id": done["id"]}
                    return kind == "response.completed"
        raise ValueError("the server closed the connection before the reply was complete")

    def _open(self, method: str, path: str, body: Any = None) -> Any:
        content = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        headers = {"Content-Type": "application/octet-stream" if isinstance(body, bytes) else "application/json"}
        if key := os.environ.get("RXT_API_KEY"):
            headers["Authorization"] = f"Bearer {key}"
        request = urllib.request.Request(self._base + path, content, headers, method=method)
        try:
            return urllib.request.urlopen(request, timeout=_CONNECT_SECONDS)
        except urllib.error.HTTPError as error:
            raise ValueError(_message(error)) from None
        except urllib.error.URLError as error:
            raise ValueError(f"no server answers at {self._base}: {error.reason}; start one with rxt serve") from None


def _message(error: urllib.error.HTTPError) -> str:
    try:
        return json.load(error)["error"]["message"]
    except (ValueError, KeyError, TypeError):
        return f"the server answered HTTP {error.code}"


def _events(answer: Any) -> Iterator[dict[str, Any]]:
    for line in answer:
        if line.startswith(b"data: "):
            yield json.loads(line[6:])
