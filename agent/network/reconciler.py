"""Makes the host's networks and ports what the last commands say, one at a time, and reports each port. Decides by plan.py.

What is there and nobody wants is removed by the audit.
"""

import socket
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Protocol

from prometheus_client import Counter

from agent.guest.files import GuestFiles, NetworkPlace
from agent.guest.handover import DHCP
from agent.network import desired, names, plan
from agent.network.driver import RULES, Driver
from agent.network.facts import Reports
from agent.network.plan import Network, ObservedNetwork, ObservedPort, Port
from agent.stamps import Commands
from kumo.api.agent.v1.network_pb2 import ApplyNetworkRequest, ApplyPortRequest, PortFacts
from kumo.api.type.v1.stamp_pb2 import Stamp
from kumo.errors import Error, Unavailable
from kumo.log import get_logger
from kumo.loop import Loop

log = get_logger(__name__)

STEPS = Counter("kumo_network_steps_total", "Steps taken to make networks and ports what they shall be.", ["step"])

_AUDIT, _RULES = "audit", "rules"
_NETWORK, _PORT = "network/", "port/"
# More steps than any thing has pieces: whoever needs more is not converging.
_MOST_STEPS = 20
# Networks that are told to go in one breath with their ports, and so on, in how many seconds to look again.
_LOOK_AGAIN_S = 5.0


class Responder(Protocol):
    """What is needed of the process that answers guests. It may be away: then it finds all in its files when it starts."""

    async def held(self) -> frozenset[str] | None:
        """Return the bridges whose guests it listens to, and DHCP; None when it does not run."""

    async def give(self, name: str, heard: socket.socket) -> None:
        """Hand over a socket: DHCP's, or that of the bridge of that name. It may be closed afterwards."""

    async def drop(self, name: str) -> None: ...


class NetworkReconciler:
    """The network role of one host. start() comes before run(), and both after the commands were loaded."""

    def __init__(
        self,
        driver: Driver,
        files: GuestFiles,
        responder: Responder,
        networks: Commands[ApplyNetworkRequest],
        ports: Commands[ApplyPortRequest],
        *,
        on_facts: Callable[[PortFacts], None],
        on_known: Callable[[], None] = lambda: None,
        is_certain: Callable[[], bool] = lambda: True,
    ) -> None:
        """`on_known` is called once, when all ports that were held at the start have been looked at. `is_certain` says whether all
        commands could be read: while it does not, nothing is removed for being unwanted.
        """
        self._driver = driver
        self._files = files
        self._responder = responder
        self._networks = networks
        self._ports = ports
        self._on_known = on_known
        self._is_certain = is_certain
        self._unknown: set[str] = set()
        self._reports = Reports(on_facts)
        self._loop = Loop("network", self._reconcile, keys=self._keys, workers=4)

    async def start(self) -> None:
        """Bring the rules of all ports into force, before anything else happens."""
        self._files.prepare()
        self._unknown = set(self._ports.held)
        ports = [port for uid in self._ports.held if (port := self._wanted_port(uid)) is not None]
        await self._driver.open(ports, self._tunnel_addresses(), self._on_change, keep=not self._is_certain())
        if not self._unknown:
            self._on_known()

    async def _give_dhcp(self) -> None:
        """A responder that started before there was a data plane could not listen in it."""
        held = await self._responder.held()
        if held is not None and DHCP not in held:
            with await self._driver.open_dhcp() as heard:
                await self._responder.give(DHCP, heard)

    async def run(self) -> None:
        """Work until cancelled."""
        await self._loop.run()

    async def close(self) -> None:
        await self._driver.close()

    async def apply_network(self, command: ApplyNetworkRequest, within_s: float | None = None) -> Stamp:
        """Keep a command and answer with the stamp that is held. Raises FailedPrecondition for what cannot be."""
        desired.check_network(command, self._networks.held)
        await self._networks.accept(command, within_s)
        self._loop.add(_NETWORK + command.uid)
        return self._networks.held[command.uid].stamp

    async def apply_port(self, command: ApplyPortRequest, within_s: float | None = None) -> PortFacts:
        """Keep a command and answer with what is so of the port now. Raises FailedPrecondition for what cannot be."""
        desired.check_port(command, self._ports.held)
        await self._ports.accept(command, within_s)
        self._loop.add(_PORT + command.uid)
        return self._reports.of(command.uid, self._ports.held[command.uid].stamp)

    def facts(self) -> list[PortFacts]:
        """Return what is so of each port that a command is held of."""
        return [self._reports.of(uid, command.stamp) for uid, command in self._ports.held.items()]

    def is_bound(self, port_uid: str) -> bool:
        """Return whether a server with this port may start: the port's rules are in force."""
        command = self._ports.held.get(port_uid)
        return command is not None and self._reports.of(port_uid, command.stamp).binding == PortFacts.BOUND

    def tap_of(self, port_uid: str) -> str:
        return names.tap(port_uid)

    def _keys(self) -> Iterator[str]:
        # Networks first: ports of a network that is not here yet would only be told to wait for it.
        yield from (_NETWORK + uid for uid in self._networks.held)
        yield from (_PORT + uid for uid in self._ports.held)
        yield _AUDIT

    def _on_change(self, what: str | None) -> None:
        if what is None:
            for key in self._keys():
                self._loop.add(key)
        elif what == RULES:
            self._loop.add(_RULES)
        elif what.startswith(names.TAP):
            self._wake((uid for uid in self._ports.held if names.tap(uid) == what), _PORT)
        elif (vni := names.vni_of(what)) is not None:
            self._wake((uid for uid, command in self._networks.held.items() if command.desired.vni == vni), _NETWORK)

    def _wake(self, uids: Iterable[str], kind: str) -> None:
        for uid in uids:
            self._loop.add(kind + uid)

    async def _reconcile(self, key: str) -> float | None:
        if key == _RULES:
            await self._driver.mend_rules()
            return None
        if key == _AUDIT:
            await self._audit()
            return None
        uid = key.partition("/")[2]
        if key.startswith(_NETWORK):
            return await self._reconcile_network(uid)
        return await self._reconcile_port(uid)

    # ---- networks

    def _wanted_network(self, uid: str) -> Network | None:
        command = self._networks.held.get(uid)
        return desired.network(uid, command.desired) if command is not None and command.HasField("desired") else None

    def _tunnel_addresses(self) -> frozenset[str]:
        wanted = (self._wanted_network(uid) for uid in self._networks.held)
        return frozenset[str]().union(*(network.tunnel_addresses() for network in wanted if network is not None))

    def _ports_on(self, network_uid: str) -> list[str]:
        held = self._ports.held.items()
        return [uid for uid, command in held if command.HasField("desired") and command.desired.network_uid == network_uid]

    async def _reconcile_network(self, uid: str) -> float | None:
        wanted = self._wanted_network(uid)
        if wanted is None:
            return await self._remove_network(uid)
        changed = False
        for _ in range(_MOST_STEPS):
            observed = await self._observe_network(wanted)
            step = plan.plan_network(wanted, observed)
            if step is None:
                if changed:
                    log.info("network in place", network=uid, vni=wanted.vni)
                self._wake((port for port in self._ports_on(uid) if changed or not self.is_bound(port)), _PORT)
                return None
            await self._take_network_step(wanted, step)
            changed = True
        raise Unavailable("NETWORK_NOT_SETTLING", f"network {uid} is not as it shall be after {_MOST_STEPS} steps", network=uid)

    async def _observe_network(self, network: Network) -> ObservedNetwork:
        observed = await self._driver.observe_network(network)
        held = await self._responder.held()
        return replace(
            observed,
            recorded=self._files.networks().get(network.uid) == self._place(network),
            served=held is None or names.bridge(network.vni) in held,
        )

    def _place(self, network: Network) -> NetworkPlace:
        return NetworkPlace(names.bridge(network.vni), network.vni, self._driver.metadata_namespace(network.vni))

    async def _take_network_step(self, network: Network, step: plan.NetworkStep) -> None:
        STEPS.labels(type(step).__name__).inc()
        match step:
            case plan.MakeBridge():
                await self._driver.make_bridge(network)
            case plan.MakeTunnel():
                await self._driver.make_tunnel(network)
            case plan.MakeMetadata():
                await self._driver.make_metadata(network)
                # A socket that listens in a namespace of before, or on an address that was away, is of no use.
                await self._responder.drop(names.bridge(network.vni))
            case plan.ChangeEntries(added, removed):
                await self._driver.change_entries(network, added, removed)
                if removed:
                    self._loop.add(_AUDIT)  # their host may be nobody's host any more
            case plan.AdmitTunnels():
                await self._driver.admit_tunnels(self._tunnel_addresses())
            case plan.Record():
                self._files.write_network(network.uid, self._place(network))
            case plan.Serve():
                with await self._driver.open_listener(network.vni) as listener:
                    await self._responder.give(names.bridge(network.vni), listener)
            case plan.RemoveNetwork():
                await self._driver.remove_network(network.vni)

    async def _remove_network(self, uid: str) -> float | None:
        """Remove what the record of a network says is here, the record last."""
        place = self._files.networks().get(uid)
        if place is None:
            return None
        if self._ports_on(uid):
            return _LOOK_AGAIN_S  # its ports are told to go in commands of their own
        if place.vni not in self._wanted_vnis():
            gone = Network(uid, place.vni, 0, ())
            await self._responder.drop(place.bridge)
            if plan.plan_network(None, await self._driver.observe_network(gone)) is not None:
                await self._driver.remove_network(place.vni)
        self._files.remove_network(uid)
        self._loop.add(_AUDIT)  # whose tunnels are admitted depends on all networks together
        log.info("network removed", network=uid, vni=place.vni)
        return None

    def _wanted_vnis(self) -> set[int]:
        return {command.desired.vni for command in self._networks.held.values() if command.HasField("desired")}

    # ---- ports

    def _wanted_port(self, uid: str) -> Port | None:
        """Return what a port shall be; None when it shall not be here, or when its network is not known yet."""
        command = self._ports.held.get(uid)
        if command is None or not command.HasField("desired"):
            return None
        on = self._networks.held.get(command.desired.network_uid)
        return desired.port(uid, command.desired, on.desired) if on is not None and on.HasField("desired") else None

    async def _reconcile_port(self, uid: str) -> float | None:
        command = self._ports.held.get(uid)
        if command is None:
            self._reports.forget(uid)
            self._looked_at(uid)
            return None
        if command.HasField("desired") and self._wanted_port(uid) is None:
            self._reports.unbound(uid, command.stamp, "NETWORK_NOT_APPLIED", "the network of the port is not on this host yet")
            self._looked_at(uid)
            return None
        try:
            await self._settle_port(uid)
        except (Error, OSError) as error:
            reason, why = (error.reason, error.message) if isinstance(error, Error) else ("KERNEL_REFUSED", str(error))
            self._reports.failed(uid, command.stamp, reason, why)
            raise
        finally:
            self._looked_at(uid)
        return None

    def _looked_at(self, uid: str) -> None:
        if uid in self._unknown:
            self._unknown.discard(uid)
            if not self._unknown:
                self._on_known()

    async def _settle_port(self, uid: str) -> None:
        for _ in range(_MOST_STEPS):
            wanted = self._wanted_port(uid)
            observed = await self._observe_port(uid, wanted)
            stamp = self._ports.held[uid].stamp
            if wanted is not None and observed.bound:
                self._reports.bound(uid, stamp, plugged=observed.tap is plan.Tap.PLUGGED)
            match plan.plan_port(wanted, observed):
                case None if wanted is None:
                    self._reports.absent(uid, stamp)
                    return
                case None:
                    return
                case plan.AwaitNetwork():
                    self._reports.unbound(uid, stamp, "NETWORK_NOT_READY", "the network of the port is being made on this host")
                    return
                case step:
                    await self._take_port_step(uid, wanted, step)
        raise Unavailable("PORT_NOT_SETTLING", f"port {uid} is not as it shall be after {_MOST_STEPS} steps", port=uid)

    async def _observe_port(self, uid: str, wanted: Port | None) -> ObservedPort:
        observed = await self._driver.observe_port(names.tap(uid), wanted)
        found = self._files.port(uid)
        if wanted is None:
            return replace(observed, anything=observed.anything or found is not None)
        told = desired.answer(wanted)
        return replace(observed, answer=desired.compare(told, found, self._files.port_is(told)))

    async def _take_port_step(self, uid: str, wanted: Port | None, step: plan.PortStep) -> None:
        STEPS.labels(type(step).__name__).inc()
        if isinstance(step, plan.RemovePort):
            await self._remove_port(uid)
            return
        assert wanted is not None
        match step:
            case plan.PutAnswer():
                self._files.write_port(desired.answer(wanted))
            case plan.PutReachable():
                await self._driver.put_reachable(wanted)
            case plan.PutRules():
                await self._driver.put_rules(wanted)
            case plan.Admit():
                await self._driver.admit(wanted)
            case plan.Plug():
                await self._driver.plug(wanted)
            case plan.AwaitNetwork():
                pass

    async def _remove_port(self, uid: str) -> None:
        """Take the tap off first; the file that says what else there is goes last."""
        await self._driver.remove_tap(names.tap(uid))
        found = self._files.port(uid)
        if found is not None:
            vni = names.vni_of(found.bridge)
            if vni is not None:
                await self._driver.remove_reachable(vni, found.address)
        self._files.remove_port(uid)
        log.info("port removed", port=uid)

    # ---- what nobody wants

    async def _audit(self) -> None:
        await self._driver.mend_rules()
        self._reports.forget_all_but(self._ports.held)
        await self._give_dhcp()
        found = await self._driver.inventory()
        if not self._is_certain():
            return
        if found.tunnel_addresses != self._tunnel_addresses():
            await self._driver.admit_tunnels(self._tunnel_addresses())
        taps = {names.tap(uid) for uid in self._ports.held}
        for tap in (found.taps | found.guarded | found.admitted) - taps:
            log.warning("unwanted tap taken off", tap=tap)
            await self._driver.remove_tap(tap)
        for uid in self._files.port_uids() - self._ports.held.keys():
            await self._remove_port(uid)
        recorded = self._files.networks()
        for uid in recorded.keys() - self._networks.held.keys():
            await self._remove_network(uid)
        for vni in found.vnis - self._wanted_vnis() - {place.vni for place in recorded.values()}:
            log.warning("unwanted network removed", vni=vni)
            await self._driver.remove_network(vni)
