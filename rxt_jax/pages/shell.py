"""The outside of every page: one HTML text that requests nothing, in light and dark, readable without a script."""

import json
from html import escape
from pathlib import Path
from typing import Any

__all__ = ["MOST_BYTES", "embed_json", "frame", "write_page"]

MOST_BYTES = 2_000_000
"""What a page may weigh, so that it can be sent by mail and opened on a phone."""

_STYLE = (Path(__file__).parent / "page.css").read_text(encoding="utf-8")

# The browser itself refuses whatever would leave the page.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:"


def write_page(title: str, body: str, *, script: str = "") -> str:
    """Write a whole page around the HTML of its body."""
    ending = f"<script>{script}</script>" if script else ""
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head>\n"
        f"<body><main><h1>{escape(title)}</h1>\n{body}\n</main>{ending}</body></html>\n"
    )


def embed_json(identity: str, content: Any) -> str:
    """Put data into a page, for its script and for programs that read the page."""
    # A text such as "</script>" must not end the element.
    text = json.dumps(content, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")
    return f'<script type="application/json" id="{identity}">{text}</script>'


def frame(page: str, *, height: int = 820) -> str:
    """Show a page inside a notebook, apart from the notebook's own style."""
    style = f"width:100%;height:{height}px;border:0"
    return f'<iframe sandbox="allow-scripts" srcdoc="{escape(page)}" style="{style}"></iframe>'
