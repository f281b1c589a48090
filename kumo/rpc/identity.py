"""Answers one question: who is calling? On a public listener a function of the wiring says it, between processes the certificate does."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import grpc

from kumo.errors import PermissionDenied, Unauthenticated
from kumo.identity import Identity
from kumo.rpc.call import Audience, Principal

# The context is generic in the messages of the method, which say nothing here.
Context = grpc.aio.ServicerContext[Any, Any]
PrincipalOf = Callable[[Context], Principal]

OPERATOR = Principal("operator", Audience.OPERATOR)


def everyone_is_operator(_context: Context) -> Principal:
    """Take everybody who reaches the loopback listener for the operator, until there are tokens."""
    return OPERATOR


@dataclass(frozen=True)
class PeerRule:
    """Which peers may call: those of this role in this cell ("region" for the region's own) of this region."""

    cell: str
    region: str
    role: str = "controller"

    def admits(self, identity: Identity) -> bool:
        return (identity.cell, identity.region, identity.role) == (self.cell, self.region, self.role)


class Peers:
    """Takes the principal from the certificate of the connection; asked anew in each call, because connections outlive certificates."""

    def __init__(self, rules: Iterable[PeerRule], is_removed: Callable[[Identity], bool] | None = None) -> None:
        """`is_removed` says of a peer, at each call, whether it was taken out of the cloud since it connected."""
        self._rules = tuple(rules)
        self._is_removed = is_removed
        self._known: dict[bytes, tuple[Identity, Principal]] = {}

    def __call__(self, context: Context) -> Principal:
        """Raises Unauthenticated without a certificate of ours, PermissionDenied if no rule admits its holder."""
        uris = tuple(context.auth_context().get("peer_spiffe_id", ()))
        if len(uris) != 1:
            raise Unauthenticated(
                "PEER_UNKNOWN",
                "the connection carries no client certificate with one Kumo identity",
                fix="dial with the certificate of this process",
            )
        known = self._known.get(uris[0])
        if known is None:
            known = self._known[uris[0]] = self._admit(uris[0].decode(errors="replace"))
        identity, principal = known
        if self._is_removed is not None and self._is_removed(identity):
            raise PermissionDenied("PEER_REMOVED", f"{identity.uri} was removed from this cloud", peer=identity.uri)
        return principal

    def _admit(self, uri: str) -> tuple[Identity, Principal]:
        identity = Identity.parse(uri)
        if identity is None or not any(rule.admits(identity) for rule in self._rules):
            allowed = ", ".join(f"{rule.role} of {rule.cell}.{rule.region}" for rule in self._rules)
            raise PermissionDenied("PEER_NOT_ADMITTED", f"{uri} may not call here; admitted: {allowed}", peer=uri)
        return identity, Principal(uri, Audience.INTERNAL)
