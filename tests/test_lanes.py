"""Every test is in exactly one lane of `make test`."""

from pathlib import Path

from tests.__main__ import lanes

HERE = Path(__file__).parent


def test_every_test_file_is_in_exactly_one_lane() -> None:
    paths = [path for lane in lanes().values() for path in lane]
    for file in HERE.rglob("test_*.py"):
        own = str(file.relative_to(HERE.parent))
        assert len([path for path in paths if own == path or own.startswith(f"{path}/")]) == 1, own
