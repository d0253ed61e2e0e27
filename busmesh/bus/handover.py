"""Going over to a new connection without losing, repeating or reordering a message.

A login that expires is cut off by the server, and NATS has no way to show a new one on a connection that
stands. So a second connection is opened with it while the first still serves, and then:

1. The new one subscribes to everything. What it hears is held, and what is published waits in it.
2. A PING on the old one proves that the server has passed on all that was published there; what waited is
   sent.
3. Once the server has answered a PING on the new one, all messages come on both, but for those that it had
   begun to pass on before. These are given a moment.
4. The old one unsubscribes, and a PING proves that the server has nothing more for it.
5. What was held and did not come on the old one is handled. What did may be on its way on the new one still,
   and is passed over there until a last PING is answered. Then the old one is closed.

Publishing waits for one round trip; what is heard does not wait.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter

from nats import errors as nats_errors

from busmesh.bus.client import Client, Handler

log = logging.getLogger(__name__)

#: Of the old and the new connection each, for the answer to a PING.
PATIENCE_S = 1.0
#: For what the server was passing on while the new connection subscribed: it would come on neither if the old
#: one unsubscribed at once.
SETTLE_S = 0.02
#: Bytes that may come on the new connection meanwhile. Above this they are handled at once, and some perhaps
#: twice, which everything above the bus bears.
MAX_HELD = 32 * 1024 * 1024

_Message = tuple[int, bytes, bytes, bytes, bytes]


class Handover:
    """From ``old`` to ``new``, which has the same subscriptions in the same order.

    Args:
        old: serves until now.
        new: is connected and has just subscribed.
    """

    def __init__(self, old: Client, new: Client) -> None:
        self._old, self._new = old, new
        #: Hashes, so that a flood costs no memory. Python's are keyed: nobody can make two that are equal.
        self._seen: Counter[int] = Counter()
        self._held: list[_Message] = []
        self._held_bytes = 0
        self._holding = True
        self._real = dict(new.handlers)
        places = {sid: place for place, sid in enumerate(sorted(self._real))}
        for sid, place in places.items():
            new.handlers[sid] = self._holder(sid, place)
        self._sids = {place: sid for sid, place in places.items()}
        new.cork()  # in this turn already: what is published next would overtake what the old one has sent
        for place, (sid, handler) in enumerate(sorted(old.handlers.items())):
            old.handlers[sid] = self._recorder(place, handler)

    async def run(self) -> None:
        """Bring it to its end, whatever happens to either connection."""
        try:
            await self._prove(self._old)
        finally:
            self._new.uncork()
        try:
            await self._prove(self._new)
            await asyncio.sleep(SETTLE_S)
            self._old.leave()
            await self._prove(self._old)
        finally:
            self._release()
        try:
            await self._prove(self._new)
        finally:
            self._forget()

    async def _prove(self, client: Client) -> None:
        try:
            await client.rtt(PATIENCE_S)
        except (nats_errors.Error, OSError, AssertionError, AttributeError) as error:
            log.info(
                "bus: a connection was lost while its login was renewed: %s",
                str(error) or type(error).__name__,
            )

    def _holder(self, sid: int, place: int) -> Handler:
        def hold(subject: bytes, reply: bytes, payload: bytes, headers: bytes) -> None:
            handler = self._new.handlers.get(sid)
            message = (place, subject, reply, payload, headers)
            if not self._holding or handler is None:
                if not self._came(message):
                    self._real[sid](subject, reply, payload, headers)
                return
            self._held.append(message)
            self._held_bytes += len(payload) + len(headers) + 256
            if self._held_bytes > MAX_HELD:
                self._release()

        return hold

    def _recorder(self, place: int, handler: Handler) -> Handler:
        def record(subject: bytes, reply: bytes, payload: bytes, headers: bytes) -> None:
            self._seen[hash((place, subject, reply, payload, headers))] += 1
            handler(subject, reply, payload, headers)

        return record

    def _release(self) -> None:
        if not self._holding:
            return
        self._holding = False
        for message in self._held:
            if self._came(message):
                continue
            place, subject, reply, payload, headers = message
            sid = self._sids[place]
            if sid in self._new.handlers:
                self._new.deliver(sid, subject, reply, payload, headers)
        self._held.clear()

    def _came(self, message: _Message) -> bool:
        """Say whether a message of the new connection has come on the old one, once for each time it has."""
        key = hash(message)
        if not self._seen[key]:
            return False
        self._seen[key] -= 1
        return True

    def _forget(self) -> None:
        for sid, handler in self._real.items():
            if sid in self._new.handlers:  # else unsubscribed meanwhile
                self._new.handlers[sid] = handler
        self._seen.clear()


async def hand_over(old: Client, new: Client) -> None:
    """Run a `Handover`, shielded from whoever loses patience: half of one would leave both in use."""
    await asyncio.shield(Handover(old, new).run())
