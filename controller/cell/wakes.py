"""Says which reconcilers look again when a record or a fact changes. It knows who depends on whom, and nothing else."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from controller.cell.agents import Agents
from controller.cell.records import Records
from controller.cell.strangers import Strangers
from kumo.loop import Loop


@dataclass(frozen=True)
class Loops:
    """One loop a noun, with the uids of its things as keys; `acknowledgements` have those of hosts, `ends` those
    of ended things, `audits` those of pools."""

    servers: Loop
    volumes: Loop
    attachments: Loop
    ports: Loop
    networks: Loop
    images: Loop
    pools: Loop
    hosts: Loop
    acknowledgements: Loop
    ends: Loop
    audits: Loop

    def all(self) -> tuple[Loop, ...]:
        return (
            self.servers,
            self.volumes,
            self.attachments,
            self.ports,
            self.networks,
            self.images,
            self.pools,
            self.hosts,
            self.acknowledgements,
            self.ends,
            self.audits,
        )


class Wakes:
    """Adds keys to loops. It is a session's Listener too."""

    def __init__(self, records: Records, strangers: Strangers) -> None:
        self._records, self._strangers = records, strangers
        self._loops: Loops | None = None
        self._agents: Agents | None = None

    def follow(self, loops: Loops, agents: Agents) -> None:
        """Wake `loops` from now on."""
        self._loops, self._agents = loops, agents
        records = self._records
        # Who wrote a status need not look again because of it: those who wait for it are woken.
        for view, woken in (
            (records.servers, self._server),
            (records.volumes, self._volume),
            (records.attachments, self._attachment),
            (records.ports, self._port),
            (records.networks, self._network),
            (records.images, self._image),
            (records.pools, self._pool),
            (records.placements, self._server),
            (records.orders, self._order),
            (records.ends, self._end),
        ):
            view.on_intent(woken)
        records.volumes.on_status(self._attached)
        records.images.on_status(self._cloned)
        records.hosts.on_intent(loops.hosts.add)
        records.bookings.on_intent(loops.hosts.add)
        records.stagings.on_intent(loops.images.add)

    def host_changed(self, host_uid: str) -> None:
        if self._loops is None or self._agents is None:
            return
        self._loops.hosts.add(host_uid)
        self._loops.acknowledgements.add(host_uid)
        for placement in self._records.placements.find("host", host_uid):
            self._server(placement.uid)
        for carriers in self._records.carriers.find("host", host_uid):
            self._loops.networks.add(carriers.uid)
        # Work on shared storage waits for any host that answers: the first one that does has all of it woken.
        if [session.host_uid for session in self._agents.all() if session.has_role("storage")] == [host_uid]:
            for loop, view in (
                (self._loops.volumes, self._records.volumes),
                (self._loops.images, self._records.images),
                (self._loops.pools, self._records.pools),
            ):
                _add(loop.add, view.uids())

    def server_changed(self, host_uid: str, uid: str, *, is_gone: bool) -> None:
        self._strangers.note(host_uid, uid)
        if self._loops is None:
            return
        if is_gone:
            self._server(uid)
            self._loops.acknowledgements.add(host_uid)
            return
        self._loops.servers.add(uid)
        for attachment in self._records.attachments.find("server", uid):
            self._loops.attachments.add(attachment.uid)

    def port_changed(self, host_uid: str, uid: str, *, is_gone: bool) -> None:
        self._strangers.note(host_uid, uid)
        if self._loops is None:
            return
        self._loops.ports.add(uid)
        port = self._records.ports.get(uid)
        if port is not None:
            self._loops.servers.add(port.spec.server_uid)
        if is_gone:
            self._loops.acknowledgements.add(host_uid)
            if port is not None:
                self._loops.networks.add(port.spec.network_uid)

    def image_touched(self, uid: str) -> None:
        """Some bytes of an image arrived."""
        if self._loops is not None:
            self._loops.images.add(uid)

    def wake_server(self, uid: str) -> None:
        if self._loops is not None:
            self._loops.servers.add(uid)

    def _server(self, uid: str) -> None:
        """A server, its placement or what its host says of it: all that belongs to it may have to move."""
        if self._loops is None:
            return
        self._loops.servers.add(uid)
        for attachment in self._records.attachments.find("server", uid):
            self._loops.attachments.add(attachment.uid)
            self._loops.volumes.add(attachment.spec.volume_uid)
        for volume in self._records.volumes.find("owner", uid):
            self._loops.volumes.add(volume.uid)
        for port in self._records.ports.find("server", uid):
            self._loops.ports.add(port.uid)
            self._loops.networks.add(port.spec.network_uid)

    def _volume(self, uid: str) -> None:
        if self._loops is None:
            return
        self._loops.volumes.add(uid)
        self._attached(uid)

    def _attached(self, volume_uid: str) -> None:
        """Whether a volume is ready: its servers wait for it."""
        if self._loops is None:
            return
        for attachment in self._records.attachments.find("volume", volume_uid):
            self._loops.servers.add(attachment.spec.server_uid)

    def _attachment(self, uid: str) -> None:
        attachment = self._records.attachments.get(uid)
        if self._loops is None:
            return
        self._loops.attachments.add(uid)
        if attachment is not None:
            self._loops.servers.add(attachment.spec.server_uid)
            self._loops.volumes.add(attachment.spec.volume_uid)

    def _port(self, uid: str) -> None:
        if self._loops is None:
            return
        self._loops.ports.add(uid)
        port = self._records.ports.get(uid)
        if port is not None:
            self._loops.networks.add(port.spec.network_uid)
            self._loops.servers.add(port.spec.server_uid)

    def _network(self, uid: str) -> None:
        if self._loops is None:
            return
        self._loops.networks.add(uid)
        for port in self._records.ports.find("network", uid):
            self._loops.ports.add(port.uid)
            self._loops.servers.add(port.spec.server_uid)

    def _image(self, uid: str) -> None:
        if self._loops is None:
            return
        self._loops.images.add(uid)
        self._cloned(uid)

    def _cloned(self, image_uid: str) -> None:
        """Whether an image is ready: volumes that are cloned from it wait for it."""
        if self._loops is None:
            return
        for volume in self._records.volumes.find("image", image_uid):
            self._loops.volumes.add(volume.uid)

    def _pool(self, uid: str) -> None:
        if self._loops is None:
            return
        self._loops.pools.add(uid)
        for volume in self._records.volumes.find("pool", uid):
            self._volume(volume.uid)
        for image in self._records.images.find("pool", uid):
            self._loops.images.add(image.uid)

    def _order(self, uid: str) -> None:
        """What the region ordered besides the intent: a withdrawal, the subnets of a network."""
        order = self._records.orders.get(uid)
        if order is None:
            return
        by_kind = {
            "server": self._server,
            "volume": self._volume,
            "attachment": self._attachment,
            "port": self._port,
            "network": self._network,
            "image": self._image,
            "pool": self._pool,
        }
        by_kind[order.kind](uid)

    def _end(self, uid: str) -> None:
        """Something is gone: what waited for that looks again."""
        if self._loops is None or self._agents is None:
            return
        self._loops.ends.add(uid)
        end = self._records.ends.get(uid)
        if end is None:
            return
        if end.server_uid:
            self._loops.servers.add(end.server_uid)
        if end.kind in ("server", "port"):
            for session in self._agents.that_saw(uid):
                self._loops.acknowledgements.add(session.host_uid)
        if end.kind in ("volume", "image"):
            _add(self._loops.pools.add, self._records.pools.uids())


def _add(add: Callable[[str], None], uids: Iterable[str]) -> None:
    for uid in uids:
        add(uid)
