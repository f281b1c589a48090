"""The verbs of pools: what a storage driver may or may not be able to do, as agents report it and the region asks before it accepts."""

from enum import StrEnum


class Verb(StrEnum):
    """The words of Pool.Status.verbs."""

    CREATE = "CREATE"  # blank volumes
    CLONE = "CLONE"  # volumes from images
    IMPORT = "IMPORT"  # images
    SHARE = "SHARE"  # several hosts, of several cells, reach what is in it


ALL_VERBS = frozenset(Verb)
WHAT = {
    Verb.CREATE: "make a blank volume",
    Verb.CLONE: "make a volume from an image",
    Verb.IMPORT: "keep an image",
    Verb.SHARE: "be reached by several hosts",
}
