"""What others use cannot be deleted, and they are named; a watch goes on exactly over the end of a controller; no room is told apart."""

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from cli.failure import Exit
from deploy.hello import IMAGE
from deploy.layout import CHECKOUT
from tests.flows.cloud import Cloud, assert_nothing_left, until


def test_what_is_in_use_is_not_deleted_and_its_users_are_named(cloud: Cloud) -> None:
    hello = cloud.json("server", "show", "hello")
    for noun, name in (
        ("flavor", hello["spec"]["flavor"]),
        ("image", hello["spec"]["image"]),
        ("network", hello["spec"]["nics"][0]["network"]),
    ):
        refused = cloud.kumo(noun, "delete", name.rsplit("/", 1)[-1], check=False)
        assert refused.returncode == Exit.CONFLICT, refused.stdout
        assert "hello" in refused.stderr, refused.stderr
        assert "fix:" in refused.stderr


def test_an_owned_disk_goes_with_its_server_and_not_alone(cloud: Cloud) -> None:
    volume = cloud.json("server", "show", "hello")["spec"]["root_volume"]
    refused = cloud.kumo("volume", "delete", volume.rsplit("/", 1)[-1], check=False)
    assert refused.returncode == Exit.CONFLICT
    assert "hello" in refused.stderr


@contextmanager
def watching(cloud: Cloud) -> Iterator[list[dict[str, Any]]]:
    """Run `kumo network list -w` and collect what it prints."""
    command = [sys.executable, "-m", "cli.main", "network", "list", "-w", "-o", "json"]
    seen: list[dict[str, Any]] = []
    quiet = subprocess.DEVNULL
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=quiet, text=True, cwd=CHECKOUT, env=cloud.environment()) as process:
        lines = process.stdout
        assert lines is not None

        def read() -> None:
            for line in lines:
                seen.append(json.loads(line))

        reader = threading.Thread(target=read, daemon=True)
        reader.start()
        try:
            yield seen
        finally:
            process.terminate()
            reader.join(20)


def label(cloud: Cloud, network: str, text: str) -> None:
    """Set a label, however often that takes while the controller is away."""
    until(lambda: cloud.kumo("network", "set", network, "--label", text, check=False).returncode == 0, "the controller is back", 60)


def test_a_watch_misses_and_repeats_nothing_when_the_controller_is_killed(cloud: Cloud) -> None:
    cloud.kumo("network", "create", "watched", "--wait")
    with watching(cloud) as seen:

        def values() -> list[str]:
            records = [change["network"] for change in seen if change["kind"] in ("EXISTING", "UPDATED")]
            own = [record for record in records if record["name"].endswith("/watched") and "delete_time" not in record]
            return [record.get("labels", {}).get("step", "") for record in own]

        until(lambda: values() == [""], "the watch has begun", 30)
        for step in range(3):
            cloud.kumo("network", "set", "watched", "--label", f"step={step}")
        cloud.kill("kumo-controller")
        for step in range(3, 6):
            label(cloud, "watched", f"step={step}")
        until(lambda: "5" in values(), "the last change is seen", 60)
        cloud.kumo("network", "delete", "watched", "--wait")
        until(lambda: any(change["kind"] == "DELETED" for change in seen), "the delete is seen", 30)
        steps = [value for value in values() if value]
        assert steps == sorted(set(steps)) == [str(step) for step in range(6)]


def test_without_room_a_server_waits_says_why_and_is_placed_when_room_appears(cloud: Cloud, sky: str) -> None:
    before = cloud.world()
    cloud.kumo("flavor", "create", "huge", "--vcpus", "1", "--memory", str(1 << 20), "--disk", "1")
    cloud.kumo("server", "create", "waiter", "--image", IMAGE, "--flavor", "huge", "--network", sky, "--no-wait")
    until(lambda: "memory" in cloud.kumo("server", "show", "waiter").stdout.lower(), "the server says what it waits for", 30)
    conditions = {one["type"]: one for one in cloud.json("server", "show", "waiter")["status"]["conditions"]}
    assert conditions["Placed"]["reason"] == "NO_ROOM"
    assert conditions["Placed"]["fix"]
    assert conditions["Placed"]["operator_message"]
    gave_up = cloud.kumo("server", "wait", "waiter", "--timeout", "1", check=False)
    assert gave_up.returncode == Exit.NO_CAPACITY
    cloud.kumo("server", "delete", "waiter", "--wait", "--timeout", "60")
    cloud.kumo("flavor", "delete", "huge", "--wait")
    assert_nothing_left(cloud, before)


def test_a_cordoned_host_takes_nothing_until_it_is_uncordoned(cloud: Cloud, small: str, sky: str) -> None:
    host = cloud.json("host", "list")[0]["name"].rsplit("/", 1)[-1]
    cloud.kumo("host", "cordon", host)
    try:
        cloud.kumo("server", "create", "later", "--image", IMAGE, "--flavor", small, "--network", sky, "--no-wait")
        until(lambda: "cordoned" in cloud.kumo("server", "show", "later").stdout, "the server says what it waits for", 30)
    finally:
        cloud.kumo("host", "uncordon", host)
    cloud.kumo("server", "wait", "later", "--timeout", "60")
    assert cloud.state_of("server", "later") == "ACTIVE"
    cloud.kumo("server", "delete", "later", "--wait", "--timeout", "60")
