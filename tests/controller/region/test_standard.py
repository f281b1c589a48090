"""The standard methods over the wire, on nouns that are made easily: pages, filters, watches, updates, etags, and who sees what."""

import asyncio
from typing import Any

import grpc
import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from grpc_health.v1 import health_pb2, health_pb2_grpc

from kumo.api.compute.v1 import flavor_pb2
from kumo.api.compute.v1.flavor_pb2 import Flavor
from kumo.api.fleet.v1 import event_pb2, pool_pb2
from kumo.api.identity.v1 import project_pb2
from kumo.api.network.v1 import network_pb2, subnet_pb2
from kumo.api.type.v1 import condition_pb2
from kumo.errors import Aborted, AlreadyExists, Error, FailedPrecondition, InvalidArgument, NotFound
from kumo.rpc.call import Audience, Principal
from tests.controller.region.region_process import PROJECT, SMALL, Rig, Site, eventually, subnet_request


async def create_flavor(rig: Rig, name: str, **fields: Any) -> Flavor:
    flavor = Flavor(spec=SMALL, labels=fields.pop("labels", {}))
    made: Flavor = await rig.api.flavors.CreateFlavor(flavor_pb2.CreateFlavorRequest(flavor_id=name, flavor=flavor, **fields))
    return made


async def update_flavor(rig: Rig, flavor: Flavor, *paths: str, **fields: Any) -> Flavor:
    request = flavor_pb2.UpdateFlavorRequest(flavor=flavor, **fields)
    request.update_mask.paths.extend(paths)
    updated: Flavor = await rig.api.flavors.UpdateFlavor(request)
    return updated


async def names(rig: Rig, **fields: Any) -> list[str]:
    """Return the names on all pages, in the order in which they came."""
    found: list[str] = []
    token = ""
    while True:
        request = flavor_pb2.ListFlavorsRequest(page_token=token, **fields)
        page = await rig.api.flavors.ListFlavors(request)
        found += [flavor.name for flavor in page.flavors]
        token = page.next_page_token
        if not token:
            return found


async def test_what_was_written_is_read_at_once(rig: Rig) -> None:
    for number in range(20):
        made = await create_flavor(rig, f"f{number}")
        read = await rig.api.flavors.GetFlavor(flavor_pb2.GetFlavorRequest(name=made.name))
        assert read == made
        assert made.name in await names(rig)
        await rig.api.flavors.DeleteFlavor(flavor_pb2.DeleteFlavorRequest(name=made.name))
        with pytest.raises(NotFound) as gone:
            await rig.api.flavors.GetFlavor(flavor_pb2.GetFlavorRequest(name=made.name))
        assert (gone.value.reason, gone.value.field) == ("FLAVOR_NOT_FOUND", "name")
        assert gone.value.fix


async def test_pages_have_everything_once_in_order_and_filters_keep_what_matches(rig: Rig) -> None:
    made = [f"flavors/f{number:02}" for number in range(25)]
    await asyncio.gather(*(create_flavor(rig, f"f{n:02}", labels={"odd": str(n % 2)}) for n in range(25)))
    assert await names(rig, page_size=7) == [*made, "flavors/small"]
    assert await names(rig, page_size=4, filter='labels.odd = "1"') == made[1::2]
    assert await names(rig, filter='labels.odd != "1" AND name != "flavors/small" AND status.state = "ACTIVE"') == made[::2]
    page = await rig.api.flavors.ListFlavors(flavor_pb2.ListFlavorsRequest(page_size=2))
    other = flavor_pb2.ListFlavorsRequest(page_token=page.next_page_token, filter='labels.odd = "1"')
    with pytest.raises(InvalidArgument):
        await rig.api.flavors.ListFlavors(other)


async def test_a_watch_from_a_list_misses_nothing_and_goes_on_from_any_token(rig: Rig) -> None:
    page = await rig.api.flavors.ListFlavors(flavor_pb2.ListFlavorsRequest())
    made = await create_flavor(rig, "w")
    await update_flavor(rig, Flavor(name=made.name, labels={"a": "1"}), "labels")
    await rig.api.flavors.DeleteFlavor(flavor_pb2.DeleteFlavorRequest(name=made.name))
    seen = await watch(rig, page.resume_token, 3)
    assert [change.kind for change in seen] == [condition_pb2.CREATED, condition_pb2.UPDATED, condition_pb2.DELETED]
    assert [dict(change.flavor.labels) for change in seen] == [{}, {"a": "1"}, {"a": "1"}]
    assert [change.kind for change in await watch(rig, seen[0].resume_token, 2)] == [condition_pb2.UPDATED, condition_pb2.DELETED]


async def test_a_watch_from_nothing_begins_with_what_there_is(rig: Rig) -> None:
    first, second = await watch(rig, "", 2, with_synced=True)
    assert (first.kind, first.flavor.name, second.kind) == (condition_pb2.EXISTING, "flavors/small", condition_pb2.SYNCED)


async def watch(rig: Rig, token: str, count: int, *, with_synced: bool = False) -> list[Any]:
    seen: list[Any] = []
    stream = rig.api.flavors.WatchFlavors(flavor_pb2.WatchFlavorsRequest(resume_token=token))
    async with asyncio.timeout(5):
        async for change in stream:
            if with_synced or change.kind != condition_pb2.SYNCED:
                seen.append(change)
            if len(seen) == count:
                break
    stream.cancel()
    return seen


async def test_updates_change_what_the_mask_names_and_refuse_a_stale_version(rig: Rig) -> None:
    made = await create_flavor(rig, "f", labels={"a": "1", "b": "2"})
    updated = await update_flavor(rig, Flavor(name=made.name, labels={"a": "9"}), "labels.a")
    assert (dict(updated.labels), updated.generation) == ({"a": "9", "b": "2"}, 2)
    same = await update_flavor(rig, Flavor(name=made.name, labels={"a": "9", "b": "2"}), "labels")
    assert (same.etag, same.generation) == (updated.etag, 2)
    with pytest.raises(Aborted) as stale:
        await update_flavor(rig, Flavor(name=made.name, etag=made.etag), "labels")
    assert stale.value.reason == "ETAG_STALE"
    with pytest.raises(Aborted):
        await rig.api.flavors.DeleteFlavor(flavor_pb2.DeleteFlavorRequest(name=made.name, etag=made.etag))
    would = await update_flavor(rig, Flavor(name=made.name, labels={}), "labels", validate_only=True)
    assert not would.labels
    assert (await rig.api.flavors.GetFlavor(flavor_pb2.GetFlavorRequest(name=made.name))).labels
    for path in ("spec.vcpus", "spec", "nothing", "uid", "status.state"):
        with pytest.raises(InvalidArgument) as refused:
            await update_flavor(rig, Flavor(name=made.name), path)
        assert path in refused.value.message
        assert refused.value.fix


async def test_updates_at_the_same_time_all_take_effect(rig: Rig) -> None:
    made = await create_flavor(rig, "f")
    await asyncio.gather(*(update_flavor(rig, Flavor(name=made.name, labels={f"k{n}": "1"}), f"labels.k{n}") for n in range(6)))
    read = await rig.api.flavors.GetFlavor(flavor_pb2.GetFlavorRequest(name=made.name))
    assert len(read.labels) == 6
    assert read.generation == 7


async def test_of_creates_at_the_same_time_one_gets_the_name(rig: Rig) -> None:
    results = await asyncio.gather(*(create_flavor(rig, "one") for _ in range(6)), return_exceptions=True)
    assert sum(isinstance(result, Flavor) for result in results) == 1
    assert all(isinstance(result, Flavor | AlreadyExists) for result in results)


async def test_what_others_use_is_not_deleted_and_the_refusal_lists_them(rig: Rig) -> None:
    server = await rig.api.create_server("web")
    subnet = f"{PROJECT}/subnets/sub"
    uses: list[tuple[Any, set[str]]] = [
        (rig.api.flavors.DeleteFlavor(flavor_pb2.DeleteFlavorRequest(name="flavors/small")), {server.name}),
        (
            rig.api.pools.DeletePool(pool_pb2.DeletePoolRequest(name="pools/main")),
            {f"{PROJECT}/images/deb", server.name, server.spec.root_volume},
        ),
        (
            rig.api.networks.DeleteNetwork(network_pb2.DeleteNetworkRequest(name=f"{PROJECT}/networks/net")),
            {subnet, f"{PROJECT}/ports/web-0"},
        ),
        (rig.api.subnets.DeleteSubnet(subnet_pb2.DeleteSubnetRequest(name=subnet)), {f"{PROJECT}/ports/web-0"}),
    ]
    for call, users in uses:
        with pytest.raises(FailedPrecondition) as refused:
            await call
        assert refused.value.reason == "IN_USE"
        assert set(refused.value.metadata["referrers"].split(", ")) == users
        assert all(user in refused.value.message for user in users)
    await rig.api.delete_server("web")
    await eventually(rig.is_gone("web"))
    await rig.api.flavors.DeleteFlavor(flavor_pb2.DeleteFlavorRequest(name="flavors/small"))
    await rig.api.subnets.DeleteSubnet(subnet_pb2.DeleteSubnetRequest(name=subnet))
    await rig.api.networks.DeleteNetwork(network_pb2.DeleteNetworkRequest(name=f"{PROJECT}/networks/net"))
    await eventually(lambda: no_networks(rig))


async def no_networks(rig: Rig) -> bool:
    networks = (await rig.api.networks.ListNetworks(network_pb2.ListNetworksRequest(parent=PROJECT))).networks
    return not networks and not await rig.keys("vni/")


async def test_there_is_one_default_pool(rig: Rig) -> None:
    other = pool_pb2.Pool(spec=pool_pb2.Pool.Spec(driver=pool_pb2.Pool.FAKE, default=True))
    with pytest.raises(FailedPrecondition) as refused:
        await rig.api.pools.CreatePool(pool_pb2.CreatePoolRequest(pool_id="other", pool=other))
    assert (refused.value.reason, refused.value.field) == ("DEFAULT_POOL_TAKEN", "pool.spec.default")
    main = pool_pb2.Pool(name="pools/main", spec=pool_pb2.Pool.Spec(driver=pool_pb2.Pool.FAKE))
    await rig.api.pools.UpdatePool(pool_pb2.UpdatePoolRequest(pool=main, update_mask=FieldMask(paths=["spec.default"])))
    await rig.api.pools.CreatePool(pool_pb2.CreatePoolRequest(pool_id="other", pool=other))
    with pytest.raises(InvalidArgument) as bare:
        rbd = pool_pb2.Pool(spec=pool_pb2.Pool.Spec(driver=pool_pb2.Pool.RBD))
        await rig.api.pools.CreatePool(pool_pb2.CreatePoolRequest(pool_id="rbd", pool=rbd))
    assert bare.value.field == "pool.spec.volume_pool"


async def test_a_tenant_sees_its_own_projects_and_nothing_else_exists_for_it(site: Site) -> None:
    who = Principal("operator", Audience.OPERATOR)

    def principal(_context: Any) -> Principal:
        return who

    async with site.running(principal) as rig:
        await rig.furnish()
        await rig.api.create_server("web")
        who = Principal("alice", Audience.TENANT, frozenset({"projects/hers"}))
        for parent in ("projects/-", PROJECT):
            request = network_pb2.ListNetworksRequest(parent=parent)
            if parent == PROJECT:
                with pytest.raises(NotFound):
                    await rig.api.networks.ListNetworks(request)
            else:
                assert not (await rig.api.networks.ListNetworks(request)).networks
        for call in (rig.api.server("web"), rig.api.delete_server("web"), rig.api.create_server("other")):
            with pytest.raises(NotFound):
                await call
        assert not (await rig.api.projects.ListProjects(project_pb2.ListProjectsRequest())).projects
        with pytest.raises(NotFound):
            await rig.api.projects.GetProject(project_pb2.GetProjectRequest(name="projects/system"))
        with pytest.raises(NotFound):
            await rig.api.events.ListEvents(event_pb2.ListEventsRequest(parent="projects/system"))
        who = Principal("bob", Audience.TENANT, frozenset({PROJECT}))
        shown = await rig.api.server("web")
        assert not shown.status.host
        assert not shown.status.HasField("placement")
        assert [p.name for p in (await rig.api.projects.ListProjects(project_pb2.ListProjectsRequest())).projects] == [PROJECT]
        with pytest.raises(Error) as refused:
            await create_flavor(rig, "his")
        assert refused.value.code == "PERMISSION_DENIED"


async def test_subnets_of_one_network_do_not_overlap_also_when_made_at_the_same_time(rig: Rig) -> None:
    cidrs = ["10.0.0.128/25", "10.1.0.0/16", "10.1.2.0/24", "10.1.0.0/20", "10.2.0.0/24"]
    requests = [subnet_request(f"s{number}", cidr) for number, cidr in enumerate(cidrs)]
    results = await asyncio.gather(*(rig.api.subnets.CreateSubnet(request) for request in requests), return_exceptions=True)
    made = [result.spec.cidr for result in results if isinstance(result, subnet_pb2.Subnet)]
    assert all(isinstance(result, subnet_pb2.Subnet) or getattr(result, "reason", "") == "SUBNET_OVERLAPS" for result in results)
    assert "10.0.0.128/25" not in made
    assert len([cidr for cidr in made if cidr.startswith("10.1.")]) == 1
    assert "10.2.0.0/24" in made
    other = network_pb2.Network(spec=network_pb2.Network.Spec())
    await rig.api.networks.CreateNetwork(network_pb2.CreateNetworkRequest(parent=PROJECT, network_id="n2", network=other))
    await rig.api.subnets.CreateSubnet(subnet_request("same", "10.0.0.0/24", "n2"))


async def test_the_listener_answers_health_checks(rig: Rig, site: Site) -> None:
    stub: Any = health_pb2_grpc.HealthStub(rig.api.channel)
    answer = await stub.Check(health_pb2.HealthCheckRequest(service="kumo.api.compute.v1.Servers"))
    assert answer.status == health_pb2.HealthCheckResponse.SERVING
    assert isinstance(rig.api.channel, grpc.aio.Channel)
