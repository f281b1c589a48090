"""Finds what grows in this process's memory: containers that are longer than they were, and whose they are."""

import gc
import types
from collections import OrderedDict, defaultdict, deque
from collections.abc import Iterator
from typing import Any

# Whose containers are looked at: Kumo's, and the series of metrics. The event loop's own come and go.
OURS = ("agent.", "controller.", "kumo.", "prometheus_client.", "scheduler.", "storage.", "tests.")
_KINDS = (dict, list, set, deque, OrderedDict, defaultdict)


def lengths(least: int) -> dict[int, int]:
    """Return how long each container of at least `least` is, by its address."""
    gc.collect()
    return {id(one): len(one) for one in _containers() if len(one) >= least}


def grown(before: dict[int, int], by: int) -> list[str]:
    """Return who has containers that are longer by at least `by` than in `before`, or new and that long."""
    gc.collect()
    found = [one for one in _containers() if one is not before and len(one) - before.get(id(one), 0) >= by]
    whose = {f"{_owner(one)}: {len(one)}, was {before.get(id(one), 0)}" for one in found}
    return sorted(owner for owner in whose if owner.startswith(OURS))


def _containers() -> Iterator[Any]:
    """Yield those that the collector knows, and those that it does not look at because they hold only text and numbers."""
    seen: set[int] = set()
    for known in gc.get_objects():
        for one in (known, *gc.get_referents(known)):
            if type(one) in _KINDS and id(one) not in seen:
                seen.add(id(one))
                yield one


def _owner(container: Any) -> str:
    """Return the class and the attribute, or the module and the variable, by which a container is held; "" if nothing of the kind does."""
    for holder in gc.get_referrers(container):
        if isinstance(holder, types.FrameType | types.GeneratorType | list):
            continue
        if isinstance(holder, dict):
            name = next((key for key, value in list(holder.items()) if value is container), None)
            owners = [one for one in gc.get_referrers(holder) if getattr(one, "__dict__", None) is holder]
        else:
            name = next((key for key, value in list(getattr(holder, "__dict__", {}).items()) if value is container), None)
            owners = [holder]
        if isinstance(name, str) and owners:
            kind = type(owners[0])
            module = owners[0].__name__ if isinstance(owners[0], types.ModuleType) else f"{kind.__module__}.{kind.__qualname__}"
            return f"{module}.{name}"
    return ""
