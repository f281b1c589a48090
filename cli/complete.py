"""Completion of names: what the cloud has now, asked for with a short deadline and remembered for five seconds."""

import hashlib
import json
import os
import time
from pathlib import Path

import click
from click.shell_completion import CompletionItem

from cli.nouns import NOUNS

_KEEP_S = 5.0


class NounName(click.ParamType[str]):
    """The name of a resource: an id, or a full resource name."""

    name = "name"

    def __init__(self, singular: str) -> None:
        self._singular = singular

    def get_metavar(self, param: click.Parameter, ctx: click.Context) -> str:
        del param, ctx
        return self._singular.upper()

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        del param
        return [CompletionItem(name) for name in names(ctx, self._singular) if name.startswith(incomplete)]


def names(ctx: click.Context, singular: str) -> list[str]:
    """Return the ids of what there is; nothing where the cloud does not answer at once: completion never complains."""
    from cli.failure import Failure
    from cli.session import Session

    root = ctx.find_root()
    session = Session(root.params.get("context"), root.params.get("project"), timeout_s=1.0)
    cached = _cache_file(f"{singular} {session.context_name} {session.project} {os.environ.get('KUMO_CONFIG', '')}")
    try:
        if time.time() - cached.stat().st_mtime < _KEEP_S:
            return list(json.loads(cached.read_text()))
    except (OSError, ValueError):
        pass
    try:
        from cli.read import listed

        noun = NOUNS[singular]
        items, _ = listed(session, noun, session.client.parent if noun.in_project else "")
    except Failure:
        return []
    found = [item.name.rsplit("/", 1)[-1] for item in items]
    _remember(cached, found)
    return found


def _cache_file(key: str) -> Path:
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "kumo" / "names"
    return folder / hashlib.sha256(key.encode()).hexdigest()[:16]


def _remember(file: Path, found: list[str]) -> None:
    try:
        file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        fresh = file.with_name(f"{file.name}.{os.getpid()}")
        fresh.write_text(json.dumps(found))
        fresh.replace(file)
    except OSError:
        return
