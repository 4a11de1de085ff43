"""Metrics count what happened, are of one server and stay few."""

from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families

from braid.serving.metrics import CONTENT_TYPE, Metrics


def values(metrics: Metrics, name: str) -> dict[tuple[str, ...], float]:
    """Return the samples of a name by their labels, in the order of the labels' names."""
    return {
        tuple(value for _, value in sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(metrics.text().decode())
        for sample in family.samples
        if sample.name == name
    }


def test_what_is_counted_is_told():
    metrics = Metrics()
    metrics.request("/v1/models", "GET", 200, 0.02)
    metrics.request("/v1/models", "GET", 200, 0.2)
    metrics.request(None, "BREW", 404, 0.001)
    assert values(metrics, "braid_requests_total") == {
        ("GET", "/v1/models", "200"): 2,
        ("other", "other", "404"): 1,
    }
    assert values(metrics, "braid_request_seconds_sum")[("/v1/models",)] == 0.22
    for name in ("results", "tokens", "calls", "cancelled"):
        getattr(metrics, name).inc(3)
    for name in ("results", "tokens", "network_calls", "cancelled"):
        assert values(metrics, f"braid_{name}_total") == {(): 3}
    assert CONTENT_TYPE.startswith("text/plain")


def test_the_engines_state_is_read_when_it_is_asked_for():
    metrics, state = Metrics(), {"waiting": 0, "cost": 0.0, "running": 0}
    metrics.watch(**{name: lambda n=name: state[n] for name in state})
    names = ("braid_queue_length", "braid_cost", "braid_running_rows")
    for numbers in ((0, 0, 0), (3, 400.5, 7)):
        state.update(zip(state, numbers, strict=True))
        assert tuple(values(metrics, name)[()] for name in names) == numbers
    assert values(metrics, "process_resident_memory_bytes")[()] > 2**20


def test_two_servers_of_one_process_share_nothing():
    one, other = Metrics(), Metrics()
    one.refused("queue_full")
    assert values(one, "braid_refusals_total") == {("queue_full",): 1}
    assert values(other, "braid_refusals_total") == {}


def test_refusals_are_few_whatever_their_codes():
    metrics = Metrics()
    for number in range(500):
        metrics.refused(f"code_{number}")
    metrics.refused(None)
    metrics.refused("code_0")
    told = values(metrics, "braid_refusals_total")
    assert len(told) == 65 and sum(told.values()) == 502
    assert told[("code_0",)] == 2
