"""`braid serve`: load a model, and answer for it until a signal comes."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

from braid import loading
from braid.errors import BraidError
from braid.serving import page
from braid.serving.asked import Served
from braid.serving.engine import Engine, Room
from braid.serving.guard import Guard
from braid.serving.keys import Keys, check_exposed, loopback
from braid.serving.limits import Limits
from braid.serving.logs import write_lines
from braid.serving.metrics import Metrics
from braid.serving.routes import Routes
from braid.serving.running import Server


def serve(
    model: str,
    host: str = "127.0.0.1",
    port: int = 8000,
    *,
    name: str | None = None,
    key_file: Path | None = None,
    insecure: bool = False,
    open_metrics: bool = False,
    shutdown_seconds: float = 30.0,
    connections: int = 512,
    room: Room | None = None,
    limits: Limits | None = None,
    **loaded: Any,
) -> None:
    """Serve a model over HTTP until SIGTERM or Ctrl-C; requests under way are finished.

    Args:
        model: what `braid.load` takes.
        host: address to listen on; one that others reach needs a key.
        port: to listen on; 0 takes a free one.
        name: under which the model is served; its folder's or repository's otherwise.
        key_file: one key a line; those of BRAID_API_KEYS are added.
        insecure: serve others without a key.
        open_metrics: `/metrics` needs no key.
        shutdown_seconds: that requests under way have at the end.
        connections: most that are open at once.
        room: what the engine takes on.
        limits: of one request.
        loaded: options of `braid.load`: device, dtype, quantise, offload, compile, revision.
    """
    keys = Keys.read(key_file)
    check_exposed(host, keys, insecure)
    limits, room, metrics = limits or Limits(), room or Room(), Metrics()
    if not 0 < shutdown_seconds < float("inf"):
        raise BraidError(f"--shutdown-seconds {shutdown_seconds} must be a positive number")
    listening = _bound(host, port)  # before the model is loaded, which may take long
    pipe = loading.load(model, **loaded)
    served = Served(pipe, name or Path(model).resolve().name, limits)
    engine = Engine(pipe, room)
    metrics.watch(
        waiting=lambda: engine.waiting, cost=lambda: engine.cost, running=lambda: engine.running
    )
    log = write_lines()
    app = Routes(engine, served, metrics).app()
    open_paths = (*page.PATHS, "/metrics") if open_metrics else page.PATHS
    local = loopback(host)
    guarded = Guard(app, keys, limits, metrics, log, open_paths=open_paths, local=local)
    server = Server(
        guarded,
        host=host,
        port=port,
        drain=engine.drain,
        idle=lambda: engine.idle,
        shutdown_seconds=shutdown_seconds,
        write_seconds=limits.write_seconds,
        concurrency=connections,
    )
    listening.listen()  # before it is told: who reads the line may come at once
    where, at = listening.getsockname()[:2]
    where = f"[{where}]" if ":" in where else where
    engine.start()
    print(
        f"serving {served.name} ({', '.join(pipe.braid.strands)}) on http://{where}:{at}; stop "
        "with Ctrl-C",
        flush=True,
    )
    try:
        server.run(sockets=[listening])
    finally:
        engine.close()


def _bound(host: str, port: int) -> socket.socket:
    """Return a socket that is bound, so that a port in use is told of at once."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        bound = socket.socket(family, socket.SOCK_STREAM)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind((host, port))
    except (OSError, OverflowError) as e:
        raise BraidError(
            f"cannot listen on {host}:{port} ({e}); use another --host or --port"
        ) from e
    return bound
