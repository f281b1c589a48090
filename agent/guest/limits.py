"""Bounds what one guest may ask of the process that answers all of them. Pure but for the time, which comes in."""

from collections import OrderedDict
from dataclasses import dataclass


@dataclass
class _Bucket:
    tokens: float
    filled_at: float


class RateLimit:
    """So many a second for each asker, with some saved up; only the most recent askers are remembered."""

    def __init__(self, per_second: float, burst: float, most_askers: int = 4096) -> None:
        self._per_second, self._burst, self._most_askers = per_second, burst, most_askers
        self._buckets: OrderedDict[str, _Bucket] = OrderedDict()

    def allows(self, asker: str, now: float) -> bool:
        bucket = self._buckets.get(asker)
        if bucket is None:
            bucket = self._buckets[asker] = _Bucket(self._burst, now)
            if len(self._buckets) > self._most_askers:
                self._buckets.popitem(last=False)
        self._buckets.move_to_end(asker)
        bucket.tokens = min(self._burst, bucket.tokens + (now - bucket.filled_at) * self._per_second)
        bucket.filled_at = now
        if bucket.tokens < 1:
            return False
        bucket.tokens -= 1
        return True


class Tokens:
    """Session tokens as EC2 has them: random, of one port, for a time. Old ones make room for new ones."""

    def __init__(self, most_of_port: int = 32, most: int = 4096) -> None:
        self._most_of_port, self._most = most_of_port, most
        self._tokens: OrderedDict[str, tuple[str, float]] = OrderedDict()

    def add(self, token: str, port_uid: str, until: float) -> None:
        own = [held for held, (uid, _) in self._tokens.items() if uid == port_uid]
        if len(own) >= self._most_of_port:
            del self._tokens[own[0]]
        elif len(self._tokens) >= self._most:
            self._tokens.popitem(last=False)
        self._tokens[token] = (port_uid, until)

    def is_valid(self, token: str, port_uid: str, now: float) -> bool:
        uid, until = self._tokens.get(token, ("", 0.0))
        return uid == port_uid and now < until
