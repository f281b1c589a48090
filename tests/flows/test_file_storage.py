"""A region whose disks are files needs no Ceph: a server runs, stops, starts with what it wrote, and leaves nothing when it goes."""

from collections.abc import Iterator

import pytest

from deploy import control
from deploy.hello import SERVER
from deploy.trial import Trial, trial
from tests.flows.cloud import Cloud, until
from tests.flows.guest import shell


@pytest.fixture(scope="module")
def files() -> Iterator[Cloud]:
    """A region with `--storage file`, and the server `hello` in it, ready."""
    with trial("--storage", "file") as made:
        yield Cloud(made.lab)


def _files(made: Trial) -> set[str]:
    """Return what there is of volumes: whole ones, ones being made, ones set aside."""
    return {f"{path.parent.name}/{path.name}" for kind in ("volumes", "making", "trash") for path in made.lab.files.glob(f"*/{kind}/*")}


def test_a_server_on_files_keeps_its_disk_and_leaves_nothing(files: Cloud) -> None:
    assert not {name for name in control.service_pids(files.lab) if name.startswith("ceph")}, "nothing of Ceph runs"
    (pool,) = files.json("pool", "list")
    assert pool["spec"]["driver"] == "FILE"
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
    files.kumo("server", "delete", SERVER, "--wait", "--timeout", "60")
    until(lambda: not _files(files), "no volume's file to be left", 30)
    assert not files.domains()
