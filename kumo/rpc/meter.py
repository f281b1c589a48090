"""Counts calls and how long they took, cheaply: plain numbers a method, made into series only when somebody scrapes.

A counter and a histogram of prometheus_client cost a call as much as everything else in the interceptor together.
"""

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator

from prometheus_client import REGISTRY
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector

BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0)


class Meter:
    """The calls of one method, of all listeners in this process."""

    def __init__(self, service: str, method: str) -> None:
        self.service, self.method = service, method
        self.codes: Counter[str] = Counter()
        self.total_s = 0.0
        self._buckets = [0] * (len(BUCKETS_S) + 1)

    def ended(self, code: str, duration_s: float) -> None:
        self.codes[code] += 1
        self.total_s += duration_s
        self._buckets[bisect_left(BUCKETS_S, duration_s)] += 1

    def cumulated(self) -> list[tuple[str, float]]:
        """Return how many calls took at most each bound, as Prometheus wants them."""
        so_far, buckets = 0, []
        for bound, count in zip((*map(str, BUCKETS_S), "+Inf"), tuple(self._buckets), strict=True):
            so_far += count
            buckets.append((bound, float(so_far)))
        return buckets


class _Meters(Collector):
    """All meters of the process. Scraped on a thread: what it reads may be one call apart, never torn."""

    def __init__(self) -> None:
        self._meters: dict[tuple[str, str], Meter] = {}

    def of(self, service: str, method: str) -> Meter:
        return self._meters.setdefault((service, method), Meter(service, method))

    def collect(self) -> Iterator[CounterMetricFamily | HistogramMetricFamily]:
        calls = CounterMetricFamily("kumo_rpc_requests", "Calls that ended, by their status code.", labels=["service", "method", "code"])
        took = HistogramMetricFamily(
            "kumo_rpc_duration_seconds", "How long calls took, streams to their end.", labels=["service", "method"]
        )
        for meter in list(self._meters.values()):
            for code, count in list(meter.codes.items()):
                calls.add_metric([meter.service, meter.method, code], count)
            took.add_metric([meter.service, meter.method], meter.cumulated(), meter.total_s)
        yield calls
        yield took


METERS = _Meters()
REGISTRY.register(METERS)
