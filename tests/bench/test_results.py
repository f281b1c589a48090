"""What benchmarks hand in: the keys of a row, the verdict on it, and that each benchmark is found."""

import json

import pytest

from bench.__main__ import names
from bench.results import BOUNDS, Bound, Row, as_json, compared, table


def test_a_row_has_six_keys() -> None:
    (row,) = json.loads(as_json([Row("rpc.get", 3000, "calls/s", 7)]))
    assert row == {"name": "rpc.get", "value": 3000, "unit": "calls/s", "baseline": None, "ratio": None, "n": 7}


def test_pairs_are_compared_one_by_one() -> None:
    row = compared("x", "ms", [10, 40, 30], [20, 50, 10])
    assert (row.value, row.baseline, row.ratio, row.n) == (30, 20, 0.8, 3)


@pytest.mark.parametrize(
    ("bound", "row", "verdict"),
    [
        (Bound("x", at_most=5), Row("x", 5, "ms", 1), "ok"),
        (Bound("x", at_most=5), Row("x", 6, "ms", 1), "above 5"),
        (Bound("x", at_least=0.6, of_ratio=True), Row("x", 9, "ms", 1, 10, 0.5), "below 0.6"),
        (Bound("x", at_least=0.6, of_ratio=True), Row("x", 9, "ms", 1), "not measured"),
    ],
)
def test_a_missed_bound_is_said(bound: Bound, row: Row, verdict: str) -> None:
    assert bound.verdict(row) == verdict


def test_the_table_says_which_bound_is_missed() -> None:
    lines = table([Row("up.ready_s", 61, "s", 1), Row("other", 1, "s", 1)]).splitlines()
    assert lines[1].endswith("above 60") and lines[2].split() == ["other", "1", "s", "-", "-", "1"]


def test_every_benchmark_is_found_and_every_bound_has_one() -> None:
    assert "rpc" in names() and "results" not in names()
    assert {bound.name.partition(".")[0] for bound in BOUNDS if bound.name.startswith("rpc.")} <= set(names())
