"""`kumo volume`: create, beside the standard commands."""

import click

from cli import standard
from cli.complete import NounName
from cli.nouns import NOUNS
from cli.session import Session, message_of, pass_session

NOUN = NOUNS["volume"]
command = standard.group("volume")


@command.command("create", help="Create a volume. Example: kumo volume create data1 --size 10")
@click.argument("name")
@click.option("--size", "size_gib", required=True, type=int, help="GiB.")
@click.option("--image", default=None, type=NounName("image"), help="The image to clone; else it is blank.")
@click.option("--pool", default=None, type=NounName("pool"), help="The pool to lie in.")
@standard.create_options
@pass_session
def create(session: Session, name: str, size_gib: int, image: str | None, pool: str | None, how: standard.Creation) -> None:
    volume = message_of(NOUN, "Volume")()
    volume.spec.size_gib = size_gib
    volume.spec.image = session.full_name(NOUNS["image"], image) if image else ""
    volume.spec.pool = session.full_name(NOUNS["pool"], pool) if pool else ""
    standard.create(session, NOUN, name, volume, how)
