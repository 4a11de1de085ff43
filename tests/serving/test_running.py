"""A signal stops the server without losing what it accepted, and slow clients hold nothing."""

from __future__ import annotations

import contextlib
import http.client
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time

import pytest

from braid.errors import BraidError
from tests.serving.live import end, error, running, served

# a server whose requests to /work take as long as they are told, and end on their own
PROGRAM = """
    import asyncio, sys
    from braid.serving.running import Server

    draining, running = [], set()

    async def app(scope, receive, send):
        if scope["type"] == "lifespan":
            for name in ("startup", "shutdown"):
                await receive()
                print(name, flush=True)
                await send({"type": f"lifespan.{name}.complete"})
            return
        status, path = 200, scope["path"]
        if draining and path != "/livez":
            status = 503
        elif path.startswith("/task/"):
            key = object()
            running.add(key)
            await asyncio.sleep(float(path.removeprefix("/task/")))
            running.discard(key)
        elif path.startswith("/sends/"):  # the work is done, the answer is not
            await asyncio.sleep(float(path.removeprefix("/sends/")))
        await send({"type": "http.response.start", "status": status, "headers": []})
        await send({"type": "http.response.body", "body": path.encode()})

    def drain():
        draining.append(True)
        print("draining", flush=True)

    server = Server(
        app, host="127.0.0.1", port=int(sys.argv[1]), drain=drain,
        idle=lambda: not running, shutdown_seconds=float(sys.argv[2]),
    )
    server.run()
    print("after", flush=True)
"""


def free() -> int:
    """Return a port on which nobody listens."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


@contextlib.contextmanager
def process(shutdown_seconds: float = 10.0):
    """Run the program; yield it and its port."""
    port = free()
    one = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(PROGRAM), str(port), str(shutdown_seconds)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        until = time.monotonic() + 20
        while status(port, "/livez") is None:
            assert one.poll() is None and time.monotonic() < until
            time.sleep(0.02)
        yield one, port
    finally:
        one.kill()
        one.communicate()


def status(port: int, path: str) -> int | None:
    """Return the status of an answer, or None where there is none."""
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=10)) as one:
        try:
            one.request("GET", path)
            return one.getresponse().status
        except (OSError, http.client.HTTPException):
            return None


class Asked(threading.Thread):
    """A request that takes its time."""

    def __init__(self, port: int, path: str) -> None:
        super().__init__()
        self.port, self.path, self.status = port, path, 0
        self.start()
        time.sleep(0.2)  # it has arrived

    def run(self) -> None:
        self.status = status(self.port, self.path)


@pytest.mark.parametrize(
    ("name", "path"),
    [("SIGTERM", "/task/1.2"), pytest.param("SIGINT", "/sends/1.2", marks=pytest.mark.slow)],
)
def test_the_first_signal_lets_running_requests_finish(name, path):
    with process() as (one, port):
        asked = Asked(port, path)
        idle = socket.create_connection(("127.0.0.1", port))  # says nothing, holds nothing up
        one.send_signal(getattr(signal, name))
        time.sleep(0.3)
        assert status(port, "/readyz") == 503 and status(port, "/task/1") == 503
        assert status(port, "/livez") == 200 and one.poll() is None
        asked.join()
        assert asked.status == 200
        out, _ = one.communicate(timeout=5)
        assert one.returncode == 0
        assert out.split() == ["startup", "draining", "shutdown", "after"]
        idle.close()


def test_a_stop_without_work_takes_no_time():
    with process() as (one, _):
        begun = time.monotonic()
        one.send_signal(signal.SIGTERM)
        one.communicate(timeout=20)
        assert one.returncode == 0 and time.monotonic() - begun < 5  # of 10 that it may take


@pytest.mark.slow
def test_a_stop_takes_no_longer_than_it_may():
    with process(0.5) as (one, port):
        asked = Asked(port, "/task/60")
        begun = time.monotonic()
        one.send_signal(signal.SIGTERM)
        out, _ = one.communicate(timeout=10)
        assert one.returncode == 0 and "shutdown" in out
        assert 0.5 <= time.monotonic() - begun < 4
        asked.join()
        assert asked.status != 200


def test_the_second_signal_ends_at_once():
    with process() as (one, port):
        asked = Asked(port, "/task/60")
        one.send_signal(signal.SIGTERM)
        time.sleep(0.3)
        assert one.poll() is None
        begun = time.monotonic()
        one.send_signal(signal.SIGTERM)
        one.communicate(timeout=5)
        assert time.monotonic() - begun < 0.5
        assert one.returncode == -signal.SIGTERM
        asked.join()


async def plain(scope, receive, send):
    """Answer everything with the number of bytes that the path tells."""
    if scope["type"] == "lifespan":
        for name in ("startup", "shutdown"):
            await receive()
            await send({"type": f"lifespan.{name}.complete"})
        return
    if scope["path"] == "/held":
        while (await receive())["type"] != "http.disconnect":
            pass
        return
    size = int(scope["path"][1:]) if scope["path"][1:].isdigit() else 1
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"x" * size})


def connected(port: int, receives: int | None = None) -> socket.socket:
    """Return a connection; `receives` bounds the bytes that it holds unread."""
    one = socket.socket()
    if receives is not None:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receives)
    one.settimeout(10)
    one.connect(("127.0.0.1", port))
    return one


@pytest.mark.parametrize("before", ["", "GET / HTTP/1.1\r\nhost: a\r\n\r\n"])
@pytest.mark.parametrize("drip", ["", "GET /1 HTTP/1.1\r\nhost: a\r\n" + "x-a: b\r\n" * 90])
def test_a_head_that_drips_is_cut(before, drip):
    with running(plain, head_seconds=0.5, keep_alive_seconds=1) as port, connected(port) as one:
        one.sendall(before.encode())
        if before:
            assert one.recv(65536)
        begun, one_by_one = time.monotonic(), iter(drip)
        one.settimeout(0.02)
        while time.monotonic() - begun < 5:
            try:
                one.sendall(next(one_by_one, "").encode())
                if not one.recv(65536):
                    break
            except TimeoutError:
                continue
            except OSError:
                break
        assert 0.4 < time.monotonic() - begun < 2


@pytest.mark.slow
def test_a_head_in_time_is_served_and_the_next_one_too():
    with running(plain, head_seconds=0.3) as port, connected(port) as one:
        for _ in range(2):
            for piece in ("GET /1 HT", "TP/1.1\r\nhost: a\r", "\n\r\n"):
                one.sendall(piece.encode())
                time.sleep(0.05)
            assert one.recv(65536).startswith(b"HTTP/1.1 200")
            time.sleep(0.4)  # longer than a head may take: a silent connection is kept alive


def test_a_head_that_is_too_long_is_refused():
    with running(plain) as port, connected(port) as one:
        one.sendall(b"GET / HTTP/1.1\r\nx: " + b"x" * 20_000)
        head, _, body = end(one).partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 4") and error(body)["code"] == "invalid_http"


@pytest.mark.slow
@pytest.mark.parametrize("line", ["", "connection: close\r\n"])
def test_the_end_of_an_answer_that_nobody_reads_is_cut(line):
    # more than the system buffers, less than what makes the server wait within the answer
    with (
        running(plain, write_seconds=0.3, keep_alive_seconds=1) as port,
        connected(port, receives=4096) as one,
    ):
        one.sendall(f"GET /30000000 HTTP/1.1\r\nhost: a\r\n{line}\r\n".encode())
        time.sleep(0.8 if line else 1.7)
        assert len(end(one)) < 30_000_000


def test_a_connection_too_many_is_refused_but_for_probes():
    with served(plain, concurrency=2) as live:
        with live.socket() as first, live.socket() as second:
            for one in (first, second):
                one.sendall(b"GET /held HTTP/1.1\r\nhost: a\r\n")
            time.sleep(0.1)
            code, head, body = live.ask("GET", "/1")
            assert (code, error(body)["code"]) == (503, "too_many_connections")
            assert head["connection"] == "close" and head["retry-after"] == "1"
            assert live.ask("GET", "/livez", key=None)[0] == 200
        time.sleep(0.1)
        assert live.ask("GET", "/1")[0] == 200


def test_without_the_extra_the_error_says_what_to_install():
    program = (
        "import sys; sys.modules['prometheus_client'] = None\n"
        "import braid.serving\n"
        "from braid.errors import BraidError\n"
        "try:\n import braid.serving.running\n"
        "except BraidError as e:\n print(e)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert 'pip install "braid-models[serve]"' in done.stdout and not done.stderr
    assert "prometheus_client" in done.stdout and issubclass(BraidError, ValueError)
