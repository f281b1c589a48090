"""Every public service, those to come as well, keeps the rules of the API; and every rule can be broken."""

import shutil
from pathlib import Path

import pytest
from google.protobuf.descriptor import ServiceDescriptor

from proto import generate
from tests.contract.contracts import public_services, services_below
from tests.contract.rules import RULES, Rule


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
@pytest.mark.parametrize("service", public_services(), ids=lambda service: service.name)
def test_the_service_keeps_the_rule(service: ServiceDescriptor, rule: Rule) -> None:
    assert list(rule(service)) == []


SERVER = "kumo/api/compute/v1/server.proto"
HOST = "kumo/api/fleet/v1/host.proto"
# What is spoilt in which file, and what the complaint says.
SPOILT = [
    (SERVER, "service Servers {", "service Machines {", "is not the plural of Server"),
    (
        SERVER,
        "rpc WatchServers(WatchServersRequest) returns (stream",
        "rpc FollowServers(WatchServersRequest) returns (stream",
        "lacks WatchServers",
    ),
    (
        SERVER,
        "rpc GetServer(GetServerRequest) returns (Server) {\n    option idempotency_level = NO_SIDE_EFFECTS;",
        "rpc GetServer(GetServerRequest) returns (Server) {",
        "no side effects",
    ),
    (SERVER, "int32 page_size = 2", "int32 size = 2", "ListServersRequest lacks page_size"),
    (
        SERVER,
        "misses nothing.\n  string resume_token = 3;",
        "misses nothing.\n  string token = 3;",
        "ListServersResponse lacks resume_token",
    ),
    (SERVER, "bool validate_only = 5", "bool dry_run = 5", "CreateServerRequest lacks validate_only"),
    (SERVER, "string request_id = 4", "string request = 4", "CreateServerRequest lacks request_id"),
    (SERVER, "google.protobuf.FieldMask update_mask = 2", "google.protobuf.FieldMask mask = 2", "UpdateServerRequest lacks update_mask"),
    (
        SERVER,
        "int64 generation = 4 [(google.api.field_behavior) = OUTPUT_ONLY];",
        "int64 generation = 4;",
        "Server.generation lacks its field_behavior",
    ),
    (SERVER, "google.protobuf.Timestamp delete_time = 10", "google.protobuf.Timestamp end_time = 10", "Server lacks delete_time"),
    (SERVER, "int64 observed_generation = 2;", "int64 seen_generation = 2;", "Status lacks observed_generation"),
    (
        SERVER,
        "string image_uid = 4 [(google.api.field_behavior) = OUTPUT_ONLY];",
        "string image_id = 4 [(google.api.field_behavior) = OUTPUT_ONLY];",
        "image is a reference without image_uid",
    ),
    (SERVER, "string flavor = 1 [", "string flavour = 1 [", "flavor_uid is a uid without the name"),
    (SERVER, ", (buf.validate.field).bytes.max_len = 65536];\n    // The size", "];\n    // The size", "user_data may be of any length"),
    (
        SERVER,
        "(buf.validate.field).repeated = {min_items: 1, max_items: 8}",
        "(buf.validate.field).repeated = {min_items: 1}",
        "nics may have any number",
    ),
    (
        SERVER,
        "bool validate_only = 5 [(google.api.field_behavior) = OPTIONAL];",
        "bool validate_only = 5;",
        "says nothing of its field_behavior",
    ),
    (
        SERVER,
        "[(google.api.field_behavior) = INPUT_ONLY, (kumo.api.audience) = SECRET,",
        "[(google.api.field_behavior) = OPTIONAL, (kumo.api.audience) = SECRET,",
        "not input only",
    ),
    (HOST, "message Host {\n  option (kumo.api.default_audience) = OPERATOR;", "message Host {", "does not say who may see it"),
]


@pytest.mark.parametrize(("file", "old", "new", "says"), SPOILT, ids=[says for *_, says in SPOILT])
def test_a_spoilt_contract_is_noticed(tmp_path: Path, file: str, old: str, new: str, says: str) -> None:
    shutil.copytree(generate.PROTO, tmp_path / "proto")
    path = tmp_path / "proto" / file
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    complaints = [complaint for service in services_below(tmp_path / "proto") for rule in RULES for complaint in rule(service)]
    assert any(says in complaint for complaint in complaints), complaints
