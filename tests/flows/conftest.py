"""One lab for all flow tests, brought up by `make up`'s own code, with the image, flavor and network that the flows use."""

from collections.abc import Iterator

import pytest

from deploy.trial import trial
from tests.flows.cloud import Cloud
from tests.flows.hosts import Hosts, running_hosts


@pytest.fixture(scope="session")
def cloud() -> Iterator[Cloud]:
    """A region that serves, with the server `hello` in it, ready."""
    with trial() as made:
        yield Cloud(made.lab)


@pytest.fixture(scope="session")
def small(cloud: Cloud) -> str:
    """A flavor as small as the tiny guest can be."""
    cloud.kumo("flavor", "create", "flow", "--vcpus", "1", "--memory", "128", "--disk", "1", "--wait")
    return "flow"


@pytest.fixture(scope="session")
def sky(cloud: Cloud) -> str:
    """A network with the range that `leaf` has too."""
    cloud.kumo("network", "create", "sky", "--cidr", "10.9.0.0/24", "--wait")
    return "sky"


@pytest.fixture(scope="session")
def leaf(cloud: Cloud) -> str:
    cloud.kumo("network", "create", "leaf", "--cidr", "10.9.0.0/24", "--wait")
    return "leaf"


@pytest.fixture(scope="session")
def hosts() -> Iterator[Hosts]:
    """Three hosts and two controllers, the planes in processes of their own; whoever uses it leaves it as it was."""
    with running_hosts("--hosts", "3") as made:
        yield made
