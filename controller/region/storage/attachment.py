"""Attachments: which volumes are disks of which servers. They are made and ended with the servers and are only read here."""

from controller.region.standard import Region, Standard
from kumo.api.storage.v1 import attachment_pb2
from kumo.api.storage.v1.attachment_pb2 import Attachment


class Attachments(Standard[Attachment]):
    changeable = ()

    def __init__(self, region: Region) -> None:
        super().__init__(region, region.tables.attachments, attachment_pb2.DESCRIPTOR.services_by_name["Attachments"])


def usage_of(_attachment: Attachment) -> dict[str, int]:
    return {}
