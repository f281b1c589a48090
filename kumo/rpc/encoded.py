"""An answer that is bytes already, so that what many ask for need not be made anew for each of them."""

from dataclasses import dataclass

from kumo.rpc.call import Audience


@dataclass(frozen=True)
class Encoded:
    """The bytes of the method's answer, with nothing in them that `audience`, which the caller is, may not see."""

    data: bytes
    audience: Audience
