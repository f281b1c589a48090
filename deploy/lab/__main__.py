"""`make lab` and what may be done with a lab of several hosts.

usage: python -m deploy.lab [--state DIR] up|down|purge|status|join|leave|reboot|power-off|boot|cut|mend|shell|kumo ...
"""

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path

from cli.failure import Failure
from deploy import control, etcd_binary, preflight
from deploy.etcd_binary import Etcd
from deploy.lab import life, node, underlay
from deploy.lab.shape import PLANES, Shape, load, picture
from deploy.layout import CHECKOUT
from deploy.steps import Steps, fail

DEFAULT_STATE = Path("/var/lib/kumo-lab")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m deploy.lab", description="A lab of several hosts on this machine.")
    parser.add_argument("--state", type=Path, default=Path(os.environ.get("KUMO_LAB") or DEFAULT_STATE))
    commands = parser.add_subparsers(dest="command", required=True)
    up = commands.add_parser("up", help="bring it up, or what of it is down")
    up.add_argument("--hosts", type=int, default=None, help="how many hosts (3)")
    up.add_argument("--underlay", choices=["ipv4", "ipv6"], default=None)
    up.add_argument("--networks", type=int, choices=[1, len(PLANES)], default=None, help="one for all planes, or one for each")
    up.add_argument(
        "--foreign-firewall", action="store_true", default=None, help="hosts drop what they would forward, as with Docker or ufw"
    )
    for name, words in {"down": "stop it and keep its state", "purge": "stop it and leave nothing", "status": "draw it"}.items():
        commands.add_parser(name, help=words)
    for name, words in {
        "join": "add a host",
        "leave": "take a host out, which must have no servers",
        "reboot": "shut a node down and boot it",
        "power-off": "end a node as a power failure does",
        "boot": "boot a node that is off",
    }.items():
        commands.add_parser(name, help=words).add_argument("node")
    for name, words in {"cut": "pull a node's cables", "mend": "put them back"}.items():
        one = commands.add_parser(name, help=words)
        one.add_argument("node")
        one.add_argument("networks", nargs="*", help=f"of {', '.join(PLANES)}; none named: all")
    shell = commands.add_parser("shell", help="a shell, or a command, on a node")
    shell.add_argument("node")
    shell.add_argument("rest", nargs=argparse.REMAINDER)
    commands.add_parser("kumo", help="the kumo command, from a controller").add_argument("rest", nargs=argparse.REMAINDER)
    return parser


def _wanted(arguments: argparse.Namespace, known: Shape | None) -> Shape:
    """Return the lab that `up` shall bring up. Raises ValueError where the arguments contradict what there is."""
    asked = {"underlay": arguments.underlay, "networks": arguments.networks, "foreign_firewall": arguments.foreign_firewall}
    if known is None:
        hosts = tuple(f"h{number}" for number in range(1, (arguments.hosts or 3) + 1))
        return Shape(arguments.state, hosts, **{name: value for name, value in asked.items() if value is not None})
    for name, value in asked.items():
        if value not in (None, getattr(known, name)):
            raise ValueError(f"this lab has {name.replace('_', ' ')} {getattr(known, name)}, which cannot change: make lab-purge first")
    missing = arguments.hosts is not None and {f"h{number}" for number in range(1, arguments.hosts + 1)} - set(known.hosts)
    if missing:
        raise ValueError(f"this lab is without {', '.join(sorted(missing))}: python -m deploy.lab join {min(missing)}")
    return known


def _up(arguments: argparse.Namespace, known: Shape | None, found: Etcd) -> int:
    shape = _wanted(arguments, known)
    if known is not None and life.is_complete(shape):
        print(f"already up: {shape.state}\n{picture(shape, life.states(shape))}\n{_try_next(shape)}")
        return 0
    if known is None and (problems := preflight.problems_of_lab(shape.whole)):
        for problem in problems:
            fail(problem.what, problem.because, problem.fix)
        return 1
    with control.only_one(shape.state):
        shape.save()  # first of all: purge finds the lab by it
        steps = Steps()
        steps.say(f"starting a lab of {len(shape.hosts)} hosts in {shape.state}")
        _write_command(shape)
        life.up(shape, found, steps)
        steps.say(f"up in {steps.total_s:.1f} s\n{picture(shape, life.states(shape))}\n{_try_next(shape)}")
    return 0


def _write_command(shape: Shape) -> None:
    """A `kumo` for people outside of the lab's network."""
    script = shape.state / "kumo"
    script.write_text(f'#!/bin/sh\ncd {CHECKOUT} && exec {sys.executable} -m deploy.lab --state {shape.state} kumo "$@"\n')
    script.chmod(0o755)


def _try_next(shape: Shape) -> str:
    return f"Try: {shape.state}/kumo host list, or make lab-shell NODE={shape.hosts[0]}"


def _down(shape: Shape, *, purge: bool) -> int:
    with control.only_one(shape.state):
        steps = Steps()
        if purge:
            life.purge(shape, steps)
        else:
            life.shut_down(shape, steps)
        steps.say("purged: nothing of it is left" if purge else f"down; its state is kept in {shape.state}")
    return 0


def _enter(shape: Shape, name: str, command: list[str]) -> int:
    pid = control.init_pid(shape.node(name))
    enter = ["nsenter", f"--target={pid}", "--mount", "--uts", "--net", "--pid", "--"]
    os.execvp(enter[0], [*enter, *(command or [os.environ.get("SHELL", "/bin/sh")])])


def _kumo(shape: Shape, arguments: list[str]) -> int:
    life.enter(shape)
    os.environ["KUMO_CONFIG"] = str(shape.whole.cli / "context.yaml")
    os.execv(sys.executable, [sys.executable, "-m", "cli.main", *arguments])


def _change(shape: Shape, arguments: argparse.Namespace, found: Etcd) -> int:
    """Do what is done to one node."""
    name, steps = arguments.node, Steps()
    if arguments.command != "join" and name not in shape.nodes:
        raise ValueError(f"there is no node {name!r}: there are {', '.join(shape.nodes)}")
    own = shape.node(name)
    with control.only_one(shape.state):
        match arguments.command:
            case "join":
                life.enter(shape)
                life.join(shape, name, found, steps)
            case "leave":
                life.enter(shape)
                life.leave(shape, name, steps)
            case "power-off":
                node.cut_power(own)
            case "boot" if node.is_booted(own):
                print(f"{name} runs already")
            case "boot" | "reboot":
                if arguments.command == "reboot":
                    node.shut_down(own)
                node.boot(shape, name, node.services(own))
            case _:
                underlay.set_links(shape, name, arguments.networks or shape.links, up=arguments.command == "mend")
    return 0


def _run(arguments: argparse.Namespace) -> int:
    found = etcd_binary.find()
    if found is None:
        fail("there is no etcd server", "nothing of the region can be kept without one", "make setup")
        return 1
    shape = load(arguments.state)
    if arguments.command == "up":
        return _up(arguments, shape, found)
    if shape is None:
        print(f"nothing there: {arguments.state}")
        return 0 if arguments.command in ("down", "purge") else 1
    does: dict[str, Callable[[Shape], int]] = {
        "down": lambda shape: _down(shape, purge=False),
        "purge": lambda shape: _down(shape, purge=True),
        "status": lambda shape: print(picture(shape, life.states(shape))) or 0,
        "shell": lambda shape: _enter(shape, arguments.node, arguments.rest),
        "kumo": lambda shape: _kumo(shape, arguments.rest),
    }
    return does[arguments.command](shape) if arguments.command in does else _change(shape, arguments, found)


def main() -> int:
    arguments = _parser().parse_args()
    arguments.state = arguments.state.absolute()
    try:
        return _run(arguments)
    except Failure as failure:
        fail(failure.what, failure.because, failure.fix)
    except control.Down as error:
        fail("the node is off", str(error), f"python -m deploy.lab --state {arguments.state} boot NODE, or make lab")
    except (OSError, RuntimeError, TimeoutError, ValueError) as error:
        fail("the lab did not do that", str(error), f"look at the logs in {arguments.state}/nodes/*/log")
    return 1


if __name__ == "__main__":
    sys.exit(main())
