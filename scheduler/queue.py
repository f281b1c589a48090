"""In which order servers that wait for room are tried: projects take turns, and within a project who came first goes first. Pure."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from scheduler.filters import Request
from scheduler.place import Choice, place
from scheduler.snapshot import Host, HostTable


@dataclass(frozen=True)
class Waiting:
    """A server that waits. `since` is any number that orders moments."""

    request: Request
    project_uid: str
    since: float


def fair_order(waiting: Iterable[Waiting]) -> list[Waiting]:
    """Return the first of each project, by how long they wait, then the second of each, and so on."""
    projects: dict[str, list[Waiting]] = defaultdict(list)
    for one in waiting:
        projects[one.project_uid].append(one)
    turns = []
    for queue in projects.values():
        queue.sort(key=lambda one: (one.since, one.request.uid))
        turns += list(enumerate(queue))
    turns.sort(key=lambda turn: (turn[0], turn[1].since, turn[1].request.uid))
    return [one for _turn, one in turns]


def fitting_now(rows: Iterable[Host], waiting: Iterable[Waiting], most: int) -> list[str]:
    """Return the uids of up to `most` servers that would all fit together, tried in fair order. One that is too big is passed by."""
    table = HostTable()
    for row in rows:
        table.put(row)
    found: list[str] = []
    for one in fair_order(waiting):
        choice = place(table.hosts, one.request)
        if isinstance(choice, Choice):
            table.claim(choice.host_uid, one.request.vcpus, one.request.memory_mib)
            found.append(one.request.uid)
            if len(found) == most:
                break
    return found
