"""Books servers on hosts: keeps the table of hosts fresh, has the scheduler choose, commits, and wakes who waits when room appears."""

from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager

from prometheus_client import Counter

from controller.cell.cell import Cell
from controller.cell.conditions import Said, condition
from controller.cell.events import WARNING, Happened, Subject
from controller.cell.fleet.host.plan import GRACE_S
from controller.cell.ledger import INTENT, Change
from controller.cell.presence import newest_holder
from kumo.api.cell.v1.cell_pb2 import Verdict
from kumo.api.cell.v1.record_pb2 import Claim, Order, Placement
from kumo.api.compute.v1.server_pb2 import Server
from kumo.api.type.v1.stamp_pb2 import Epoch
from kumo.errors import Unavailable
from kumo.locks import KeyedLocks
from kumo.log import get_logger
from kumo.stamps import epoch_order
from scheduler.claim import HostRead, add_claims, claim_uid
from scheduler.explain import Explanation
from scheduler.filters import Request
from scheduler.place import Choice, place
from scheduler.queue import Waiting, fitting_now
from scheduler.snapshot import Host, HostTable, Policy, row_of

log = get_logger(__name__)

PLACEMENTS = Counter("kumo_cell_placements_total", "Decisions about where a server goes, by what came of them.", ["outcome"])

POLICY_UID = "placement"
_MOST_WOKEN = 64
_LISTED = 10


class Placer:
    """`wake` is called with the uid of each waiting server that would fit now."""

    def __init__(self, cell: Cell, wake: Callable[[str], None]) -> None:
        self._cell, self._wake = cell, wake
        self._table = HostTable()
        # What was chosen and is not in the host's booking yet, by server: host, virtual CPUs, MiB.
        self._pending: dict[str, tuple[str, int, int]] = {}
        self._locks = KeyedLocks()
        self._began_at = cell.clock.monotonic()

    def follow(self) -> None:
        """Take in all hosts, and follow them from now on."""
        records = self._cell.records
        records.hosts.on_intent(self._refresh)
        records.hosts.on_status(self._refresh)
        records.bookings.on_intent(self._refresh)
        records.policies.on_intent(lambda _uid: self._refresh_all())
        self._refresh_all()

    async def place(self, server: Server, order: Order) -> bool:
        """Book a host for `server` and say PLACED, or say WAITING; return whether it is placed.

        Raises Conflict if what the choice was based on has changed: it is to be called again.
        """
        before = self._cell.records.placements.get(server.uid)
        holder = newest_holder(self._cell, server.uid)
        if holder is not None and (before is None or not before.host_uid or epoch_order(holder[1]) > epoch_order(before.epoch)):
            await self._adopt(server, order, *holder)
            return True
        if before is not None and before.host_uid:
            # The region placed it here anew: it stays where it is, under the new epoch.
            await self._book(server, before.host_uid, before.host, Epoch(cell=order.stamp.epoch.cell, host=1), None)
            return True
        self._check_all_heard()
        self._check_pool(server)
        self._cell.strangers.check()
        choice = place(self._table.hosts, self._request(server))
        if not isinstance(choice, Choice):
            await self._say_waiting(server, order, choice.explanation)
            return False
        epoch = Epoch(cell=order.stamp.epoch.cell, host=_next_host_epoch(before, order.stamp.epoch.cell))
        await self._book(server, choice.host_uid, choice.host, epoch, choice.explanation)
        return True

    def add_release(self, change: Change, server_uid: str) -> None:
        """Add to `change` that everything the server has booked is free again, and its placement forgotten."""
        records = self._cell.records
        claims = [(claim, records.claims.intent_revision(claim.uid)) for claim in records.claims.find("server", server_uid)]
        hosts = {claim.host_uid: self._read(claim.host_uid) for claim, _revision in claims}
        add_claims(change.changes, self._cell.ledger.keys, hosts, self.policy(), freed=claims)
        revision = records.placements.intent_revision(server_uid)
        if revision:
            change.delete(Placement, server_uid, replaces=revision)

    @asynccontextmanager
    async def alone(self, server_uid: str) -> AsyncIterator[None]:
        """Keep others from changing the booking of the server's host meanwhile: they would only conflict."""
        hosts = sorted({claim.host_uid for claim in self._cell.records.claims.find("server", server_uid)})
        if not hosts:
            yield
            return
        async with self._locks.alone(hosts[0]):
            yield

    async def _book(self, server: Server, host_uid: str, host: str, epoch: Epoch, explanation: Explanation | None) -> None:
        self._pending[server.uid] = (host_uid, server.spec.vcpus, server.spec.memory_mib)
        self._refresh(host_uid)
        try:
            async with self._locks.alone(host_uid):
                await self._commit(server, host_uid, host, epoch, explanation)
        finally:
            del self._pending[server.uid]
            self._refresh(host_uid)

    async def _commit(self, server: Server, host_uid: str, host: str, epoch: Epoch, explanation: Explanation | None) -> None:
        cell = self._cell
        now = cell.now()
        claim = Claim(
            name=server.name,
            uid=claim_uid(server.uid, epoch),
            server_uid=server.uid,
            host_uid=host_uid,
            vcpus=server.spec.vcpus,
            memory_mib=server.spec.memory_mib,
            epoch=epoch,
        )
        change = cell.ledger.change()
        old = [(one, cell.records.claims.intent_revision(one.uid)) for one in cell.records.claims.find("server", server.uid)]
        hosts = {uid: self._read(uid) for uid in {host_uid, *(one.host_uid for one, _revision in old)}}
        add_claims(change.changes, cell.ledger.keys, hosts, self.policy(), booked=claim, freed=old)
        # It may not be placed once it shall go, which is said by one of the two.
        change.guard(Server, server.uid, INTENT, cell.records.servers.intent_revision(server.uid))
        change.guard(Order, server.uid, INTENT, cell.records.orders.intent_revision(server.uid))
        said = Said("Placed", True, "PLACED", "a host was chosen", operator_message=_chosen(host, explanation))
        verdict = Verdict(answer=Verdict.PLACED, cell_epoch=epoch.cell, because=condition(None, said, server.generation, now))
        placement = Placement(name=server.name, uid=server.uid, verdict=verdict, host_uid=host_uid, host=host, epoch=epoch)
        change.put(placement, replaces=cell.records.placements.intent_revision(server.uid))
        cell.reporter.events.add(
            change, Subject(server.name, server.uid), Happened("PLACED", said.message, operator_message=said.operator_message), now
        )
        await cell.ledger.commit(change)
        PLACEMENTS.labels("placed").inc()
        log.info("server placed", server=server.name, host=host, cell_epoch=epoch.cell, host_epoch=epoch.host)

    async def _adopt(self, server: Server, order: Order, host_uid: str, epoch: Epoch) -> None:
        """Book the host that has the server already: our store went back to a time before it was placed there."""
        host = self._cell.records.hosts.get(host_uid)
        if host is None:
            message = f"{server.name} is on a host that is not known"
            raise Unavailable("HOST_UNKNOWN", message, fix="create the host again", host_uid=host_uid)
        PLACEMENTS.labels("adopted").inc()
        log.warning("server adopted", server=server.name, host=host.name, cell_epoch=epoch.cell, host_epoch=epoch.host)
        # Under a greater cell epoch than it is held under, it is placed there anew.
        adopted = max(epoch, Epoch(cell=order.stamp.epoch.cell, host=1), key=epoch_order)
        await self._book(server, host_uid, host.name.removeprefix("hosts/"), adopted, None)

    def _check_all_heard(self) -> None:
        """Raise Unavailable while, early in a term, a host that is up was not heard yet: it may have the server, and nobody else knows."""
        if self._cell.clock.monotonic() - self._began_at > GRACE_S:
            return
        unheard = [row.name for row in self._table.rows() if row.up and not self._is_heard(row.uid)]
        if unheard:
            message = f"not heard yet in this term: {', '.join(sorted(unheard)[:_LISTED])}"
            raise Unavailable("HOSTS_NOT_HEARD", message, fix=f"wait: at most {GRACE_S:.0f} s", host_count=len(unheard))

    def _check_pool(self, server: Server) -> None:
        """Raise Unavailable while it is not known which hosts reach the server's disk."""
        if server.spec.pool_uid and self._cell.records.pools.entry(server.spec.pool_uid) is None:
            message = f"the pool of {server.name} is not known here yet"
            raise Unavailable("POOL_UNKNOWN", message, fix="wait: the region tells of it", pool_uid=server.spec.pool_uid)

    def _is_heard(self, host_uid: str) -> bool:
        session = self._cell.agents.get(host_uid)
        return session is not None and session.heard_at is not None

    async def _say_waiting(self, server: Server, order: Order, explanation: Explanation) -> None:
        cell = self._cell
        before = cell.records.placements.get(server.uid)
        now = cell.now()
        said = Said("Placed", False, explanation.reason, explanation.for_tenant(), explanation.fix(), explanation.for_operator())
        known = before.verdict.because if before is not None and before.verdict.HasField("because") else None
        because = condition(known, said, server.generation, now)
        verdict = Verdict(answer=Verdict.WAITING, cell_epoch=order.stamp.epoch.cell, because=because)
        placement = Placement(name=server.name, uid=server.uid, verdict=verdict)
        if before is not None:
            placement.epoch.CopyFrom(before.epoch)
        if before is not None and before.HasField("waiting_since"):
            placement.waiting_since.CopyFrom(before.waiting_since)
        else:
            placement.waiting_since.FromDatetime(now)
        if before == placement:
            return
        change = cell.ledger.change()
        change.put(placement, replaces=cell.records.placements.intent_revision(server.uid))
        if before is None or before.verdict.answer != Verdict.WAITING:
            PLACEMENTS.labels("waiting").inc()
            told = Happened("WAITING", said.message, WARNING, said.fix, said.operator_message)
            cell.reporter.events.add(change, Subject(server.name, server.uid), told, now)
        await cell.ledger.commit(change)

    def policy(self) -> Policy:
        kept = self._cell.records.policies.get(POLICY_UID)
        if kept is None:
            return Policy()
        return Policy(kept.vcpu_ratio, kept.memory_ratio, kept.memory_reserve_mib)

    def _read(self, host_uid: str) -> HostRead:
        records = self._cell.records
        host = records.hosts.get(host_uid)
        if host is None:
            raise Unavailable("HOST_UNKNOWN", f"host {host_uid} is gone", fix="wait: another one is chosen", host_uid=host_uid)
        booking, revision = records.bookings.get(host_uid), records.bookings.intent_revision(host_uid)
        return HostRead(host, records.hosts.intent_revision(host_uid), booking, revision)

    def _refresh_all(self) -> None:
        for uid in self._cell.records.hosts.uids():
            self._refresh(uid)

    def _refresh(self, host_uid: str) -> None:
        """Make the row of one host what the records and the pending choices say, and wake who may fit now."""
        before = self._table.get(host_uid)
        host = self._cell.records.hosts.get(host_uid)
        if host is None:
            self._table.remove(host_uid)
            return
        self._table.put(row_of(host, self._cell.records.bookings.get(host_uid), self.policy()))
        for uid, vcpus, memory_mib in self._pending.values():
            if uid == host_uid:
                self._table.claim(uid, vcpus, memory_mib)
        after = self._table.get(host_uid)
        if after is not None and _has_more_room(before, after):
            self._wake_waiting()

    def _wake_waiting(self) -> None:
        waiting = [one for one in self._waiting() if one.request.uid not in self._pending]
        for uid in fitting_now(self._table.rows(), waiting, _MOST_WOKEN) if waiting else ():
            self._wake(uid)

    def _request(self, server: Server) -> Request:
        pool = self._cell.records.pools.get(server.spec.pool_uid)
        reach = frozenset(pool.spec.hosts) if pool is not None else frozenset()
        return Request(server.uid, server.spec.vcpus, server.spec.memory_mib, reach)

    def _waiting(self) -> Iterable[Waiting]:
        records = self._cell.records
        for placement in records.placements.find("waiting", "yes"):
            server, order = records.servers.get(placement.uid), records.orders.get(placement.uid)
            if server is not None and order is not None:
                yield Waiting(self._request(server), order.project_uid, placement.waiting_since.ToNanoseconds() / 1e9)


def _next_host_epoch(before: Placement | None, cell_epoch: int) -> int:
    """From 1 again under each cell epoch."""
    return before.epoch.host + 1 if before is not None and before.epoch.cell == cell_epoch else 1


def _chosen(host: str, explanation: Explanation | None) -> str:
    if explanation is None:
        return f"host {host} has it already"
    return f"host {host} was chosen; {explanation.for_operator()}"


def _has_more_room(before: Host | None, after: Host) -> bool:
    if not (after.up and after.runs_servers) or after.cordoned:
        return False
    if before is None or not before.up or before.cordoned or not before.runs_servers:
        return True
    vcpus = (after.vcpus_limit - after.vcpus_claimed) - (before.vcpus_limit - before.vcpus_claimed)
    memory_mib = (after.memory_limit_mib - after.memory_claimed_mib) - (before.memory_limit_mib - before.memory_claimed_mib)
    return vcpus > 0 or memory_mib > 0
