"""The files from which guests are answered: the agent writes them, the responder reads the one it needs at each question.

Each is replaced as a whole, so a reader finds the old or the new one; there is no cache to go stale and no message to lose.
Standard library only.

  networks/UID.json      where a network's guests are heard
  ports/UID.json         what DHCP tells a port
  by/BRIDGE/MAC, ADDRESS who asks: links to the port's file
  servers/UID.json       metadata of a server, secrets among it
  ready/UID              written by the responder: the guest said that it is ready
"""

import base64
import json
import os
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

_FORMAT = 1


@dataclass(frozen=True)
class NetworkPlace:
    """Where the guests of a network are heard: its bridge's name and the path of its metadata namespace."""

    bridge: str
    vni: int
    namespace: str


@dataclass(frozen=True)
class PortAnswer:
    """What DHCP tells a port, and whose metadata it is answered. `gateway` is empty when nothing routes."""

    uid: str
    bridge: str
    tap: str
    mac: str
    address: str
    prefix_length: int
    gateway: str
    dns_servers: tuple[str, ...]
    hostname: str
    mtu: int
    server_uid: str


@dataclass(frozen=True)
class Nic:
    """An interface, as metadata describes it."""

    port_uid: str
    mac: str
    mtu: int


@dataclass(frozen=True)
class ServerMetadata:
    """What a server may read about itself."""

    name: str
    hostname: str
    project_uid: str = ""
    project: str = ""
    zone: str = ""
    labels: dict[str, str] = field(default_factory=dict)
    ssh_keys: tuple[str, ...] = ()
    user_data: bytes = b""
    nics: tuple[Nic, ...] = ()


class GuestFiles:
    """The directory of these files. All methods are quick and synchronous."""

    def __init__(self, directory: Path, group: int | None = None) -> None:
        """`group` may read what is written; None leaves that as it comes."""
        self._directory = directory
        self._group = group

    @property
    def ready(self) -> Path:
        """Where the responder leaves a mark for each server that said it is ready."""
        return self._directory / "ready"

    def prepare(self) -> None:
        """Make the directories. The responder may read them, and write only the marks."""
        for name in ("", "networks", "ports", "by", "servers", "ready"):
            self._make_directory(self._directory / name)
        if self._group is not None:
            os.chown(self.ready, self._group, self._group)

    # ---- written by the agent

    def write_network(self, uid: str, place: NetworkPlace) -> None:
        self._write(self._directory / "networks" / f"{uid}.json", asdict(place))

    def remove_network(self, uid: str) -> None:
        (self._directory / "networks" / f"{uid}.json").unlink(missing_ok=True)

    def write_port(self, answer: PortAnswer) -> None:
        path = self._directory / "ports" / f"{answer.uid}.json"
        self._write(path, asdict(answer))
        for link in self._links(answer):
            self._make_directory(link.parent)
            fresh = link.with_name(f".{answer.uid}.new")
            fresh.unlink(missing_ok=True)
            fresh.symlink_to(f"../../ports/{path.name}")
            os.replace(fresh, link)

    def remove_port(self, uid: str) -> None:
        """Remove what is there of a port: first who it is taken for, its own file last."""
        answer = self.port(uid)
        if answer is not None:
            for link in self._links(answer):
                if self._leads_to(link, uid):
                    link.unlink(missing_ok=True)
            with suppress(OSError):  # other ports of the network are there
                (self._directory / "by" / answer.bridge).rmdir()
        (self._directory / "ports" / f"{uid}.json").unlink(missing_ok=True)

    def write_server(self, uid: str, metadata: ServerMetadata) -> None:
        content = asdict(metadata)
        content["user_data"] = base64.b64encode(metadata.user_data).decode()
        self._write(self._directory / "servers" / f"{uid}.json", content)

    def remove_server(self, uid: str) -> None:
        """Remove a server's metadata and its mark."""
        (self._directory / "servers" / f"{uid}.json").unlink(missing_ok=True)
        (self.ready / uid).unlink(missing_ok=True)

    # ---- read by both

    def networks(self) -> dict[str, NetworkPlace]:
        found = ((path.stem, self._read(path)) for path in sorted((self._directory / "networks").glob("*.json")))
        return {uid: NetworkPlace(**content) for uid, content in found if content is not None}

    def port_uids(self) -> set[str]:
        return {path.stem for path in (self._directory / "ports").glob("*.json")}

    def port(self, uid: str) -> PortAnswer | None:
        return _port(self._read(self._directory / "ports" / f"{uid}.json"))

    def port_is(self, answer: PortAnswer) -> bool:
        """Return whether a guest would be told exactly `answer`, whichever way it is found."""
        return self.port(answer.uid) == answer and all(self._leads_to(link, answer.uid) for link in self._links(answer))

    def asking(self, bridge: str, by: str) -> PortAnswer | None:
        """Return who asks from a MAC or IP address of one network, both proven by the rules; None if it is nobody."""
        return _port(self._read(self._directory / "by" / bridge / by))

    def server(self, uid: str) -> ServerMetadata | None:
        content = self._read(self._directory / "servers" / f"{uid}.json")
        if content is None:
            return None
        content["user_data"] = base64.b64decode(str(content["user_data"]))
        content["ssh_keys"] = tuple(content["ssh_keys"])
        content["nics"] = tuple(Nic(**nic) for nic in content["nics"])
        return ServerMetadata(**content)

    def _links(self, answer: PortAnswer) -> tuple[Path, Path]:
        folder = self._directory / "by" / answer.bridge
        return folder / answer.mac, folder / answer.address

    @staticmethod
    def _leads_to(link: Path, uid: str) -> bool:
        try:
            return os.readlink(link) == f"../../ports/{uid}.json"
        except OSError:
            return False

    def _make_directory(self, path: Path) -> None:
        path.mkdir(parents=True, exist_ok=True)
        path.chmod(0o750)
        if self._group is not None:
            os.chown(path, 0, self._group)

    def _write(self, path: Path, content: dict[str, object]) -> None:
        fresh = path.with_name(f".{path.name}.new")
        with open(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o640), "w") as file:
            json.dump({"format": _FORMAT, **content}, file)
        fresh.chmod(0o640)
        if self._group is not None:
            os.chown(fresh, 0, self._group)
        os.replace(fresh, path)

    @staticmethod
    def _read(path: Path) -> dict[str, Any] | None:
        """Return a file's content; None if there is none, or none that this program understands."""
        try:
            content = json.loads(path.read_bytes())
        except (OSError, ValueError):
            return None
        if not isinstance(content, dict) or content.pop("format", None) != _FORMAT:
            return None
        return content


def _port(content: dict[str, Any] | None) -> PortAnswer | None:
    if content is None:
        return None
    return PortAnswer(**{**content, "dns_servers": tuple(content["dns_servers"])})
