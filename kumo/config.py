"""Reads the one TOML file that starts a process into the frozen dataclass which says all that may stand in it.

Only what starts a process stands there; what may change while it runs lives in the store.
"""

import tomllib
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from kumo.errors import InvalidArgument

Config = TypeVar("Config")


def load(path: Path, kind: type[Config]) -> Config:
    """Return the configuration in `path`. Raises InvalidArgument, naming file and key, for anything missing, unknown or of a wrong type.

    `kind` is a frozen dataclass; its nested parts are frozen dataclasses too, paths are pathlib.Path.
    """
    try:
        text = path.read_text()
    except OSError as error:
        raise InvalidArgument(
            "CONFIG_UNREADABLE", f"{path}: {error.strerror}", fix="name a file that this process may read", file=str(path)
        ) from error
    try:
        return parse(text, kind)
    except ValueError as error:
        raise InvalidArgument(
            "CONFIG_MALFORMED", f"{path}: {error}", fix=f"correct {path}; unknown keys are refused", file=str(path)
        ) from error


def parse(text: str, kind: type[Config]) -> Config:
    """Return the configuration in `text`. Raises ValueError saying what is wrong, and where."""
    data: dict[str, Any] = tomllib.loads(text)
    made = msgspec.convert(data, kind, strict=True, dec_hook=_decode)
    unknown = _extra_keys(data, msgspec.inspect.type_info(kind), "")
    if unknown:
        raise ValueError(f"unknown key {', '.join(unknown)}")
    return made


def _decode(kind: type[Any], value: Any) -> Any:
    if kind is Path and isinstance(value, str):
        return Path(value)
    raise NotImplementedError(f"{kind.__name__} cannot stand in a configuration")


def _extra_keys(data: Any, info: msgspec.inspect.Type, prefix: str) -> list[str]:
    """Return the keys that no field takes, as paths; msgspec ignores them for dataclasses."""
    if isinstance(info, msgspec.inspect.UnionType):
        info = next((part for part in info.types if isinstance(part, msgspec.inspect.DataclassType)), info)
    if isinstance(info, msgspec.inspect.DataclassType) and isinstance(data, dict):
        fields = {field.encode_name: field.type for field in info.fields}
        extra = [prefix + key for key in data if key not in fields]
        return extra + [found for key, kind in fields.items() if key in data for found in _extra_keys(data[key], kind, f"{prefix}{key}.")]
    if isinstance(info, msgspec.inspect.ListType | msgspec.inspect.VarTupleType) and isinstance(data, list):
        return [found for i, item in enumerate(data) for found in _extra_keys(item, info.item_type, f"{prefix}{i}.")]
    return []
