"""Contexts: which cloud, which project, which CA. Read from flags, then KUMO_* variables, then the configuration file.

The file is YAML, at $KUMO_CONFIG or $XDG_CONFIG_HOME/kumo/config.yaml:

    current: local
    contexts:
      local: {address: "127.0.0.1:7400", ca: /var/lib/kumo/cli/ca.pem, server_name: h1.controller.region.local.kumo, project: default}
"""

import os
from dataclasses import dataclass, field, replace
from pathlib import Path

from cli.failure import Exit, Failure

# What `make up` writes, so that the first command works before anybody has configured anything.
SYSTEM_FILE = Path("/var/lib/kumo/cli/context.yaml")
_FIELDS = {"address", "ca", "server_name", "project"}


@dataclass(frozen=True)
class Context:
    """One cloud as one user sees it."""

    name: str
    address: str
    ca: Path
    server_name: str = ""
    project: str = "default"


@dataclass(frozen=True)
class Contexts:
    """The content of a configuration file."""

    file: Path
    current: str = ""
    known: dict[str, Context] = field(default_factory=dict)


def config_file() -> Path:
    """Return where the user's own configuration lies, whether or not it exists."""
    if chosen := os.environ.get("KUMO_CONFIG"):
        return Path(chosen)
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "kumo" / "config.yaml"


def load(file: Path | None = None) -> Contexts:
    """Return the user's contexts, or the system's where the user has none. Raises Failure naming the file and the key."""
    chosen = file or config_file()
    if not chosen.exists() and file is None and not os.environ.get("KUMO_CONFIG") and SYSTEM_FILE.exists():
        chosen = SYSTEM_FILE
    if not chosen.exists():
        return Contexts(chosen)
    import yaml

    try:
        content = yaml.safe_load(chosen.read_text()) or {}
    except (OSError, yaml.YAMLError) as error:
        raise Failure(f"cannot read {chosen}", str(error), "mend the file, or remove it and run: kumo context add", Exit.USAGE) from error
    known = {}
    for name, values in (content.get("contexts") or {}).items():
        known[str(name)] = _parse(str(name), values, chosen)
    return Contexts(chosen, str(content.get("current") or ""), known)


def _parse(name: str, values: object, file: Path) -> Context:
    if not isinstance(values, dict) or not values.get("address") or not values.get("ca"):
        raise Failure(f'context "{name}" in {file} is incomplete', "it needs an address and a ca", "kumo context add --help", Exit.USAGE)
    if unknown := set(values) - _FIELDS:
        raise Failure(
            f'context "{name}" in {file} has unknown keys', ", ".join(sorted(unknown)), f"use only {', '.join(sorted(_FIELDS))}", Exit.USAGE
        )
    return Context(
        name, str(values["address"]), Path(values["ca"]), str(values.get("server_name") or ""), str(values.get("project") or "default")
    )


def save(contexts: Contexts) -> None:
    """Write the file anew, whole, readable by its owner alone."""
    import yaml

    content = {
        "current": contexts.current,
        "contexts": {
            known.name: {"address": known.address, "ca": str(known.ca), "server_name": known.server_name, "project": known.project}
            for known in contexts.known.values()
        },
    }
    contexts.file.parent.mkdir(parents=True, exist_ok=True)
    fresh = contexts.file.with_name(contexts.file.name + ".new")
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as stream:
        yaml.safe_dump(content, stream, sort_keys=False)
    fresh.replace(contexts.file)


def choose(name: str | None, project: str | None) -> Context:
    """Return the context to use: the one named, $KUMO_CONTEXT's, or the current one, with what variables override."""
    wanted = name or os.environ.get("KUMO_CONTEXT")
    address, ca = os.environ.get("KUMO_ADDRESS"), os.environ.get("KUMO_CA")
    if not wanted and address and ca:
        found = Context("environment", address, Path(ca), os.environ.get("KUMO_SERVER_NAME", ""))
    else:
        found = _known(load(), wanted)
        if address:
            found = replace(found, address=address)
        if ca:
            found = replace(found, ca=Path(ca))
    chosen = project or os.environ.get("KUMO_PROJECT") or found.project
    return replace(found, project=chosen.removeprefix("projects/"))


def _known(contexts: Contexts, wanted: str | None) -> Context:
    name = wanted or contexts.current
    if name in contexts.known:
        return contexts.known[name]
    if not name:
        raise Failure(
            "no cloud is configured",
            f"{contexts.file} names no current context",
            "start one on this host with `make up`, or: kumo context add NAME --address HOST:PORT --ca FILE",
            Exit.USAGE,
        )
    there = ", ".join(contexts.known) or "none"
    raise Failure(f'no context is called "{name}"', f"{contexts.file} has: {there}", "kumo context list", Exit.USAGE)
