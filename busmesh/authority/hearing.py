"""How authorities that share nothing agree on names: each hears who is there.

An instance announces itself each second, signed. An authority that was not there when its name was granted,
or that was asked for another one of that name at the same time, learns from that who has it. Only names that
it does not know cost the check of a signature; the rest is one look into the register.
"""

from __future__ import annotations

import logging
import time

from busmesh.actors.actor import Actor
from busmesh.authority.bucket import TokenBucket
from busmesh.authority.register import Register
from busmesh.errors import BusmeshError
from busmesh.identity.signed import may_be_envelope, open_signed
from busmesh.identity.verify import Verifier
from busmesh.members.announcement import MAX_BYTES, PURPOSE, decode
from busmesh.names import ServiceName, SpiffeId

log = logging.getLogger(__name__)

#: What an agent says of itself it says again within a second; so long an authority listens before it grants
#: names in a mesh that had some.
HEAR_S = 1.2
#: Announcements whose signature is looked at: a mesh of 5,000 is heard within that time, and a flood of
#: made-up names costs a twentieth of a core.
RATE_PER_S, BURST = 300.0, 5_000.0
#: Names that are told of because two services have them.
_MAX_DOUBLES = 1000
#: Beyond the announcement an envelope has a certificate and a signature.
_MAX_ENVELOPE = MAX_BYTES + 8192
#: An announcement older than this proves nothing about now.
_MAX_AGE_S = 30.0


class Hearing(Actor[bytes]):
    """Enters the names of announced instances into a register.

    Args:
        register: of the authority.
        verifier: whom the authority believes.

    Attributes:
        refused: announcements that proved nothing.
        doubles: names that two services have instances of.
    """

    capacity = 8192

    def __init__(self, register: Register, verifier: Verifier) -> None:
        super().__init__("names")
        self._register = register
        self._verifier = verifier
        self._bucket = TokenBucket(RATE_PER_S, BURST, time.monotonic())
        self.refused = 0
        self.doubles: set[str] = set()

    def on_message(self, subject: bytes, reply: bytes, payload: bytes, headers: bytes) -> None:
        """Take an announcement from the bus, if it tells what is not known."""
        if not may_be_envelope(payload) or len(payload) > _MAX_ENVELOPE:
            self.refused += 1
            return
        namespace, service, instance = subject.decode("ascii", "replace").rsplit(".", 3)[1:]
        known = self._register.owner(instance) == str(ServiceName(service, namespace))
        if not known:
            self.mailbox.tell(payload, len(payload))

    async def receive(self, message: bytes) -> None:
        if not self._bucket.take(time.monotonic()):
            return
        try:
            signed = open_signed(message, PURPOSE, self._verifier, time.time(), max_age=_MAX_AGE_S)
            announced = decode(signed.body)
        except BusmeshError:
            self.refused += 1
            return
        who = signed.signer.id
        if not announced.is_by(who):
            self.refused += 1
        elif not self._register.claim(who, signed.signer.not_after):
            self._tell_of_two(who)

    def _tell_of_two(self, who: SpiffeId) -> None:
        owner = self._register.owner(who.instance)  # nobody, if the register is full
        if owner and who.instance not in self.doubles and len(self.doubles) < _MAX_DOUBLES:
            self.doubles.add(who.instance)
            log.error(
                "two services have an instance named %s: %s, and here is %s; on a locked bus each hears what"
                " is meant for the other, so end one of them",
                who.instance,
                owner,
                who.service,
            )
