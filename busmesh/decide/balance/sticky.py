"""Sticky sessions: the instance that a request names, if it may have it.

Envoy's ``stateful_session``. What the client names is looked up among the candidates of this balancer and
nowhere else, so an instance that is ill, ejected or of another subset cannot be had by asking for it; the
request then goes where any other would, and the answer names the new instance.
"""

from __future__ import annotations

from collections.abc import Collection
from random import Random

from busmesh.decide.balance.base import Balancer, C
from busmesh.decide.sticky import instance_token


class Sticky(Balancer[C]):
    """Around another balancer, which chooses for requests that name nobody it has."""

    def __init__(self, inner: Balancer[C], rng: Random) -> None:
        super().__init__(inner.candidates, rng)
        self._inner = inner
        self._named = {instance_token(c.instance): c for c in inner.candidates}

    def pick(self, now: float, tried: Collection[C] = (), key: bytes | None = None) -> C | None:
        if key is not None:
            named = self._named.get(key)
            if named is not None and named not in tried:
                return named
        return self._inner.pick(now, tried)

    def _choose(self, now: float, key: bytes | None) -> C:
        raise NotImplementedError("the inner one chooses")

    def __repr__(self) -> str:
        return f"<Sticky {self._inner!r}>"
