"""Counts what the responder does and writes it in Prometheus' text form. The client library would cost this process half its memory."""

from bisect import bisect_left

_COUNTERS = {
    "kumo_guest_dhcp_requests_total": "DHCP frames from guests, by what became of them.",
    "kumo_guest_http_requests_total": "Metadata requests, by the code they were answered with.",
    "kumo_guest_refused_connections_total": "Connections of guests that were closed unread, by the limit they met.",
    "kumo_guest_ready_total": "Guests that said they are ready.",
}
_GAUGES = {
    "kumo_guest_networks": "Networks whose guests are heard.",
    "kumo_guest_connections": "Open connections of guests.",
    "kumo_build_info": "Always 1; the labels say what runs.",
}
_LAG = "kumo_loop_lag_seconds"
_LAG_HELP = "How much later than asked the event loop woke a timer."
_LAG_BOUNDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5)


class Metrics:
    """The series of this process. Labels are one pair at most, with few values."""

    def __init__(self) -> None:
        self._counts: dict[str, dict[str, float]] = {name: {} for name in (*_COUNTERS, *_GAUGES)}
        self._lag_counts = [0] * (len(_LAG_BOUNDS) + 1)
        self._lag_sum = 0.0

    def count(self, name: str, label: str = "") -> None:
        """Add one; `label` is written as in `reason="full"`."""
        series = self._counts[name]
        series[label] = series.get(label, 0) + 1

    def set(self, name: str, value: float, label: str = "") -> None:
        self._counts[name][label] = value

    def observe_lag(self, lag_s: float) -> None:
        self._lag_counts[bisect_left(_LAG_BOUNDS, lag_s)] += 1
        self._lag_sum += lag_s

    def text(self) -> str:
        lines: list[str] = []
        for names, kind in ((_COUNTERS, "counter"), (_GAUGES, "gauge")):
            for name, said in names.items():
                lines += [f"# HELP {name} {said}", f"# TYPE {name} {kind}"]
                series = self._counts[name] or {"": 0.0}
                lines += [f"{name}{{{label}}} {value:g}" if label else f"{name} {value:g}" for label, value in sorted(series.items())]
        lines += [f"# HELP {_LAG} {_LAG_HELP}", f"# TYPE {_LAG} histogram"]
        total = 0
        for bound, count in zip((*map(str, _LAG_BOUNDS), "+Inf"), self._lag_counts, strict=True):
            total += count
            lines.append(f'{_LAG}_bucket{{le="{bound}"}} {total}')
        lines += [f"{_LAG}_sum {self._lag_sum:g}", f"{_LAG}_count {total}"]
        return "\n".join(lines) + "\n"
