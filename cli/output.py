"""Turns resources into what was asked for with -o: table, wide, json, yaml or name. Data goes to stdout."""

import json
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import click

from cli.advice import short
from cli.nouns import Column, Noun
from cli.table import age, moment, render, size
from cli.terminal import harmless, is_terminal

FORMATS = ("table", "wide", "json", "yaml", "name")
_MEBIBYTES = {"spec.memory_mib", "status.memory_mib"}


def output_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add -o and --no-headers to a command."""
    command = click.option("--no-headers", is_flag=True, help="Leave out the line of headers.")(command)
    return click.option("-o", "--output", type=click.Choice(FORMATS), default="table", help="How to print.", show_default=True)(command)


def to_dict(resource: Any) -> dict[str, Any]:
    """Return the JSON form of a resource, with the field names of the API."""
    from google.protobuf.json_format import MessageToDict

    return dict(MessageToDict(resource, preserving_proto_field_name=True))


def print_list(noun: Noun, resources: Sequence[Any], form: str, *, headers: bool = True, full_names: bool = False) -> None:
    match form:
        case "json":
            print(json.dumps([to_dict(resource) for resource in resources], indent=2))
        case "yaml":
            import yaml

            yaml.safe_dump([to_dict(resource) for resource in resources], sys.stdout, sort_keys=False, allow_unicode=False)
        case "name":
            for resource in resources:
                print(harmless(resource.name))
        case _:
            columns = columns_of(noun, form == "wide")
            rows = [row(noun, resource, columns, full_names) for resource in resources]
            for line in render([column.header for column in columns], rows, with_headers=headers):
                print(fitting(line, columns, form))
            if not resources and is_terminal(sys.stdout):
                print(f"No {noun.plural}.", file=sys.stderr)


def columns_of(noun: Noun, wide: bool) -> list[Column]:
    return [column for column in noun.columns if wide or not column.wide]


def fitting(line: str, columns: Sequence[Column], form: str) -> str:
    """Return a line of a table without the end of its sentence where that does not fit; whoever wants all of it has -o wide."""
    width = shutil.get_terminal_size((80, 24)).columns if is_terminal(sys.stdout) else 80
    return f"{line[: width - 1]}…" if form != "wide" and columns[-1].cut and len(line) > width else line


def row(noun: Noun, resource: Any, columns: Iterable[Column], full_names: bool) -> list[str]:
    """Return the cells of one resource."""
    return [cell(resource, column.path, full_names) for column in columns]


def cell(resource: Any, path: str, full_names: bool = False) -> str:
    """Return what a table shows of one field: short names, states without prefix, sizes and ages for people."""
    value, field = resource, None
    for part in path.split("."):
        field = value.DESCRIPTOR.fields_by_name[part]
        value = getattr(value, part)
    assert field is not None
    if path == "status.addresses":
        return ", ".join(address.address for address in value)
    if field.message_type is not None and field.message_type.full_name == "google.protobuf.Timestamp":
        return age(value.seconds, time.time())
    if field.enum_type is not None:
        name: str = field.enum_type.values_by_number[value].name if value in field.enum_type.values_by_number else str(value)
        return "" if name.endswith("_UNSPECIFIED") else name
    if path.endswith("_bytes"):
        return size(value)
    if path in _MEBIBYTES:
        return size(value << 20)
    if path.endswith("_gib"):
        return size(value << 30)
    if isinstance(value, bool):
        return "yes" if value else ""
    if path == "subject":
        return short(value)
    if path == "message":
        return str(resource.operator_message or value)
    if isinstance(value, str):
        return value if full_names or path in ("message", "spec.cidr") else value.rsplit("/", 1)[-1]
    return str(value) if value else ""


def print_one(noun: Noun, resource: Any, form: str) -> None:
    """Print one resource: for people with -o table, else as the API has it."""
    match form:
        case "json":
            print(json.dumps(to_dict(resource), indent=2))
        case "yaml":
            import yaml

            yaml.safe_dump(to_dict(resource), sys.stdout, sort_keys=False, allow_unicode=False)
        case "name":
            print(harmless(resource.name))
        case _:
            for line in describe(to_dict(resource), wide=form == "wide"):
                print(line)


# What only machines, or those who look for a fault in Kumo itself, have a use for; -o wide shows it.
_HIDDEN = {
    "etag",
    "generation",
    "observed_generation",
    "conditions",
    "placement",
    "cell_epoch",
    "host_epoch",
    "boot_id",
    "backend_name",
    "heard_time",
}


def describe(resource: dict[str, Any], wide: bool = False) -> list[str]:
    """Return the lines of `show`: what it is, its status, what was asked for (spec), and its conditions, under the API's own names."""
    top = {key: value for key, value in resource.items() if not isinstance(value, (dict, list)) or key == "labels"}
    sections = [("", top), ("status", resource.get("status", {})), ("spec", resource.get("spec", {}))]
    project = "/".join(resource.get("name", "").split("/")[:-2]) + "/"
    pairs: list[tuple[str, str]] = []
    for heading, section in sections:
        shown = [(key, value) for key, value in section.items() if key != "conditions" and (wide or not _is_hidden(key))]
        if heading and shown:
            pairs.append((f"{heading}:", ""))
        pairs += [(f"  {key}" if heading else key, _flat(key, value, "" if key == "name" else project)) for key, value in shown]
    width = max((len(key) for key, _ in pairs), default=0)
    lines = [f"{key.ljust(width)}   {harmless(text)}".rstrip() for key, text in pairs]
    conditions = resource.get("status", {}).get("conditions", [])
    lines += ["conditions:"] if conditions else []
    for condition in conditions:
        lines += _condition_lines(condition)
    return lines


def _is_hidden(key: str) -> bool:
    return key in _HIDDEN or key.endswith("_uid")


def _condition_lines(condition: dict[str, str]) -> list[str]:
    mark = {"TRUE": "✓", "FALSE": "✗"}.get(condition.get("status", ""), "·")
    head = f"  {mark} {condition.get('type', '')}"
    if condition.get("status") != "TRUE" and (since := condition.get("since")):
        head += f" (for {age(_seconds(since), time.time())})"
    because = condition.get("operator_message") or condition.get("message", "")
    lines = [harmless(": ".join(part for part in (head, because) if part))]
    if condition.get("fix") and condition.get("status") != "TRUE":
        lines.append(harmless(f"    fix: {condition['fix']}"))
    return lines


def _seconds(moment_text: str) -> float:
    import datetime

    return datetime.datetime.fromisoformat(moment_text).timestamp()


def _flat(key: str, value: Any, project: str) -> str:
    """Return a value on one line; names of the same project are shown without it."""
    if isinstance(value, list):
        return ", ".join(_flat(key, item, project) for item in value)
    if isinstance(value, dict):
        return " ".join(f"{name}={_flat(name, item, project)}" for name, item in value.items() if not name.endswith("_uid"))
    if isinstance(value, bool):
        return "yes" if value else "no"
    if key.endswith("_time") and isinstance(value, str):
        return moment(_seconds(value))
    text = str(value)
    if key.endswith("_bytes") and text.isdigit():
        return f"{text} ({size(int(text))})"
    return text.removeprefix(project) if len(project) > 1 else text
