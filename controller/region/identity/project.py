"""Projects: two exist, made at the first start: the tenants' `default`, and `system` for the events of what lies in none."""

from typing import Any

from controller.region import access
from controller.region.standard import Region, Standard
from kumo.api.identity.v1 import project_pb2
from kumo.api.identity.v1.project_pb2 import Project
from kumo.errors import AlreadyExists
from kumo.rpc.call import Audience, current_principal
from kumo.store.plane import Plane
from kumo.store.table import Table

_FIRST = {"projects/default": "Default", access.SYSTEM_PROJECT: "Events of the cloud itself"}


class Projects(Standard[Project]):
    changeable = ()

    def __init__(self, region: Region) -> None:
        super().__init__(region, region.tables.projects, project_pb2.DESCRIPTOR.services_by_name["Projects"])

    def _scope(self, request: Any) -> access.Scope:
        """A tenant sees its own projects alone."""
        principal = current_principal()
        if principal.audience >= Audience.OPERATOR and principal.projects is None:
            return access.Scope("projects/", None, "projects")
        text = f"projects of {principal.audience} {sorted(principal.projects or ())}"
        return access.Scope("projects/", lambda name: access.may_reach(name, principal), text)


async def ensure(plane: Plane, projects: Table[Project]) -> None:
    """Make the first projects where they are missing; whoever comes first does, since nothing can be asked for without them."""
    for name, display_name in _FIRST.items():
        if await projects.get(name) is not None:
            continue
        txn = plane.txn()
        txn.create(projects, Project(name=name, spec=Project.Spec(display_name=display_name)))
        try:
            await txn.commit()
        except AlreadyExists:
            continue
