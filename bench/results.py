"""What a benchmark hands in: rows with a name that stays, and the baseline that was measured in the same run."""

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import median


@dataclass(frozen=True)
class Row:
    """One figure. `baseline` is what it is compared with, in the same unit, and `ratio` value / baseline; None without one."""

    name: str
    value: float
    unit: str
    n: int
    baseline: float | None = None
    ratio: float | None = None


@dataclass(frozen=True)
class Bound:
    """What a row must keep to, judged by its value or, `of_ratio`, by its ratio."""

    name: str
    at_most: float | None = None
    at_least: float | None = None
    of_ratio: bool = False

    def verdict(self, row: Row) -> str:
        """Return "ok", or which bound is missed."""
        figure = row.ratio if self.of_ratio else row.value
        if figure is None:
            return "not measured"
        if self.at_most is not None and figure > self.at_most:
            return f"above {self.at_most:g}"
        if self.at_least is not None and figure < self.at_least:
            return f"below {self.at_least:g}"
        return "ok"


# The figures the project promises.
BOUNDS = (
    Bound("create.overhead_ms", at_most=150),
    Bound("up.ready_s", at_most=60),
    Bound("idle.pss_mib", at_most=180),
    Bound("idle.cpu_percent", at_most=1.5),
    Bound("rpc.get", at_least=0.6, of_ratio=True),
    Bound("rpc.create", at_least=0.1, of_ratio=True),
    Bound("store.converge_us", at_most=400),
    Bound("fake_hosts.pss_mib", at_most=300),
    Bound("fake_hosts.list_page_ms", at_most=10),
    Bound("recover.takeover_s", at_most=5),
    Bound("recover.handover_ms", at_most=200),
    Bound("cli.help_ms", at_most=150),
    Bound("cli.list_ms", at_most=300),
)


def compared(name: str, unit: str, values: Sequence[float], baselines: Sequence[float]) -> Row:
    """Return the row of pairs measured in turn: medians of both, and the median of their ratios."""
    ratio = median(value / baseline for value, baseline in zip(values, baselines, strict=True))
    return Row(name, round(median(values), 3), unit, len(values), round(median(baselines), 3), round(ratio, 3))


def as_json(rows: Sequence[Row]) -> str:
    keys = ("name", "value", "unit", "baseline", "ratio", "n")
    return json.dumps([{key: asdict(row)[key] for key in keys} for row in rows], indent=2)


def table(rows: Sequence[Row]) -> str:
    """Return the rows as a table for people, with what each must keep to."""
    bounds = {bound.name: bound for bound in BOUNDS}
    lines = [("row", "value", "unit", "baseline", "ratio", "n", "bound")]
    for row in rows:
        verdict = bounds[row.name].verdict(row) if row.name in bounds else ""
        lines.append((row.name, _shown(row.value), row.unit, _shown(row.baseline), _shown(row.ratio), str(row.n), verdict))
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines)


def hand_in(rows: Sequence[Row]) -> None:
    """Print what was measured: JSON with --json, else a table."""
    print(as_json(rows) if "--json" in sys.argv[1:] else table(rows))


def _shown(figure: float | None) -> str:
    return "-" if figure is None else f"{figure:.3g}" if abs(figure) < 100 else f"{figure:.0f}"
