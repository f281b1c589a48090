"""What a guest is given is what was asked for: address, key, user data; and a file on its root disk outlives stops, reboots and kills."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.hello import IMAGE
from tests.flows.cloud import Cloud, assert_nothing_left, until
from tests.flows.guest import shell

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIMadeUpForThisTestAndForNothingElseXXXXXXXX flow@test"
USER_DATA = "#!/bin/sh\necho made by user data > /run/from-user-data\n"
READY = ("--for=ready", "--timeout", "120")


@pytest.fixture(scope="module")
def guest(cloud: Cloud, small: str, sky: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server with a key and user data. The tests here run in their order: each goes on from the disk that the last one left."""
    folder: Path = tmp_path_factory.mktemp("guest")
    (folder / "key.pub").write_text(KEY + "\n")
    (folder / "data").write_text(USER_DATA)
    before = cloud.world()
    cloud.kumo(
        *("server", "create", "keeper", "--image", IMAGE, "--flavor", small, "--network", sky),
        *("--ssh-key", str(folder / "key.pub"), "--user-data", str(folder / "data"), "--wait=ready", "--timeout", "120"),
    )
    yield "keeper"
    cloud.kumo("server", "delete", "keeper", "--wait", "--timeout", "60")
    assert_nothing_left(cloud, before)


def test_the_guest_has_exactly_the_address_that_the_api_says(cloud: Cloud, guest: str) -> None:
    (address,) = cloud.json("server", "show", guest)["status"]["addresses"]
    with shell(cloud, guest) as run:
        found = run.run("ip -o -4 addr show dev eth0 | awk '{print $4}'").split()
        mac = run.run("cat /sys/class/net/eth0/address").strip()
    assert found == [f"{address['address']}/24"]
    assert mac == address["mac"]


def test_the_guest_reads_its_own_key_name_and_user_data(cloud: Cloud, guest: str) -> None:
    server = cloud.json("server", "show", guest)
    with shell(cloud, guest) as run:
        assert run.run("cat /root/.ssh/authorized_keys").strip() == KEY
        assert run.run("cat /run/from-user-data").strip() == "made by user data"
        assert run.run("hostname").strip().split(".")[0] == guest
        assert run.run("cat /run/metadata/id").strip() == server["uid"]
        assert server["uid"] in run.run("wget -q -O - http://169.254.169.254/openstack/latest/meta_data.json")


def test_user_data_is_never_given_out_again(cloud: Cloud, guest: str) -> None:
    assert "made by user data" not in cloud.kumo("server", "show", guest, "-o", "json").stdout


def write_marker(cloud: Cloud, guest: str, text: str) -> None:
    with shell(cloud, guest) as run:
        run.run(f"echo {text} >> /persist/marker && sync")


def markers(cloud: Cloud, guest: str) -> list[str]:
    with shell(cloud, guest) as run:
        return run.run("cat /persist/marker").split()


def test_a_file_is_there_after_stop_and_start(cloud: Cloud, guest: str) -> None:
    write_marker(cloud, guest, "one")
    cloud.kumo("server", "stop", guest, "--wait", "--timeout", "90")
    assert cloud.domains()[cloud.json("server", "show", guest)["uid"]] is False
    cloud.kumo("server", "start", guest, "--wait", "--timeout", "60")
    cloud.kumo("server", "wait", guest, *READY)
    assert markers(cloud, guest) == ["one"]


def test_a_reboot_replaces_the_process_and_keeps_the_disk(cloud: Cloud, guest: str) -> None:
    started = cloud.json("server", "show", guest)["status"]["start_time"]
    cloud.kumo("server", "reboot", guest, "--hard", "--wait", "--timeout", "90")
    cloud.kumo("server", "wait", guest, *READY)
    after = cloud.json("server", "show", guest)
    assert after["status"]["start_time"] != started
    assert after["status"]["reboots"] == after["spec"]["reboots"] == "1"
    assert markers(cloud, guest) == ["one"]


def test_a_file_is_there_after_the_host_rebooted_with_no_controller(cloud: Cloud, guest: str) -> None:
    write_marker(cloud, guest, "two")
    uid = cloud.json("server", "show", guest)["uid"]
    cloud.power_off()
    cloud.up("--only", "host")
    until(lambda: cloud.domains().get(uid, False), "the guest runs again with no controller", 60)
    cloud.up()
    cloud.kumo("server", "wait", guest, *READY)
    assert markers(cloud, guest) == ["one", "two"]


def test_a_file_is_there_after_everything_was_killed(cloud: Cloud, guest: str) -> None:
    write_marker(cloud, guest, "three")
    cloud.power_off()
    cloud.up()
    cloud.kumo("server", "wait", guest, *READY)
    assert markers(cloud, guest) == ["one", "two", "three"]


def test_guests_and_their_metadata_do_not_notice_that_the_agent_was_killed(cloud: Cloud, guest: str) -> None:
    uid = cloud.json("server", "show", guest)["uid"]
    ask = "timeout 2 wget -q -O - http://169.254.169.254/latest/meta-data/instance-id"
    with shell(cloud, guest) as run:
        run.run(f"( while sleep 0.1; do {ask} || echo silent; echo; done >/run/asked 2>&1 & echo $! >/run/asking )")
        asked = int(run.run("sleep 1; wc -l </run/asked"))
    cloud.kill("kumo-agent")
    assert cloud.domains()[uid]
    until(lambda: attaches(cloud, guest), "the agent is back", 30)
    with shell(cloud, guest) as run:
        run.run("kill $(cat /run/asking)")
        answers = run.run("cat /run/asked").split()
    assert len(answers) > asked
    assert set(answers) == {uid}


def attaches(cloud: Cloud, guest: str) -> bool:
    """Whether the console can be reached, which needs the agent."""
    return cloud.kumo("server", "console-log", guest, "--tail", "1", check=False).returncode == 0
