"""Errors as the API knows them: a status, and an object with message, type, param and code."""

from typing import Any

__all__ = ["ApiError", "invalid", "not_found", "unsupported"]

_TYPES = {401: "authentication_error", 429: "rate_limit_error"}


class ApiError(Exception):
    """A request that cannot be done. `headers` go into the answer."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        headers: dict[str, str] | None = None,
    ):
        super().__init__(message)
        self.status, self.message, self.code, self.param = status, message, code, param
        self.headers = headers or {}

    def body(self) -> dict[str, Any]:
        """Write the object that clients expect."""
        kind = _TYPES.get(self.status, "server_error" if self.status >= 500 else "invalid_request_error")
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}


def invalid(param: str, message: str) -> ApiError:
    """A field that has no meaning as it is."""
    return ApiError(400, message, param=param, code="invalid_value")


def unsupported(param: str, message: str) -> ApiError:
    """A field that has a meaning, but none that this server can give it."""
    return ApiError(400, message, param=param, code="unsupported_value")


def not_found(what: str, identity: str, *, code: str = "not_found", param: str | None = None) -> ApiError:
    """Something that does not exist, or belongs to another key."""
    return ApiError(404, f"there is no {what} {identity!r}", code=code, param=param)
