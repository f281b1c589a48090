"""Says what servers lack of their ports: rules that are not in force, taps that guests lost while they run. Changes nothing."""

from dataclasses import dataclass

from agent.facts import FactBook
from kumo.api.agent.v1.compute_pb2 import ApplyServerRequest
from kumo.api.agent.v1.network_pb2 import PortFacts

# Taps come and go a moment before or after their process; what lasts longer is a loss.
LOST_AFTER_S = 2.0


@dataclass(frozen=True)
class Unplugged:
    """Which ports of a guest that runs have no tap, and since when, on the monotonic clock; nothing in `what`: all have theirs."""

    what: str = ""
    since: float = 0.0

    def is_lost(self, now: float) -> bool:
        return bool(self.what) and now - self.since >= LOST_AFTER_S

    def again_s(self, now: float) -> float | None:
        """Return in how long to look whether it lasts."""
        return LOST_AFTER_S - (now - self.since) if self.what and not self.is_lost(now) else None


class ServerPorts:
    """The ports of the servers of this host."""

    def __init__(self, book: FactBook, *, has_taps: bool) -> None:
        """`has_taps`: guests that run have taps, which those of the fake hypervisor have not."""
        self._book, self._has_taps = book, has_taps
        self._server_of: dict[str, str] = {}

    def server_of(self, port_uid: str) -> str | None:
        return self._server_of.get(port_uid)

    def forget(self, server_uid: str) -> None:
        self._server_of = {port: server for port, server in self._server_of.items() if server != server_uid}

    def lacking(self, command: ApplyServerRequest | None) -> str:
        """Return which ports are not in force, and why; empty if all are."""
        if command is None or not command.HasField("desired"):
            return ""
        lacking: list[str] = []
        for nic in command.desired.nics:
            self._server_of[nic.port_uid] = command.uid
            facts = self._book.port(nic.port_uid)
            if facts is None:
                lacking.append(f"port {nic.port_uid} was not applied")
            elif facts.binding != PortFacts.BOUND:
                why = next((said.message for said in facts.conditions if said.message), "its rules are not in force yet")
                lacking.append(f"port {nic.port_uid}: {why}")
        return "; ".join(lacking)

    def unplugged(self, command: ApplyServerRequest | None) -> str:
        """Return which ports that are in force have no tap; that is as it should be while no guest runs."""
        if command is None or not command.HasField("desired") or not self._has_taps:
            return ""
        known = [self._book.port(nic.port_uid) for nic in command.desired.nics]
        return ", ".join(one.uid for one in known if one is not None and one.binding == PortFacts.BOUND and not one.plugged)

    def look(self, command: ApplyServerRequest | None, *, runs: bool, before: Unplugged, now: float) -> Unplugged:
        """Return what is so now of a guest that was `before`."""
        what = self.unplugged(command) if runs else ""
        return before if what == before.what else Unplugged(what, before.since if before.what else now)
