"""Makes and reads page tokens and resume tokens: opaque to clients, signed, bound to one filter and one incarnation."""

import base64
import binascii
import hashlib
import hmac
from dataclasses import dataclass

from google.protobuf.message import DecodeError

from kumo.errors import Aborted, InvalidArgument
from kumo.store.v1 import values_pb2

_SIGNATURE_BYTES = 16
_PAGE, _RESUME = values_pb2.Token.PAGE, values_pb2.Token.RESUME


@dataclass(frozen=True)
class Position:
    """A place in a table's history: everything up to `revision`, and so many changes of the revision that follows in that table."""

    revision: int
    delivered: int = 0


class Tokens:
    """Tokens of one plane. `key` is a secret that all processes of the plane share through the store."""

    def __init__(self, incarnation: str, key: bytes) -> None:
        self._incarnation, self._key = incarnation, key

    def page(self, revision: int, last_name: str, scope: str) -> str:
        """`scope` names the table and the filter."""
        return self._sign(values_pb2.Token(kind=_PAGE, revision=revision, last_name=last_name, filter=_digest(scope)))

    def resume(self, position: Position, scope: str) -> str:
        token = values_pb2.Token(kind=_RESUME, revision=position.revision, delivered=position.delivered, filter=_digest(scope))
        return self._sign(token)

    def read_page(self, text: str, scope: str) -> tuple[int, str]:
        """Return (revision of the first page, last name). Raises InvalidArgument PAGE_TOKEN_INVALID or Aborted."""
        token = self._read(text, _PAGE, scope, "page_token")
        return token.revision, token.last_name

    def read_resume(self, text: str, scope: str) -> Position:
        """Raises InvalidArgument RESUME_TOKEN_INVALID, or Aborted when it is of another incarnation."""
        token = self._read(text, _RESUME, scope, "resume_token")
        return Position(token.revision, token.delivered)

    def _sign(self, token: values_pb2.Token) -> str:
        token.incarnation = self._incarnation
        body = token.SerializeToString()
        return base64.urlsafe_b64encode(body + self._signature(body)).rstrip(b"=").decode()

    def _signature(self, body: bytes) -> bytes:
        return hmac.digest(self._key, body, "sha256")[:_SIGNATURE_BYTES]

    def _read(self, text: str, kind: "values_pb2.Token.Kind.ValueType", scope: str, field: str) -> values_pb2.Token:
        invalid = InvalidArgument(f"{field.upper()}_INVALID", f"{field} is not one that this list gave out", field=field, fix="start anew")
        try:
            raw = base64.b64decode(text.encode("ascii") + b"=" * (-len(text) % 4), altchars=b"-_", validate=True)
            # Two spellings of one token would be one too many: the last letter may hold bits that belong to nothing.
            if base64.urlsafe_b64encode(raw).rstrip(b"=").decode() != text:
                raise ValueError("spelled otherwise")
            body, signature = raw[:-_SIGNATURE_BYTES], raw[-_SIGNATURE_BYTES:]
            token = values_pb2.Token.FromString(body)
        except (ValueError, binascii.Error, DecodeError) as error:
            raise invalid from error
        if token.incarnation and token.incarnation != self._incarnation:
            raise expired("the store was restored since")
        if not hmac.compare_digest(signature, self._signature(body)) or token.kind != kind or token.filter != _digest(scope):
            raise invalid
        return token


def expired(why: str) -> Aborted:
    return Aborted("RESUME_TOKEN_EXPIRED", f"the token leads back too far: {why}", fix="list again and watch from there")


def _digest(scope: str) -> bytes:
    return hashlib.sha256(scope.encode()).digest()[:8]
