"""The policy log's keeper beside the authority: a copy on disk, and who mends the log where agents may not.

On a locked bus no agent's login may write to the log, so that a stolen one cannot fill it. If the log's store
is lost, somebody must give back what was in it: the authority can, as the entries bear the signatures of
operators and not its own.
"""

from __future__ import annotations

from random import Random

from busmesh.agent.policies import Policies, Published, Synchronise
from busmesh.agent.policystore import PolicyStore
from busmesh.bus.bus import Bus
from busmesh.bus.policylog import PolicyLog
from busmesh.identity.store import AgentHome
from busmesh.identity.verify import Verifier
from busmesh.names import ServiceName, Subjects
from busmesh.policy.compilematch import Caller


class LogKeeper(Policies):
    """Follows the log as an agent does, and carries nothing out: nobody waits for its acknowledgements.

    Args:
        bus: with a login that may write to the log.
        subjects: of the mesh.
        home: whose folder of policies holds the copy.
        verifier: whose roots must vouch for the operators.
        rng: jitter.
    """

    def __init__(
        self, bus: Bus, subjects: Subjects, home: AgentHome, verifier: Verifier, rng: Random
    ) -> None:
        super().__init__(
            bus=bus,
            policy_log=PolicyLog(bus, subjects),
            store=PolicyStore(home.policies),
            verifier=verifier,
            caller=Caller(ServiceName("authority")),
            apply=lambda snapshot: None,
            rng=rng,
        )
        self._revisions = subjects.revision
        self._follows = False

    async def started(self) -> None:
        self.load()
        if not self._follows:
            self._follows = True
            await self._bus.subscribe(self._revisions, self._on_published)
            self._bus.on_connection(self._on_connection)
        await super().started()

    def _on_published(self, subject: bytes, reply: bytes, payload: bytes, headers: bytes) -> None:
        self.mailbox.tell(Published(payload), len(payload))

    def _on_connection(self, standing: bool) -> None:
        if standing:
            self.mailbox.tell(Synchronise())
