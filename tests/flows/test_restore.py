"""The region goes back to a snapshot: servers of then run on untouched, and what was made since is taken away, but for its disk."""

import subprocess
import sys
from pathlib import Path

from deploy.hello import IMAGE
from deploy.layout import CHECKOUT
from tests.flows.cloud import Cloud, until


def snapshot(cloud: Cloud, *arguments: str) -> None:
    command = [sys.executable, "-m", "deploy.snapshot", *arguments, "--state", str(cloud.lab.state)]
    done = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, timeout=180, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_region_that_went_back_in_time_goes_on(cloud: Cloud, small: str, sky: str, tmp_path: Path) -> None:
    file = tmp_path / "snapshot"
    hello = cloud.json("server", "show", "hello")
    running = set(cloud.domains())
    snapshot(cloud, "save", str(file))
    cloud.kumo("server", "create", "lost", "--image", IMAGE, "--flavor", small, "--network", sky, "--wait", "--timeout", "60")
    disk = f"volumes/kumo-{cloud.json('volume', 'show', 'lost-root')['uid']}"
    snapshot(cloud, "restore", str(file))
    until(lambda: cloud.state_of("server", "lost") == "GONE", "nobody knows it", 60)
    until(lambda: set(cloud.domains()) == running, "its guest is gone", 60)
    assert disk in cloud.disks(), "nobody asked for the end of what is on it"
    until(lambda: cloud.state_of("server", "hello") == "ACTIVE", "the one of then is as it was", 60)
    assert cloud.json("server", "show", "hello")["status"]["start_time"] == hello["status"]["start_time"]
    cloud.kumo("server", "create", "lost", "--image", IMAGE, "--flavor", small, "--network", sky, "--wait", "--timeout", "90")
    cloud.kumo("server", "delete", "lost", "--wait", "--timeout", "60")
