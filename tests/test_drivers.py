"""Every driver of every seam runs the suite of its seam: drivers are found by what they can do, so that a new one cannot be left out."""

import importlib
import inspect
import pkgutil
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import pytest

import agent
import kumo.store
from agent.compute.driver import Hypervisor
from agent.network.driver import Driver as NetworkDriver
from agent.storage.driver import StorageDriver
from kumo.store.client import Etcd
from kumo.store.interface import EtcdClient

CHECKOUT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Seam:
    """A Protocol, and the suite that proves its drivers. A driver is called by its module, and so it is in the names of the tests."""

    protocol: type
    suite: str


SEAMS = (
    Seam(StorageDriver, "tests/agent/storage/test_drivers.py"),
    Seam(Hypervisor, "tests/agent/compute/test_driver.py"),
    Seam(NetworkDriver, "tests/agent/network/test_driver.py"),
)
STORE_SUITES = tuple(f"tests/kumo/store/test_{part}.py" for part in ("client", "commit", "election", "group", "table", "watch"))
ETCDS = {"etcd", "memory"}


def _modules(package: ModuleType) -> list[ModuleType]:
    found = pkgutil.walk_packages(package.__path__, f"{package.__name__}.")
    return [importlib.import_module(one.name) for one in found if not one.name.endswith("__main__")]


def _drivers(protocol: type) -> dict[str, type]:
    """Return the classes beside a Protocol that have all that it asks for, by the last part of their module's name."""
    asked = {name for name in dir(protocol) if not name.startswith("_") and callable(getattr(protocol, name))}
    package = importlib.import_module(protocol.__module__.rpartition(".")[0])
    return {
        module.__name__.rpartition(".")[2]: one
        for module in _modules(package)
        for _, one in inspect.getmembers(module, inspect.isclass)
        if one.__module__ == module.__name__ and not getattr(one, "_is_protocol", False) and asked <= set(dir(one))
    }


@pytest.fixture(scope="module")
def collected() -> dict[str, dict[str, set[str]]]:
    """Return what pytest would run: the file, the test, and the words in its brackets."""
    suites = [*(seam.suite for seam in SEAMS), *STORE_SUITES]
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider", *suites]
    said = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True, cwd=CHECKOUT).stdout
    found: dict[str, dict[str, set[str]]] = {}
    for file, test, words in re.findall(r"^(\S+?)::(\w+)(?:\[(.*)\])?$", said, re.MULTILINE):
        found.setdefault(file, {}).setdefault(test, set()).update(words.split("-"))
    return found


@pytest.mark.parametrize("seam", SEAMS, ids=lambda seam: seam.suite)
def test_each_driver_runs_every_test_of_its_suite(seam: Seam, collected: dict[str, dict[str, set[str]]]) -> None:
    drivers = set(_drivers(seam.protocol))
    assert "fake" in drivers and len(drivers) > 1, drivers
    tests = {test: words & drivers for test, words in collected[seam.suite].items() if words & drivers}
    assert tests
    assert {test: drivers - ran for test, ran in tests.items() if drivers - ran} == {}, "these drivers are left out"


def test_the_stores_tests_run_on_the_real_etcd_and_on_the_one_in_memory(collected: dict[str, dict[str, set[str]]]) -> None:
    """The store has one client, of etcd's own protocol; what stands behind it are the drivers of that seam."""
    asked = {name for name in vars(EtcdClient) if not name.startswith("_") and callable(getattr(EtcdClient, name))}
    clients = {
        one
        for module in _modules(kumo.store)
        for _, one in inspect.getmembers(module, inspect.isclass)
        if one.__module__ == module.__name__ and not getattr(one, "_is_protocol", False) and asked <= set(dir(one))
    }
    assert clients == {Etcd}
    for suite in STORE_SUITES:
        runs = [words & ETCDS for words in collected[suite].values() if words & ETCDS]
        # A test may be about how the real one's processes and streams behave; what the one in memory passes, the real one passes.
        assert 2 * runs.count(ETCDS) > len(runs) and {"memory"} not in runs, suite


def test_no_seam_is_without_a_suite() -> None:
    seams = {module.__name__ for module in _modules(agent) if module.__name__.endswith(".driver")}
    assert seams == {seam.protocol.__module__ for seam in SEAMS}
