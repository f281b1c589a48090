"""What can go wrong, as one class for each thing a caller can do about it.

What went wrong is data: a constant reason, a sentence with the values in it, and the values by name. Nothing here knows
gRPC; kumo.rpc.status maps these classes to status codes on the way out and back again at a client.
"""

from typing import ClassVar


class Error(Exception):
    """A refusal or failure that a caller is meant to read. A bug is not an Error: let it rise."""

    code: ClassVar[str] = "UNKNOWN"

    def __init__(self, reason: str, message: str, *, field: str = "", fix: str = "", **metadata: str | int) -> None:
        """`reason` is a constant in UPPER_SNAKE; `field` is a path in the request; `fix` says what would help."""
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.field = field
        self.fix = fix
        self.metadata: dict[str, str] = {key: str(value) for key, value in metadata.items()}

    def __str__(self) -> str:
        return f"{self.reason}: {self.message}"


class InvalidArgument(Error):
    """Fix the request: it can never succeed as it is."""

    code = "INVALID_ARGUMENT"


class NotFound(Error):
    """Ask for another name. Also for what the caller may not know to exist."""

    code = "NOT_FOUND"


class AlreadyExists(Error):
    """Choose another name."""

    code = "ALREADY_EXISTS"


class FailedPrecondition(Error):
    """Change the state of the thing, or of what refers to it, first."""

    code = "FAILED_PRECONDITION"


class Aborted(Error):
    """Read again, then try again: somebody else changed it in between."""

    code = "ABORTED"


class PermissionDenied(Error):
    """Ask for a right."""

    code = "PERMISSION_DENIED"


class Unauthenticated(Error):
    """Say who you are, with something that is still valid."""

    code = "UNAUTHENTICATED"


class ResourceExhausted(Error):
    """Ask for less, free something, or have a limit raised."""

    code = "RESOURCE_EXHAUSTED"


class Unavailable(Error):
    """Wait and try again. What was asked may or may not have happened."""

    code = "UNAVAILABLE"


class DeadlineExceeded(Error):
    """Allow more time, or look whether it happened meanwhile."""

    code = "DEADLINE_EXCEEDED"


class Internal(Error):
    """Report it with the incident id. Only the edge makes these; domain code lets a bug rise."""

    code = "INTERNAL"


CLASSES: tuple[type[Error], ...] = (
    InvalidArgument,
    NotFound,
    AlreadyExists,
    FailedPrecondition,
    Aborted,
    PermissionDenied,
    Unauthenticated,
    ResourceExhausted,
    Unavailable,
    DeadlineExceeded,
    Internal,
)
