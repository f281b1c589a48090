"""Lays out the keys of one plane below its prefix; the one place that knows.

    record/<table>/<hh>/<uid>/intent|status|placement    the parts of a record, side by side so that one watch sees them together
    name/<table>/<resource name>                         -> uid; held until the record goes
    live/<table>/<uid>                                   there until the record goes or is being deleted
    ref/<target table>/<target uid>/<table>/<uid>        -> name of the record that refers; keeps the target from being deleted
    usage/<project uid>/<class>, request/<hh>/<scope>/<id>, lead, incarnation, format, token-key, barrier/<number>

<hh> is two hexadecimal digits of a hash of the uid: a mirror is loaded by 256 bounded ranges, since a page out of etcd costs
time in proportion to all that lies behind it.
"""

import zlib
from dataclasses import dataclass

from kumo.errors import InvalidArgument

INTENT, STATUS, PLACEMENT = "intent", "status", "placement"
SHARDS = 256


def shard(text: str) -> str:
    return f"{zlib.crc32(text.encode()) & 0xFF:02x}"


@dataclass(frozen=True)
class Keys:
    """Keys of the plane at `prefix`, which has no slash at its end."""

    prefix: str

    def raw(self, relative: str) -> bytes:
        return f"{self.prefix}/{relative}".encode()

    def relative(self, key: bytes) -> str:
        return key.decode()[len(self.prefix) + 1 :]

    def records(self, table: str, hh: str = "") -> bytes:
        """The prefix of all records of a table, or of those in one shard."""
        return self.raw(f"record/{table}/{hh}/" if hh else f"record/{table}/")

    def tick(self, table: str) -> bytes:
        """A key among the records that is none; writing it makes a watch of the table move."""
        return self.raw(f"record/{table}/tick")

    def part(self, table: str, uid: str, part: str) -> bytes:
        return self.raw(f"record/{table}/{shard(uid)}/{uid}/{part}")

    def name(self, table: str, name: str) -> bytes:
        return self.raw(f"name/{table}/{name}")

    def live(self, table: str, uid: str) -> bytes:
        return self.raw(f"live/{table}/{uid}")

    def references_to(self, target: str, uid: str) -> bytes:
        """The prefix of what refers to one record and keeps it."""
        return self.raw(f"ref/{target}/{uid}/")

    def reference(self, target: tuple[str, str], table: str, uid: str) -> bytes:
        """`target` is a table and a uid."""
        return self.raw(f"ref/{target[0]}/{target[1]}/{table}/{uid}")


def split_part(records_prefix: bytes, key: bytes) -> tuple[str, str] | None:
    """Return (uid, part) of a key below Keys.records(table); None for the tick."""
    pieces = key[len(records_prefix) :].decode().split("/")
    return (pieces[1], pieces[2]) if len(pieces) == 3 else None


def check_uid(uid: str) -> str:
    """Return `uid` if it can stand in a key."""
    if not uid or "/" in uid:
        raise InvalidArgument("UID_INVALID", f"{uid!r} cannot be the uid of a record")
    return uid
