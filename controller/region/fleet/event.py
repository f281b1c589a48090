"""Events: what happened to resources. They are written with the changes they explain (controller.region.events) and only read here."""

from controller.region.standard import Region, Standard
from kumo.api.fleet.v1 import event_pb2
from kumo.api.fleet.v1.event_pb2 import Event


class EventsService(Standard[Event]):
    changeable = ()

    def __init__(self, region: Region) -> None:
        super().__init__(region, region.tables.events, event_pb2.DESCRIPTOR.services_by_name["Events"])
