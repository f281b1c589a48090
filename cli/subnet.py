"""`kumo subnet`: create, beside the standard commands."""

import click

from cli import standard
from cli.complete import NounName
from cli.nouns import NOUNS
from cli.session import Session, message_of, pass_session

NOUN = NOUNS["subnet"]
command = standard.group("subnet")


@command.command("create", help="Create a subnet. Example: kumo subnet create blue4 --network blue --cidr 10.0.0.0/24")
@click.argument("name")
@click.option("--network", required=True, type=NounName("network"), help="The network it lies on.")
@click.option("--cidr", required=True, help="The range, e.g. 10.0.0.0/24.")
@click.option("--gateway", default="", help="The gateway that guests are told of; else the first address.")
@click.option("--dns", "dns_servers", multiple=True, help="A name server that guests are told of.")
@standard.create_options
@pass_session
def create(
    session: Session, name: str, network: str, cidr: str, gateway: str, dns_servers: tuple[str, ...], how: standard.Creation
) -> None:
    subnet = message_of(NOUN, "Subnet")()
    subnet.spec.network = session.full_name(NOUNS["network"], network)
    subnet.spec.cidr, subnet.spec.gateway = cidr, gateway
    subnet.spec.dns_servers.extend(dns_servers)
    standard.create(session, NOUN, name, subnet, how)
