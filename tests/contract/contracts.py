"""Finds the public contracts: whatever lies in proto/kumo/api but for what Kumo's own processes say to one another."""

import importlib
from functools import cache
from pathlib import Path

from google.protobuf import descriptor_pb2, descriptor_pool
from google.protobuf.descriptor import Descriptor, FileDescriptor, ServiceDescriptor

from proto import generate

# The packages that are not offered to clients, and the one that only lends types.
NOT_PUBLIC = ("kumo.api.agent.", "kumo.api.cell.", "kumo.api.region.", "kumo.api.type.")


def is_public(package: str) -> bool:
    return package.startswith("kumo.api.") and not f"{package}.".startswith(NOT_PUBLIC)


@cache
def public_services() -> tuple[ServiceDescriptor, ...]:
    """Return every public service, from the generated code that servers use."""
    found: list[ServiceDescriptor] = []
    for name in generate.sources():
        if name.startswith("kumo/"):
            module = importlib.import_module(name.removesuffix(".proto").replace("/", ".") + "_pb2")
            file: FileDescriptor = module.DESCRIPTOR
            found += [service for service in file.services_by_name.values() if is_public(file.package)]
    return tuple(found)


def services_below(root: Path) -> list[ServiceDescriptor]:
    """Return every public service of the .proto files below `root`, compiled for this once; tests spoil copies of them."""
    files = descriptor_pb2.FileDescriptorSet.FromString(generate.descriptor_set(root))
    pool = descriptor_pool.DescriptorPool()
    for file in files.file:
        pool.Add(file)
    names = [f"{file.package}.{service.name}" for file in files.file if is_public(file.package) for service in file.service]
    return [pool.FindServiceByName(name) for name in names]


def resource_of(service: ServiceDescriptor) -> Descriptor | None:
    """Return the noun that a service is about: what its Get answers with; None if it has no Get."""
    gets = [method for method in service.methods if method.name.startswith("Get")]
    return gets[0].output_type if len(gets) == 1 else None
