"""The kinds of discrepancies that the auditor tells apart; what each looks like is said where it is found."""

from collections.abc import Hashable, Iterable
from collections.abc import Set as AbstractSet
from enum import StrEnum, auto
from typing import NamedTuple


class Kind(StrEnum):
    """A name for each way in which two places can disagree."""

    # records of the region
    RECORD_WITHOUT_NAME = auto()
    NAME_WITHOUT_RECORD = auto()
    LIVE_KEY_WITHOUT_RECORD = auto()
    REFERENCE_WITHOUT_RECORD = auto()
    STATUS_WITHOUT_INTENT = auto()
    PORT_WITHOUT_ADDRESS = auto()
    ADDRESS_WITHOUT_PORT = auto()
    PORT_WITHOUT_MAC = auto()
    MAC_WITHOUT_PORT = auto()
    NETWORK_WITHOUT_NUMBER = auto()
    NUMBER_WITHOUT_NETWORK = auto()
    PORT_WITHOUT_NETWORK = auto()
    SECRET_WITHOUT_SERVER = auto()
    USAGE_IS_NOT_THE_SUM = auto()
    # region and cell
    INTENT_NOT_IN_CELL = auto()
    CELL_RECORD_WITHOUT_INTENT = auto()
    CELL_HAS_ANOTHER_GENERATION = auto()
    RECORD_WITHOUT_ORDER = auto()
    ORDER_WITHOUT_RECORD = auto()
    END_NOT_ACKNOWLEDGED = auto()
    ENDED_AND_HELD = auto()
    # room on hosts
    SERVER_WITHOUT_CLAIM = auto()
    CLAIM_WITHOUT_SERVER = auto()
    TWO_CLAIMS = auto()
    PLACEMENT_WITHOUT_SERVER = auto()
    BOOKING_IS_NOT_THE_SUM = auto()
    CLAIMS_EXCEED_CAPACITY = auto()
    STAGING_WITHOUT_IMAGE = auto()
    CARRIERS_WITHOUT_NETWORK = auto()
    # pools
    VOLUME_WITHOUT_DISK = auto()
    DISK_WITHOUT_VOLUME = auto()
    IMAGE_WITHOUT_DISK = auto()
    DISK_WITHOUT_IMAGE = auto()
    DISK_WITHOUT_MARK = auto()
    MARK_WITHOUT_DISK = auto()
    MARK_OF_ANOTHER = auto()
    LOCK_LEFT = auto()
    WATCHER_LEFT = auto()
    STRANGE_IN_POOL = auto()
    # domains
    SERVER_WITHOUT_DOMAIN = auto()
    DOMAIN_WITHOUT_SERVER = auto()
    DOMAIN_ON_ANOTHER_HOST = auto()
    TWO_DOMAINS = auto()
    DOMAIN_RUNS_AND_SHOULD_NOT = auto()
    DOMAIN_SHOULD_RUN = auto()
    CONSOLE_LOG_WITHOUT_SERVER = auto()
    # what agents keep
    KEPT_WITHOUT_INTENT = auto()
    INTENT_NOT_KEPT = auto()
    KEPT_DIFFERS = auto()
    TOMBSTONE_NOT_ACKNOWLEDGED = auto()
    KEPT_BESIDE_NOTHING = auto()
    # networks
    TAP_WITHOUT_PORT = auto()
    PORT_WITHOUT_TAP = auto()
    TAP_ON_ANOTHER_BRIDGE = auto()
    LINK_OUTSIDE_DATA_PLANE = auto()
    LINK_WITHOUT_NETWORK = auto()
    NETWORK_WITHOUT_LINK = auto()
    NAMESPACE_WITHOUT_NETWORK = auto()
    NETWORK_WITHOUT_NAMESPACE = auto()
    STATION_WITHOUT_PORT = auto()
    PORT_WITHOUT_STATION = auto()
    STATION_ON_ANOTHER_HOST = auto()
    NEIGHBOUR_WITHOUT_PORT = auto()
    PORT_WITHOUT_NEIGHBOUR = auto()
    RULE_WITHOUT_PORT = auto()
    PORT_WITHOUT_RULE = auto()
    HOST_LET_IN_WITHOUT_PORT = auto()
    HOST_OF_PORT_NOT_LET_IN = auto()
    # what guests are answered
    ANSWER_WITHOUT_THING = auto()
    THING_WITHOUT_ANSWER = auto()


class Finding(NamedTuple):
    """One discrepancy: its kind and the thing, with its host before it where it is on one."""

    kind: Kind
    what: str


def both(wanted: AbstractSet[Hashable], found: AbstractSet[Hashable], lacking: Kind, surplus: Kind, where: str = "") -> Iterable[Finding]:
    """Compare both ways; what is a tuple is told by its last piece and those before it."""
    for kind, things in ((lacking, wanted - found), (surplus, found - wanted)):
        for thing in things:
            text = " ".join(map(str, thing)) if isinstance(thing, tuple) else str(thing)
            yield Finding(kind, f"{where} {text}".strip())
