"""Follows one attachment: says whether the server has the disk and which clients hold it open, and ends when the server let go."""

from controller.cell.cell import Cell
from controller.cell.conditions import Said, conditions
from controller.cell.ends import finish
from controller.cell.presence import goes_withdrawn, host_of, is_leaving, server_is_off
from controller.cell.storage.attachment.plan import Finish, Step, Wait, World, plan
from kumo.api.agent.v1.compute_pb2 import ServerFacts
from kumo.api.storage.v1.attachment_pb2 import Attachment


class AttachmentReconciler:
    """Called by the loop of attachments with a uid."""

    def __init__(self, cell: Cell) -> None:
        self._cell = cell

    async def reconcile(self, uid: str) -> None:
        attachment = self._cell.records.attachments.get(uid)
        if attachment is None:
            return
        facts = self._facts(attachment)
        world = World(
            is_leaving=is_leaving(self._cell, attachment),
            is_held=not server_is_off(self._cell, attachment.spec.server_uid),
            is_attached=facts is not None and facts.power in (ServerFacts.RUNNING, ServerFacts.OFF),
        )
        match plan(world):
            case Finish():
                await finish(self._cell, self._cell.records.attachments, uid, withdrawn=goes_withdrawn(self._cell, attachment))
            case Wait() | None as step:
                await self._report(attachment, facts, step, is_leaving=world.is_leaving)

    def _facts(self, attachment: Attachment) -> ServerFacts | None:
        placement = host_of(self._cell, attachment.spec.server_uid)
        session = self._cell.agents.get(placement.host_uid) if placement is not None else None
        return session.servers.get(attachment.spec.server_uid) if session is not None else None

    async def _report(self, attachment: Attachment, facts: ServerFacts | None, step: Step | None, *, is_leaving: bool) -> None:
        if isinstance(step, Wait) and not is_leaving and not attachment.HasField("status"):
            return  # that it is being attached is plain until something else is so
        part = Attachment(uid=attachment.uid)
        after = part.status
        after.observed_generation = attachment.generation
        after.client_addresses.extend(sorted(facts.client_addresses) if facts is not None else attachment.status.client_addresses)
        if is_leaving:
            after.state = Attachment.DETACHING
            said = Said("Attached", True, "IN_USE", "the server may have the disk open")
        elif step is None:
            after.state = Attachment.ATTACHED
            said = Said("Attached", True, "ATTACHED", "the server has the disk")
        else:
            after.state = Attachment.ATTACHING
            said = Said("Attached", False, "NOT_YET", "the server does not have the disk yet")
        now = self._cell.now()
        after.conditions.extend(conditions(attachment.status.conditions, [said], attachment.generation, now))
        await self._cell.reporter.report(self._cell.records.attachments, part, (), now)
