"""Every way in which a request can fail, as the one error object that clients read."""

from __future__ import annotations

import http
import json
from typing import TYPE_CHECKING

from braid.serving.extra import HTTPException, RequestValidationError, Response
from braid.serving.refusals import Refusal, failed, invalid

if TYPE_CHECKING:
    from fastapi import FastAPI
    from starlette.requests import Request

_MESSAGES = {
    400: ("bad_body", "the body cannot be read as its content-type says; send what is named there"),
    404: ("not_found", "nothing is served at this path; GET /v1/models is"),
    405: ("method_not_allowed", "this path does not take this method; the header allow names some"),
}
_KEPT = ("allow", "retry-after")
_FIELD = 200


def install(app: FastAPI) -> None:
    """Let an application behind a `Guard` answer every error with the error object.

    A failure of ours is answered and raised again, so that the guard logs it.
    """

    async def answer(request: Request, error: Exception) -> Response:
        state = request.scope["state"]
        refusal, head = refusal_of(error, state["request"])
        state["refused"] = refusal
        return Response(encoded(refusal), refusal.status, head, "application/json")

    for kind in (Refusal, HTTPException, RequestValidationError, Exception):
        app.add_exception_handler(kind, answer)


def refusal_of(error: Exception, reference: str) -> tuple[Refusal, dict[str, str]]:
    """Return what is answered to an error, and the head of the answer.

    Only a `Refusal` speaks for itself; what other errors say may hold a path or an address.

    Arguments:
        error: that was raised.
        reference: under which the log has it.
    """
    head: dict[str, str] = {}
    if isinstance(error, Refusal):
        refusal = error
    elif isinstance(error, RequestValidationError):
        refusal = _wrong_field(error)
    elif isinstance(error, HTTPException) and 400 <= error.status_code < 600:
        refusal = _plain(error.status_code)
        given = {name.lower(): value for name, value in (error.headers or {}).items()}
        head = {name: value for name, value in given.items() if name in _KEPT}
    else:
        refusal = failed(reference)
    if refusal.status == 401:
        head["www-authenticate"] = "Bearer"
    return refusal, {**head, **refusal.headers()}


def encoded(refusal: Refusal) -> bytes:
    """Return a refusal's body; all in ASCII, since a field's name may hold half a surrogate."""
    return json.dumps(refusal.body()).encode("ascii")


def _wrong_field(error: RequestValidationError) -> Refusal:
    """Return the refusal of a request whose fields are not as a route declares them."""
    errors = error.errors()
    if not errors:
        return invalid("the request is not as this path declares it")
    first = errors[0]
    if first["type"] == "json_invalid":
        return invalid("the body is not valid JSON", code="invalid_json")
    # the first word says where the field stands: in the body, the query, the path or a header
    param = ".".join(str(word) for word in first["loc"][1:])[:_FIELD] or None
    more = f"; {len(errors) - 1} more fields are wrong" if len(errors) > 1 else ""
    message = f"{param or first['loc'][0]}: {first['msg'][:_FIELD]}{more}"
    return invalid(message, param, "invalid_field")


def _plain(status: int) -> Refusal:
    """Return the refusal that a status alone tells."""
    try:
        phrase = http.HTTPStatus(status).phrase.lower()
    except ValueError:
        phrase = f"status {status}"
    code, message = _MESSAGES.get(status, (phrase.replace(" ", "_").replace("-", "_"), phrase))
    kind = "server_error" if status >= 500 else "invalid_request_error"
    return Refusal(status, message, kind=kind, code=code)
