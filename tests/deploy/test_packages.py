"""Which packages are missing, and that installing them starts nothing and leaves no policy behind."""

from pathlib import Path

import pytest

from deploy import packages


@pytest.fixture
def policy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "policy-rc.d"
    monkeypatch.setattr(packages, "POLICY", path)
    monkeypatch.setattr(packages, "SAVED", tmp_path / "policy-rc.d.before-kumo")
    return path


def test_installed_packages_are_not_missing_and_unknown_ones_are() -> None:
    assert packages.missing({"libc6": "x", "no-such-package-of-kumo": "y"}) == {"no-such-package-of-kumo": "y"}


def test_everything_kumo_needs_is_installed_by_setup() -> None:
    assert packages.missing(packages.RUN | packages.DEVELOP) == {}


def test_a_policy_is_there_while_packages_are_installed_and_gone_afterwards(policy: Path) -> None:
    with packages.services_kept_down():
        assert "exit 101" in policy.read_text()
        assert policy.stat().st_mode & 0o111
    assert not policy.exists()


def test_the_machines_own_policy_is_put_back_also_after_a_failure(policy: Path) -> None:
    policy.write_text("#!/bin/sh\nexit 0\n")
    with pytest.raises(RuntimeError), packages.services_kept_down():
        assert "exit 101" in policy.read_text()
        raise RuntimeError
    assert policy.read_text() == "#!/bin/sh\nexit 0\n"
    assert not packages.SAVED.exists()


def test_what_an_interrupted_run_left_is_undone(policy: Path) -> None:
    policy.write_text("#!/bin/sh\nexit 0\n")
    interrupted = packages.services_kept_down()
    interrupted.__enter__()
    packages.restore_policy()
    assert policy.read_text() == "#!/bin/sh\nexit 0\n"


def test_every_package_has_a_reason() -> None:
    assert all(len(reason) > 10 for reason in (packages.RUN | packages.DEVELOP).values())
