"""Makes, for each audience, message types that lack the fields it may not see: what a type does not have cannot leave.

Fields that this process does not know, written by a newer one, are not shown either: who may see them is not known here.
"""

from collections.abc import Callable
from functools import cache
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool
from google.protobuf.descriptor import Descriptor, FileDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from kumo.rpc.audience import may_see
from kumo.rpc.call import Audience
from kumo.rpc.fields import OWN_PACKAGE

# Turns an answer into the bytes that travel.
Serialize = Callable[[Any], bytes]


class _Views:
    """The types of one audience, in a pool of their own under their own names."""

    def __init__(self, audience: Audience) -> None:
        self._audience = audience
        self._pool = descriptor_pool.DescriptorPool()
        self._added: set[str] = set()

    def of(self, descriptor: Descriptor) -> type[Message]:
        self._add(descriptor.file)
        return GetMessageClass(self._pool.FindMessageTypeByName(descriptor.full_name))

    def _add(self, file: FileDescriptor) -> None:
        if file.name in self._added:
            return
        self._added.add(file.name)
        for dependency in file.dependencies:
            self._add(dependency)
        copy = descriptor_pb2.FileDescriptorProto()
        file.CopyToProto(copy)
        if file.package.startswith(OWN_PACKAGE):
            for message in copy.message_type:
                self._prune(message, file.message_types_by_name[message.name])
        self._pool.Add(copy)

    def _prune(self, copy: descriptor_pb2.DescriptorProto, original: Descriptor) -> None:
        if copy.options.map_entry:
            return
        for inner in copy.nested_type:
            self._prune(inner, original.nested_types_by_name[inner.name])
        kept = [field for field in copy.field if may_see(original.fields_by_name[field.name], self._audience)]
        # A oneof without a field is malformed, and fields name theirs by its place.
        places = sorted({field.oneof_index for field in kept if field.HasField("oneof_index")})
        oneofs = [copy.oneof_decl[place] for place in places]
        for field in kept:
            if field.HasField("oneof_index"):
                field.oneof_index = places.index(field.oneof_index)
        del copy.oneof_decl[:], copy.field[:]
        copy.oneof_decl.extend(oneofs)
        copy.field.extend(kept)


@cache
def _views(audience: Audience) -> _Views:
    return _Views(audience)


@cache
def serializer(descriptor: Descriptor, audience: Audience) -> Serialize:
    """Return what makes bytes of an answer, of the type `descriptor`, with nothing in them that `audience` may not see."""
    whole: Serialize = GetMessageClass(descriptor).SerializeToString  # refuses a message of another type
    if audience == Audience.INTERNAL or not descriptor.full_name.startswith(OWN_PACKAGE):
        return whole
    view = _views(audience).of(descriptor)

    def serialize(message: Any) -> bytes:
        seen = view.FromString(whole(message))
        seen.DiscardUnknownFields()
        return seen.SerializeToString()

    return serialize
