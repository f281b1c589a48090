"""Commits packet rules in one namespace by libnftables, in this process, and knows whether they are still as committed.

The kernel counts the changes of a namespace's rules: as long as the count is what it was after our last commit, all is in force
and a change goes as a delta; else somebody else changed something, and all is refilled in place. In a namespace that others share (the
host's own: firewalls, a second lab) the count moves without us, so there the tables are read, and left as they are if they still are
what we committed: two who refilled for each other's refills would never end. Which rules is rules.py's.
"""

import ctypes
import hashlib
import json
import os
import re
import secrets
import struct
from collections.abc import Iterable
from pathlib import Path

from prometheus_client import Counter

from agent.network.rtnetlink import Netlink, attributes
from agent.network.rules import Element, Table
from kumo.errors import Unavailable
from kumo.log import get_logger

log = get_logger(__name__)

COMMITS = Counter("kumo_network_commits_total", "Transactions of packet rules.", ["kind"])

_NETLINK_NETFILTER = 12
_GETGEN = 10 << 8 | 16
_GEN_ID = 1
_STATELESS = 1 << 2  # NFT_CTX_OUTPUT_STATELESS: counters count, and are no change
_FORMAT = 1


class _Library:
    """libnftables. A context keeps the namespace in which it was made."""

    def __init__(self) -> None:
        self._library = ctypes.CDLL("libnftables.so.1")
        self._library.nft_ctx_new.restype = ctypes.c_void_p
        self._library.nft_ctx_new.argtypes = [ctypes.c_uint32]
        self._library.nft_ctx_free.argtypes = [ctypes.c_void_p]
        self._library.nft_run_cmd_from_buffer.argtypes = [ctypes.c_void_p, ctypes.c_char_p]
        self._library.nft_ctx_output_set_flags.argtypes = [ctypes.c_void_p, ctypes.c_uint]
        for name in ("nft_ctx_get_output_buffer", "nft_ctx_get_error_buffer"):
            getattr(self._library, name).restype = ctypes.c_char_p
            getattr(self._library, name).argtypes = [ctypes.c_void_p]
        self._context = self._library.nft_ctx_new(0)
        for name in ("nft_ctx_buffer_output", "nft_ctx_buffer_error"):
            getattr(self._library, name).argtypes = [ctypes.c_void_p]
            getattr(self._library, name)(self._context)
        self._library.nft_ctx_output_set_flags(self._context, _STATELESS)

    def run(self, commands: str) -> tuple[bool, str]:
        """Return whether all of it went through, and what was printed: all or nothing is applied."""
        failed = self._library.nft_run_cmd_from_buffer(self._context, commands.encode())
        output: bytes = self._library.nft_ctx_get_output_buffer(self._context) or b""
        error: bytes = self._library.nft_ctx_get_error_buffer(self._context) or b""
        return not failed, (error if failed else output).decode(errors="replace")

    def close(self) -> None:
        self._library.nft_ctx_free(self._context)


class Ruleset:
    """The rules of one namespace. Made and used on one thread; made while that thread visits the namespace."""

    def __init__(self, table: Table, memory: Path) -> None:
        """`memory` is a file that lets the next agent find everything unchanged."""
        self._table = table
        self._memory = memory
        self._library = _Library()
        self._netlink = Netlink(_NETLINK_NETFILTER)
        self._generation: int | None = None
        # What the kernel listed of our tables right after our last commit; only where others share the namespace.
        self._listed = ""
        self._nonce = 0
        self._in_force: set[Element] = set()

    def close(self) -> None:
        self._netlink.close()
        self._library.close()

    def begin(self, elements: frozenset[Element], *, keep: bool) -> None:
        """Bring `elements` into force; if the last agent's commit is untouched, change only what differs, and `keep` what is beside."""
        if self._recall():
            self.change(elements - self._in_force, () if keep else self._in_force - elements)
        else:
            self._in_force = set(elements)
            self._refill()

    @property
    def in_force(self) -> frozenset[Element]:
        return frozenset(self._in_force)

    def is_intact(self) -> bool:
        """Return whether nobody has changed this namespace's rules since our last commit, or ours among them where others share it."""
        if self._generation is not None and self._current() == self._generation:
            return True
        if not self._listed:
            return False
        now = self._current()
        if self._list() != self._listed or self._current() != now:
            return False
        self._generation = now
        self._remember()
        return True

    def _list(self) -> str:
        """Return a digest of what is in force of our tables; empty if they cannot be listed."""
        listed = [self._library.run(f"list table {table}") for table in self._table.tables]
        return hashlib.sha256("".join(text for _, text in listed).encode()).hexdigest() if all(done for done, _ in listed) else ""

    def holds(self, elements: Iterable[Element]) -> bool:
        return self.is_intact() and self._in_force.issuperset(elements)

    def change(self, added: Iterable[Element], removed: Iterable[Element]) -> None:
        """Add and remove elements; returns when it is certain that they are in force. Also mends what others changed.

        Certain: the kernel took the whole transaction, and its count of changes says that nothing came before or after it. Asking for
        the elements would read all there are, a second's worth of work on a full and busy host.
        """
        fresh, gone = set(added) - self._in_force, set(removed) & self._in_force
        intact = self.is_intact()
        if intact and not fresh and not gone:
            return
        if intact and self._commit(self._table.delta(fresh, gone), "delta"):
            self._in_force = (self._in_force - gone) | fresh
        else:
            log.info("packet rules refilled", tables=self._table.tables, why="somebody changed rules in this namespace")
            self._in_force = (self._in_force - gone) | fresh
            self._refill()
        if not self.is_intact():
            raise Unavailable("RULES_NOT_CERTAIN", "somebody else changed packet rules at the same moment; they are looked at again")

    def _refill(self) -> None:
        self._nonce = secrets.randbits(32)
        self._generation = self._current()
        if not self._commit(self._table.refill(self._in_force, self._nonce), "refill"):
            raise Unavailable("RULES_REFUSED", "the packet rules could not be committed", fix="look at the agent's log")

    def _commit(self, text: str, kind: str) -> bool:
        before = self._current()
        done, said = self._library.run(text)
        if not done:
            log.warning("packet rules refused", kind=kind, why=said[:2000])
            return False
        COMMITS.labels(kind).inc()
        # More than one step ahead: somebody else wrote at the same moment, so look again at the next pass.
        listed = self._list() if self._table.shared else ""
        certain = self._current() == before + 1
        self._generation, self._listed = (before + 1, listed) if certain else (None, "")
        self._remember()
        return True

    def _current(self) -> int:
        answers = self._netlink.call(_GETGEN, 0, struct.pack("=BBH", 0, 0, 0))
        return int(struct.unpack(">I", attributes(answers[0][4:])[_GEN_ID])[0])

    def _remember(self) -> None:
        fresh = self._memory.with_name(f".{self._memory.name}.new")
        kept = {"format": _FORMAT, "generation": self._generation, "nonce": self._nonce, "rules": self._digest(), "listed": self._listed}
        try:
            fresh.write_text(json.dumps(kept))
            os.replace(fresh, self._memory)
        except OSError as error:
            # What is remembered of an earlier state is not believed, so that the next agent fills the rules anew.
            log.warning("packet rules not remembered", file=self._memory, why=str(error))
            fresh.unlink(missing_ok=True)

    def _digest(self) -> str:
        return hashlib.sha256((self._table.skeleton + self._table.rules).encode()).hexdigest()

    def _recall(self) -> bool:
        """Read what the last agent committed; return False if it is not certain that all of it is in force as it was."""
        try:
            kept = json.loads(self._memory.read_text())
        except (OSError, ValueError):
            return False
        if not isinstance(kept, dict) or kept.get("format") != _FORMAT or kept.get("rules") != self._digest():
            return False
        self._generation, self._nonce, self._listed = kept.get("generation"), kept.get("nonce", 0), kept.get("listed", "")
        home = self._table.home
        if not self.is_intact() or not self._library.run(f"get element {home} nonce {{ {self._nonce:#x} }}")[0]:
            return False
        for name in self._table.sets:
            done, listed = self._library.run(f"list set {home} {name}")
            if not done:
                return False
            elements = re.search(r"elements = \{([^}]*)\}", listed)
            self._in_force |= {(name, " ".join(key.split())) for key in elements[1].split(",")} if elements else set()
        return True
