"""`kumo server`: create, start, stop, reboot, console and console-log, beside the standard commands."""

import sys
import uuid
from pathlib import Path
from typing import Any

import click

from cli import standard
from cli.complete import NounName
from cli.failure import Exit, Failure
from cli.nouns import NOUNS
from cli.session import Session, message_of, pass_session

NOUN = NOUNS["server"]
command = standard.group("server")


@command.command(
    "create",
    help="Create a server. Example: kumo server create web1 --image deb --flavor small --network blue --ssh-key ~/.ssh/id_ed25519.pub",
)
@click.argument("name")
@click.option("--flavor", required=True, type=NounName("flavor"), help="How big.")
@click.option("--image", required=True, type=NounName("image"), help="What its root disk is cloned from.")
@click.option("--network", "networks", multiple=True, type=NounName("network"), help="A network to be on; may be given more than once.")
@click.option("--port", "ports", multiple=True, type=NounName("port"), help="An existing port to use; may be given more than once.")
@click.option("--ssh-key", "ssh_keys", multiple=True, metavar="FILE", help="A file of public SSH keys.")
@click.option("--user-data", metavar="FILE", help="User data for the guest, as cloud-init reads it.")
@click.option("--disk", "disk_gib", type=click.IntRange(1, 16384), default=None, help="GiB of the root disk, instead of the flavor's.")
@click.option("--pool", type=NounName("pool"), default=None, help="The pool of the root disk.")
@standard.create_options
@pass_session
def create(session: Session, name: str, how: standard.Creation, **given: Any) -> None:
    if not given["networks"] and not given["ports"]:
        raise Failure(
            "a server needs an interface",
            "neither --network nor --port was given",
            f"kumo server create {name} … --network NETWORK",
            Exit.USAGE,
        )
    server = message_of(NOUN, "Server")()
    server.spec.flavor = session.full_name(NOUNS["flavor"], given["flavor"])
    server.spec.image = session.full_name(NOUNS["image"], given["image"])
    server.spec.disk_gib = given["disk_gib"] or 0
    server.spec.pool = session.full_name(NOUNS["pool"], given["pool"]) if given["pool"] else ""
    for network in given["networks"]:
        server.spec.nics.add(network=session.full_name(NOUNS["network"], network))
    for port in given["ports"]:
        server.spec.nics.add(port=session.full_name(NOUNS["port"], port))
    for file in given["ssh_keys"]:
        server.spec.ssh_keys.extend(public_keys(file))
    if given["user_data"]:
        server.spec.user_data = read(given["user_data"])
    standard.create(session, NOUN, name, server, how)


def public_keys(file: str) -> list[str]:
    """Return the keys of a .pub or authorized_keys file. Raises Failure for anything else, so that no private key is ever sent."""
    lines = [line.strip() for line in read(file).decode(errors="replace").splitlines()]
    keys = [line for line in lines if line and not line.startswith("#")]
    wrong = next((line for line in keys if not line.startswith(("ssh-", "ecdsa-", "sk-"))), None)
    if wrong is None and keys:
        return keys
    if wrong is not None and "PRIVATE KEY" in wrong:
        raise Failure(
            f'"{file}" holds a private key', "it was not sent: a server is given the public one", f"--ssh-key {file}.pub", Exit.USAGE
        )
    because = f'the line "{wrong[:40]}" is no public key' if wrong is not None else "it is empty"
    raise Failure(f'"{file}" holds no public SSH keys', because, "--ssh-key ~/.ssh/id_ed25519.pub", Exit.USAGE)


def read(file: str) -> bytes:
    """Return the bytes of a file; `-` reads stdin."""
    if file == "-":
        return sys.stdin.buffer.read()
    try:
        return Path(file).expanduser().read_bytes()
    except OSError as error:
        raise Failure(f'cannot read "{file}"', error.strerror or str(error), "name a file that you may read", Exit.USAGE) from error


def _verb(session: Session, verb: str, names: tuple[str, ...], waiting: standard.Waiting, **fields: Any) -> None:
    """Send one verb to each server; with waiting, follow each until it has settled."""
    full = [session.full_name(NOUN, name) for name in names]
    for name in full:
        own_id = name.rsplit("/", 1)[-1]
        request = message_of(NOUN, f"{verb}ServerRequest")(name=name, request_id=str(uuid.uuid4()), **fields)
        session.client.unary(NOUN.method(verb), request, message_of(NOUN, "Server"), doing=f'{verb.lower()} server "{own_id}"')
        print(f"server/{own_id} {verb.lower()} asked for")
    if waiting.is_on:
        for name in full:
            server = standard.follow(session, NOUN, name, waiting)
            print(f"server/{name.rsplit('/', 1)[-1]} {standard.state_of(server)}")


@command.command("start", help="Start servers. Example: kumo server start web1 --wait")
@click.argument("names", nargs=-1, required=True, type=NounName("server"))
@standard.wait_options
@pass_session
def start(session: Session, names: tuple[str, ...], waiting: standard.Waiting) -> None:
    _verb(session, "Start", names, waiting)


@command.command("stop", help="Stop servers: ask the guest, and cut the power after 60 s. Example: kumo server stop web1 --hard")
@click.argument("names", nargs=-1, required=True, type=NounName("server"))
@click.option("--hard", is_flag=True, help="Cut the power at once.")
@standard.wait_options
@pass_session
def stop(session: Session, names: tuple[str, ...], hard: bool, waiting: standard.Waiting) -> None:
    _verb(session, "Stop", names, waiting, mode="STOP_MODE_HARD" if hard else "STOP_MODE_UNSPECIFIED")


@command.command("reboot", help="Reboot servers. Example: kumo server reboot web1 --hard --wait")
@click.argument("names", nargs=-1, required=True, type=NounName("server"))
@click.option("--hard", is_flag=True, help="Cut the power at once.")
@standard.wait_options
@pass_session
def reboot(session: Session, names: tuple[str, ...], hard: bool, waiting: standard.Waiting) -> None:
    _verb(session, "Reboot", names, waiting, mode="REBOOT_MODE_HARD" if hard else "REBOOT_MODE_UNSPECIFIED")


@command.command("console", help="Attach to the serial console; Ctrl-] leaves it. Example: kumo server console web1")
@click.argument("name", type=NounName("server"))
@pass_session
def console(session: Session, name: str) -> None:
    from cli.console import attach

    attach(session, session.full_name(NOUN, name))


@command.command("console-log", help="Print what the serial console printed. Example: kumo server console-log web1 -f")
@click.argument("name", type=NounName("server"))
@click.option("-f", "--follow", is_flag=True, help="Stay, and print what comes.")
@click.option("--tail", "tail_bytes", type=click.IntRange(0, 16 << 20), default=0, help="Only the last so many bytes.")
@click.option("--raw", is_flag=True, help="The bytes as they are, when stdout is no terminal.")
@pass_session
def console_log(session: Session, name: str, follow: bool, tail_bytes: int, raw: bool) -> None:
    from cli.console import print_log

    print_log(session, session.full_name(NOUN, name), follow=follow, tail_bytes=tail_bytes, raw=raw)
