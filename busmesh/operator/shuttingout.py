"""Asking the authorities whether the bus has let go of somebody who was revoked."""

from __future__ import annotations

import asyncio
import contextlib
import time

from busmesh.bus.bus import Bus
from busmesh.errors import BusmeshError
from busmesh.identity.revocation import Revocation
from busmesh.identity.shutout import Outcome, ShutOut, open_answer
from busmesh.identity.verify import Verifier
from busmesh.names import Subjects

#: All authorities are heard for so long, each time.
LISTEN_S = 0.5


async def ask_shut_out(
    bus: Bus, subjects: Subjects, verifier: Verifier, revocation: Revocation, *, wait: float
) -> list[ShutOut]:
    """Return what each authority says in the end, or after ``wait`` seconds; what proves nothing is left out.

    Raises:
        BusUnavailable: the bus was lost meanwhile.
        Denied: the login lacks the right to ask.
    """
    question, until = revocation.encode(), time.monotonic() + wait
    while True:
        found = []
        for answer in await bus.gather(subjects.shut_out, question, timeout=LISTEN_S):
            with contextlib.suppress(BusmeshError):
                found.append(open_answer(answer.payload, question, verifier, time.time()))
        done = found and all(answer.outcome is not Outcome.UNDER_WAY for answer in found)
        if done or time.monotonic() >= until:
            return found
        await asyncio.sleep(0.1)
