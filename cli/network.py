"""`kumo network`: create, with a subnet where one is named, beside the standard commands."""

import click

from cli import standard
from cli.nouns import NOUNS
from cli.session import Session, message_of, pass_session

NOUN = NOUNS["network"]
command = standard.group("network")


@command.command(
    "create", help="Create a network, with a first subnet where --cidr is given. Example: kumo network create blue --cidr 10.0.0.0/24"
)
@click.argument("name")
@click.option("--mtu", type=int, default=0, help="The largest IP packet in bytes; else what the underlay carries, less 50.")
@click.option("--cidr", default="", help="Also create a subnet of the same name with this range.")
@standard.create_options
@pass_session
def create(session: Session, name: str, mtu: int, cidr: str, how: standard.Creation) -> None:
    network = message_of(NOUN, "Network")()
    network.spec.mtu = mtu
    created = standard.create(session, NOUN, name, network, how)
    if cidr and not how.dry_run:
        subnet = message_of(NOUNS["subnet"], "Subnet")()
        subnet.spec.network, subnet.spec.cidr = created.name, cidr
        standard.create(session, NOUNS["subnet"], name, subnet, how)
