"""`kumo flavor`: create, beside the standard commands."""

import click

from cli import standard
from cli.nouns import NOUNS
from cli.session import Session, message_of, pass_session

NOUN = NOUNS["flavor"]
command = standard.group("flavor")


@command.command("create", help="Create a flavor. Example: kumo flavor create small --vcpus 1 --memory 512 --disk 4")
@click.argument("name")
@click.option("--vcpus", required=True, type=int, help="Virtual CPUs.")
@click.option("--memory", "memory_mib", required=True, type=int, help="MiB of memory.")
@click.option("--disk", "disk_gib", required=True, type=int, help="GiB of root disk.")
@standard.create_options
@pass_session
def create(session: Session, name: str, vcpus: int, memory_mib: int, disk_gib: int, how: standard.Creation) -> None:
    flavor = message_of(NOUN, "Flavor")()
    flavor.spec.vcpus, flavor.spec.memory_mib, flavor.spec.disk_gib = vcpus, memory_mib, disk_gib
    standard.create(session, NOUN, name, flavor, how)
