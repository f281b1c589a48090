"""What finds growth finds it, also in what Python's collector does not look at."""

from collections import deque

from tests.residents import grown, lengths


class Hoarder:
    def __init__(self) -> None:
        self.counts: dict[str, int] = {"a": 1}
        self.last: deque[str] = deque(["a"])


def test_a_dictionary_of_numbers_that_grows_is_found_with_its_owner() -> None:
    hoarder = Hoarder()
    before = lengths(least=1)
    hoarder.counts |= {str(number): number for number in range(500)}
    assert grown(before, by=400) == ["tests.test_residents.Hoarder.counts: 501, was 1"]
    assert len(hoarder.last) == 1
