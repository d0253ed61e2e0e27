"""Whether another process has taken this instance's name.

A machine that was frozen, or a snapshot of one that is started twice, wakes up beside the process that
replaced it. Both have the key and the subjects of one instance. The one that started later counts, as it does
for everybody who hears both announce themselves; the other hears that, too, and steps back for good.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from busmesh.actors.actor import Actor
from busmesh.errors import BusmeshError
from busmesh.identity.holder import Identity
from busmesh.identity.signed import may_be_envelope, open_signed
from busmesh.members.announcement import PURPOSE, Announcement, decode
from busmesh.telemetry.tally import Tally

#: An announcement older than this proves nothing about now; the next one comes within a second.
MAX_AGE_S = 30.0

log = logging.getLogger(__name__)


class Namesake(Actor[bytes]):
    """Hears what is announced in this instance's name.

    Args:
        identity: of this instance.
        mine: this process's announcement.
        sealed: the one that was published last, which comes back from the bus each second.
        superseded: called once, with the announcement of the process that took over.
    """

    capacity = 64

    def __init__(
        self,
        identity: Identity,
        mine: Callable[[], Announcement],
        sealed: Callable[[], bytes],
        superseded: Callable[[Announcement], None],
    ) -> None:
        super().__init__("namesake")
        self._identity = identity
        self._mine = mine
        self._sealed = sealed
        self._superseded = superseded
        self._refused = Tally(log, "announcements in this instance's name")
        self._over = False

    def on_message(self, subject: bytes, reply: bytes, payload: bytes, headers: bytes) -> None:
        """Take a message on this instance's member subject."""
        if not self._over and may_be_envelope(payload) and payload != self._sealed():
            self.mailbox.tell(payload, len(payload))

    async def receive(self, message: bytes) -> None:
        if self._over:
            return
        try:
            signed = open_signed(message, PURPOSE, self._identity.verifier, time.time(), max_age=MAX_AGE_S)
            said = decode(signed.body)
        except BusmeshError as error:
            self._refused.add(error)
            return
        if said.is_by(signed.signer.id) and signed.signer.id == self._identity.svid.id:
            self._over = said.incarnation > self._mine().incarnation
            if self._over:
                self._superseded(said)
