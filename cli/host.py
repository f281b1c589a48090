"""`kumo host`: create, cordon and uncordon, beside the standard commands."""

import click

from cli import standard
from cli.complete import NounName
from cli.nouns import NOUNS
from cli.read import get
from cli.session import Session, message_of, pass_session

NOUN = NOUNS["host"]
command = standard.group("host")


@command.command("create", help="Register a host. Example: kumo host create h2 --cell a --agent 10.0.0.2:7402 --address 10.0.0.2")
@click.argument("name")
@click.option("--cell", required=True, help="The cell it belongs to.")
@click.option("--agent", "agent_address", required=True, metavar="ADDRESS:PORT", help="Where its agent answers.")
@click.option("--address", required=True, help="Its address on the tunnel and storage planes, where these do not say otherwise.")
@click.option("--tunnel-address", default="", help="Its address on the tunnel plane.")
@click.option("--storage-address", default="", help="Its address on the storage plane.")
@standard.create_options
@pass_session
def create(
    session: Session,
    name: str,
    cell: str,
    agent_address: str,
    address: str,
    tunnel_address: str,
    storage_address: str,
    how: standard.Creation,
) -> None:
    host = message_of(NOUN, "Host")()
    host.spec.cell, host.spec.agent_address = cell, agent_address
    host.spec.tunnel_address, host.spec.storage_address = tunnel_address or address, storage_address or address
    standard.create(session, NOUN, name, host, how)


def _cordon(session: Session, name: str, cordoned: bool) -> None:
    request = message_of(NOUN, "UpdateHostRequest")(host=get(session, NOUN, session.full_name(NOUN, name), "change"))
    request.host.spec.cordoned = cordoned
    request.update_mask.paths.append("spec.cordoned")
    session.client.unary(NOUN.method("Update"), request, message_of(NOUN, "Host"), doing=f'change host "{name}"')
    print(f"host/{name} {'takes no new servers' if cordoned else 'takes new servers'}")


@command.command("cordon", help="Let a host take no new servers. Example: kumo host cordon h1")
@click.argument("name", type=NounName("host"))
@pass_session
def cordon(session: Session, name: str) -> None:
    _cordon(session, name, True)


@command.command("uncordon", help="Let a host take new servers again. Example: kumo host uncordon h1")
@click.argument("name", type=NounName("host"))
@pass_session
def uncordon(session: Session, name: str) -> None:
    _cordon(session, name, False)
