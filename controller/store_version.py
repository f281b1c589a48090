"""Decides whether an etcd will do for a plane: new enough, and taking as much at once; a lab may run on an older one, with a warning."""

from kumo.errors import FailedPrecondition
from kumo.log import get_logger
from kumo.store import ops
from kumo.store.interface import EtcdClient

log = get_logger(__name__)

# What is fixed up to here, and what earlier ones lose: docs/decisions/0002-etcd-server.md.
OLDEST = (3, 5, 28)
# A server with eight ports is made, and is freed, in one transaction; a project's commits go together up to 1,000 operations.
OPERATIONS = 1024


async def require_supported(etcd: EtcdClient, *, lab: bool) -> None:
    """Raises FailedPrecondition ETCD_TOO_OLD, unless this is a lab, or STORE_TXN_SMALL."""
    _require_version(await etcd.connect(), lab=lab)
    # etcd counts before it compares.
    await etcd.txn([ops.create_revision_is(b"\0", 0)] * OPERATIONS)


def _require_version(version: str, *, lab: bool) -> None:
    number = tuple(int(part) for part in version.split("-")[0].split(".")[:3])
    if number >= OLDEST:
        return
    oldest = ".".join(map(str, OLDEST))
    if not lab:
        raise FailedPrecondition(
            "ETCD_TOO_OLD",
            f"etcd is {version}, and Kumo needs {oldest}",
            fix=f"run etcd {oldest} or newer, or set lab = true if nothing here matters",
            version=version,
        )
    log.warning("etcd is older than what Kumo needs", version=version, needed=oldest)
