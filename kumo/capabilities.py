"""Says which services and methods of agent.v1 a process of this version knows, so that two versions can tell what they have in common."""

from collections.abc import Iterable

from kumo.api.agent.v1 import agent_pb2, compute_pb2, network_pb2, storage_pb2

_AGENTS = agent_pb2.DESCRIPTOR.services_by_name["Agents"]
# What an agent serves by the roles of its host.
SERVICES = {
    "compute": compute_pb2.DESCRIPTOR.services_by_name["Compute"],
    "network": network_pb2.DESCRIPTOR.services_by_name["Network"],
    "storage": storage_pb2.DESCRIPTOR.services_by_name["Storage"],
}


def capabilities(roles: Iterable[str]) -> list[str]:
    """Return the methods that an agent with `roles` serves, as Service/Method, sorted; a role that is not known adds none."""
    services = [_AGENTS, *(SERVICES[role] for role in roles if role in SERVICES)]
    return sorted(f"{service.name}/{method.name}" for service in services for method in service.methods)
