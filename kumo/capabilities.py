"""Says which methods of agent.v1 a process of this version knows, so that two versions can tell what they have in common."""

from collections.abc import Iterable

from kumo.api.agent.v1 import agent_pb2, compute_pb2, network_pb2, storage_pb2

_ALWAYS = (agent_pb2.DESCRIPTOR,)
_BY_ROLE = {"compute": compute_pb2.DESCRIPTOR, "network": network_pb2.DESCRIPTOR, "storage": storage_pb2.DESCRIPTOR}


def capabilities(roles: Iterable[str]) -> list[str]:
    """Return the methods that an agent with `roles` serves, as Service/Method, sorted; a role that is not known adds none."""
    files = [*_ALWAYS, *(_BY_ROLE[role] for role in roles if role in _BY_ROLE)]
    services = [service for file in files for service in file.services_by_name.values()]
    return sorted(f"{service.name}/{method.name}" for service in services for method in service.methods)
