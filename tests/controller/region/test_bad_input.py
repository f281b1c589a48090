"""Every RPC of the region takes a generated valid request, and refuses what is generated from it by breaking one field, storing nothing."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
import pytest
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from protovalidate import Validator

from kumo.api.compute.v1.server_pb2 import Server
from kumo.api.fleet.v1.pool_pb2 import Pool
from kumo.errors import Aborted, AlreadyExists, Error, FailedPrecondition, InvalidArgument, NotFound
from kumo.rpc.client import opened
from tests.contract.broken import Broken, broken, places, values_for
from tests.contract.contracts import public_services, resource_of
from tests.contract.messages import valid
from tests.controller.region.region_process import PROJECT, Rig, eventually

REFUSALS = (InvalidArgument, NotFound, AlreadyExists, FailedPrecondition)
# Made in this order, each from those before it.
ORDER = ("Projects", "Pools", "Flavors", "Images", "Networks", "Subnets", "Ports", "Volumes", "Servers", "Attachments", "Hosts", "Events")
KNOWN = {
    "projects": PROJECT,
    "pools": "pools/main",
    "flavors": "flavors/small",
    "images": f"{PROJECT}/images/deb",
    "networks": f"{PROJECT}/networks/net",
    "subnets": f"{PROJECT}/subnets/sub",
}


def services() -> list[ServiceDescriptor]:
    by_name = {service.name: service for service in public_services()}
    return [by_name.pop(name) for name in ORDER] + list(by_name.values())


async def call(channel: grpc.aio.Channel, method: MethodDescriptor, request: Message) -> Any:
    """Return the answer, of a stream the first, or None if it ends without one."""
    kinds = ("stream" if method.client_streaming else "unary", "stream" if method.server_streaming else "unary")
    request_class, response_class = GetMessageClass(method.input_type), GetMessageClass(method.output_type)
    make: Any = getattr(channel, "{}_{}".format(*kinds))
    multi = make(f"/{method.containing_service.full_name}/{method.name}", request_class.SerializeToString, response_class.FromString)

    async def once() -> AsyncIterator[Message]:
        yield request

    sent = once() if method.client_streaming else request
    if not method.server_streaming:
        return await multi(sent, timeout=20)
    async with opened(multi(sent, timeout=20)) as stream:
        first = await stream.read()
        return None if first is grpc.aio.EOF else first


class World:
    """A region with one thing of each noun, and requests for every method that are about these."""

    def __init__(self, rig: Rig) -> None:
        self.rig = rig
        self.known = dict(KNOWN)
        # What a test made of each collection, to read, change and delete instead of what others need.
        self.made: dict[str, str] = {}

    async def intents(self) -> set[str]:
        """Return the keys of all that calls write; the region's leader goes on with placements, statuses and cursors meanwhile."""
        return {
            key for key in await self.rig.keys("") if not key.endswith(("/status", "/placement")) and not key.startswith("record/cell/")
        }

    async def furnish(self) -> None:
        server = await self.rig.api.create_server("srv")
        await eventually(self.rig.state_is("srv", Server.ACTIVE))
        self.known |= {"servers": server.name, "volumes": server.spec.root_volume, "ports": server.spec.nics[0].port}
        for noun in ("Attachments", "Events"):
            (service,) = [service for service in public_services() if service.name == noun]
            method = service.methods_by_name[f"List{noun}"]
            listed = getattr(await call(self.rig.api.channel, method, valid(method.input_type, self.known)), noun.lower())
            assert listed, noun
            self.known[noun.lower()] = listed[0].name

    def request(self, method: MethodDescriptor) -> Any:
        own = method.containing_service.name.lower()
        name = self.made.get(own, self.known.get(own, ""))
        request: Any = valid(method.input_type, self.known | ({own: name} if name and not method.name.startswith("Create") else {}))
        finish = _FINISH.get(method.name)
        if finish is not None:
            finish(request)
        noun = resource_of(method.containing_service)
        if method.name.startswith("Update") and noun is not None:
            held = next(field for field in request.DESCRIPTOR.fields if field.message_type is noun)
            getattr(request, held.name).name = name or "hosts/x1"
            request.update_mask.paths.append("labels")
        if method.client_streaming:
            request.name = name or request.name
        return request


def _named(**values: Any) -> Callable[[Any], None]:
    """Return what sets fields by their path, with __ for a dot."""

    def finish(request: Any) -> None:
        for path, value in values.items():
            *holders, last = path.split("__")
            message = request
            for name in holders:
                message = getattr(message, name)
            setattr(message, last, value)

    return finish


def _first_nic(request: Any) -> None:
    request.server.spec.nics[0].network = KNOWN["networks"]


# What no rule of a single field can say.
_FINISH: dict[str, Callable[[Any], None]] = {
    "CreateServer": _first_nic,
    "CreateSubnet": _named(subnet__spec__cidr="10.77.0.0/24"),
    "CreateHost": _named(host__spec__cell="a"),
    "CreatePool": _named(pool__spec__default=False, pool__spec__driver=Pool.FAKE),
}


@pytest.fixture
async def world(rig: Rig) -> World:
    made = World(rig)
    await made.furnish()
    return made


def _commits(request: Any) -> bool:
    return "validate_only" in request.DESCRIPTOR.fields_by_name


async def test_every_method_takes_a_generated_valid_request(world: World) -> None:
    for service in services():
        verbs = [method for method in service.methods if not method.name.startswith(("Create", "Delete")) and not method.client_streaming]
        verbs.sort(key=lambda method: method.name.startswith("Stop"))  # what is stopped cannot be rebooted
        for method in service.methods:
            if method.name.startswith("Create"):
                made = await call(world.rig.api.channel, method, world.request(method))
                world.made[service.name.lower()] = made.name
        if service.name == "Servers":
            await eventually(world.rig.state_is("x1", Server.ACTIVE))
        for method in verbs:
            await call(world.rig.api.channel, method, world.request(method))
    for service in reversed(services()):
        for method in service.methods:
            if method.name.startswith("Delete") and service.name.lower() in world.made:
                await call(world.rig.api.channel, method, world.request(method))


async def test_a_request_with_one_field_broken_is_refused_with_a_reason_and_stores_nothing(world: World) -> None:
    before = await world.intents()
    count = 0
    for service in services():
        for method in service.methods:
            request = world.request(method)
            for one in broken(request):
                await _refused(world, method, one)
                count += 1
    assert count > 300
    assert await world.intents() == before


async def _refused(world: World, method: MethodDescriptor, one: Broken) -> None:
    """What breaks a rule, or names what is not there, has to be refused; of anything else, text that is free, it is only tried."""
    where = f"{method.name}: {one}"
    request: Any = one.request
    outside_mask = method.name.startswith("Update") and one.place.path and one.place.field.name != "labels"
    must_be_refused = not outside_mask and (one.is_absent or VALIDATOR.collect_violations(request))
    if not must_be_refused and _commits(request):
        request.validate_only = True
    try:
        await call(world.rig.api.channel, method, request)
    except REFUSALS as error:
        assert error.reason and error.fix, where
        assert error.field or not isinstance(error, InvalidArgument), where
    except Aborted as error:
        assert error.reason == "ETAG_STALE" and one.place.field.name == "etag", where
    except Error as error:
        raise AssertionError(f"{where}: {error.code} {error}") from error
    else:
        assert not must_be_refused, where


VALIDATOR = Validator()
METHODS = [method for service in services() for method in service.methods]


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
async def test_whatever_is_in_a_field_the_answer_is_never_an_internal_error(world: World, data: st.DataObject) -> None:
    method = data.draw(st.sampled_from(METHODS))
    request = world.request(method)
    place = data.draw(st.sampled_from(places(request)))
    strategy = values_for(place.field)
    assume(strategy is not None and place.field.name != "validate_only")
    assert strategy is not None
    setattr(place.holder(request), place.field.name, data.draw(strategy))
    if _commits(request):
        request.validate_only = True
    before = await world.intents()
    try:
        async with asyncio.timeout(20):
            await call(world.rig.api.channel, method, request)
    except REFUSALS as error:
        assert error.reason
    except Aborted as error:
        assert error.reason == "ETAG_STALE"
    assert await world.intents() == before
