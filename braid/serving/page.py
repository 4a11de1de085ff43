"""The server's own page, for trying a model by hand: three files, served from memory.

The files hold nothing that is secret, so they are read without a key; whatever the page asks of the
model goes through the same paths as everybody's requests, with a key where the server wants one.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from importlib.resources import files

from braid.serving.extra import FastAPI, Response

_FILES = {
    "/": ("index.html", "text/html"),
    "/page.js": ("page.js", "text/javascript"),
    "/page.css": ("page.css", "text/css"),
}

PATHS = tuple(_FILES)
"""Where the page lies; for a guard to let through."""

_SOURCES = {
    "default-src": "'none'",
    "script-src": "'self'",
    "style-src": "'self'",
    "img-src": "'self' data: blob:",
    "media-src": "data: blob:",
    "connect-src": "'self'",
    "base-uri": "'none'",
    "form-action": "'none'",
    "frame-ancestors": "'none'",
}
_HEADERS = {
    "content-security-policy": "; ".join(f"{name} {where}" for name, where in _SOURCES.items()),
    "referrer-policy": "no-referrer",
}


def install(app: FastAPI) -> None:
    """Add the page's paths to an application; no part of a request says which file is read."""
    folder = files("braid.serving") / "page"
    for path, (name, kind) in _FILES.items():
        app.get(path)(_answer((folder / name).read_bytes(), kind))


def _answer(content: bytes, kind: str) -> Callable[[], Awaitable[Response]]:
    async def answer() -> Response:
        return Response(content, media_type=kind, headers=_HEADERS)

    return answer
