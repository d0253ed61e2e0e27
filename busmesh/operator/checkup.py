"""A look at the whole mesh from an operator's home, in a few seconds, whatever is down.

What must be asked for is asked for at once, each with a time of its own; what it means,
:mod:`busmesh.operator.diagnosis` says. Where something is down, what rests on it is not asked for: one line
that says what to mend is worth more than ten that follow from it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

from busmesh import __version__
from busmesh.bus.bus import Bus
from busmesh.bus.policylog import PolicyLog
from busmesh.errors import BusmeshError
from busmesh.identity.store import Home
from busmesh.identity.verify import Verifier
from busmesh.names import Subjects
from busmesh.operator.attendance import Attended, ask_authorities, read_presences
from busmesh.operator.diagnosis.agents import check_agents, check_policies
from busmesh.operator.diagnosis.authority import check_authorities, check_clocks, readings_of
from busmesh.operator.diagnosis.bus import check_policy_log, check_server, check_trust_log
from busmesh.operator.diagnosis.home import check_login, check_operator, check_roots
from busmesh.operator.diagnosis.verdict import Check, Verdict, broken, failed
from busmesh.operator.history import History, read_history
from busmesh.operator.rollcall import ROLL_CALL_S, read_answers
from busmesh.operator.trusting import read_trust

T = TypeVar("T")
#: For a server to take the connection.
CONNECT_S = 2.0
#: For each log: a long one takes a round trip for each entry.
READ_S = 5.0


class Answers(NamedTuple):
    """What came in answer to a question, and when (unix seconds): clocks are compared with that."""

    payloads: list[bytes]
    at: float


@dataclass(frozen=True, slots=True)
class Checkup:
    """One look.

    Attributes:
        home: of an operator or observer.
        subjects: of the mesh.
        verifier: with the home's roots; an error if the home has none that can be used.
        bus: not connected yet; it is closed afterwards.
    """

    home: Home
    subjects: Subjects
    verifier: Verifier | BusmeshError
    bus: Bus

    async def run(self) -> list[Check]:
        """Return what was found, in the order in which things rest on each other."""
        login = self._login()
        try:
            bus = await self._reach()
            if Verdict.FAILED in {check.verdict for check in bus}:
                return [*self._home(), *login, *bus]
            if isinstance(self.verifier, BusmeshError):
                return [*self._home(), *login, *bus]
            mesh = await self._look(self.verifier)
            return [*self._home(), *login, *bus, *mesh]
        finally:
            await self.bus.close()

    def _home(self) -> list[Check]:
        """Look at what the home holds; after the trust log was read, since that may have revoked it."""
        if isinstance(self.verifier, BusmeshError):
            return [broken("home", self.verifier)]
        now = time.time()
        found = [check_roots(self.verifier.bundle, now)]
        for name in self.home.operators():
            try:
                svid = self.home.operator(name)
            except BusmeshError as error:
                found.append(broken("home", error))
                continue
            refusal = None
            try:
                self.verifier.certificate(svid.der, now)
            except BusmeshError as error:
                refusal = error
            found.append(check_operator(name, svid, refusal, now))
        return found

    def _login(self) -> list[Check]:
        login = self.bus.options.login
        held = login.held() if login is not None else None
        if held is None or not held.jwt:
            return []
        return [check_login(self.bus.options.holder(), held.expires, time.time())]

    async def _reach(self) -> list[Check]:
        try:
            await self.bus.connect(patience=CONNECT_S)
            began = time.perf_counter()  # the loop's own clock may go by milliseconds
            await self.bus.round_trip()
            return check_server(self.bus.server, time.perf_counter() - began, time.time())
        except BusmeshError as error:
            return [broken("bus", error)]

    async def _look(self, verifier: Verifier) -> list[Check]:
        trust, roll_answers, presences = await asyncio.gather(
            _tried("logs", self._read_trust(verifier)),
            _tried("agents", self._call_roll()),
            _tried("authority", self._ask_authorities()),
        )
        policies = await _tried("logs", self._read_policies(verifier))
        history = policies if isinstance(policies, History) else None
        logs = [
            trust if isinstance(trust, Check) else check_trust_log(*trust),
            policies if isinstance(policies, Check) else check_policy_log(policies),
        ]
        attended = Attended()
        if isinstance(presences, Check):
            authorities = [presences]
        else:
            attended = read_presences(presences.payloads, verifier, presences.at)
            authorities = check_authorities(attended, verifier.bundle)
        if isinstance(roll_answers, Check):
            return [*logs, *authorities, roll_answers]
        now = roll_answers.at
        roll = read_answers(roll_answers.payloads, verifier, now)
        readings = readings_of(roll, attended)
        return [
            *logs,
            *authorities,
            *check_clocks(readings, roll.astray + attended.astray, now),
            *check_agents(roll, verifier.bundle, __version__, now),
            *check_policies(roll.members, history, now),
        ]

    async def _read_trust(self, verifier: Verifier) -> tuple[int, int]:
        await read_trust(self.bus, self.subjects, verifier)
        return verifier.bundle.version, len(verifier.revocations)

    async def _read_policies(self, verifier: Verifier) -> History:
        return await read_history(PolicyLog(self.bus, self.subjects), verifier)

    async def _call_roll(self) -> Answers:
        answers = await self.bus.gather(self.subjects.roll_call, timeout=ROLL_CALL_S)
        return Answers([answer.payload for answer in answers], time.time())

    async def _ask_authorities(self) -> Answers:
        return Answers(await ask_authorities(self.bus, self.subjects), time.time())


async def _tried(group: str, work: Coroutine[Any, Any, T]) -> T | Check:
    """Return what ``work`` does, or what is to be said of why it did not."""
    try:
        async with asyncio.timeout(READ_S):
            return await work
    except TimeoutError:
        text = f"it took longer than {READ_S:g} s to look"
        return failed(group, text, "is the bus overloaded, or very far away?")
    except BusmeshError as error:
        return broken(group, error)
