"""Says what the host is and has, and what does not work on it at present; puts it into the book of facts."""

import os
import platform
from collections.abc import Callable, Iterable, Sequence

from agent.compute.kvm import Virt
from agent.config import Config
from agent.facts import FactBook
from agent.stamps import Terms
from kumo import VERSION
from kumo.api.agent.v1.agent_pb2 import HostAddress, HostFacts
from kumo.capabilities import capabilities

_MIB = 1 << 20

Problems = Callable[[], Iterable[str]]


class HostDescription:
    """The facts of the host. refresh() is cheap: it asks nothing that takes time."""

    def __init__(self, config: Config, book: FactBook, terms: Terms, *, boot_id: str, virt: Virt, problems: Iterable[Problems]) -> None:
        self._book, self._terms, self._problems = book, terms, tuple(problems)
        self._virt = virt
        self._versions = {"kernel": platform.release()}
        self._fixed = HostFacts(
            host=config.host,
            cell=config.cell,
            boot_id=boot_id,
            vcpus=config.compute.vcpus or os.cpu_count() or 1,
            memory_mib=config.compute.memory_mib or _memory_mib(),
            virt_type=virt.kind,
            virt_reason=virt.reason,
            agent_version=VERSION,
            roles=config.roles,
            capabilities=capabilities(config.roles),
            tunnel_address=config.network.tunnel_address if "network" in config.roles else "",
        )
        self._addresses: Sequence[HostAddress] = ()

    def set_versions(self, versions: dict[str, str]) -> None:
        """Take the versions of what the host runs on, as far as they are known."""
        self._versions |= versions

    def set_addresses(self, addresses: Sequence[HostAddress]) -> None:
        """Take the addresses of the host as they are now."""
        self._addresses = addresses

    def refresh(self) -> None:
        facts = HostFacts(term=self._terms.largest, versions=self._versions, addresses=self._addresses)
        facts.MergeFrom(self._fixed)
        facts.problems.extend(sentence for ask in self._problems for sentence in ask() if sentence)
        if not self._virt.as_wanted:
            facts.problems.append(f"kvm is configured but does not work: {self._virt.reason}")
        self._book.set_host(facts)


def _memory_mib() -> int:
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // _MIB
