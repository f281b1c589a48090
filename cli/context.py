"""`kumo context`: which clouds there are and which one is used."""

from dataclasses import replace
from pathlib import Path

import click

from cli.contexts import Context, config_file, load, save
from cli.failure import Exit, Failure
from cli.table import render

command = click.Group(name="context", help="Which cloud, which project. Kept in $XDG_CONFIG_HOME/kumo/config.yaml.", no_args_is_help=True)


@command.command("list", help="List contexts; the current one is marked. Example: kumo context list")
def list_contexts() -> None:
    contexts = load()
    rows = [
        ["*" if name == contexts.current else "", name, known.address, known.project, str(known.ca)]
        for name, known in contexts.known.items()
    ]
    for line in render(["CURRENT", "NAME", "ADDRESS", "PROJECT", "CA"], rows):
        print(line)


@command.command("use", help="Choose the current context. Example: kumo context use local")
@click.argument("name")
def use(name: str) -> None:
    contexts = load()
    if name not in contexts.known:
        raise Failure(
            f'no context is called "{name}"',
            f"{contexts.file} has: {', '.join(contexts.known) or 'none'}",
            "kumo context list",
            Exit.NOT_FOUND,
        )
    # The system's file is not the user's to change: what is chosen is written to a file of their own.
    save(replace(contexts, file=config_file(), current=name))
    print(f"context/{name} is used from now on")


@command.command("add", help="Add or replace a context. Example: kumo context add lab --address 127.0.0.1:7400 --ca ca.pem")
@click.argument("name")
@click.option("--address", required=True, help="HOST:PORT of the region's API.")
@click.option(
    "--ca", required=True, type=click.Path(path_type=Path, exists=True, dir_okay=False), help="The CA that its certificate comes from."
)
@click.option("--server-name", default="", help="The name in its certificate, where it is not the host of the address.")
@click.option("--project", default="default", show_default=True, help="The project to work in.")
def add(name: str, address: str, ca: Path, server_name: str, project: str) -> None:
    contexts = load()
    known = {**contexts.known, name: Context(name, address, ca.resolve(), server_name, project)}
    save(replace(contexts, file=config_file(), known=known, current=contexts.current or name))
    print(f"context/{name} added")


@command.command("delete", help="Forget a context. Example: kumo context delete lab")
@click.argument("name")
def delete(name: str) -> None:
    contexts = load()
    if name not in contexts.known:
        raise Failure(f'no context is called "{name}"', "", "kumo context list", Exit.NOT_FOUND)
    known = {key: value for key, value in contexts.known.items() if key != name}
    save(replace(contexts, file=config_file(), known=known, current="" if contexts.current == name else contexts.current))
    print(f"context/{name} forgotten")
