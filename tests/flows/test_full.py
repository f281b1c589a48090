"""Ceph is full, and an agent's disk is: what is there can be seen and runs on, what needs room waits and says why, nothing is taken for
gone that is not, and all of it goes on by itself when there is room.
"""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from deploy import ceph, control
from deploy.hello import IMAGE
from tests.flows.cloud import Cloud, assert_nothing_left, until
from tests.flows.guest import shell

# A promise of one second, asserted at three times its figure.
SOON_S = 3.0
AGENT = "kumo-agent"
DISK_MIB = 8


@contextmanager
def full_ceph(cloud: Cloud) -> Iterator[None]:
    """Move the ratios at which Ceph calls itself full below what is used. Filling a small OSD for real would end it for good."""
    names = ("nearfull", "backfillfull", "full")
    with ceph.admin(cloud.lab) as cluster:
        dump = ceph.command(cluster, "osd dump")

        def set_ratios(values: dict[str, float]) -> None:
            for name, value in values.items():
                ceph.command(cluster, f"osd set-{name}-ratio", ratio=value)

        def is_full() -> bool:
            return "OSD_FULL" in ceph.command(cluster, "health")["checks"]

        try:
            set_ratios(dict(zip(names, (0.00001, 0.00002, 0.00003), strict=True)))
            until(is_full, "Ceph is full")
            yield
        finally:
            set_ratios({name: dump[f"{name}_ratio"] for name in names})
            until(lambda: not is_full(), "Ceph has room")


def condition(cloud: Cloud, noun: str, name: str, kind: str) -> dict[str, Any]:
    found: list[dict[str, Any]] = cloud.json(noun, "show", name)["status"].get("conditions", [])
    return next((one for one in found if one["type"] == kind), {})


def create(cloud: Cloud, name: str, small: str, sky: str, *options: str) -> None:
    cloud.kumo("server", "create", name, "--image", IMAGE, "--flavor", small, "--network", sky, *options)


def test_on_a_full_ceph_servers_wait_and_say_why_and_what_is_deleted_goes_when_it_can(cloud: Cloud, small: str, sky: str) -> None:
    first = cloud.disks()
    create(cloud, "going", small, sky, "--wait", "--timeout", "60")
    cloud.kumo("server", "stop", "going", "--wait", "--timeout", "60")
    before = cloud.disks()
    with full_ceph(cloud):
        began = time.monotonic()
        create(cloud, "late", small, sky)
        cloud.kumo("server", "delete", "going")
        assert time.monotonic() - began < 2 * SOON_S, "both are intents, and take no room of Ceph's"
        until(lambda: condition(cloud, "server", "late", "DiskReady").get("reason") == "POOL_FULL", "the new one says why it waits")
        assert condition(cloud, "server", "late", "DiskReady")["fix"]
        until(lambda: condition(cloud, "volume", "going-root", "Ready").get("status") == "FALSE", "so does the disk that shall go")
        assert cloud.state_of("volume", "going-root") == "DELETING"
        assert before <= cloud.disks(), "nothing went"
        with shell(cloud, "hello") as run:
            assert run.succeeds("cat /etc/hostname /proc/uptime | grep -q ."), "guests run on"
    cloud.kumo("server", "wait", "late", "--for=settled", "--timeout", "90")
    until(lambda: cloud.state_of("volume", "going-root") == "GONE", "what was deleted is gone", 90)
    with shell(cloud, "hello") as run:
        run.run("echo x > /persist/full && sync")
    cloud.kumo("server", "delete", "late", "--wait", "--timeout", "90")
    until(lambda: cloud.disks() == first, "nothing of either is left on Ceph")


@contextmanager
def small_disk(cloud: Cloud) -> Iterator[str]:
    """Put what the agent keeps on a small disk of its own inside the block."""
    kept = f"{cloud.lab.agent}/kept"

    def swap(*commands: str) -> None:
        control.ask(cloud.lab, "stop", name=AGENT)
        until(lambda: AGENT not in control.service_pids(cloud.lab), "the agent has ended")
        cloud.inside("sh", "-ec", "; ".join(commands))
        control.ask(cloud.lab, "start", name=AGENT)
        until(lambda: is_up(cloud), "the host is up")

    mount = f"mount -t tmpfs -o size={DISK_MIB}m,mode=0700 none {kept}"
    swap(f"cp -a {kept} /run/kept", mount, f"cp -a /run/kept/. {kept}", "rm -r /run/kept")
    try:
        yield kept
    finally:
        swap(f"cp -a {kept} /run/kept", f"umount {kept}", f"rm -rf {kept}/*", f"cp -a /run/kept/. {kept}", "rm -r /run/kept")


def is_up(cloud: Cloud) -> bool:
    found = cloud.kumo("host", "show", cloud.lab.host, "-o", "json", check=False)
    return found.returncode == 0 and json.loads(found.stdout)["status"]["state"] == "UP"


def test_an_agent_without_room_says_so_and_takes_things_away_and_goes_on_when_there_is_some(cloud: Cloud, small: str, sky: str) -> None:
    before = cloud.world()
    with small_disk(cloud) as kept:
        create(cloud, "going", small, sky, "--wait", "--timeout", "60")
        cloud.inside("sh", "-c", f"cat /dev/zero > {kept}/ballast 2>/dev/null; true")
        create(cloud, "late", small, sky)
        until(lambda: says_no_room(cloud, "late"), "the new one says why it waits")
        assert is_up(cloud) and cloud.state_of("server", "hello") == "ACTIVE"
        cloud.kill(AGENT)
        cloud.kumo("server", "delete", "going", "--wait", "--timeout", "60")
        assert cloud.state_of("server", "late") == "CREATING"
        cloud.inside("rm", f"{kept}/ballast")
        cloud.kumo("server", "wait", "late", "--for=settled", "--timeout", "90")
        cloud.kumo("server", "delete", "late", "--wait", "--timeout", "60")
    assert_nothing_left(cloud, before)


def says_no_room(cloud: Cloud, name: str) -> bool:
    return "No space left on device" in cloud.kumo("server", "show", name, "-o", "json").stdout
