"""One request can be followed by its id through the logs of every process that worked for it."""

import json
import re
from typing import Any

from deploy.hello import IMAGE
from tests.flows.cloud import Cloud, until


def lines_of(cloud: Cloud, process: str, request_id: str) -> list[dict[str, Any]]:
    text = (cloud.lab.log / f"kumo-{process}.log").read_text(errors="replace")
    return [json.loads(line) for line in text.splitlines() if request_id in line]


def test_a_request_is_found_by_its_id_in_region_cell_and_agent(cloud: Cloud, small: str, sky: str) -> None:
    made = cloud.kumo("-v", "server", "create", "traced", "--image", IMAGE, "--flavor", small, "--network", sky, "--wait")
    found = re.search(r"CreateServer: OK .* request id (\S+)", made.stderr)
    assert found is not None, made.stderr
    request_id = found[1]
    controller = lines_of(cloud, "controller", request_id)
    methods = {line.get("method", "").rsplit("/", 1)[-1] for line in controller}
    assert {"CreateServer", "ApplyIntent"} <= methods
    assert {"region", "cell"} <= {line["logger"].split(".")[1] for line in controller if line["logger"].startswith("controller.")}
    until(lambda: any(line["event"] == "server started" for line in lines_of(cloud, "agent", request_id)), "the agent's line", 20)
    cloud.kumo("server", "delete", "traced", "--wait")
