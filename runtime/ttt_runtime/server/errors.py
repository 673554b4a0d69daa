"""Errors in the form of OpenAI's API: one JSON object, never a traceback."""

from __future__ import annotations

from typing import Any

from ttt_ref.errors import TttError

BUSY = "server_overloaded"


class ApiError(TttError):
    """A request that is answered with an error.

    Args:
        message: what was seen, what was expected, what to do.
        status: HTTP status.
        code: short name for programs.
        param: the field that is wrong.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int = 400,
        code: str | None = None,
        param: str | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.param = param

    @property
    def kind(self) -> str:
        """The error's `type`."""
        if self.status == 401:
            return "authentication_error"
        if self.status == 403:
            return "permission_error"
        if self.status == 429:
            return "rate_limit_error"
        return "server_error" if self.status >= 500 else "invalid_request_error"

    def to_dict(self) -> dict[str, Any]:
        """Return the value of `error`."""
        return {
            "message": str(self),
            "type": self.kind,
            "param": self.param,
            "code": self.code,
        }


def as_api_error(error: BaseException) -> ApiError:
    """Return the error for a client: our own errors as they are, of a defect no details."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, TttError):
        return ApiError(" ".join(str(error).split()))
    return ApiError("the server failed on this request; its log tells why", status=500)


def busy(waiting: int) -> ApiError:
    """Return the refusal of work while the queue is full."""
    return ApiError(
        f"{waiting} requests wait already; try again in a moment", status=503, code=BUSY
    )
