"""`kumo completion`: the script that makes a shell complete commands, options and the names of what there is."""

import click
from click.shell_completion import get_completion_class


@click.command("completion", help='Print the completion script of a shell. Example: eval "$(kumo completion bash)"')
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def command(ctx: click.Context, shell: str) -> None:
    found = get_completion_class(shell)
    assert found is not None
    print(found(ctx.find_root().command, {}, "kumo", "_KUMO_COMPLETE").source())
