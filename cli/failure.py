"""What a command says when it fails: what, because, fix, and an exit status that scripts can tell apart. Knows no gRPC."""

from dataclasses import dataclass
from enum import IntEnum


class Exit(IntEnum):
    """The exit statuses of `kumo`, which stay as they are."""

    OK = 0
    FAILED = 1
    USAGE = 2
    NOT_FOUND = 3
    DENIED = 4
    CONFLICT = 5
    NO_CAPACITY = 6
    UNAVAILABLE = 7
    INTERRUPTED = 130


# Not frozen: Python notes the traceback on an exception that it raises.
@dataclass(eq=False)
class Failure(Exception):
    """A failure in three parts; `because` and `fix` may have several lines or be empty."""

    what: str
    because: str = ""
    fix: str = ""
    exit: Exit = Exit.FAILED
    reason: str = ""

    def text(self) -> str:
        """Return the lines for stderr, without control characters of whoever wrote them."""
        from cli.terminal import harmless

        parts = (("error: ", self.what), ("because: ", self.because), ("fix: ", self.fix))
        return "\n".join(label + harmless(text).replace("\n", "\n" + " " * len(label)) for label, text in parts if text)
