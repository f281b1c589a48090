"""What is done to one server in its life, as a good client does it: again under the same request id while nobody answers."""

import itertools
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from cli.client import Client
from cli.contexts import load
from cli.failure import Exit, Failure
from kumo.api.compute.v1 import server_pb2 as api
from kumo.api.compute.v1.server_pb2 import Server
from tests.flows import settled
from tests.flows.cloud import until
from tests.flows.hosts import Hosts

DONE_S = 90.0
ACTS = ("create", "stop", "start", "reboot", "delete")
_ENDS = {"create": Server.ACTIVE, "stop": Server.STOPPED, "start": Server.ACTIVE, "reboot": Server.ACTIVE}
_AWAY = (Exit.UNAVAILABLE,)


class Life:
    """One server; `meanwhile` is called while an act is waited for."""

    def __init__(self, hosts: Hosts, name: str, meanwhile: Callable[[], None]) -> None:
        self.hosts, self.name, self.meanwhile = hosts, name, meanwhile
        self._full = f"projects/default/servers/{name}"
        self._nodes = itertools.cycle(("c1", "c2"))
        self._node = next(self._nodes)
        self.uid = ""

    def act(self, act: str, why: str) -> None:
        """Do one act and wait until it is done. Raises AssertionError that ends with `why`."""
        request = self._request(act)
        sent: list[Server] = []
        until(lambda: self._send(act, request, sent), f"{act} is answered: {why}", DONE_S)
        generation = sent[0].generation if sent else 0
        until(lambda: self._is_done(act, generation), f"{act} is done: {why}", DONE_S)
        self.uid = sent[0].uid if act != "delete" else ""

    def look(self) -> Server | None:
        """Return the server, None where there is none. Raises Failure while nobody answers."""
        try:
            return self._call("GetServer", api.GetServerRequest(name=self._full))
        except Failure as failure:
            if failure.exit is Exit.NOT_FOUND:
                return None
            raise

    def _request(self, act: str) -> Any:
        key = str(uuid.uuid4())
        match act:
            case "create":
                request = api.CreateServerRequest(parent="projects/default", server_id=self.name, request_id=key)
                spec = request.server.spec
                spec.flavor, spec.image = f"flavors/{settled.FLAVOR}", f"projects/default/images/{settled.IMAGE}"
                spec.nics.add(network=f"projects/default/networks/{settled.NETWORK}")
                return request
            case "stop":
                return api.StopServerRequest(name=self._full, request_id=key, mode=api.STOP_MODE_HARD)
            case "start":
                return api.StartServerRequest(name=self._full, request_id=key)
            case "reboot":
                return api.RebootServerRequest(name=self._full, request_id=key, mode=api.REBOOT_MODE_HARD)
            case _:
                return api.DeleteServerRequest(name=self._full)

    def _send(self, act: str, request: Any, answers: list[Server]) -> bool:
        self.meanwhile()
        try:
            answers.append(self._call(f"{act.capitalize()}Server", request))
        except Failure as failure:
            if act == "delete" and failure.exit is Exit.NOT_FOUND:
                return True
            if failure.exit not in _AWAY:
                raise
            return False
        return True

    def _is_done(self, act: str, generation: int) -> bool:
        self.meanwhile()
        try:
            server = self.look()
        except Failure as failure:
            if failure.exit not in _AWAY:
                raise
            return False
        if server is None or act == "delete":
            return server is None and act == "delete"
        is_seen = server.status.observed_generation == server.generation >= generation
        return is_seen and server.status.state == _ENDS[act]

    def _call(self, method: str, request: Any) -> Server:
        try:
            with _client(self.hosts, self._node) as client:
                return client.unary(f"kumo.api.compute.v1.Servers/{method}", request, Server, doing=method)
        except Failure:
            self._node = next(self._nodes)
            raise


@contextmanager
def _client(hosts: Hosts, node: str) -> Iterator[Client]:
    """A new connection, so that none waits before it dials a controller that has just come back."""
    context = replace(load(hosts.context()).known["local"], address=hosts.api(node))
    client = Client(context, timeout_s=5)
    try:
        yield client
    finally:
        client.close()
