"""Images come in by the command that a user types: whole, over a lost controller, or refused with the reason and nothing left behind."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from cli.failure import Exit
from deploy.layout import CHECKOUT
from tests.flows.cloud import Cloud, assert_nothing_left, until

MIB = 1 << 20


def qemu_img(*arguments: str) -> None:
    subprocess.run(["qemu-img", *arguments], check=True, capture_output=True, timeout=60)


def hostile(folder: Path, kind: str) -> tuple[Path, str]:
    """Make a file that must be refused, and return it with the format that is claimed for it."""
    file = folder / f"{kind}.img"
    match kind:
        case "backing-file":
            qemu_img("create", "-f", "qcow2", "-b", "/etc/shadow", "-F", "raw", str(file), "16M")
        case "data-file":
            qemu_img("create", "-f", "qcow2", "-o", f"data_file={folder}/outside,data_file_raw=on", str(file), "16M")
        case "qcow2-called-raw":
            qemu_img("create", "-f", "qcow2", str(file), "16M")
            return file, "raw"
        case "raw-called-qcow2":
            file.write_bytes(os.urandom(2 * MIB))
        case "truncated":
            source = folder / "whole.raw"
            source.write_bytes(os.urandom(4 * MIB))
            qemu_img("convert", "-f", "raw", "-O", "qcow2", str(source), str(file))
            os.truncate(file, 2 * MIB)
        case _:
            raise AssertionError(kind)
    return file, "qcow2"


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("backing-file", "BACKING_FILE"),
        ("data-file", "DATA_FILE"),
        ("qcow2-called-raw", "FORMAT_MISMATCH"),
        ("raw-called-qcow2", "FORMAT_MISMATCH"),
        ("truncated", "TRUNCATED"),
    ],
)
def test_a_hostile_image_is_refused_with_the_reason_and_leaves_nothing(cloud: Cloud, tmp_path: Path, kind: str, reason: str) -> None:
    before = cloud.world()
    file, form = hostile(tmp_path, kind)
    refused = cloud.kumo("image", "create", "hostile", "--file", str(file), "--format", form, check=False)
    assert refused.returncode == Exit.FAILED, refused.stderr
    assert refused.stderr.count("because: ") == 1
    image = cloud.json("image", "show", "hostile")
    assert image["status"]["state"] == "FAILED"
    assert reason in {condition["reason"] for condition in image["status"]["conditions"]}
    cloud.kumo("image", "delete", "hostile", "--wait")
    assert_nothing_left(cloud, before)


def test_a_wrong_digest_is_refused(cloud: Cloud, tmp_path: Path) -> None:
    file = tmp_path / "disk.raw"
    file.write_bytes(os.urandom(MIB))
    refused = cloud.kumo("image", "create", "wrong", "--file", str(file), "--format", "raw", "--sha256", "0" * 64, check=False)
    assert refused.returncode == Exit.FAILED
    assert hashlib.sha256(file.read_bytes()).hexdigest() in refused.stderr
    cloud.kumo("image", "delete", "wrong", "--wait")


def test_an_upload_goes_on_when_the_controller_is_killed_under_it(cloud: Cloud, tmp_path: Path) -> None:
    before = cloud.world()
    file = tmp_path / "large.raw"
    with file.open("wb") as stream:
        for _ in range(192):
            stream.write(os.urandom(MIB))
    command = [sys.executable, "-m", "cli.main", "image", "create", "large", "--file", str(file), "--format", "raw", "--timeout", "120"]
    with subprocess.Popen(
        command, cwd=CHECKOUT, env=cloud.environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as upload:
        until(lambda: upload.poll() is not None or is_under_way(cloud), "bytes arrive", 30)
        assert upload.poll() is None, "the upload was over before the controller could be killed"
        cloud.kill("kumo-controller")
        said, _ = upload.communicate(timeout=180)
    assert upload.returncode == 0, said
    status = cloud.json("image", "show", "large")["status"]
    assert status["sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()
    assert status["virtual_size_bytes"] == str(192 * MIB)
    cloud.kumo("image", "delete", "large", "--wait")
    assert_nothing_left(cloud, before)


def is_under_way(cloud: Cloud) -> bool:
    """Whether the agent has some bytes of an upload on its disk."""
    staged = (cloud.lab.agent / "staging").rglob("*")
    return any(path.is_file() and path.stat().st_size > 8 * MIB for path in staged)


def test_a_dry_run_checks_everything_and_changes_nothing(cloud: Cloud, tmp_path: Path) -> None:
    before = cloud.world()
    file = tmp_path / "disk.raw"
    file.write_bytes(bytes(MIB))
    assert "could be created" in cloud.kumo("image", "create", "dry", "--file", str(file), "--format", "raw", "--dry-run").stdout
    assert "could be created" in cloud.kumo("network", "create", "dry", "--dry-run").stdout
    refused = cloud.kumo("volume", "create", "dry", "--size", "1", "--image", "none", "--dry-run", check=False)
    assert refused.returncode == Exit.NOT_FOUND
    assert_nothing_left(cloud, before, 5)
