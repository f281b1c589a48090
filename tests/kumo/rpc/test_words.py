"""No rule of the contract shows a regular expression to whoever broke it."""

from collections.abc import Iterator

import pytest
from google.protobuf.descriptor import Descriptor

from kumo.api.buf.validate import validate_pb2
from kumo.api.compute.v1 import flavor_pb2, server_pb2
from kumo.api.fleet.v1 import event_pb2, host_pb2, pool_pb2
from kumo.api.image.v1 import image_pb2
from kumo.api.network.v1 import network_pb2, port_pb2, subnet_pb2
from kumo.api.storage.v1 import attachment_pb2, volume_pb2
from kumo.rpc.words import rule_in_words

FILES = (
    flavor_pb2,
    server_pb2,
    event_pb2,
    host_pb2,
    pool_pb2,
    image_pb2,
    network_pb2,
    port_pb2,
    subnet_pb2,
    attachment_pb2,
    volume_pb2,
)


def patterns(message: Descriptor) -> Iterator[str]:
    for field in message.fields:
        rules = field.GetOptions().Extensions[validate_pb2.field]
        for text in (rules.string, rules.repeated.items.string, rules.map.keys.string):
            if text.pattern:
                yield text.pattern
    for nested in message.nested_types:
        yield from patterns(nested)


PATTERNS = sorted(
    {pattern for file in FILES for message in file.DESCRIPTOR.message_types_by_name.values() for pattern in patterns(message)}
)


@pytest.mark.parametrize("pattern", PATTERNS)
def test_every_pattern_of_the_contract_has_words(pattern: str) -> None:
    words = rule_in_words(f"does not match regex pattern `{pattern}`")
    assert words.startswith("must be ")
    assert not set(words) & set("^$`\\{}[]"), words


def test_a_resource_name_is_shown_as_a_template() -> None:
    rule = "does not match regex pattern `^projects/[a-z]([a-z0-9-]{0,61}[a-z0-9])?/servers/[a-z]([a-z0-9-]{0,61}[a-z0-9])?$`"
    assert rule_in_words(rule).startswith("must be projects/NAME/servers/NAME, ")


def test_other_rules_stay_as_they_are() -> None:
    assert rule_in_words("must be greater than 0") == "must be greater than 0"
