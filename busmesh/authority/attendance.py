"""Whether an authority is there: asked by operators, who may not ask for certificates to find out.

Anybody on the bus can ask, so the answer is signed at most once a second, whoever asks how often, and so many
a second are sent. It proves who gave it and when; a recorded one is old news after seconds.
"""

from __future__ import annotations

import math
import time

from busmesh import __version__
from busmesh.authority.bucket import TokenBucket
from busmesh.authority.desk import MAX_REPLY_SUBJECT, inbox_pattern
from busmesh.authority.keys import Keys
from busmesh.bus.bus import Bus
from busmesh.errors import BusmeshError
from busmesh.identity.signed import seal_signed
from busmesh.members.presence import PURPOSE, Presence, encode
from busmesh.names import Subjects

SIGN_EVERY_S = 1.0
#: One answer has about 0.8 KiB: a flood of questions costs the bus no more than an agent's heartbeats do.
RATE_PER_S, BURST = 50.0, 100


class Attendance:
    """Answers who asks on ``authority.attendance``.

    Args:
        bus: where the answers go.
        subjects: of the mesh; answers go to its inboxes and nowhere else.
        keys: what the authority works with now.
    """

    def __init__(self, bus: Bus, subjects: Subjects, keys: Keys) -> None:
        self._bus = bus
        self._inbox = inbox_pattern(subjects)
        self._keys = keys
        self._bucket = TokenBucket(RATE_PER_S, BURST, time.monotonic())
        self._sealed = b""
        self._signed_at = -math.inf
        self.answered = self.ignored = 0

    def __repr__(self) -> str:
        return f"<Attendance answered={self.answered} ignored={self.ignored}>"

    def on_question(self, subject: bytes, reply: bytes, payload: bytes, headers: bytes) -> None:
        """Answer one question, unless its answer would go elsewhere than to an inbox."""
        now = time.monotonic()
        proper = len(reply) <= MAX_REPLY_SUBJECT and self._inbox.fullmatch(reply) is not None
        if not proper or not self._bucket.take(now):
            self.ignored += 1
            return
        try:
            if now - self._signed_at >= SIGN_EVERY_S:
                self._sealed, self._signed_at = self._sign(), now
            self._bus.publish(reply.decode("ascii"), self._sealed)
        except BusmeshError:  # who asked will ask again
            self.ignored += 1
        else:
            self.answered += 1

    def _sign(self) -> bytes:
        keys, now = self._keys, time.time()
        keys.renew_own(now)
        verifier = keys.verifier
        said = Presence(
            issues=keys.issues,
            trust=verifier.bundle.version,
            revocations=verifier.revocations.digest,
            software=__version__,
        )
        return seal_signed(keys.svid, PURPOSE, encode(said), now)
