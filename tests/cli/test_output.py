"""What `show` and tables print is short, says spec and status apart, and keeps internals for -o wide."""

from cli.nouns import NOUNS
from cli.output import columns_of, describe, fitting, row, to_dict
from cli.table import render
from kumo.api.compute.v1.server_pb2 import Server
from kumo.api.fleet.v1.event_pb2 import Event
from kumo.api.image.v1.image_pb2 import Image


def server() -> Server:
    made = Server(name="projects/p/servers/web1", uid="u", etag="e")
    made.spec.image, made.spec.image_uid, made.spec.power = "projects/p/images/deb", "i", Server.RUNNING
    made.status.state, made.status.power = Server.STOPPED, Server.OFF
    made.status.placement.shares.add(cell="a", epoch=1)
    made.status.conditions.add(type="Started", status=2, message="it \x1b[31mshall not run", fix="start it")
    return made


def test_show_tells_what_is_so_from_what_was_asked_for() -> None:
    lines = describe(to_dict(server()))
    assert lines.index("status:") < next(at for at, line in enumerate(lines) if line.split() == ["power", "OFF"]) < lines.index("spec:")
    assert ["image", "images/deb"] in [line.split() for line in lines]
    assert lines[-3:] == ["conditions:", "  ✗ Started: it \\x1b[31mshall not run", "    fix: start it"]


def test_show_keeps_internals_for_wide() -> None:
    hidden = ("etag", "placement", "image_uid")
    assert not [line for line in describe(to_dict(server())) if line.split()[0] in hidden]
    assert {line.split()[0] for line in describe(to_dict(server()), wide=True)} >= set(hidden)


def test_show_says_bytes_for_people_too() -> None:
    image = Image(name="projects/p/images/deb")
    image.spec.size_bytes = 18 << 20
    assert any(line.split() == ["size_bytes", "18874368", "(18.0", "MiB)"] for line in describe(to_dict(image)))


def test_the_table_of_events_stays_within_80_columns_and_wide_has_it_all() -> None:
    noun = NOUNS["event"]
    event = Event(name="projects/p/events/e", subject="projects/p/servers/web1", reason="WAITING", message="there is no room " * 9)
    for form, longest in (("table", 80), ("wide", 1000)):
        columns = columns_of(noun, form == "wide")
        lines = render([column.header for column in columns], [row(noun, event, columns, False)])
        shown = [fitting(line, columns, form) for line in lines]
        assert max(map(len, shown)) <= longest and "server/web1" in shown[1]
        assert shown[1].endswith("…") == (form == "table")
