"""What Ceph's configuration says of monitors and keys."""

from pathlib import Path

import pytest

from kumo.errors import FailedPrecondition
from storage.conf import key_of, monitors_of


@pytest.mark.parametrize(
    ("mon_host", "monitors"),
    [
        ("[v2:127.0.0.1:7420,v1:127.0.0.1:7421]", (("127.0.0.1", 7421),)),
        ("[v2:10.0.0.1:3300/0,v1:10.0.0.1:6789/0],[v2:10.0.0.2:3300,v1:10.0.0.2:6789]", (("10.0.0.1", 6789), ("10.0.0.2", 6789))),
        ("[v2:[fd00::1]:3300,v1:[fd00::1]:6789]", (("fd00::1", 6789),)),
        ("[v2:10.0.0.1:3300]", (("10.0.0.1", 3300),)),
        ("10.0.0.1, 10.0.0.2:6790", (("10.0.0.1", 6789), ("10.0.0.2", 6790))),
        ("ceph.example", (("ceph.example", 6789),)),
    ],
)
def test_each_monitor_has_one_address(mon_host: str, monitors: tuple[tuple[str, int], ...]) -> None:
    assert monitors_of(mon_host) == monitors


def test_a_key_is_that_of_its_user(tmp_path: Path) -> None:
    ring = tmp_path / "keyring"
    ring.write_text("[client.a]\n\tkey = AAA==\n[client.b]\n\tkey = BBB==\n\tcaps mon = x\n")
    assert key_of(ring, "client.b") == "BBB=="
    with pytest.raises(FailedPrecondition, match="CEPH_KEY_MISSING"):
        key_of(ring, "client.c")
