"""`kumo image`: create with upload, and upload again where one was cut; beside the standard commands."""

from pathlib import Path
from typing import Any

import click

from cli import standard
from cli.complete import NounName
from cli.failure import Exit, Failure
from cli.nouns import NOUNS
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
def create(session: Session, name: str, file: Path, form: str, **given: Any) -> None:
    size = size_of(file)
    image = message_of(NOUN, "Image")(labels=standard.parse_labels(given["labels"]))
    image.spec.format = form.upper()
    image.spec.size_bytes = size
    image.spec.sha256 = given["sha256"].lower()
    image.spec.pool = session.full_name(NOUNS["pool"], given["pool"]) if given["pool"] else ""
    created = standard.create(
        session,
        NOUN,
        name,
        image,
        dry_run=given["dry_run"],
        wait="no",
        timeout=given["timeout"],
        output="none" if given["output"] == "table" else given["output"],
    )
    if not given["dry_run"]:
        _upload(session, created.name, file, given["wait"], given["timeout"])


@command.command("upload", help="Go on with an upload that was cut. Example: kumo image upload deb --file deb.qcow2")
@click.argument("name", type=NounName("image"))
@click.option("--file", "file", required=True, type=click.Path(path_type=Path), help="The file to upload.")
@standard.wait_options
@pass_session
def upload(session: Session, name: str, file: Path, wait: str | None, timeout: float) -> None:
    size_of(file)
    _upload(session, session.full_name(NOUN, name), file, wait, timeout)


def _upload(session: Session, name: str, file: Path, wait: str | None, timeout: float) -> None:
    from cli.upload import upload_file

    upload_file(session, NOUN, name, file)
    own_id = name.rsplit("/", 1)[-1]
    if wait == "no":
        print(f"image/{own_id} uploaded")
        return
    # An upload is a wait already, so the short rest of it is waited for also when nobody is looking.
    from cli.wait import follow

    image = follow(session, NOUN, name, wait or "settled", timeout)
    print(f"image/{own_id} {standard.state_of(image)}")


def size_of(file: Path) -> int:
    """Return the size of a file in bytes. Raises Failure for one that cannot be uploaded."""
    try:
        size = file.stat().st_size
    except OSError as error:
        raise Failure(f'cannot read "{file}"', error.strerror or str(error), "name an image file that you may read", Exit.USAGE) from error
    if not file.is_file() or size == 0:
        raise Failure(f'"{file}" is no image', "it is empty or no file", "name an image file", Exit.USAGE)
    return size
