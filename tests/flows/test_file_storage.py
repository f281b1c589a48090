"""A region whose disks are files needs no Ceph: a server runs, stops, starts with what it wrote, also after a power failure, stands still
while there is no room, and leaves nothing when it goes.
"""

import subprocess
from collections.abc import Iterator
from contextlib import suppress

import pytest

from deploy import control
from deploy.hello import SERVER
from deploy.trial import Trial, trial
from kumo.pool_verbs import ALL_VERBS, Verb
from tests.flows.cloud import Cloud, until
from tests.flows.guest import shell

DISK_MIB = 500


@pytest.fixture(scope="module")
def files() -> Iterator[Cloud]:
    """A region with `--storage file` on a small disk, and the server `hello` in it, ready."""
    with trial("--storage", "file", "--only", "base") as made:
        made.down()
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK_MIB}m,mode=0711", "none", str(made.lab.files)], check=True)
        try:
            made.up()
            yield Cloud(made.lab)
        finally:
            if control.is_up(made.lab):
                made.down()
            subprocess.run(["umount", "--lazy", str(made.lab.files)], check=True)


def _started(cloud: Cloud) -> str:
    """Return why the server is said to run, or not to."""
    conditions = cloud.json("server", "show", SERVER)["status"]["conditions"]
    return next(str(one["reason"]) for one in conditions if one["type"] == "Started")


def test_on_a_full_disk_a_guest_stands_still_says_so_and_goes_on_when_there_is_room(files: Cloud) -> None:
    ballast = files.lab.files / "ballast"
    with shell(files, SERVER) as run:
        with ballast.open("wb", buffering=0) as file, suppress(OSError):
            while True:
                file.write(bytes(1 << 20))
        run.run("(dd if=/dev/urandom of=/persist/big bs=1M count=8 && sync && touch /tmp/written) >/dev/null 2>&1 &")
        until(lambda: _started(files) == "DISK_REFUSES", "the guest to stand still and to say so")
        files.kumo("volume", "create", "more", "--size", "1", "--no-wait")
        until(lambda: "POOL_FULL" in files.kumo("volume", "show", "more", "-o", "json").stdout, "the volume to say that there is no room")
        ballast.unlink()
        until(lambda: _started(files) == "RUNNING", "the guest to go on by itself")
        until(lambda: run.succeeds("test -e /tmp/written"), "what it wrote to be written")
        run.run("rm /persist/big && sync")
    until(lambda: files.state_of("volume", "more") == "AVAILABLE", "the volume to be made by itself")
    files.kumo("volume", "delete", "more", "--wait", "--timeout", "60")


def _files(made: Trial) -> set[str]:
    """Return what there is of volumes: whole ones, ones being made, ones set aside."""
    return {f"{path.parent.name}/{path.name}" for kind in ("volumes", "making", "trash") for path in made.lab.files.glob(f"*/{kind}/*")}


def test_a_server_on_files_keeps_its_disk_and_leaves_nothing(files: Cloud) -> None:
    assert not {name for name in control.service_pids(files.lab) if name.startswith("ceph")}, "nothing of Ceph runs"
    (pool,) = files.json("pool", "list")
    assert pool["spec"]["driver"] == "FILE"
    assert pool["status"]["verbs"] == sorted(ALL_VERBS - {Verb.SHARE}), "a pool says what it can be asked for"
    volume = next(files.lab.files.glob("*/volumes/*/disk"))
    assert volume.stat().st_blocks * 512 < volume.stat().st_size, "a volume is sparse"
    assert volume.with_name("owner").exists()
    with shell(files, SERVER) as run:
        run.run("echo kept > /persist/marker && sync")
    files.kumo("server", "stop", SERVER, "--wait", "--timeout", "60")
    files.kumo("server", "start", SERVER, "--wait=ready", "--timeout", "120")
    with shell(files, SERVER) as run:
        assert run.run("cat /persist/marker").strip() == "kept"
    assert "already up" in files.up(), "the lab knows by itself what it is made of"
    files.kumo("doctor")
    files.power_off()
    files.up()
    with shell(files, SERVER) as run:
        assert run.run("cat /persist/marker").strip() == "kept", "a power failure loses nothing that was synced"
    files.kumo("server", "delete", SERVER, "--wait", "--timeout", "60")
    until(lambda: not _files(files), "no volume's file to be left", 30)
    assert not files.domains()
    files.down()
    assert {path.name for path in files.lab.ceph.iterdir()} <= {"etc"}, "nothing of Ceph was ever made"
