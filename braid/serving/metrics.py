"""What a server counts, as Prometheus reads it."""

from __future__ import annotations

from collections.abc import Callable

from braid.serving.extra import prometheus_client

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
CONTENT_TYPE = prometheus_client.CONTENT_TYPE_LATEST
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
_CODES = 64


class Metrics:
    """The counters of one server; they are in no registry but their own.

    No label holds what a client chose: a series is kept for ever, so that strangers could fill the
    memory with them.

    Attributes:
        results: that were made.
        tokens: that were written.
        calls: of the network.
        cancelled: requests that ended before their result.
    """

    def __init__(self) -> None:
        self._registry = prometheus_client.CollectorRegistry()
        # memory and processor time of the process, where the system tells them
        prometheus_client.ProcessCollector(registry=self._registry)
        self._requests = prometheus_client.Counter(
            "braid_requests",
            "Requests that were answered.",
            ("route", "method", "status"),
            registry=self._registry,
        )
        self._seconds = prometheus_client.Histogram(
            "braid_request_seconds",
            "Time from a request's head to the end of its answer.",
            ("route",),
            buckets=_SECONDS,
            registry=self._registry,
        )
        self._refusals = prometheus_client.Counter(
            "braid_refusals",
            "Requests that were refused.",
            ("code",),
            registry=self._registry,
        )
        self._codes: set[str] = set()
        self.results = self._counter("results", "Results that were made.")
        self.tokens = self._counter("tokens", "Tokens that were written.")
        self.calls = self._counter("network_calls", "Calls of the network.")
        self.cancelled = self._counter("cancelled", "Requests that ended before their result.")
        self._waiting = self._gauge("queue_length", "Requests that wait.")
        self._cost = self._gauge("cost", "Work of the requests that wait and run: tokens x calls.")
        self._running = self._gauge("running_rows", "Rows that are advanced together now.")

    def watch(
        self,
        *,
        waiting: Callable[[], float],
        cost: Callable[[], float],
        running: Callable[[], float],
    ) -> None:
        """Read the engine's state whenever the metrics are asked for.

        Arguments:
            waiting: returns how many requests are queued.
            cost: returns the work of all that wait and run.
            running: returns how many rows are advanced together.
        """
        self._waiting.set_function(waiting)
        self._cost.set_function(cost)
        self._running.set_function(running)

    def request(self, route: str | None, method: str, status: int, seconds: float) -> None:
        """Count a request that has ended.

        Arguments:
            route: template of its path, or None where no route was found.
            method: of HTTP; those that no route has are counted together.
            status: of the answer.
            seconds: from its head to the end of the answer.
        """
        method = method if method in METHODS else "other"
        self._requests.labels(route or "other", method, str(status)).inc()
        self._seconds.labels(route or "other").observe(seconds)

    def refused(self, code: str | None) -> None:
        """Count a refusal by its code; after many codes, new ones are counted together."""
        code = code or "invalid_request"
        if code not in self._codes and len(self._codes) == _CODES:
            code = "other"
        else:
            self._codes.add(code)
        self._refusals.labels(code).inc()

    def text(self) -> bytes:
        """Return all of it in Prometheus' text format, which has the type `CONTENT_TYPE`."""
        return prometheus_client.generate_latest(self._registry)

    def _counter(self, name: str, help: str) -> prometheus_client.Counter:
        """Return a new counter."""
        return prometheus_client.Counter(f"braid_{name}", help, registry=self._registry)

    def _gauge(self, name: str, help: str) -> prometheus_client.Gauge:
        """Return a new gauge."""
        return prometheus_client.Gauge(f"braid_{name}", help, registry=self._registry)
