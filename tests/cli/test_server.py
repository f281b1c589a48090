"""A server is given public keys, and nothing else of what may lie in a user's .ssh directory."""

from pathlib import Path

import pytest

from cli.failure import Exit, Failure
from cli.server import public_keys

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIFakeFakeFakeFakeFakeFakeFakeFakeFakeFakeFake me@here"


def test_every_key_of_a_file_is_taken_without_its_comments(tmp_path: Path) -> None:
    file = tmp_path / "authorized_keys"
    file.write_text(f"# mine\n{KEY}\n\n  {KEY}2  \n")
    assert public_keys(str(file)) == [KEY, f"{KEY}2"]


@pytest.mark.parametrize(
    ("content", "said"),
    [("-----BEGIN OPENSSH PRIVATE KEY-----\nc2VjcmV0\n", "private key"), ("root:x:0:0\n", "no public"), ("# none\n", "no public")],
)
def test_what_is_no_public_key_is_not_sent(tmp_path: Path, content: str, said: str) -> None:
    file = tmp_path / "id"
    file.write_text(content)
    with pytest.raises(Failure) as caught:
        public_keys(str(file))
    assert said in caught.value.what and caught.value.exit == Exit.USAGE and "c2VjcmV0" not in caught.value.text()
