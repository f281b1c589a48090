"""Answers kumo.api.cell.v1.Hosts: hosts are the cell's own, and an operator changes them here, through the region or without it."""

from collections.abc import Callable
from ipaddress import ip_address

from google.protobuf.field_mask_pb2 import FieldMask
from protovalidate import Validator

from controller.cell.cell import Cell
from controller.cell.leadership import Leadership
from controller.cell.ledger import STATUS
from kumo.api.cell.v1.cell_pb2 import CreateHostRequest, DeleteHostRequest, UpdateHostRequest
from kumo.api.cell.v1.cell_pb2_grpc import HostsServicer
from kumo.api.cell.v1.record_pb2 import Booking, End
from kumo.api.fleet.v1.host_pb2 import Host
from kumo.errors import Aborted, AlreadyExists, FailedPrecondition, InvalidArgument, NotFound
from kumo.ids import new_uid
from kumo.log import get_logger
from kumo.rpc.identity import Context
from kumo.rpc.validate import path_of
from kumo.store.record import Etags, intent_of, serialized
from kumo.store.v1.values_pb2 import Request

log = get_logger(__name__)

_FIELDS = ("agent_address", "tunnel_address", "storage_address", "migration_address", "cordoned")
_LISTED = 20
_VALIDATOR = Validator()


class Hosts(HostsServicer):
    """Every method raises FailedPrecondition NOT_LEADER on a controller that does not lead the cell."""

    def __init__(self, leadership: Leadership) -> None:
        self._leadership = leadership

    async def CreateHost(self, request: CreateHostRequest, context: Context) -> Host:
        cell, asked = self._leadership.term().cell, request.request
        name = f"hosts/{asked.host_id}"
        if asked.host.spec.cell != cell.name:
            raise InvalidArgument("CELL_MISMATCH", f"this is cell {cell.name}, not {asked.host.spec.cell}", field="host.spec.cell")
        host = Host(name=name, uid=new_uid(), generation=1, spec=asked.host.spec, labels=asked.host.labels)
        fingerprint = serialized(intent_of(_without_identity(host)))
        request_key = cell.ledger.keys.raw(f"request/hosts/{asked.request_id}")
        if asked.request_id and (known := await self._answered(cell, request_key, fingerprint)) is not None:
            return known
        if _by_name(cell, name) is not None:
            raise AlreadyExists("ALREADY_EXISTS", f"{name} already exists", fix="choose another name", name=name)
        _check_tunnel(cell, host)
        now = cell.now()
        host.create_time.FromDatetime(now)
        host.update_time.FromDatetime(now)
        if asked.validate_only:
            return host
        change = cell.ledger.change()
        change.put(host, replaces=0)
        change.claim_name(host, name)
        if asked.request_id:
            answered = Request(uid=host.uid, fingerprint=fingerprint)
            answered.time.FromDatetime(now)
            change.changes.put(request_key, answered.SerializeToString())
        await cell.ledger.commit(change)
        log.info("host created", host=name)
        return _read(cell, host.uid)

    async def UpdateHost(self, request: UpdateHostRequest, context: Context) -> Host:
        cell, asked = self._leadership.term().cell, request.request
        host = _find(cell, asked.host.name, asked.host.etag)
        changed = Host()
        changed.CopyFrom(host)
        changed.ClearField("status")
        changed.ClearField("etag")
        _apply(changed, asked.host, asked.update_mask)
        before = Host.FromString(_entry(cell, host.uid))
        if serialized(changed) == serialized(before):
            return host
        _check(changed)
        _check_tunnel(cell, changed)
        changed.generation += int(changed.spec != before.spec)
        changed.update_time.FromDatetime(cell.now())
        if asked.validate_only:
            return changed
        change = cell.ledger.change()
        change.put(changed, replaces=cell.records.hosts.intent_revision(host.uid))
        await cell.ledger.commit(change)
        log.info("host changed", host=host.name, cordoned=changed.spec.cordoned)
        return _read(cell, host.uid)

    async def DeleteHost(self, request: DeleteHostRequest, context: Context) -> Host:
        """A host goes at once: nothing is placed on it, so that nothing has to be taken away first."""
        cell, asked = self._leadership.term().cell, request.request
        host = _find(cell, asked.name, asked.etag)
        _check_unused(cell, host)
        host.delete_time.FromDatetime(cell.now())
        if asked.validate_only:
            return host
        hosts = cell.records.hosts
        change = cell.ledger.change()
        change.delete(Host, host.uid, replaces=hosts.intent_revision(host.uid))
        if hosts.status_revision(host.uid):
            change.delete(Host, host.uid, STATUS, replaces=hosts.status_revision(host.uid))
        # A claim that is being made writes this key first, and is refused by the host's own if it comes second.
        change.guard(Booking, host.uid, "intent", 0)
        change.free_name(host, host.name)
        end = End(name=host.name, uid=host.uid, kind="host")
        end.end_time.FromDatetime(cell.now())
        change.put(end, replaces=0)
        await cell.ledger.commit(change)
        log.info("host deleted", host=host.name)
        return host

    async def _answered(self, cell: Cell, key: bytes, fingerprint: bytes) -> Host | None:
        """Return what the same request made before, or None. Raises InvalidArgument if its id was another request's."""
        item = await cell.ledger.read(key)
        if item is None:
            return None
        known = Request.FromString(item.value)
        if known.fingerprint != fingerprint:
            raise InvalidArgument("REQUEST_ID_REUSED", "this request_id was another request's", field="request_id", fix="use a fresh one")
        return _read(cell, known.uid) if cell.records.hosts.entry(known.uid) is not None else None


def _by_name(cell: Cell, name: str) -> Host | None:
    found = cell.records.hosts.find("name", name)
    return _read(cell, found[0].uid) if found else None


def _read(cell: Cell, uid: str) -> Host:
    host = cell.records.hosts.get(uid)
    if host is None:
        raise NotFound("NOT_FOUND", f"there is no host {uid}", uid=uid)
    host.etag = Etags(cell.ledger.term.incarnation).of(cell.records.hosts.intent_revision(uid))
    return host


def _entry(cell: Cell, uid: str) -> bytes:
    entry = cell.records.hosts.entry(uid)
    return entry.intent if entry is not None else b""


def _find(cell: Cell, name: str, etag: str) -> Host:
    host = _by_name(cell, name)
    if host is None:
        raise NotFound("NOT_FOUND", f"{name} does not exist", name=name)
    if etag and etag != host.etag:
        raise Aborted("ETAG_STALE", f"{name} was changed since it was read", fix="read it again and repeat", name=name)
    return host


def _check_unused(cell: Cell, host: Host) -> None:
    claims = cell.records.claims.find("host", host.uid)
    if not claims:
        return
    names = sorted({claim.name for claim in claims})
    listed = ", ".join(names[:_LISTED]) + (f" and {len(names) - _LISTED} more" if len(names) > _LISTED else "")
    message = f"servers are placed on {host.name}: {listed}"
    raise FailedPrecondition("REFERENCED", message, fix="delete those first", name=host.name, referrers=listed, count=len(names))


def _check(host: Host) -> None:
    """Raise InvalidArgument if the host as changed breaks a rule of the contract: the listener looked at the request alone."""
    violations = _VALIDATOR.collect_violations(host)
    if violations:
        field = f"host.{path_of(violations[0])}"
        raise InvalidArgument("FIELD_INVALID", f"{field} {violations[0].proto.message}", field=field, fix="change that field")


def _check_tunnel(cell: Cell, host: Host) -> None:
    """Raise FailedPrecondition if tunnels to other hosts of the cell could not be: both ends are IPv4, or both IPv6."""
    # All others have one family, so that any of them tells it.
    other = next((found for uid in cell.records.hosts.uids() if uid != host.uid and (found := cell.records.hosts.get(uid))), None)
    ours, theirs = (ip_address(one.spec.tunnel_address).version for one in (host, other or host))
    if other is not None and ours != theirs:
        raise FailedPrecondition(
            "TUNNELS_MIXED",
            f"{host.spec.tunnel_address} is IPv{ours}, but {other.name} has the tunnel address {other.spec.tunnel_address}",
            field="host.spec.tunnel_address",
            fix="give all hosts of a cell tunnel addresses of one family",
            name=other.name,
        )


def _without_identity(host: Host) -> Host:
    plain = Host()
    plain.CopyFrom(host)
    plain.ClearField("uid")
    return plain


def _apply(host: Host, wanted: Host, mask: FieldMask) -> None:
    """Take over the fields that `mask` names; all that may be changed, for none or `*`. Raises InvalidArgument for any other."""
    paths = list(mask.paths)
    if not paths or "*" in paths:
        paths = ["labels", *(f"spec.{field}" for field in _FIELDS)]
    if "spec" in paths:
        paths = [path for path in paths if path != "spec"] + [f"spec.{field}" for field in _FIELDS]
    for path in paths:
        _copier(path)(host, wanted)
    if wanted.spec.cell and wanted.spec.cell != host.spec.cell and any(path.startswith("spec") for path in mask.paths):
        raise InvalidArgument("FIELD_IMMUTABLE", f"{host.name} stays in cell {host.spec.cell}", field="host.spec.cell")


def _copier(path: str) -> Callable[[Host, Host], None]:
    if path == "labels":
        return _copy_labels
    field = path.removeprefix("spec.")
    if not path.startswith("spec.") or field not in _FIELDS:
        raise InvalidArgument("FIELD_NOT_MUTABLE", f"{path} cannot be changed", field="update_mask", fix=f"name some of {_names()}")
    return lambda host, wanted: setattr(host.spec, field, getattr(wanted.spec, field))


def _copy_labels(host: Host, wanted: Host) -> None:
    host.labels.clear()
    host.labels.update(wanted.labels)


def _names() -> str:
    return ", ".join(["labels", *(f"spec.{field}" for field in _FIELDS)])
