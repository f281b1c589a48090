"""The copy of Kumo that a lab's processes run from."""

import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy import program
from deploy.layout import Lab


@pytest.fixture
def lab() -> Iterator[Lab]:
    with tempfile.TemporaryDirectory(prefix="kumo-program-", dir="/tmp") as name:
        os.chmod(name, 0o755)
        yield Lab(Path(name))


def test_any_user_can_run_from_the_copy_and_imports_nothing_from_the_checkout(lab: Lab) -> None:
    assert program.refresh(lab)
    code = "import grpc, numpy, google.protobuf, libvirt, rados, kumo, agent; print(kumo.__file__, grpc.__file__)"
    command = ["setpriv", "--reuid=64103", "--regid=64103", "--clear-groups", "--", str(lab.python), "-I", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, cwd="/", check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    assert all(path.startswith(str(lab.venv)) for path in done.stdout.split())


def test_a_copy_that_is_fresh_is_left_alone(lab: Lab) -> None:
    program.refresh(lab)
    assert not program.refresh(lab)


def test_what_changed_is_copied_and_what_is_gone_is_removed(lab: Lab) -> None:
    program.refresh(lab)
    package = program.site_packages(lab.venv) / "kumo"
    (package / "errors.py").write_text("changed")
    (package / "stray.py").write_text("stray")
    assert program.refresh(lab)
    assert (package / "errors.py").read_text() != "changed"
    assert not (package / "stray.py").exists()
