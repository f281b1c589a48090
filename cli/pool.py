"""`kumo pool`: create, beside the standard commands."""

from typing import Any

import click

from cli import standard
from cli.nouns import NOUNS
from cli.session import Session, message_of, pass_session

NOUN = NOUNS["pool"]
command = standard.group("pool")


@command.command(
    "create", help="Create a pool. Example: kumo pool create fast --driver rbd --volume-pool volumes --image-pool images --default"
)
@click.argument("name")
@click.option("--driver", required=True, type=click.Choice(["rbd", "file", "fake"]), help="What keeps the bytes.")
@click.option("--volume-pool", default="", help="The Ceph pool for volumes.")
@click.option("--image-pool", default="", help="The Ceph pool for images.")
@click.option("--cell", "cells", multiple=True, help="A cell that reaches it; none means all.")
@click.option("--host", "hosts", multiple=True, help="A host that reaches it; none means all. A directory is one host's.")
@click.option("--default", is_flag=True, help="What names no pool goes here.")
@standard.create_options
@pass_session
def create(session: Session, name: str, driver: str, how: standard.Creation, **spec: Any) -> None:
    """Make it of the options, which are called as the fields of the spec are."""
    standard.create(session, NOUN, name, message_of(NOUN, "Pool")(spec={"driver": driver.upper(), **spec}), how)
