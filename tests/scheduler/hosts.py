"""Random hosts and requests for tests of the scheduler."""

from hypothesis import strategies as st

from scheduler.filters import Request
from scheduler.snapshot import Host


@st.composite
def rows(draw: st.DrawFn, most: int = 12) -> list[Host]:
    """Return hosts whose names and uids are all different; claims may be over the limit, since limits may shrink."""
    count = draw(st.integers(0, most))
    return [
        Host(
            uid=f"u{number}",
            name=f"h{number}",
            up=draw(st.booleans()),
            cordoned=draw(st.integers(0, 3)) == 0,
            runs_servers=draw(st.integers(0, 4)) > 0,
            vcpus_limit=draw(st.integers(0, 16)),
            memory_limit_mib=draw(st.integers(0, 64)),
            vcpus_claimed=draw(st.integers(0, 17)),
            memory_claimed_mib=draw(st.integers(0, 70)),
        )
        for number in range(count)
    ]


def requests() -> st.SearchStrategy[Request]:
    """Return requests, most of which may go anywhere."""
    reach = st.one_of(st.just(frozenset[str]()), st.frozensets(st.integers(0, 11).map(lambda number: f"h{number}"), max_size=6))
    return st.builds(Request, uid=st.uuids().map(str), vcpus=st.integers(1, 8), memory_mib=st.integers(1, 32), reach=reach)


def fits(host: Host, request: Request) -> bool:
    """Say in plain Python what the filters say in columns."""
    return (
        host.up
        and not host.cordoned
        and host.runs_servers
        and (not request.reach or host.name in request.reach)
        and host.vcpus_limit - host.vcpus_claimed >= request.vcpus
        and host.memory_limit_mib - host.memory_claimed_mib >= request.memory_mib
    )
