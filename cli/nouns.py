"""What the CLI knows of each noun: where it lives in the API and which columns its tables have. No import of gRPC or protobuf."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Column:
    """One column: a dotted path into the resource, shown as the noun's `render` says; `wide` ones only with -o wide."""

    header: str
    path: str
    wide: bool = False
    # A sentence: cut where the line would get too long, except with -o wide.
    cut: bool = False


@dataclass(frozen=True)
class Noun:
    """One kind of resource."""

    singular: str
    plural: str
    domain: str
    columns: tuple[Column, ...]
    in_project: bool = True
    waits_for: tuple[str, ...] = ()
    about: str = ""
    # The types of the conditions that it may have, beside those of waits_for.
    conditions: tuple[str, ...] = ()

    @property
    def message(self) -> str:
        return self.singular.capitalize()

    @property
    def service(self) -> str:
        return f"kumo.api.{self.domain}.v1.{self.plural.capitalize()}"

    @property
    def module(self) -> str:
        return f"kumo.api.{self.domain}.v1.{self.singular}_pb2"

    def method(self, verb: str, many: bool = False) -> str:
        return f"{self.service}/{verb}{self.plural.capitalize() if many else self.message}"


_NAME, _STATE, _AGE, _UID = (
    Column("NAME", "name"),
    Column("STATE", "status.state"),
    Column("AGE", "create_time"),
    Column("UID", "uid", wide=True),
)


def _noun(
    singular: str,
    domain: str,
    about: str,
    *columns: Column,
    in_project: bool = True,
    waits_for: tuple[str, ...] = (),
    conditions: tuple[str, ...] = (),
) -> Noun:
    return Noun(singular, singular + "s", domain, (_NAME, _STATE, *columns, _AGE, _UID), in_project, waits_for, about, conditions)


NOUNS: dict[str, Noun] = {
    noun.singular: noun
    for noun in (
        _noun(
            "server",
            "compute",
            "virtual machines",
            Column("ADDRESSES", "status.addresses"),
            Column("FLAVOR", "spec.flavor"),
            Column("IMAGE", "spec.image"),
            Column("HOST", "status.host", wide=True),
            Column("VIRT", "status.virt_type", wide=True),
            waits_for=("Placed", "DiskReady", "PortsReady", "Started"),
            conditions=("GuestReady", "DiskOwned", "HostAnswers"),
        ),
        _noun(
            "image",
            "image",
            "what root disks are cloned from",
            Column("FORMAT", "spec.format"),
            Column("SIZE", "status.virtual_size_bytes"),
            Column("SHA256", "status.sha256", wide=True),
            conditions=("Ready",),
        ),
        _noun(
            "flavor",
            "compute",
            "sizes of servers",
            Column("VCPUS", "spec.vcpus"),
            Column("MEMORY", "spec.memory_mib"),
            Column("DISK", "spec.disk_gib"),
            in_project=False,
        ),
        _noun(
            "network",
            "network",
            "layer-2 networks of a project",
            Column("MTU", "spec.mtu"),
            Column("VNI", "spec.vni", wide=True),
            conditions=("Carried",),
        ),
        _noun(
            "subnet",
            "network",
            "address ranges on networks",
            Column("NETWORK", "spec.network"),
            Column("CIDR", "spec.cidr"),
            Column("GATEWAY", "spec.gateway"),
        ),
        _noun(
            "port",
            "network",
            "places on networks",
            Column("NETWORK", "spec.network"),
            Column("ADDRESS", "spec.address"),
            Column("SERVER", "spec.server"),
            Column("MAC", "spec.mac", wide=True),
            Column("HOST", "status.host", wide=True),
            conditions=("Bound",),
        ),
        _noun(
            "volume",
            "storage",
            "disks",
            Column("SIZE", "spec.size_gib"),
            Column("SERVER", "status.server"),
            Column("IMAGE", "spec.image"),
            Column("POOL", "spec.pool", wide=True),
            waits_for=("Ready",),
        ),
        _noun(
            "pool",
            "fleet",
            "where volumes and images lie",
            Column("DRIVER", "spec.driver"),
            Column("USED", "status.used_bytes"),
            Column("CAPACITY", "status.capacity_bytes"),
            Column("DEFAULT", "spec.default"),
            in_project=False,
            conditions=("Ready",),
        ),
        _noun(
            "host",
            "fleet",
            "machines that run servers",
            Column("CELL", "spec.cell"),
            Column("SERVERS", "status.server_count"),
            Column("VCPUS", "status.vcpus"),
            Column("MEMORY", "status.memory_mib"),
            Column("VIRT", "status.virt_type"),
            Column("CORDONED", "spec.cordoned"),
            Column("AGENT", "spec.agent_address", wide=True),
            in_project=False,
            conditions=("AgentAnswers", "Healthy"),
        ),
        Noun(
            "event",
            "events",
            "fleet",
            (
                Column("AGE", "create_time"),
                Column("SUBJECT", "subject"),
                Column("REASON", "reason"),
                Column("SOURCE", "source", wide=True),
                Column("REQUEST", "request_id", wide=True),
                Column("MESSAGE", "message", cut=True),
            ),
            about="what happened, and why",
        ),
    )
}
