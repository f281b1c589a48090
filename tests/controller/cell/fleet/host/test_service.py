"""Hosts are made, changed and removed in their cell, and a host with servers on it stays."""

from typing import Any

import pytest
from google.protobuf.field_mask_pb2 import FieldMask

from kumo.api.cell.v1 import cell_pb2, cell_pb2_grpc
from kumo.api.compute.v1.server_pb2 import Server
from kumo.api.fleet.v1 import host_pb2
from kumo.errors import Aborted, AlreadyExists, FailedPrecondition, InvalidArgument, NotFound
from kumo.ids import new_uid
from tests.controller.cell.up import up
from tests.controller.cell.world import CELL, Cloud, bundle, running

_SPEC: dict[str, Any] = {"cell": CELL, "agent_address": "127.0.0.1:9", "tunnel_address": "127.0.0.1", "storage_address": "127.0.0.1"}


def _create(host_id: str, **more: Any) -> cell_pb2.CreateHostRequest:
    host = host_pb2.Host(spec=host_pb2.Host.Spec(**_SPEC))
    return cell_pb2.CreateHostRequest(request=host_pb2.CreateHostRequest(host_id=host_id, host=host, **more))


async def _hosts(cloud: Cloud, method: str, request: Any) -> host_pb2.Host:
    async with cloud.region.channel() as dialled:
        return await getattr(cell_pb2_grpc.HostsStub(dialled), method)(request, timeout=5.0)  # type: ignore[no-any-return]


async def test_a_host_is_created_once_for_one_request_and_its_name_is_its_own(cloud: Cloud) -> None:
    async with cloud.lead(), running(cloud.region.follow()):
        request_id = new_uid()
        made = await _hosts(cloud, "CreateHost", _create("h9", request_id=request_id))
        assert (made.name, made.generation) == ("hosts/h9", 1)
        assert (await _hosts(cloud, "CreateHost", _create("h9", request_id=request_id))).uid == made.uid
        with pytest.raises(AlreadyExists):
            await _hosts(cloud, "CreateHost", _create("h9"))
        with pytest.raises(InvalidArgument) as reused:
            await _hosts(cloud, "CreateHost", _create("h8", request_id=request_id))
        assert reused.value.reason == "REQUEST_ID_REUSED"
        await cloud.region.until(lambda: cloud.region.host(made.uid).status.state == host_pb2.Host.JOINING, "it is JOINING")
        assert cloud.region.host(made.uid).etag


async def test_validate_only_changes_nothing(cloud: Cloud) -> None:
    async with cloud.lead():
        await _hosts(cloud, "CreateHost", _create("h9", validate_only=True))
        assert await cloud.keys() == set()


async def test_a_host_of_another_cell_is_refused(cloud: Cloud) -> None:
    async with cloud.lead():
        request = _create("h9")
        request.request.host.spec.cell = "b"
        with pytest.raises(InvalidArgument) as refused:
            await _hosts(cloud, "CreateHost", request)
        assert refused.value.field == "host.spec.cell"


async def test_a_host_whose_tunnels_could_not_meet_those_of_others_is_refused(cloud: Cloud) -> None:
    async with cloud.lead():
        made = await _hosts(cloud, "CreateHost", _create("h8"))
        request = _create("h9")
        request.request.host.spec.tunnel_address = "fd4b:2::9"
        with pytest.raises(FailedPrecondition) as refused:
            await _hosts(cloud, "CreateHost", request)
        assert refused.value.reason == "TUNNELS_MIXED" and made.name in refused.value.message
        # The only host may change its family.
        update = host_pb2.UpdateHostRequest(host=host_pb2.Host(name=made.name), update_mask=FieldMask(paths=["spec.tunnel_address"]))
        update.host.spec.tunnel_address = "fd4b:2::8"
        await _hosts(cloud, "UpdateHost", cell_pb2.UpdateHostRequest(request=update))
        await _hosts(cloud, "CreateHost", request)


async def test_only_what_the_mask_names_is_changed_and_a_stale_etag_is_refused(cloud: Cloud) -> None:
    async with cloud.lead():
        made = await _hosts(cloud, "CreateHost", _create("h9"))
        wanted = host_pb2.Host(name=made.name, etag=made.etag, spec=host_pb2.Host.Spec(cordoned=True))
        update = host_pb2.UpdateHostRequest(host=wanted, update_mask=FieldMask(paths=["spec.cordoned"]))
        changed = await _hosts(cloud, "UpdateHost", cell_pb2.UpdateHostRequest(request=update))
        assert (changed.spec.cordoned, changed.spec.agent_address, changed.generation) == (True, "127.0.0.1:9", 2)
        with pytest.raises(Aborted):
            await _hosts(cloud, "UpdateHost", cell_pb2.UpdateHostRequest(request=update))
        update.host.etag = ""
        update.update_mask.paths[:] = ["spec.cell"]
        with pytest.raises(InvalidArgument):
            await _hosts(cloud, "UpdateHost", cell_pb2.UpdateHostRequest(request=update))
        update.update_mask.paths[:] = ["spec.tunnel_address"]
        update.host.spec.tunnel_address = "nowhere"
        with pytest.raises(InvalidArgument):
            await _hosts(cloud, "UpdateHost", cell_pb2.UpdateHostRequest(request=update))


async def test_a_host_goes_only_when_no_server_is_placed_on_it(cloud: Cloud) -> None:
    async with up(cloud, "h1") as world:
        region, wanted = world.region, bundle(base=world.base)
        await region.push(wanted)
        await region.until_state(wanted.server.uid, Server.ACTIVE)
        delete = cell_pb2.DeleteHostRequest(request=host_pb2.DeleteHostRequest(name="hosts/h1"))
        with pytest.raises(FailedPrecondition) as refused:
            await _hosts(cloud, "DeleteHost", delete)
        assert wanted.server.name in refused.value.message
        await region.delete(wanted)
        await region.until(lambda: wanted.server.uid in region.ended, "the server ended")
        await _hosts(cloud, "DeleteHost", delete)
        await region.until(lambda: world.hosts["h1"].uid in region.ended, "the host ended")
        with pytest.raises(NotFound):
            await _hosts(cloud, "DeleteHost", delete)
