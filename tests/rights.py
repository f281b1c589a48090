"""What the kernel says that a process may do, in the words of the product's table (deploy/rights.py)."""

from pathlib import Path

from deploy.rights import CAPABILITIES, Rights


def status(folder: Path) -> dict[str, str]:
    lines = (folder / "status").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def listed(bits: str) -> frozenset[str]:
    return frozenset(name for number, name in enumerate(CAPABILITIES) if int(bits, 16) >> number & 1)


def rights_of(found: dict[str, str]) -> Rights:
    """Return what the kernel says of one thread. Raises AssertionError for what no program of the table has."""
    uids, gids = found["Uid"].split(), found["Gid"].split()
    assert len({*uids, *gids}) == 1, "real, effective, saved and file system's user and group are one"
    assert found["CapPrm"] == found["CapEff"] and not int(found["CapAmb"], 16) and not int(found["CapInh"], 16)
    assert int(found["CapPrm"], 16) >> len(CAPABILITIES) == 0, "the kernel has a capability that the table cannot name"
    return Rights(
        int(uids[0]),
        frozenset(map(int, found["Groups"].split())),
        listed(found["CapEff"]),
        listed(found["CapBnd"]),
        found["NoNewPrivs"] == "1",
        int(found["Seccomp_filters"]) if found["Seccomp"] == "2" else 0,
    )
