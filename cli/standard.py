"""The commands that every noun has: list, show, set, delete and wait, made from the table of nouns."""

from typing import Any

import click

from cli.complete import NounName
from cli.failure import Failure
from cli.nouns import NOUNS, Noun
from cli.output import output_options, print_list, print_one
from cli.session import Session, message_of, pass_session


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


def listed(session: Session, noun: Noun, parent: str, query: str = "") -> tuple[list[Any], str]:
    """Return every resource below `parent` that matches, and the token from which a watch misses nothing."""
    client = session.client
    items: list[Any] = []
    page = resume = ""
    while True:
        request = message_of(noun, f"List{noun.plural.capitalize()}Request")(page_token=page, filter=query, page_size=1000)
        if parent:
            request.parent = parent
        answer = client.unary(
            noun.method("List", many=True),
            request,
            message_of(noun, f"List{noun.plural.capitalize()}Response"),
            doing=f"list {noun.plural}",
        )
        items += getattr(answer, noun.plural)
        resume = resume or answer.resume_token
        page = answer.next_page_token
        if not page:
            return items, resume


def _list(noun: Noun) -> click.Command:
    @click.command(
        "list",
        help=f"List {noun.plural}. Example: kumo {noun.singular} list -o wide",
        epilog='A filter looks like: \'status.state = "ACTIVE" AND labels.env = "x"\'',
    )
    @click.option("--filter", "query", default="", help="Keep what matches.")
    @click.option("-w", "--watch", is_flag=True, help="Stay, and print a line for each change.")
    @click.option("-A", "--all-projects", is_flag=True, help="All projects that you may see.", hidden=not noun.in_project)
    @output_options
    @pass_session
    def run(session: Session, query: str, watch: bool, all_projects: bool, output: str, no_headers: bool) -> None:
        parent = ("projects/-" if all_projects else session.client.parent) if noun.in_project else ""
        if watch:
            from cli.watch import watch_table

            watch_table(session, noun, parent, query, output, headers=not no_headers, full_names=all_projects)
            return
        items, _ = listed(session, noun, parent, query)
        print_list(noun, items, output, headers=not no_headers, full_names=all_projects)

    return run


def get(session: Session, noun: Noun, name: str) -> Any:
    request = message_of(noun, f"Get{noun.message}Request")(name=name)
    return session.client.unary(
        noun.method("Get"), request, message_of(noun, noun.message), doing=f'show {noun.singular} "{name.rsplit("/", 1)[-1]}"'
    )


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
        resource = get(session, noun, session.full_name(noun, name))
        for key, value in parse_labels(labels).items():
            if value:
                resource.labels[key] = value
            else:
                resource.labels.pop(key, None)
        request = message_of(noun, f"Update{noun.message}Request")(**{noun.singular: resource})
        request.update_mask.paths.append("labels")
        print_one(
            noun,
            session.client.unary(noun.method("Update"), request, message_of(noun, noun.message), doing=f'change {noun.singular} "{name}"'),
            output,
        )

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
    def run(session: Session, names: tuple[str, ...], wait: str | None, timeout: float, dry_run: bool) -> None:
        full = [session.full_name(noun, name) for name in names]
        for name in full:
            request = message_of(noun, f"Delete{noun.message}Request")(name=name, validate_only=dry_run)
            own_id = name.rsplit("/", 1)[-1]
            session.client.unary(noun.method("Delete"), request, message_of(noun, noun.message), doing=f'delete {noun.singular} "{own_id}"')
            print(f"{noun.singular}/{own_id} {'could be deleted' if dry_run else 'is being deleted'}")
        if wait_is_on(wait) and not dry_run:
            from cli.wait import follow

            for name in full:
                follow(session, noun, name, "deleted", timeout)
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
        from cli.wait import follow

        follow(session, noun, session.full_name(noun, name), until, timeout)

    return run


def wait_options(command: Any) -> Any:
    """Add --wait[=CONDITION], --no-wait and --timeout."""
    command = click.option("--timeout", type=click.FloatRange(min=0.1), default=300.0, show_default=True, help="Seconds until giving up.")(
        command
    )
    command = click.option("--no-wait", "wait", flag_value="no", help="Return as soon as the intent is stored.")(command)
    return click.option(
        "--wait",
        "wait",
        is_flag=False,
        flag_value="settled",
        default=None,
        metavar="[CONDITION]",
        help="Wait, with a line a step; a terminal waits by default.",
    )(command)


def wait_is_on(wait: str | None) -> bool:
    """Whether to wait: as told, else when somebody is looking."""
    import sys

    from cli.terminal import is_terminal

    return wait != "no" and (wait is not None or (is_terminal(sys.stdout) and is_terminal(sys.stderr)))


def parse_labels(labels: tuple[str, ...]) -> dict[str, str]:
    parsed = {}
    for label in labels:
        key, equals, value = label.partition("=")
        if not equals or not key:
            from cli.failure import Exit

            raise Failure(f'"{label}" is not a label', "a label is written KEY=VALUE", "--label env=test", Exit.USAGE)
        parsed[key] = value
    return parsed


def create(
    session: Session, noun: Noun, own_id: str, resource: Any, *, dry_run: bool, wait: str | None, timeout: float, output: str
) -> Any:
    """Create `resource`, wait as told, and print it; return it as it is then."""
    import uuid

    request = message_of(noun, f"Create{noun.message}Request")(
        **{noun.singular: resource, f"{noun.singular}_id": own_id}, validate_only=dry_run, request_id=str(uuid.uuid4())
    )
    if noun.in_project:
        request.parent = session.client.parent
    created = session.client.unary(
        noun.method("Create"), request, message_of(noun, noun.message), doing=f'create {noun.singular} "{own_id}"'
    )
    if dry_run:
        print(f"{noun.singular}/{own_id} could be created")
        return created
    if wait_is_on(wait):
        from cli.wait import follow

        created = follow(session, noun, created.name, wait or "settled", timeout)
    if output == "table":
        print(f"{noun.singular}/{own_id} {state_of(created)}")
    else:
        print_one(noun, created, output)
    return created


def state_of(resource: Any) -> str:
    """Return the state in words for the line after a create."""
    from cli.output import cell

    return cell(resource, "status.state").lower().replace("_", " ") or "created"


def create_options(command: Any) -> Any:
    """Add what every create takes: labels, --dry-run, waiting and output."""
    for add in (
        output_options,
        wait_options,
        click.option("--dry-run", is_flag=True, help="Check everything and change nothing."),
        click.option("--label", "labels", multiple=True, metavar="KEY=VALUE", help="Set a label."),
    ):
        command = add(command)
    return command
