"""Text that every tokenizer can hold, and ids joined to text."""

from collections.abc import Iterable

__all__ = ["check_text", "decode_bytes"]


def check_text(text: str) -> str:
    """Refuse what UTF-8 cannot hold: JSON escapes can spell half a character."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"text must be valid Unicode, got a lone surrogate {text[error.start]!r} at character "
            f"{error.start}; remove it or write the whole character"
        ) from None
    return text


def decode_bytes(token_bytes: list[bytes], ids: Iterable[int]) -> str:
    """Join the bytes of ids to text, without the leading space of the first word."""
    joined = b"".join([token_bytes[identity] for identity in ids])
    return joined.decode(errors="replace").removeprefix(" ")
