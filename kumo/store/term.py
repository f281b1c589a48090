"""The term of a leader: what every write of it is fenced by and every command of it carries."""

from dataclasses import dataclass


@dataclass(frozen=True, order=True)
class Term:
    """Compared by incarnation first, so that a term from after a restore is greater than any before."""

    incarnation: str
    create_revision: int

    def __str__(self) -> str:
        return f"{self.incarnation}/{self.create_revision}"
