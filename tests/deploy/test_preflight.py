"""What stands in the way of a start is named before anything is made, with the fix."""

import subprocess
import sys
from pathlib import Path

from deploy import preflight
from deploy.layout import CHECKOUT, Lab
from deploy.trial import free_port_base


def whats(lab: Lab) -> list[str]:
    return [problem.what for problem in preflight.problems(lab)]


def test_nothing_stands_in_the_way_here() -> None:
    assert preflight.problems(Lab(Path("/tmp/kumo-preflight"), free_port_base())) == []


def test_a_space_in_the_path_is_named() -> None:
    assert "the path of the state directory cannot be used" in whats(Lab(Path("/tmp/with space"), free_port_base()))


def test_a_path_too_long_for_sockets_is_named() -> None:
    assert "the path of the state directory is too long" in whats(Lab(Path("/tmp/" + "x" * 80), free_port_base()))


def test_a_directory_that_other_users_cannot_enter_is_named(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    found = preflight.problems(Lab(tmp_path / "state", free_port_base()))
    assert [problem for problem in found if str(tmp_path) in problem.because and problem.fix]


def test_a_place_that_the_lab_hides_is_named() -> None:
    assert "the state directory cannot lie there" in whats(Lab(Path("/run/kumo"), free_port_base()))


def test_a_port_base_without_room_is_named() -> None:
    assert whats(Lab(Path("/tmp/kumo-preflight"), 65500)) == ["the port base cannot be used"]


def test_missing_ipv6_is_named() -> None:
    code = "from deploy import preflight; print([problem.what for problem in preflight._ipv6()])"
    script = f"echo 1 > /proc/sys/net/ipv6/conf/lo/disable_ipv6; exec {sys.executable} -c '{code}'"
    done = subprocess.run(
        [sys.executable, "-m", "deploy.sandbox", "sh", "-c", script], cwd=CHECKOUT, capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "['no IPv6 on the loopback device']"


def test_too_little_disk_is_named(tmp_path: Path) -> None:
    script = f"mount -t tmpfs -o size=8m,mode=755 tmpfs {tmp_path}; exec {sys.executable} -c '{{}}'"
    code = (
        "from deploy import preflight; from deploy.layout import Lab; from pathlib import Path; "
        f'print([problem.what for problem in preflight._disk(Lab(Path("{tmp_path}/state")))])'
    )
    done = subprocess.run(
        [sys.executable, "-m", "deploy.sandbox", "sh", "-c", script.format(code)],
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert done.stdout.strip() == "['too little disk']"


def test_every_problem_has_a_fix() -> None:
    for problem in preflight.problems(Lab(Path("/run/with space/" + "x" * 80), 100)):
        assert problem.what
        assert problem.because
        assert problem.fix
