"""Tables fit a terminal of 80 columns, and ages and sizes are for people."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cli.table import age, render, size

CELLS = st.text(max_size=12)


@given(
    st.integers(1, 5).flatmap(
        lambda width: st.lists(st.lists(CELLS, min_size=width, max_size=width), max_size=6).map(lambda rows: (width, rows))
    )
)
def test_every_row_is_one_line_and_columns_start_together(table: tuple[int, list[list[str]]]) -> None:
    width, rows = table
    lines = render([f"H{index}" for index in range(width)], rows)
    assert len(lines) == len(rows) + 1
    assert all("\n" not in line for line in lines)


def test_an_empty_cell_shows_as_a_hyphen() -> None:
    assert render(["A", "B"], [["x", ""]])[1].split() == ["x", "-"]


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(0, "0s"), (119, "119s"), (120, "2m"), (7199, "119m"), (7200, "2h"), (12000, "3h20m"), (172800, "2d"), (8640000, "100d")],
)
def test_an_age_has_one_or_two_units(seconds: int, shown: str) -> None:
    assert age(1000.0, 1000.0 + seconds) == shown


@pytest.mark.parametrize(
    ("count", "shown"), [(0, ""), (512, "512 B"), (1536, "1.5 KiB"), (15 << 20, "15.0 MiB"), (300 << 30, "300 GiB"), (5 << 40, "5.0 TiB")]
)
def test_a_size_is_in_binary_units(count: int, shown: str) -> None:
    assert size(count) == shown
