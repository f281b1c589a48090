"""What must hold of the simulated region: at each commit, all the time, and once it has come to rest."""

import asyncio
import itertools
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from google.protobuf.message import Message

from kumo.api.compute.v1 import server_pb2
from kumo.api.compute.v1.server_pb2 import Server
from kumo.api.type.v1.stamp_pb2 import Stamp
from kumo.errors import Aborted, DeadlineExceeded, NotFound, Unavailable
from kumo.stamps import term_order
from kumo.store.etcd import kv_pb2, rpc_pb2
from kumo.store.v1 import values_pb2
from tests.controller.region.region_process import PROJECT, SMALL
from tests.simulation import witness
from tests.simulation.machines import Broken
from tests.simulation.world import CONTROLLERS, HOSTS, MEMORY_MIB, World, cell_address

_REGION, _CELL = "/kumo/region/local/", "/kumo/cell/a/"
_USAGE = re.compile(rf"{_REGION}usage/[^/]+/(servers|ports|volumes|vcpus|memory_mib|gib)$")
# All but the election's own key, and what makes a plane; of the region, what its followers do not write for their callers.
_CELL_LEADERS = re.compile(rf"{_CELL}(?!lead$|incarnation$|format$|token-key$|barrier/|tick)")
_REGION_LEADERS = re.compile(rf"{_REGION}record/[^/]+/../[^/]+/(placement|status)$")
_INTENT = re.compile(rf"{_REGION}record/(server|port|volume)/../([^/]+)/intent$")
# History, answers to repeated requests, tombstones, and the planes' own bookkeeping.
_KEPT = re.compile(
    r"/(event|request|end|tombstone|ended|sweep)[^/]*/|/(lead|cursor|sequence|stale|largest|incarnation|format|token-key)|/tick|/Event/|/barrier/"
    r"|/record/(obeyed|cell|host|pool|image|network|booking)/"
)
NAMES = ("s0", "s1", "s2")
_PER_SERVER = {"vcpus": SMALL.vcpus, "memory_mib": SMALL.memory_mib, "gib": SMALL.disk_gib}


@dataclass
class Wanted:
    """A server as its user left it, once a region said yes."""

    uid: str
    running: bool = True


class Judge:
    """Sees every commit, and looks at every host ten times a second."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.broken: list[str] = []
        self.left_before = self._left()
        self._apis: dict[str, Any] = {}
        self._stamps: dict[tuple[str, str], Stamp] = {}
        world.data.on_commit.append(self.committed)

    def object(self, what: str) -> None:
        self.broken.append(f"{self.world.loop.time():9.4f} {what}")

    # ---- at each commit

    def committed(self, revision: int, events: list[kv_pb2.Event]) -> None:
        self._fence(revision, events)
        self._guarded(revision, events)
        if any(event.kv.key.startswith((_REGION + "usage/").encode()) or b"/record/server/" in event.kv.key for event in events):
            self._usage(revision)

    def _fence(self, revision: int, events: list[kv_pb2.Event]) -> None:
        """What only a leader writes is written by who leads."""
        writer = self.world.data.writer
        plane, _, host = writer.partition("-")
        prefix, of_leaders = {"cell": (_CELL, _CELL_LEADERS), "region": (_REGION, _REGION_LEADERS)}.get(plane, ("", None))
        if of_leaders is None or not any(of_leaders.match(event.kv.key.decode()) for event in events):
            return
        lead = self.world.data.items.get(f"{prefix}lead".encode())
        wanted = cell_address(host) if plane == "cell" else host
        if lead is None or lead.value.decode() != wanted:
            keys = [event.kv.key.decode() for event in events]
            self.object(f"revision {revision}: {writer} wrote {keys}, and {lead.value.decode() if lead is not None else 'nobody'} leads")

    def _guarded(self, revision: int, events: list[kv_pb2.Event]) -> None:
        """No controller writes without comparing something, or a write that is sent again would undo what came between."""
        data = self.world.data
        is_barrier = all(b"/barrier/" in event.kv.key for event in events)
        if data.writer and not is_barrier and not rpc_pb2.TxnRequest.FromString(data.asked).compare:
            self.object(f"revision {revision}: {data.writer} wrote without a guard")

    def _usage(self, revision: int) -> None:
        """Usage is the sum of what exists, at every revision."""
        there: Counter[str] = Counter()
        used: Counter[str] = Counter()
        for key, item in self.world.data.items.items():
            text = key.decode()
            if found := _INTENT.match(text):
                there[f"{found[1]}s"] += 1
            elif found := _USAGE.match(text):
                used[found[1]] += values_pb2.Usage.FromString(item.value).amount
        for kind, each in _PER_SERVER.items():
            there[kind] = there["servers"] * each
        if +there != +used:
            self.object(f"revision {revision}: usage is {dict(used)}, and there are {dict(there)}")

    # ---- all the time

    async def keep_looking(self) -> None:
        while True:
            await asyncio.sleep(0.1)
            self.look()

    def look(self) -> None:
        self.broken += witness.seen(self.world)
        running: Counter[str] = Counter()
        for host in HOSTS:
            here = [uid for uid, runs in self.world.domains(host).items() if runs]
            running.update(here)
            if len(here) * SMALL.memory_mib > MEMORY_MIB:
                self.object(f"{host} runs {len(here)} servers, more than it has room for")
            self._look_at_stamps(host)
        for uid, count in running.items():
            if count > 1:
                self.object(f"server {uid} runs on {count} hosts")

    def _look_at_stamps(self, host: str) -> None:
        """What an agent holds of a thing never goes back."""
        agent: Any = self.world.processes[f"agent-{host}"].inside
        if agent is None:
            return
        for kind in ("servers", "ports", "networks"):
            for uid, command in getattr(agent, f"_{kind}").held.items():
                before, now = self._stamps.get((host, uid)), command.stamp
                if before is not None and _goes_back(before, now):
                    self.object(f"{host} holds of {kind} {uid} {_short(now)} after {_short(before)}")
                self._stamps[(host, uid)] = now

    # ---- at rest

    async def unsettled(self, wanted: Mapping[str, Wanted]) -> str:
        """Return what is not yet as users left it; empty once all is."""
        for name in NAMES:
            found = await self._get(name)
            left = wanted.get(name)
            if left is None:
                if found is not None:
                    return f"{name} was deleted and is still there, {Server.State.Name(found.status.state)}"
                continue
            stored = self.world.data.items.get(f"{_REGION}name/server/{PROJECT}/servers/{name}".encode())
            if (found is None or found.uid != left.uid) and stored is not None and stored.value.decode() == left.uid:
                return f"{name} was created, and the controller that was asked has yet to see it"
            if found is None or found.uid != left.uid:
                raise Broken(f"{name} was created and never deleted, and is not there")
            state = Server.ACTIVE if left.running else Server.STOPPED
            if found.status.state != state or found.status.observed_generation != found.generation:
                states = f"{Server.State.Name(found.status.state)} at {found.status.observed_generation}"
                return f"{name} shall be {Server.State.Name(state)} at {found.generation}, and is {states}"
            if (runs := self.world.domains(found.status.host.removeprefix("hosts/")).get(left.uid)) is not left.running:
                return f"{name} on {found.status.host}: its domain runs: {runs}"
        uids = {left.uid for left in wanted.values()}
        for host in HOSTS:
            if strangers := self.world.domains(host).keys() - uids:
                return f"{host} has domains of servers that are gone: {sorted(strangers)}"
        return ""

    async def _get(self, name: str) -> Server | None:
        """Ask a controller of the region that answers."""
        request = server_pb2.GetServerRequest(name=f"{PROJECT}/servers/{name}")
        for host in itertools.cycle(CONTROLLERS):
            api = self._apis.setdefault(host, self.world.api(host))
            try:
                found: Server = await api.servers.GetServer(request, timeout=4.0)
            except NotFound:
                return None
            except (Unavailable, DeadlineExceeded, Aborted):
                await asyncio.sleep(0.1)
                continue
            return found
        raise AssertionError("a cycle has no end")

    async def left_over(self) -> str:
        """Return what is left of servers that have all been deleted; empty once nothing is."""
        left = self._left() - self.left_before
        return f"left in the store: {sorted(left)}" if left else self._left_on_hosts()

    def _left(self) -> set[str]:
        keys = (key.decode() for key, item in self.world.data.items.items() if not (b"/usage/" in key and not _amount(item.value)))
        return {key for key in keys if not _KEPT.search(key)}

    def _left_on_hosts(self) -> str:
        for host in HOSTS:
            agent: Any = self.world.processes[f"agent-{host}"].inside
            for kind in ("servers", "ports"):
                commands = getattr(agent, f"_{kind}")
                if living := [uid for uid in commands.held if not commands.is_tombstone(uid)]:
                    return f"{host} still holds {kind} {living}"
                if waiting := [uid for uid in commands.held if uid not in commands._ended]:
                    return f"{host}: nobody acknowledged the end of {kind} {waiting}"
        volumes = [path.name for path in self.world.folder.glob("volumes/*/volumes/*")]
        return f"disks are left: {volumes}" if volumes else ""


def _amount(value: bytes) -> int:
    return values_pb2.Usage.FromString(value).amount


def _goes_back(before: Stamp, now: Stamp) -> bool:
    """Written apart from kumo.stamps, which is under test."""
    terms = term_order(now.term), term_order(before.term)
    epochs = (now.epoch.cell, now.epoch.host), (before.epoch.cell, before.epoch.host)
    if terms[0] < terms[1] or epochs[0] < epochs[1] or now.generation < before.generation:
        return True
    return terms[0] == terms[1] and now.sequence < before.sequence


def _short(stamp: Message) -> str:
    return " ".join(str(stamp).split())
