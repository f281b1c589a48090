"""Tables as terminals and pipes want them: columns by width, no box drawing, names first, harmless text."""

import datetime
from collections.abc import Iterable, Sequence

from cli.terminal import harmless


def render(
    headers: Sequence[str], rows: Iterable[Sequence[str]], *, with_headers: bool = True, widths: Sequence[int] | None = None
) -> list[str]:
    """Return the lines of a table; an empty cell shows as `-`. `widths` are those of lines printed before, if there were any."""
    cells = [[harmless(cell).replace("\n", " ").replace("\t", " ") or "-" for cell in row] for row in rows]
    shown = [list(headers), *cells] if with_headers else cells
    if widths is None:
        widths = [max((len(row[column]) for row in shown), default=0) for column in range(len(headers))]
    return ["   ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in shown]


def age(since_s: float, now_s: float) -> str:
    """Return how long ago, in one or two units, e.g. 45s, 12m, 3h20m, 9d."""
    if since_s <= 0:
        return ""
    seconds = max(0, int(now_s - since_s))
    minutes, hours, days = seconds // 60, seconds // 3600, seconds // 86400
    if seconds < 120:
        return f"{seconds}s"
    if minutes < 120:
        return f"{minutes}m"
    if hours < 48:
        return f"{hours}h{minutes % 60}m" if minutes % 60 and hours < 10 else f"{hours}h"
    return f"{days}d"


def size(count: int) -> str:
    """Return bytes in binary units, e.g. 14.2 MiB; empty for none."""
    if count <= 0:
        return ""
    value = float(count)
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if value < 1024 or unit == "TiB":
            return f"{value:.0f} {unit}" if unit == "B" or value >= 100 else f"{value:.1f} {unit}"
        value /= 1024
    return ""


def moment(since_s: float) -> str:
    """Return an instant in the user's own time zone."""
    return datetime.datetime.fromtimestamp(since_s).astimezone().strftime("%Y-%m-%d %H:%M:%S %z") if since_s > 0 else ""
