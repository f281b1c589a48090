"""The contracts build only when complete, and what is generated is fresh; breaking a released contract is found."""

import shutil
from pathlib import Path

import pytest

from proto import check, generate


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    """A copy of proto/ to spoil."""
    shutil.copytree(generate.PROTO, tmp_path / "proto")
    return tmp_path / "proto"


def edit(root: Path, file: str, old: str, new: str) -> None:
    path = root / file
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new, 1))


def test_what_is_generated_is_fresh() -> None:
    assert generate.stale(generate.generated(), generate.existing()) == []


def test_a_stale_a_missing_and_a_left_over_file_are_named() -> None:
    wanted = {Path("a.py"): "1", Path("b.py"): "2"}
    assert generate.stale(wanted, {Path("b.py"): "3", Path("c.py"): "4"}) == [
        "different: b.py",
        "missing: a.py",
        "no longer wanted: c.py",
    ]


def test_a_field_that_nobody_is_said_to_see_does_not_build(copied: Path) -> None:
    assert generate.without_audience(generate.descriptor_set(copied)) == []
    file = "kumo/api/compute/v1/flavor.proto"
    edit(copied, file, "message Flavor {\n  option (kumo.api.default_audience) = TENANT;", "message Flavor {")
    found = generate.without_audience(generate.descriptor_set(copied))
    assert f"{file}: Flavor.name" in found and all("Flavor." in line for line in found)


def test_the_contracts_keep_the_rules() -> None:
    assert check.check(generate.descriptor_set(), None) == 0


def test_a_field_that_changes_its_type_breaks_a_release(copied: Path, capfd: pytest.CaptureFixture[str]) -> None:
    released = generate.descriptor_set()
    assert check.check(generate.descriptor_set(copied), released) == 0
    edit(copied, "kumo/api/compute/v1/server.proto", "int64 generation = 4", "uint32 generation = 4")
    assert check.check(generate.descriptor_set(copied), released) == 1
    assert '"generation"' in capfd.readouterr().out


def test_a_field_without_a_comment_is_refused(copied: Path, capfd: pytest.CaptureFixture[str]) -> None:
    edit(
        copied,
        "kumo/api/compute/v1/server.proto",
        "  // The resource name: projects/{project}/servers/{server}.\n  string name = 1",
        "  string name = 1",
    )
    assert check.check(generate.descriptor_set(copied), None) == 1
    assert "non-empty comment" in capfd.readouterr().out
