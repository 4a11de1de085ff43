"""Whatever the route: no key, no answer; no request holds anything for long; errors tell little."""

from __future__ import annotations

import asyncio
import json
import logging
import random
import re
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from fastapi import APIRouter, FastAPI, Request, WebSocket
from fastapi.responses import PlainTextResponse, Response, StreamingResponse
from fastapi.staticfiles import StaticFiles
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from braid.serving import guard as guard_module
from braid.serving.answers import install
from braid.serving.guard import PROBES, Guard
from braid.serving.limits import Limits
from braid.serving.logs import Lines
from braid.serving.metrics import Metrics
from braid.serving.refusals import busy
from tests.serving.live import KEY, end, error, known, served
from tests.serving.test_metrics import values

LIMITS = Limits(body_bytes=200_000, body_seconds=0.5, write_seconds=0.5)
SECRET = "a-secret-of-/home/ada/0x7f00dead"


class Wish(BaseModel):
    """What a route of the tests asks for."""

    model_config = {"extra": "forbid"}
    prompt: str
    steps: int = 1


class Endless(Response):
    """Sends until the client is gone, and notes that it stopped and how."""

    def __init__(self, seen: list[str]) -> None:
        super().__init__()
        self.seen = seen

    async def __call__(self, scope, receive, send) -> None:
        async def left() -> None:
            while (await receive())["type"] != "http.disconnect":
                pass
            self.seen.append("left")

        watch = asyncio.create_task(left())
        await send({"type": "http.response.start", "status": 200, "headers": []})
        try:
            while not watch.done():
                await send({"type": "http.response.body", "body": b"x" * 65536, "more_body": True})
                await asyncio.sleep(0.001)
        finally:
            await asyncio.wait_for(watch, 1)
            self.seen.append("stopped")


def application(folder) -> FastAPI:
    """Return an application with a route of every kind."""
    app = FastAPI(redirect_slashes=False)
    install(app)
    app.state.seen = []
    for path in (*PROBES, "/metrics"):
        app.add_api_route(path, lambda: PlainTextResponse("fine"), methods=["GET"])
    inner = APIRouter(prefix="/v2")

    @app.post("/v1/wishes")
    def wishes(wish: Wish) -> Wish:
        return wish

    @app.post("/v1/echo")
    async def echo(request: Request) -> dict:
        return {"bytes": len(await request.body()), "request": request.state.request}

    @app.get("/v1/items/{name:path}")
    def item(name: str, count: int = 1) -> str:
        return name * count

    @app.get("/busy")
    def full() -> None:
        raise busy("the queue is full", retry=7)

    @app.get("/fails")
    def fails() -> None:
        raise RuntimeError(SECRET)

    @app.get("/fails-later")
    def later() -> StreamingResponse:
        def pieces():
            yield b"begun"
            raise RuntimeError(SECRET)

        return StreamingResponse(pieces(), headers={"cache-control": "max-age=9"})

    @app.get("/endless")
    async def endless() -> Endless:
        return Endless(app.state.seen)

    @app.get("/slowly")
    async def slowly() -> StreamingResponse:
        async def pieces():
            for number in range(3):
                yield f"{number}\n"
                await asyncio.sleep(0.3)

        return StreamingResponse(pieces())

    @app.websocket("/socket")
    async def talk(socket: WebSocket) -> None:
        await socket.accept()

    @inner.get("/inner/{number}")
    def within(number: int) -> int:
        return number

    app.include_router(inner)
    (folder / "page.txt").write_text("page")
    app.mount("/static", StaticFiles(directory=folder))
    app.mount("/sub", FastAPI())
    return app


@pytest.fixture(scope="module")
def app(tmp_path_factory):
    """Return the application."""
    return application(tmp_path_factory.mktemp("static"))


@pytest.fixture(scope="module")
def live(app):
    """Run the application behind a guard with a key."""
    with served(app, limits=LIMITS, head_seconds=0.5, write_seconds=0.5) as one:
        yield one


def paths(app) -> list[str]:
    """Return a path for each of an application's routes."""
    found = []
    for route in app.routes:
        path = getattr(route, "path", None) or "/v2/inner/{number}"
        found.append(re.sub(r"\{.*?\}", "1", path))
    return [*found, "/sub/docs", "/static/page.txt", "/none", "/v2/inner/1"]


def test_no_route_answers_without_a_key(app, live):
    names = paths(app)
    assert {"/docs", "/openapi.json", "/redoc", "/socket", "/static", "/sub"} <= set(names)
    answers = set()
    for path in names:
        for method in ("GET", "POST", "HEAD", "OPTIONS", "DELETE", "BREW"):
            if method == "GET" and path in PROBES:
                assert live.ask(method, path, key=None)[0] == 200
                continue
            for key in (None, "a-wrong-key-that-is-long-enough"):
                status, head, body = live.ask(method, path, key=key)
                assert (status, head["www-authenticate"]) == (401, "Bearer"), (method, path)
                answers.add(body)
    assert answers == {b"", max(answers, key=len)}  # a HEAD has no body
    assert error(max(answers, key=len))["code"] == "invalid_api_key"


@pytest.mark.parametrize(
    "path",
    ["//health", "/health/", "/health/..", "/./health", "/%68ealth", "/health%00", "/health%2f.."]
    + ["/v1/../health", "/HEALTH", "/health;a", "/health%3fa", "http://x/health", "/sub/health"]
    + ["/metrics", "/livez/../v1/items/a", "/livez%2f..%2fdocs", "*", "/health#a"],
)
def test_what_is_spelt_otherwise_is_no_probe(live, path):
    with live.socket() as one:
        one.sendall(f"GET {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n".encode())
        assert end(one).split(b" ", 2)[1] in (b"401", b"400")


def test_two_keys_of_one_request_are_none(live):
    line = f"authorization: Bearer {KEY}\r\n"
    with live.socket() as one:
        one.sendall(
            f"GET /docs HTTP/1.1\r\nhost: a\r\n{line * 2}connection: close\r\n\r\n".encode()
        )
        assert end(one).startswith(b"HTTP/1.1 401")


def test_a_path_is_open_where_that_is_wanted(app):
    with served(app, open_paths=("/metrics",)) as live:
        assert live.ask("GET", "/metrics", key=None)[0] == 200
        assert live.ask("GET", "/docs", key=None)[0] == 401


def test_without_keys_everything_is_open(app):
    with served(app, keys=()) as live:
        assert live.ask("GET", "/docs", key=None)[0] == 200


def called(app, scope: dict, messages=()) -> list[dict]:
    """Return what a guard sends when it is called without a server."""
    sent, left = [], list(messages)

    async def receive():
        return left.pop(0) if left else {"type": "http.disconnect"}

    async def send(message):
        sent.append(message)

    guard = Guard(app, known(KEY), LIMITS, Metrics(), logging.Logger("braid"))
    asyncio.run(guard(scope, receive, send))
    return sent


def scope_of(path: str, **changes) -> dict:
    """Return a request as a server describes it."""
    return {
        "type": "http",
        "method": "GET",
        "path": path,
        "raw_path": path.encode(),
        "headers": [],
        "query_string": b"",
        **changes,
    }


def test_a_websocket_is_denied_with_a_key_too(app):
    heads = [(b"authorization", f"Bearer {KEY}".encode())]
    scope = {**scope_of("/socket", headers=heads), "type": "websocket"}
    assert called(app, scope) == [{"type": "websocket.close", "code": 1008}]


@pytest.mark.parametrize(
    ("path", "root", "status"),
    [("/api/health", "/api", 200), ("/health", "/api", 401), ("/api/health", "", 401)]
    + [
        ("/health/health", "/health", 200),
        ("/health", "/health", 401),
        ("/api//health", "/api", 401),
    ],
)
def test_a_probe_stands_below_the_root_path(path, root, status):
    async def fine(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body"})

    sent = called(fine, scope_of(path, root_path=root), [{"type": "http.request"}])
    assert sent[0]["status"] == status


def test_the_request_id_is_the_clients_if_it_is_harmless(live):
    for good in ("a", "A-b_c.9", "x" * 64):
        _, head, body = live.ask("POST", "/v1/echo", b"abc", x_request_id=good)
        assert head["x-request-id"] == good
        assert json.loads(body) == {"bytes": 3, "request": good}
    bad = ("", "x" * 65, "a b", 'a"b', "a\xffb", "a/b")
    given = [live.ask("GET", "/health", x_request_id=b)[1]["x-request-id"] for b in bad]
    assert all(re.fullmatch("[0-9a-f]{32}", one) for one in given)
    assert len(set(given)) == len(bad)


def test_every_answer_is_neither_sniffed_nor_stored(live):
    for path in ("/health", "/none", "/fails", "/fails-later", "/static/page.txt", "/busy"):
        with live.socket() as one:
            one.sendall(
                f"GET {path} HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {KEY}\r\n"
                "connection: close\r\n\r\n".encode()
            )
            head = end(one).split(b"\r\n\r\n")[0].lower()
        assert head.count(b"x-content-type-options: nosniff") == 1
        assert head.count(b"cache-control:") == 1 and b"cache-control: no-store" in head
        assert b"server:" not in head


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "code", "param"),
    [
        ("GET", "/none", None, 404, "not_found", None),
        ("DELETE", "/v1/wishes", None, 405, "method_not_allowed", None),
        ("GET", "/static/none", None, 404, "not_found", None),
        ("POST", "/v1/wishes", b"{", 400, "invalid_json", None),
        ("POST", "/v1/wishes", b"\xff\xfe\xff", 400, "bad_body", None),
        ("POST", "/v1/wishes", b"[" * 100_000, 400, "bad_body", None),
        ("POST", "/v1/wishes", b"", 400, "invalid_field", None),
        ("POST", "/v1/wishes", b"{}", 400, "invalid_field", "prompt"),
        ("POST", "/v1/wishes", b'{"prompt": "a", "steps": "b"}', 400, "invalid_field", "steps"),
        ("POST", "/v1/wishes", b'{"prompt": "a", "\\ud800": 1}', 400, "invalid_field", None),
        ("GET", "/v1/items/a?count=b", None, 400, "invalid_field", "count"),
        ("GET", "/busy", None, 429, "queue_full", None),
        ("GET", "/fails", None, 500, "internal_error", None),
    ],
)
def test_every_error_has_one_form(live, method, path, body, status, code, param):
    given, head, told = live.ask(method, path, body, content_type="application/json")
    assert (given, error(told)["code"], error(told)["param"]) == (status, code, param)
    assert head["content-type"] == "application/json"
    assert head.get("allow") == ("POST" if status == 405 else None)
    assert head.get("retry-after") == ("7" if status == 429 else None)


def test_a_failure_is_told_to_the_log_alone(live):
    _, _, body = live.ask("GET", "/fails", x_request_id="of-the-failure")
    assert SECRET not in body.decode() and "of-the-failure" in error(body)["message"]
    line = live.line("of-the-failure", "failed")
    assert SECRET in line["traceback"] and "RuntimeError" in line["traceback"]


def test_a_failure_within_an_answer_ends_it_visibly(live):
    with live.socket() as one:
        one.sendall(
            "GET /fails-later HTTP/1.1\r\nhost: a\r\nx-request-id: torn\r\n"
            f"authorization: Bearer {KEY}\r\n\r\n".encode()
        )
        data = end(one)
    assert b"begun" in data and SECRET.encode() not in data
    assert not data.endswith(b"0\r\n\r\n")  # the last chunk of a whole answer
    assert SECRET in live.line("torn", "failed")["traceback"]
    assert not live.line("torn")["complete"]


def test_errors_that_no_application_answers_are_the_guards():
    async def fails(scope, receive, send):
        raise RuntimeError(SECRET)

    heads = [(b"authorization", f"Bearer {KEY}".encode())]
    sent = called(fails, scope_of("/a", headers=heads), [{"type": "http.request"}])
    assert sent[0]["status"] == 500
    assert error(b"".join(m["body"] for m in sent[1:]))["code"] == "internal_error"


def post(length: str, body: bytes = b"", path: str = "/v1/echo", key: str | None = KEY) -> bytes:
    """Return a request with a line that says how its body comes."""
    line = "" if key is None else f"authorization: Bearer {key}\r\n"
    return f"POST {path} HTTP/1.1\r\nhost: a\r\n{line}{length}\r\n\r\n".encode() + body


@pytest.mark.parametrize(("size", "status"), [(200_000, 200), (200_001, 413), (9**7, 413)])
def test_a_body_may_be_as_large_as_the_limit(live, size, status):
    assert live.ask("POST", "/v1/echo", b"x" * size)[0] == status


def test_a_body_that_is_too_long_is_refused_before_it_comes(live):
    with live.socket() as one:
        begun = time.monotonic()
        one.sendall(post("content-length: 99999999999"))
        head, body = end_of_head(one)
        assert b" 413 " in head and b"connection: close" in head.lower()
        assert time.monotonic() - begun < 0.4  # not when the time for the body is over
        assert error(body)["code"] == "body_too_large"
        assert end(one) == b""
    with live.socket() as one:  # whoever waits for leave to send is not given it
        one.sendall(post("expect: 100-continue\r\ncontent-length: 200001"))
        assert one.recv(100).startswith(b"HTTP/1.1 413")


def end_of_head(one: socket.socket) -> tuple[bytes, bytes]:
    """Return head and body of an answer that tells its length."""
    data = b""
    while b"\r\n\r\n" not in data:
        data += one.recv(65536)
    head, _, body = data.partition(b"\r\n\r\n")
    length = int(re.search(rb"content-length: (\d+)", head.lower()).group(1))
    while len(body) < length:
        body += one.recv(65536)
    return head, body


def test_a_body_in_chunks_is_refused_when_it_becomes_too_long(live):
    chunk = b"10000\r\n" + b"x" * 65536 + b"\r\n"
    with live.socket() as one:
        one.sendall(post("transfer-encoding: chunked", chunk * 4 + b"0\r\n\r\n"))
        head, body = end_of_head(one)
        assert b" 413 " in head and error(body)["code"] == "body_too_large"
        assert end(one) == b""
    with live.socket() as one:
        one.sendall(post("transfer-encoding: chunked", chunk * 3 + b"0\r\n\r\n"))
        assert end_of_head(one)[1].startswith(b'{"bytes":196608')


def test_a_probe_takes_no_body(live):
    assert live.ask("GET", "/health", b"x", key=None)[0] == 413


def test_bodies_take_no_more_memory_than_there_is_for_all(monkeypatch):
    monkeypatch.setattr(guard_module, "_MOST_HELD", 3000)
    app = FastAPI()
    install(app)

    @app.post("/waits")
    async def waits() -> dict:
        await asyncio.sleep(0.5)
        return {}

    with served(app, limits=Limits(body_bytes=2500)) as live, ThreadPoolExecutor(4) as pool:
        asked = [pool.submit(live.ask, "POST", "/waits", b"x" * 1400) for _ in range(4)]
        statuses = [f.result()[0] for f in asked]
        assert set(statuses) == {200, 429} and 1 <= statuses.count(200) <= 2
        assert live.ask("POST", "/waits", b"x" * 2400)[0] == 200


def test_a_body_without_a_key_is_not_waited_for(live):
    with live.socket() as one:
        one.sendall(post("content-length: 100000", b"x", key=None))
        begun = time.monotonic()
        assert b" 401 " in end_of_head(one)[0]
        assert time.monotonic() - begun < 0.3
        end(one)
        assert time.monotonic() - begun < 2


@pytest.mark.parametrize("drip", [b"", b"x"])
def test_a_body_that_drips_is_refused_in_time(live, drip):
    with live.socket() as one:
        begun = time.monotonic()
        one.sendall(post("content-length: 1000"))
        one.settimeout(0.05)
        data = b""
        while time.monotonic() - begun < 3:
            try:
                one.sendall(drip)
                if not (piece := one.recv(65536)):
                    break
                data += piece
            except TimeoutError:
                continue
            except OSError:
                break
        seconds = time.monotonic() - begun
    assert data.startswith(b"HTTP/1.1 408") and b"connection: close" in data.lower()
    assert error(data.partition(b"\r\n\r\n")[2])["code"] == "body_timeout"
    assert 0.45 < seconds < 1.5


def test_a_client_that_leaves_within_its_body_is_let_go(live):
    with live.socket() as one:
        one.sendall(post("x-request-id: left\r\ncontent-length: 1000", b"x"))
    line = live.line("left")
    assert line["status"] == 499 and not line["complete"]


def test_a_client_that_does_not_read_is_cut(app, live):
    app.state.seen.clear()
    with live.socket(receives=4096) as one:
        one.sendall(
            "GET /endless HTTP/1.1\r\nhost: a\r\nx-request-id: unread\r\n"
            f"authorization: Bearer {KEY}\r\n\r\n".encode()
        )
        begun = time.monotonic()
        while app.state.seen != ["left", "stopped"]:
            assert time.monotonic() - begun < 5
            time.sleep(0.02)
        assert time.monotonic() - begun > 0.4
        end(one)  # ends: the connection is no longer there
    line = live.line("unread")
    assert line["status"] == 200 and not line["complete"] and line["code"] is None
    assert not [x for x in live.lines("failed") if x["request"] == "unread"]


def test_a_client_that_leaves_stops_what_it_asked_for(app, live):
    app.state.seen.clear()
    with live.socket() as one:
        one.sendall(
            f"GET /endless HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {KEY}\r\n\r\n".encode()
        )
        one.recv(1000)
    begun = time.monotonic()
    while app.state.seen != ["left", "stopped"]:
        assert time.monotonic() - begun < 3
        time.sleep(0.01)


def test_an_answer_comes_piece_by_piece(live):
    with live.socket() as one:
        one.sendall(
            f"GET /slowly HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {KEY}\r\n"
            "connection: close\r\n\r\n".encode()
        )
        begun, came = time.monotonic(), {}
        data = b""
        while piece := one.recv(65536):
            data += piece
            for number in b"012":
                if bytes([number, 10]) in data.partition(b"\r\n\r\n")[2]:
                    came.setdefault(number, time.monotonic() - begun)
    assert came[ord("0")] < 0.25 and came[ord("1")] < 0.55 < came[ord("2")]


def test_each_request_has_one_line_and_its_counters(tmp_path):
    with served(application(tmp_path), limits=LIMITS) as live:
        body, kind = b'{"prompt": "hidden"}', "application/json"
        live.ask("POST", "/v1/wishes?q=hidden", body, x_request_id="one", content_type=kind)
        live.ask("GET", "/v2/inner/7", x_request_id="two")
        live.ask("GET", "/static/page.txt", x_request_id="three")
        live.ask("GET", "/none/hidden", x_request_id="four")
        live.ask("BREW", "/busy", key="hidden-hidden-hidden", x_request_id="five")
        live.ask("GET", "/busy", x_request_id="six", user_agent="hidden")
        lines = {n: live.line(n) for n in ("one", "two", "three", "four", "five", "six")}
        told = values(live.metrics, "braid_requests_total")
        refusals = values(live.metrics, "braid_refusals_total")
        assert "hidden" not in live.log.getvalue() and KEY not in live.log.getvalue()
    fields = "time level event request method route status code seconds received sent complete"
    assert [list(x) for x in lines.values()] == [[*fields.split(), "client"]] * 6
    routes = ["/v1/wishes", "/v2/inner/{number}", "other", "other", "other", "/busy"]
    assert [x["route"] for x in lines.values()] == routes
    assert lines["one"]["received"] == 20 and lines["one"]["sent"] > 20
    assert lines["one"]["client"] == "127.0.0.1" and lines["one"]["complete"]
    assert [lines[n]["code"] for n in ("one", "four", "six")] == [None, "not_found", "queue_full"]
    assert told[("other", "other", "401")] == 1 and told[("GET", "/busy", "429")] == 1
    assert refusals == {("not_found",): 1, ("invalid_api_key",): 1, ("queue_full",): 1}


@given(st.text(st.characters(codec=None, categories=None), max_size=40))
@settings(max_examples=200, deadline=None, derandomize=True)
def test_no_text_breaks_a_line_of_the_log(text):
    record = logging.LogRecord("a", 20, "f", 1, "%s", (text,), None)
    record.fields = {"path": text}
    line = Lines().format(record)
    assert line.isascii() and line.isprintable()
    assert json.loads(line)["path"] == json.loads(line)["event"] == text


def test_whoever_writes_into_the_log_writes_json():
    names = ["braid.serving", "braid.generation.together", "asyncio", "sse_starlette.sse"]
    code = (
        "import logging; from braid.serving.logs import write_lines; write_lines()\n"
        f"for name in {names}: logging.getLogger(name).warning(name)"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert [json.loads(line)["event"] for line in ran.stderr.splitlines()] == names


PARTS = [
    b"GET ", b"POST ", b"HEAD ", b"/v1/wishes", b"/v1/items/a?count=", b"/static/../page.txt",
    b"/sub/docs", b"?a=%00%ff", b" HTTP/1.1\r\n", b" HTTP/1.0\r\n", b"host: a\r\n", b"\r\n",
    b"content-length: 3\r\n", b"content-length: -1\r\n", b"transfer-encoding: chunked\r\n",
    b"content-type: application/json\r\n", b"content-type: multipart/form-data; boundary=x\r\n",
    b"content-type: application/x-www-form-urlencoded\r\n", b"expect: 100-continue\r\n",
    b"connection: upgrade\r\nupgrade: websocket\r\n", b'{"prompt": "a", "steps": 1e999}',
    b'{"prompt": "\\ud800"}', b'{"steps": ' + b"9" * 5000 + b"}", b"[" * 3000, b"\x00", b"\xff" * 9,
    b"x-request-id: \t\r\n", b"authorization: Bearer \xff\r\n", b"range: bytes=9-0,-1\r\n",
    b"if-modified-since: never\r\n", b"accept-encoding: gzip;q=x\r\n", b"5\r\nhello\r\n0\r\n\r\n",
]  # fmt: skip


def mutated(rng: random.Random) -> bytes:
    """Return a request that a stranger could send, with a key since most is behind it."""
    path = rng.choice(
        ["/v1/wishes", "/v1/echo", "/v1/items/%61", "/static/page.txt", "/v2/inner/1"]
    )
    body = rng.choice([b'{"prompt": "a", "steps": 3}', b"{}", b"a=b&c=d", b"--x--\r\n"])
    method = rng.choice(["GET", "POST", "OPTIONS", "PUT"])
    data = bytearray(
        f"{method} {path} HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {KEY}\r\n"
        f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n".encode()
        + body
    )
    for _ in range(rng.randrange(4)):
        at = rng.randrange(len(data))
        kind = rng.randrange(4)
        if kind == 0:
            data[at] = rng.randrange(256)
        elif kind == 1:
            data[at:at] = rng.choice(PARTS)
        elif kind == 2:
            del data[at : at + rng.randrange(12)]
        else:  # before a line of the head, where it is understood
            at = data.find(b"\r\n") + 2
            data[at:at] = rng.choice(PARTS)
    return bytes(data)


def test_no_request_makes_the_server_fail(app):
    rng = random.Random(7)
    requests = [mutated(rng) for _ in range(500)]
    limits = Limits(body_bytes=10_000, body_seconds=0.2)

    def answered(request: bytes) -> bytes:
        with live.socket() as one:
            one.sendall(request)
            one.settimeout(0.4)  # an answer without a fault leaves the connection open
            data = b""
            try:
                while piece := one.recv(65536):
                    data += piece
            except (TimeoutError, ConnectionResetError):
                pass
            return data

    with served(app, limits=limits, head_seconds=0.2, keep_alive_seconds=0) as live:
        with ThreadPoolExecutor(16) as pool:
            answers = list(pool.map(answered, requests))
        assert live.ask("GET", "/livez", key=None)[0] == 200
        assert live.lines("failed") == []
    statuses = set()
    for request, answer in zip(requests, answers, strict=True):
        head, _, rest = answer.removeprefix(b"HTTP/1.1 100 \r\n\r\n").partition(b"\r\n\r\n")
        status = int(head.split(b" ", 2)[1]) if head else 0
        statuses.add(status)
        assert status < 500, request
        if status >= 400 and not request.startswith(b"HEAD"):
            length = int(re.search(rb"content-length: (\d+)", head.lower()).group(1))
            assert error(rest[:length])["type"], request
    assert {0, 200, 400, 401, 404, 405, 408} <= statuses
