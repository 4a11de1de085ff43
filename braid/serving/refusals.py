"""What a server answers instead of a result: the error object that OpenAI's clients read."""

from __future__ import annotations

from typing import Any

_LONGEST = 500
"""Characters of a message: most name a value, which a client may have made as long as a body."""


class Refusal(Exception):  # noqa: N818 - an answer, not a failure
    """A request that is not served.

    Attributes:
        status: of HTTP.
        message: names the value, the expectation and the remedy; holds no path and no address.
        kind: family of the error, as "invalid_request_error".
        param: field of the request that is meant, or None.
        code: short name of the reason, or None.
        retry: seconds after which another try makes sense, or None.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        kind: str = "invalid_request_error",
        param: str | None = None,
        code: str | None = None,
        retry: int | None = None,
    ) -> None:
        if len(message) > _LONGEST:
            message = f"{message[:_LONGEST]}..."
        super().__init__(message)
        self.status, self.message, self.kind = status, message, kind
        self.param, self.code, self.retry = param, code, retry

    def body(self) -> dict[str, Any]:
        """Return the answer's JSON."""
        return {
            "error": {
                "message": self.message,
                "type": self.kind,
                "param": self.param,
                "code": self.code,
            }
        }

    def headers(self) -> dict[str, str]:
        """Return what the answer's head says besides."""
        return {} if self.retry is None else {"retry-after": str(self.retry)}


def invalid(message: str, param: str | None = None, code: str | None = None) -> Refusal:
    """Return the refusal of a request that is wrong in itself."""
    return Refusal(400, message, param=param, code=code)


def busy(message: str, retry: int = 1) -> Refusal:
    """Return the refusal of a request for which there is no room now."""
    return Refusal(429, message, kind="rate_limit_error", code="queue_full", retry=retry)


def unavailable(message: str, code: str, retry: int = 5) -> Refusal:
    """Return the refusal of a server that serves nobody now."""
    return Refusal(503, message, kind="server_error", code=code, retry=retry)


def failed(reference: str) -> Refusal:
    """Return the answer to a request that met a mistake of ours; the log has it as `reference`."""
    return Refusal(
        500,
        f"the server failed at this request; its log says why under {reference}",
        kind="server_error",
        code="internal_error",
    )
