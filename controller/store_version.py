"""Decides whether an etcd is new enough for a plane; a lab may run on an older one, with a warning."""

from kumo.errors import FailedPrecondition
from kumo.log import get_logger

log = get_logger(__name__)

# What is fixed up to here, and what earlier ones lose: docs/decisions/0002-etcd-server.md.
OLDEST = (3, 5, 28)


def require_supported(version: str, *, lab: bool) -> None:
    """Raises FailedPrecondition for an etcd that is older than what Kumo asks for, unless this is a lab."""
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
