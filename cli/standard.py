"""The commands that every noun has: list, show, set, delete and wait, made from the table of nouns."""

import functools
import sys
import uuid
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import click

from cli.complete import NounName
from cli.failure import Exit, Failure
from cli.nouns import NOUNS, Noun
from cli.output import output_options, print_list, print_one
from cli.read import get, listed
from cli.session import Session, message_of, pass_session
from cli.terminal import is_terminal


def group(singular: str, *, mutable: bool = True) -> click.Group:
    """Return the group of one noun with its standard commands in it."""
    noun = NOUNS[singular]
    commands = click.Group(name=singular, help=f"{noun.about.capitalize()}.", no_args_is_help=True)
    commands.add_command(_list(noun))
    commands.add_command(_show(noun))
    if mutable:
        commands.add_command(_set(noun))
        commands.add_command(_delete(noun))
        commands.add_command(_wait(noun))
    return commands


def _list(noun: Noun) -> click.Command:
    @click.command(
        "list",
        help=f"List {noun.plural}. Example: kumo {noun.singular} list -o wide",
        epilog='A filter looks like: \'status.state = "ACTIVE" AND labels.env = "x"\'',
    )
    @click.option("--filter", "query", default="", help="Keep what matches.")
    @click.option("-w", "--watch", is_flag=True, help="Stay, and print a line for each change.")
    @click.option("-A", "--all-projects", is_flag=True, help="All projects that you may see.", hidden=not noun.in_project)
    @click.option(
        "--for",
        "subject",
        default="",
        metavar="NOUN/NAME",
        help="Only what happened to this one, e.g. server/web1.",
        hidden=noun.singular != "event",
    )
    @output_options
    @pass_session
    def run(session: Session, query: str, watch: bool, all_projects: bool, subject: str, output: str, no_headers: bool) -> None:
        parent = ("projects/-" if all_projects else session.client.parent) if noun.in_project else ""
        if subject:
            about, parent = _subject(session, noun, subject, parent)
            query = f"{about} AND {query}" if query else about
        if watch:
            from cli.watch import watch_table

            watch_table(session, noun, parent, query, output, headers=not no_headers, full_names=all_projects)
            return
        items, _ = listed(session, noun, parent, query)
        print_list(noun, items, output, headers=not no_headers, full_names=all_projects)

    return run


def _subject(session: Session, noun: Noun, subject: str, parent: str) -> tuple[str, str]:
    """Return the filter for what `subject` names, and where its events are. Raises Failure."""
    kind, slash, _ = subject.removeprefix(f"{session.client.parent}/").partition("/")
    target = next((one for one in NOUNS.values() if kind in (one.singular, one.plural)), None)
    if noun.singular != "event" or not slash or target is None:
        raise Failure(f'"{subject}" names nothing that events are about', "it is written NOUN/NAME", "--for server/NAME", Exit.USAGE)
    return f'subject = "{session.full_name(target, subject)}"', parent if target.in_project else "projects/-"


def _show(noun: Noun) -> click.Command:
    @click.command(
        "show",
        help=f"Show one {noun.singular}: what it is, what was asked for, what holds. Example: kumo {noun.singular} show NAME -o yaml",
    )
    @click.argument("name", type=NounName(noun.singular))
    @output_options
    @pass_session
    def run(session: Session, name: str, output: str, no_headers: bool) -> None:
        del no_headers
        print_one(noun, get(session, noun, session.full_name(noun, name)), output)

    return run


def _set(noun: Noun) -> click.Command:
    @click.command(
        "set", help=f"Change the labels of a {noun.singular}. Example: kumo {noun.singular} set NAME --label env=test --label old="
    )
    @click.argument("name", type=NounName(noun.singular))
    @click.option("--label", "labels", multiple=True, metavar="KEY=VALUE", required=True, help="Set a label; an empty value removes it.")
    @output_options
    @pass_session
    def run(session: Session, name: str, labels: tuple[str, ...], output: str, no_headers: bool) -> None:
        del no_headers
        resource = get(session, noun, session.full_name(noun, name), "change")
        for key, value in parse_labels(labels).items():
            if value:
                resource.labels[key] = value
            else:
                resource.labels.pop(key, None)
        request = message_of(noun, f"Update{noun.message}Request")(**{noun.singular: resource})
        request.update_mask.paths.append("labels")
        changed = session.client.unary(
            noun.method("Update"), request, message_of(noun, noun.message), doing=f'change {noun.singular} "{name}"'
        )
        if output == "table":
            print(f"{noun.singular}/{name.rsplit('/', 1)[-1]} changed")
        else:
            print_one(noun, changed, output)

    return run


def _delete(noun: Noun) -> click.Command:
    @click.command(
        "delete",
        help=f"Delete {noun.plural}. What others use is refused, and they are named. Example: kumo {noun.singular} delete NAME --wait",
    )
    @click.argument("names", nargs=-1, required=True, type=NounName(noun.singular))
    @wait_options
    @click.option("--dry-run", is_flag=True, help="Check everything and change nothing.")
    @pass_session
    def run(session: Session, names: tuple[str, ...], waiting: Waiting, dry_run: bool) -> None:
        full = [session.full_name(noun, name) for name in names]
        for name in full:
            request = message_of(noun, f"Delete{noun.message}Request")(name=name, validate_only=dry_run)
            own_id = name.rsplit("/", 1)[-1]
            session.client.unary(noun.method("Delete"), request, message_of(noun, noun.message), doing=f'delete {noun.singular} "{own_id}"')
            print(f"{noun.singular}/{own_id} {'could be deleted' if dry_run else 'is being deleted'}")
        if waiting.is_on and not dry_run:
            for name in full:
                follow(session, noun, name, replace(waiting, until="deleted"))
                print(f"{noun.singular}/{name.rsplit('/', 1)[-1]} is gone")

    return run


def _wait(noun: Noun) -> click.Command:
    @click.command("wait", help=f"Wait until a {noun.singular} is where it shall be. Example: kumo {noun.singular} wait NAME --for=settled")
    @click.argument("name", type=NounName(noun.singular))
    @click.option(
        "--for",
        "until",
        default="settled",
        show_default=True,
        help="settled, ready (the guest says so), deleted, or the type of a condition.",
    )
    @click.option("--timeout", type=click.FloatRange(min=0.1), default=300.0, show_default=True, help="Seconds until giving up.")
    @pass_session
    def run(session: Session, name: str, until: str, timeout: float) -> None:
        settled = follow(session, noun, session.full_name(noun, name), Waiting(True, until, timeout))
        print(f"{noun.singular}/{name.rsplit('/', 1)[-1]} {'is gone' if until == 'deleted' else state_of(settled)}")

    return run


@dataclass(frozen=True)
class Waiting:
    """Whether to wait (None: when somebody is looking), for what, and for how long."""

    wanted: bool | None
    until: str
    timeout_s: float

    @property
    def is_on(self) -> bool:
        return self.wanted if self.wanted is not None else is_terminal(sys.stdout) and is_terminal(sys.stderr)


def wait_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add --wait, --no-wait, --for and --timeout, and give them to the command as `waiting`."""

    @functools.wraps(command)
    def run(*arguments: Any, wait: bool | None, until: str, timeout: float, **rest: Any) -> None:
        command(*arguments, waiting=Waiting(wait, until, timeout), **rest)

    for add in (
        click.option("--timeout", type=click.FloatRange(min=0.1), default=300.0, show_default=True, help="Seconds until giving up."),
        click.option("--for", "until", default="settled", show_default=True, help="What to wait for; --wait=ready is --wait --for ready."),
        click.option("--wait/--no-wait", "wait", default=None, help="Wait, with a line a step; a terminal waits by default."),
    ):
        run = add(run)
    return run


def parse_labels(labels: tuple[str, ...]) -> dict[str, str]:
    parsed = {}
    for label in labels:
        key, equals, value = label.partition("=")
        if not equals or not key:
            raise Failure(f'"{label}" is not a label', "a label is written KEY=VALUE", "--label env=test", Exit.USAGE)
        parsed[key] = value
    return parsed


@dataclass(frozen=True)
class Creation:
    """How to create: what every create is told beside the resource itself."""

    labels: dict[str, str]
    dry_run: bool
    waiting: Waiting
    output: str


def create(session: Session, noun: Noun, own_id: str, resource: Any, how: Creation) -> Any:
    """Create `resource`, wait as told, and print it; return it as it is then."""
    created = ask(session, noun, own_id, resource, how)
    if how.dry_run:
        return created
    if how.waiting.is_on:
        created = follow(session, noun, created.name, how.waiting)
    print_made(noun, created, how.output)
    return created


def print_made(noun: Noun, created: Any, output: str) -> None:
    """Print what came of a create: a line, or with -o the resource."""
    if output == "table":
        print(f"{noun.singular}/{created.name.rsplit('/', 1)[-1]} {state_of(created)}")
    else:
        print_one(noun, created, output)


def ask(session: Session, noun: Noun, own_id: str, resource: Any, how: Creation) -> Any:
    """Ask for `resource` to be created, and print nothing but that it could be, in a dry run; return the answer."""
    resource.labels.update(how.labels)
    request = message_of(noun, f"Create{noun.message}Request")(
        **{noun.singular: resource, f"{noun.singular}_id": own_id}, validate_only=how.dry_run, request_id=str(uuid.uuid4())
    )
    if noun.in_project:
        request.parent = session.client.parent
    created = session.client.unary(
        noun.method("Create"), request, message_of(noun, noun.message), doing=f'create {noun.singular} "{own_id}"'
    )
    if how.dry_run:
        print(f"{noun.singular}/{own_id} could be created")
    return created


def follow(session: Session, noun: Noun, name: str, waiting: Waiting) -> Any:
    """Wait for one resource as told, and return it as it is then."""
    from cli.wait import follow as follow_steps

    return follow_steps(session, noun, name, waiting.until, waiting.timeout_s)


def state_of(resource: Any) -> str:
    """Return the state in words for the line after a create."""
    from cli.output import cell

    return cell(resource, "status.state").lower().replace("_", " ") or "created"


def create_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add what every create takes, and give it to the command as `how`."""

    @functools.wraps(command)
    def run(*arguments: Any, labels: tuple[str, ...], dry_run: bool, waiting: Waiting, output: str, no_headers: bool, **rest: Any) -> None:
        del no_headers
        command(*arguments, how=Creation(parse_labels(labels), dry_run, waiting, output), **rest)

    label = click.option("--label", "labels", multiple=True, metavar="KEY=VALUE", help="Set a label.")
    dry_run = click.option("--dry-run", is_flag=True, help="Check everything and change nothing.")
    return output_options(wait_options(dry_run(label(run))))
