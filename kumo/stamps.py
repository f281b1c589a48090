"""Orders terms, epochs and stamps, as every receiver of commands compares them; what is held and where is the receiver's."""

from kumo.api.type.v1.stamp_pb2 import Epoch, Stamp, Term
from kumo.errors import FailedPrecondition


def term_order(term: Term) -> tuple[str, int]:
    """Return what terms are compared by; UUIDv7s of incarnations are in order as text."""
    return term.incarnation, term.create_revision


def epoch_order(epoch: Epoch) -> tuple[int, int]:
    return epoch.cell, epoch.host


def behind(stamp: Stamp, held: Stamp | None, largest: Term) -> str | None:
    """Return which number of `stamp` is behind what is held, or None if the command is to be obeyed.

    The same stamp again is obeyed: applying twice is applying once.
    """
    if term_order(stamp.term) < term_order(largest):
        return "term"
    if held is None:
        return None
    if term_order(stamp.term) < term_order(held.term):
        return "term"
    if epoch_order(stamp.epoch) < epoch_order(held.epoch):
        return "epoch"
    if stamp.generation < held.generation:
        return "generation"
    if term_order(stamp.term) == term_order(held.term) and stamp.sequence < held.sequence:
        return "sequence"
    return None


def refusal(receiver: str, number: str, stamp: Stamp, held: Stamp | None, largest: Term) -> FailedPrecondition:
    """Return the error that says what is held, for whoever sent `stamp`, whose `number` is behind; `receiver` is host or cell."""
    said = held or Stamp()
    return FailedPrecondition(
        "STALE_COMMAND",
        f"the {number} of the command is behind what this {receiver} holds",
        fix=f"read what the {receiver} holds; a deposed leader stops",
        behind=number,
        command_incarnation=stamp.term.incarnation,
        command_create_revision=stamp.term.create_revision,
        largest_incarnation=largest.incarnation,
        largest_create_revision=largest.create_revision,
        held_incarnation=said.term.incarnation,
        held_create_revision=said.term.create_revision,
        held_sequence=said.sequence,
        held_epoch_cell=said.epoch.cell,
        held_epoch_host=said.epoch.host,
        held_generation=said.generation,
    )
