"""`kumo image`: create with upload, and upload again where one was cut; beside the standard commands."""

from pathlib import Path

import click

from cli import standard
from cli.complete import NounName
from cli.failure import Exit, Failure
from cli.nouns import NOUNS
from cli.read import get
from cli.session import Session, message_of, pass_session

NOUN = NOUNS["image"]
command = standard.group("image")


@command.command("create", help="Create an image from a file. Example: kumo image create deb --file deb.qcow2 --format qcow2")
@click.argument("name")
@click.option("--file", "file", required=True, type=click.Path(path_type=Path), help="The file to upload.")
@click.option(
    "--format", "form", required=True, type=click.Choice(["raw", "qcow2"]), help="What the file is; what it is found to be must agree."
)
@click.option("--sha256", default="", help="What its SHA-256 must be.")
@click.option("--pool", type=NounName("pool"), default=None, help="The pool to keep it in.")
@standard.create_options
@pass_session
def create(session: Session, name: str, file: Path, form: str, sha256: str, pool: str | None, how: standard.Creation) -> None:
    image = message_of(NOUN, "Image")()
    image.spec.format = form.upper()
    image.spec.size_bytes = size_of(file)
    image.spec.sha256 = sha256.lower()
    image.spec.pool = session.full_name(NOUNS["pool"], pool) if pool else ""
    created = standard.ask(session, NOUN, name, image, how)
    if not how.dry_run:
        _upload(session, created.name, file, how.waiting, how.output)


@command.command("upload", help="Go on with an upload that was cut. Example: kumo image upload deb --file deb.qcow2")
@click.argument("name", type=NounName("image"))
@click.option("--file", "file", required=True, type=click.Path(path_type=Path), help="The file to upload.")
@standard.wait_options
@pass_session
def upload(session: Session, name: str, file: Path, waiting: standard.Waiting) -> None:
    size_of(file)
    _upload(session, session.full_name(NOUN, name), file, waiting, "table")


def _upload(session: Session, name: str, file: Path, waiting: standard.Waiting, output: str) -> None:
    from cli.upload import upload_file

    upload_file(session, NOUN, name, file)
    # An upload is a wait already, so the short rest of it is waited for also when nobody is looking.
    image = get(session, NOUN, name) if waiting.wanted is False else standard.follow(session, NOUN, name, waiting)
    standard.print_made(NOUN, image, output)


def size_of(file: Path) -> int:
    """Return the size of a file in bytes. Raises Failure for one that cannot be uploaded."""
    try:
        size = file.stat().st_size
    except OSError as error:
        raise Failure(f'cannot read "{file}"', error.strerror or str(error), "name an image file that you may read", Exit.USAGE) from error
    if not file.is_file() or size == 0:
        raise Failure(f'"{file}" is no image', "it is empty or no file", "name an image file", Exit.USAGE)
    return size
