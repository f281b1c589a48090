"""A server reads itself, in the two forms that images know."""

import json

from hypothesis import given
from hypothesis import strategies as st

from agent.guest.files import Nic, PortAnswer, ServerMetadata
from agent.guest.metadata import respond

MAC = "02:aa:00:00:00:11"
PORT = PortAnswer("p", "kb41", "kt1", MAC, "10.0.0.11", 24, "", ("192.0.2.53",), "web", 1450, "server-uid")
SERVER = ServerMetadata(
    name="projects/default/servers/web",
    hostname="web",
    project_uid="project-uid",
    zone="z1",
    labels={"tier": "front"},
    ssh_keys=("ssh-ed25519 AAAA one", "ssh-ed25519 BBBB two"),
    user_data=b"#cloud-config\n\xff",
    nics=(Nic("p", MAC, 1450),),
)


def read(path: str, server: ServerMetadata = SERVER) -> bytes:
    found = respond(path, PORT, server)
    assert found.code == 200, path
    return found.body


def test_ec2_tells_what_cloud_init_asks() -> None:
    assert b"latest" in read("/")
    assert read("/latest/") == b"meta-data/\nuser-data"
    listed = read("/2009-04-04/meta-data/").decode().split("\n")
    assert {"instance-id", "local-ipv4", "public-keys/", "hostname", "mac"} <= set(listed)
    assert read("/latest/meta-data/instance-id") == b"server-uid"
    assert read("/latest/meta-data/local-ipv4") == b"10.0.0.11"
    assert read("/latest/meta-data/mac") == MAC.encode()
    assert read("/latest/meta-data/hostname") == b"web"
    assert read("/latest/meta-data/public-keys/") == b"0=key-0\n1=key-1"
    assert read("/latest/meta-data/public-keys/1/openssh-key") == b"ssh-ed25519 BBBB two"
    assert read("/latest/meta-data/placement/availability-zone") == b"z1"
    assert read("/latest/user-data") == SERVER.user_data


def test_openstack_tells_what_cloud_init_asks() -> None:
    assert b"latest" in read("/openstack")
    told = json.loads(read("/openstack/latest/meta_data.json"))
    assert (told["uuid"], told["hostname"], told["project_id"], told["meta"]["tier"]) == ("server-uid", "web", "project-uid", "front")
    assert list(told["public_keys"].values()) == list(SERVER.ssh_keys)
    network = json.loads(read("/openstack/latest/network_data.json"))
    assert network["links"][0]["ethernet_mac_address"] == MAC and network["links"][0]["mtu"] == 1450
    assert network["networks"][0]["type"] == "ipv4_dhcp"
    assert read("/openstack/latest/user_data") == SERVER.user_data


def test_what_a_server_has_not_is_not_found() -> None:
    bare = ServerMetadata(name="n", hostname="h")
    for path in ("/latest/user-data", "/openstack/latest/user_data", "/latest/meta-data/public-keys/", "/nonsense", "/latest/../etc"):
        assert respond(path, PORT, bare).code == 404, path


@given(path=st.text(max_size=60).map(lambda tail: "/" + tail))
def test_no_path_makes_it_raise(path: str) -> None:
    assert respond(path, PORT, SERVER).code in (200, 404)
