"""The root of the `kumo` command: global options, nouns loaded when they are named, and failures told in three parts."""

import difflib
import importlib
import os
import sys

import click

from cli.failure import Exit, Failure

# name → (module, one line). The lines are here so that `kumo --help` loads no module.
_COMMANDS = {
    "server": ("cli.server", "Virtual machines."),
    "image": ("cli.image", "What root disks are cloned from."),
    "flavor": ("cli.flavor", "Sizes of servers."),
    "network": ("cli.network", "Layer-2 networks of a project."),
    "subnet": ("cli.subnet", "Address ranges on networks."),
    "port": ("cli.port", "Places on networks."),
    "volume": ("cli.volume", "Disks."),
    "pool": ("cli.pool", "Where volumes and images lie."),
    "host": ("cli.host", "Machines that run servers."),
    "event": ("cli.event", "What happened, and why."),
    "context": ("cli.context", "Which cloud, which project."),
    "doctor": ("cli.doctor", "Find out what is wrong."),
    "call": ("cli.call", "Call any method of the API with JSON."),
    "completion": ("cli.completion", "Print the completion script of a shell."),
}
_EPILOG = """\b
First steps:
  kumo server list
  kumo server create web1 --image IMAGE --flavor FLAVOR --network NETWORK --wait
  kumo server console web1
\b
Exit status: 0 done, 1 failed, 2 usage, 3 not found, 4 denied, 5 conflict,
6 no capacity, 7 unavailable or timed out, 130 interrupted.
"""


class Root(click.Group):
    """A group whose commands are imported when they are needed."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        del ctx
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        del ctx
        if cmd_name not in _COMMANDS:
            return None
        command = importlib.import_module(_COMMANDS[cmd_name][0]).command
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        del ctx
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in _COMMANDS.items()])

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Take --wait=CONDITION for --wait --for CONDITION: with a value that may be left out, --wait would eat the word after it."""
        spelt = [part for word in args for part in (("--wait", "--for", word[7:]) if word.startswith("--wait=") else (word,))]
        return super().parse_args(ctx, spelt)

    def resolve_command(self, ctx: click.Context, args: list[str]) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0] if args else ""
        if name not in _COMMANDS:
            raise _unknown(name, list(_COMMANDS), "kumo")
        return super().resolve_command(ctx, args)


def _unknown(name: str, known: list[str], before: str) -> Failure:
    close = difflib.get_close_matches(name, known, 1)
    fix = f"did you mean: {before} {close[0]}" if close else f"{before} --help"
    return Failure(f'there is no command "{before} {name}"', f"there are: {', '.join(known)}", fix, Exit.USAGE)


@click.group(
    cls=Root, epilog=_EPILOG, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}, no_args_is_help=True
)
@click.option("--context", help="The context to use; see `kumo context list`.", envvar="KUMO_CONTEXT")
@click.option("--project", help="The project to work in.", envvar="KUMO_PROJECT")
@click.option("--request-timeout", type=click.FloatRange(min=0.1), default=10.0, show_default=True, help="Seconds that one call may take.")
@click.option("-v", "--verbose", is_flag=True, help="Tell of each call: how it ended, how long it took, its request id.")
@click.version_option(package_name="kumo", prog_name="kumo")
@click.pass_context
def root(ctx: click.Context, context: str | None, project: str | None, request_timeout: float, verbose: bool) -> None:
    """Kumo: a cloud of servers, networks, volumes and images."""
    from cli.session import Session

    ctx.obj = Session(context, project, request_timeout, verbose)
    ctx.call_on_close(ctx.obj.close)


def main() -> None:
    """Run the command and end the process with one of the statuses of Exit."""
    # What gRPC's core has to say on stderr is said again, in words, by whoever called it.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    try:
        root.main(standalone_mode=False, prog_name="kumo")
    except Failure as failure:
        print(failure.text(), file=sys.stderr)
        sys.exit(failure.exit)
    except click.exceptions.NoArgsIsHelpError as error:
        print(error.ctx.get_help() if error.ctx else "", file=sys.stderr)
        sys.exit(Exit.USAGE)
    except click.UsageError as error:
        print(usage_failure(error).text(), file=sys.stderr)
        sys.exit(Exit.USAGE)
    except click.ClickException as error:
        print(Failure(error.format_message()).text(), file=sys.stderr)
        sys.exit(Exit.USAGE)
    except (click.Abort, KeyboardInterrupt):
        sys.exit(Exit.INTERRUPTED)
    except BrokenPipeError:
        # The reader has gone, as `head` does. Python would complain once more when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(Exit.OK)


def usage_failure(error: click.UsageError) -> Failure:
    """Return click's complaint in three parts, with what was meant where that can be guessed."""
    path = error.ctx.command_path if error.ctx else "kumo"
    if isinstance(error, click.NoSuchOption) and error.possibilities:
        return Failure(f"{path} has no option {error.option_name}", _usage(error), f"did you mean: {error.possibilities[0]}", Exit.USAGE)
    group = error.ctx.command if error.ctx else None
    if isinstance(group, click.Group) and error.ctx and error.message.startswith("No such command"):
        return _unknown(error.message.split("'")[1], group.list_commands(error.ctx), path)
    return Failure(error.format_message().rstrip("."), _usage(error), f"{path} --help", Exit.USAGE)


def _usage(error: click.UsageError) -> str:
    """Return how the command is called, with the options that it cannot do without."""
    if error.ctx is None:
        return ""
    needed = [
        f"{max(parameter.opts, key=len)} {parameter.make_metavar(error.ctx)}"
        for parameter in error.ctx.command.params
        if isinstance(parameter, click.Option) and parameter.required
    ]
    pieces = error.ctx.command.collect_usage_pieces(error.ctx)
    return " ".join(["it is called as:", error.ctx.command_path, *needed, *pieces])


if __name__ == "__main__":
    main()
