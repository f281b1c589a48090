"""The connection of this process to one cell: finds the leader among the cell's controllers, and opens the channel anew when it moves.

It repeats nothing but what certainly was not begun: a controller refused it because it does not lead, or could not be reached at all.
"""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TypeVar

import grpc

from kumo.errors import Error, FailedPrecondition, Unavailable
from kumo.identity import Identity
from kumo.log import get_logger
from kumo.rpc.client import channel
from kumo.rpc.status import PEER_UNAVAILABLE
from kumo.tls import TlsFiles

log = get_logger(__name__)

T = TypeVar("T")
NOT_LEADER, LEADERLESS = "NOT_LEADER", "CELL_LEADERLESS"
# gRPC's words for a call of which nothing was sent.
_NOT_CONNECTED = "failed to connect"


class Link:
    """`controllers` are the cell's, address by host. Made once a cell and closed with the process."""

    def __init__(self, cell: str, region: str, controllers: dict[str, str], tls: TlsFiles) -> None:
        self.cell = cell
        self._region, self._tls = region, tls
        self.controllers = controllers
        self._controllers = list(controllers.items())
        self._at = 0
        self._channel: grpc.aio.Channel | None = None

    async def call(self, make: Callable[[grpc.aio.Channel], Awaitable[T]]) -> T:
        """Return what `make` returns on a channel to the leader; each controller is asked once. Raises kumo.errors."""
        for _ in self._controllers:
            channel = self.channel()
            try:
                return await make(channel)
            except Error as error:
                if not await self._moved_on(error, channel):
                    raise
        raise self._leaderless()

    @asynccontextmanager
    async def stream(self) -> AsyncIterator[grpc.aio.Channel]:
        """Give a channel for a stream; if that fails because its controller does not lead, or is away, the next one goes elsewhere."""
        channel = self.channel()
        was_connected = channel.get_state() is grpc.ChannelConnectivity.READY
        try:
            yield channel
        except Error as error:
            if await self._moved_on(error, channel):
                raise self._leaderless() from error
            raise
        except TimeoutError:
            # It may be frozen in such a way that its connection is not; one that had to be connected to first is only far away.
            if was_connected and channel is self._channel:
                await self._turn("")
            raise

    async def _moved_on(self, error: Error, channel: grpc.aio.Channel) -> bool:
        """Turn to another controller if `error` says that this one does not lead or is away; True if what was asked was not begun.

        What a leader refuses for reasons of its own moves nothing: others use the channel. Nor does an error on an earlier channel.
        """
        is_follower = isinstance(error, FailedPrecondition) and error.reason == NOT_LEADER
        is_away = error.reason == PEER_UNAVAILABLE
        if (is_follower or is_away) and channel is self._channel:
            await self._turn(error.metadata.get("address", ""))
        return is_follower or (is_away and _NOT_CONNECTED in error.message)

    def channel(self) -> grpc.aio.Channel:
        """Return the channel to the controller that is believed to lead."""
        if self._channel is None:
            host, address = self._controllers[self._at]
            name = Identity(self.cell, self._region, "controller", host).dns
            self._channel = channel(address, self._tls.read(), server_name=name)
        return self._channel

    async def close(self) -> None:
        opened, self._channel = self._channel, None
        if opened is not None:
            await opened.close(None)

    async def _turn(self, leader: str) -> None:
        """Go to the controller at the address `leader`, or to the next one."""
        addresses = [address for _, address in self._controllers]
        at = addresses.index(leader) if leader in addresses else (self._at + 1) % len(addresses)
        if at != self._at or len(addresses) == 1:
            self._at = at
            await self.close()

    def _leaderless(self) -> Unavailable:
        return Unavailable(LEADERLESS, f"no controller of cell {self.cell} leads now", fix="try again in a few seconds", cell=self.cell)


class Links:
    """The links of this process, by cell."""

    def __init__(self, region: str, cells: dict[str, dict[str, str]], tls: TlsFiles) -> None:
        self._links = {cell: Link(cell, region, controllers, tls) for cell, controllers in cells.items()}

    def to(self, cell: str) -> Link:
        """Raises FailedPrecondition for a cell that this region does not have."""
        link = self._links.get(cell)
        if link is None:
            known = ", ".join(self._links) or "none"
            raise FailedPrecondition("CELL_UNKNOWN", f"there is no cell {cell}", fix=f"name one of {known}", cell=cell)
        return link

    def all(self) -> list[Link]:
        return list(self._links.values())

    async def close(self) -> None:
        for link in self._links.values():
            await link.close()
