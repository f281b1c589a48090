"""The locks: everything by digest, nothing from this or that machine, and nothing forgotten."""

import re
import tomllib

import pytest

from deploy.layout import CHECKOUT
from deploy.program import locked_names

LOCKS = ("requirements.lock", "requirements-dev.lock")


@pytest.mark.parametrize("name", LOCKS)
def test_every_package_of_a_lock_has_a_version_and_digests(name: str) -> None:
    text = (CHECKOUT / name).read_text()
    blocks = re.split(r"\n(?=[a-z0-9])", re.sub(r"^#.*\n", "", text, flags=re.MULTILINE))
    assert len(blocks) > 10
    for block in blocks:
        assert re.match(r"[a-z0-9-]+==\S+", block), block
        assert "--hash=sha256:" in block, block


@pytest.mark.parametrize("name", LOCKS)
def test_a_lock_names_no_place(name: str) -> None:
    assert not re.search(r"https?:|file:|--index|--find-links|@ ", (CHECKOUT / name).read_text())


def test_the_locks_hold_what_the_project_asks_for() -> None:
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())

    def names(asked: list[str]) -> set[str]:
        return {re.split(r"[><=\[; ]", one)[0].lower().replace("_", "-") for one in asked}

    run, develop = (set(locked_names(CHECKOUT / name)) for name in LOCKS)
    assert names(project["project"]["dependencies"]) <= run
    assert names(project["dependency-groups"]["dev"]) <= develop
    assert run <= develop
