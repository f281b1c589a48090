"""The command as a person types it: help, guesses at what was meant, three-part errors, and stable exit statuses."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from cli.failure import Exit
from cli.main import root


def kumo(*arguments: str, home: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    clean = {key: value for key, value in os.environ.items() if not key.startswith("KUMO_")}
    settings = clean | {"KUMO_CONFIG": str(home / "config.yaml"), "XDG_CACHE_HOME": str(home)} | environment
    return subprocess.run(
        [sys.executable, "-m", "cli.main", *arguments], capture_output=True, text=True, env=settings, timeout=60, check=False
    )


def commands(command: click.Command, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            found = command.get_command(context, name)
            assert found is not None
            yield from commands(found, (*path, name))
    else:
        yield path, command


@pytest.mark.parametrize(("path", "command"), [pytest.param(path, command, id=" ".join(path)) for path, command in commands(root)])
def test_every_command_has_help_with_an_example(path: tuple[str, ...], command: click.Command) -> None:
    assert command.help, path
    assert f"kumo {path[0]}" in command.help, path
    assert all(parameter.help for parameter in command.params if isinstance(parameter, click.Option)), path


def test_help_fits_one_screen(tmp_path: Path) -> None:
    shown = kumo("--help", home=tmp_path)
    assert shown.returncode == Exit.OK
    assert len(shown.stdout.splitlines()) <= 48
    assert max(map(len, shown.stdout.splitlines())) <= 100


@pytest.mark.parametrize(
    ("typed", "meant"),
    [(("servr", "list"), "kumo server"), (("server", "creat"), "kumo server create"), (("server", "list", "--watc"), "--watch")],
)
def test_a_misspelt_word_is_never_guessed_but_the_right_one_is_named(tmp_path: Path, typed: tuple[str, ...], meant: str) -> None:
    shown = kumo(*typed, home=tmp_path)
    assert shown.returncode == Exit.USAGE
    assert shown.stderr.startswith("error: ")
    assert f"fix: did you mean: {meant}" in shown.stderr


def test_without_a_cloud_the_error_says_how_to_get_one(tmp_path: Path) -> None:
    shown = kumo("server", "list", home=tmp_path)
    assert shown.returncode == Exit.USAGE
    assert "make up" in shown.stderr


def test_an_unreachable_cloud_is_named_and_the_status_says_unavailable(tmp_path: Path) -> None:
    authority = tmp_path / "ca.pem"
    authority.write_text("-----BEGIN CERTIFICATE-----\n")
    shown = kumo("--request-timeout", "2", "server", "list", home=tmp_path, KUMO_ADDRESS="127.0.0.1:1", KUMO_CA=str(authority))
    assert shown.returncode == Exit.UNAVAILABLE
    assert "127.0.0.1:1" in shown.stderr
    assert "fix: kumo doctor" in shown.stderr


def test_a_malformed_label_is_shown_with_the_right_form(tmp_path: Path) -> None:
    shown = kumo("network", "create", "blue", "--label", "oops", home=tmp_path, KUMO_ADDRESS="127.0.0.1:1", KUMO_CA=os.devnull)
    assert shown.returncode == Exit.USAGE
    assert '"oops"' in shown.stderr


def test_the_completion_script_of_each_shell_is_printed(tmp_path: Path) -> None:
    for shell in ("bash", "zsh", "fish"):
        shown = kumo("completion", shell, home=tmp_path)
        assert "_KUMO_COMPLETE" in shown.stdout, shown.stderr
