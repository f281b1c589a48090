"""`kumo port`: create, beside the standard commands."""

import click

from cli import standard
from cli.complete import NounName
from cli.nouns import NOUNS
from cli.session import Session, message_of, pass_session

NOUN = NOUNS["port"]
command = standard.group("port")


@command.command("create", help="Create a port. Example: kumo port create web1-eth0 --network blue --address 10.0.0.10")
@click.argument("name")
@click.option("--network", required=True, type=NounName("network"), help="The network it is on.")
@click.option("--subnet", default=None, type=NounName("subnet"), help="The subnet its address comes from; else the first with room.")
@click.option("--address", default="", help="The IP address; else a free one.")
@standard.create_options
@pass_session
def create(session: Session, name: str, network: str, subnet: str | None, address: str, how: standard.Creation) -> None:
    port = message_of(NOUN, "Port")()
    port.spec.network = session.full_name(NOUNS["network"], network)
    port.spec.subnet = session.full_name(NOUNS["subnet"], subnet) if subnet else ""
    port.spec.address = address
    standard.create(session, NOUN, name, port, how)
