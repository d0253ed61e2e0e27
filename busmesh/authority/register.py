"""Who has which name, and what each may do on a locked bus.

Subjects name an instance and not its service, so two services must not have instances of one name: the login
of one would hear what is meant for the other. A join token that is good for one service could otherwise be
used to get the login of another's instance.

What it signs it remembers, since a login is taken back by its key and a revocation knows none.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection

from busmesh.authority.logins import Issued, Logins
from busmesh.bus.accounts import BusAccounts
from busmesh.bus.nkeys import Role, public_text
from busmesh.bus.permissions import agent_permissions, operator_permissions
from busmesh.identity.store import Home
from busmesh.names import SpiffeId, Subjects

log = logging.getLogger(__name__)

#: Names that are remembered; one takes about 200 bytes. Only holders of a join token get this far.
CAPACITY = 100_000


class Register:
    """The register of one authority, kept in its home over restarts.

    Args:
        home: where it is kept.
        subjects: of the mesh.
        clock: unix seconds.
    """

    def __init__(self, home: Home, subjects: Subjects, clock: Callable[[], float] = time.time) -> None:
        self._home = home
        self._subjects = subjects
        self._clock = clock
        self._names = dict(home.instances())
        self._changed = False
        #: What signs logins; None while the bus is not locked.
        self.accounts: BusAccounts | None = None
        #: Those that were signed, so that they can be taken back.
        self.logins = Logins(home.bus_logins, clock)
        self.logins.follow()
        #: Keys of those that were taken back.
        self.shut_out: Collection[str] = ()

    def __repr__(self) -> str:
        locked = "open" if self.accounts is None else "locked"
        return f"<Register {len(self._names)} names, {self.logins!r}, {locked} bus>"

    @property
    def empty(self) -> bool:
        """True before the first name was granted."""
        return not self._names

    def owner(self, instance: str) -> str:
        """Return the service whose instance has this name, "" if nobody has it now."""
        service, expires = self._names.get(instance, ("", 0.0))
        return service if expires > self._clock() else ""

    def claim(self, spiffe_id: SpiffeId, until: float) -> bool:
        """Take an instance's name until ``until``; False if another service's certificate still has it."""
        if spiffe_id.service is None:
            return True
        service, now = str(spiffe_id.service), self._clock()
        owner, expires = self._names.get(spiffe_id.instance, (service, 0.0))
        if owner != service and expires > now:
            return False
        if len(self._names) >= CAPACITY and spiffe_id.instance not in self._names:
            self._names = {name: held for name, held in self._names.items() if held[1] > now}
            if len(self._names) >= CAPACITY:
                return False
        self._names[spiffe_id.instance] = (service, max(until, expires) if owner == service else until)
        self._changed = True
        return True

    def room(self, spiffe_id: SpiffeId) -> bool:
        """Say whether ``spiffe_id`` may have one more login: each is remembered until it ends."""
        return self.accounts is None or self.logins.room(str(spiffe_id), self.shut_out)

    def login(self, spiffe_id: SpiffeId, bus_key: bytes, until: float, serial: int) -> str:
        """Return a login that can do what ``spiffe_id`` does, and ends with its certificate.

        There is none for a key that somebody else has a login for, such as a join token's, which all who
        joined by it have: an agent makes a key for each request.
        """
        if self.accounts is None:
            return ""
        if other := self.logins.another(public_text(Role.USER, bus_key), str(spiffe_id)):
            log.warning("%s asks for a login for the key of %s and gets none", spiffe_id, other)
            return ""
        if spiffe_id.service is not None:
            permissions = agent_permissions(self._subjects, spiffe_id.service, spiffe_id.instance)
        elif spiffe_id.operator:
            permissions = operator_permissions(self._subjects, spiffe_id.operator)
        else:
            return ""
        made = self.accounts.login(str(spiffe_id), bus_key, permissions, expires=until)
        self.logins.add(Issued.of(made, str(spiffe_id), serial))
        return made

    def save(self) -> None:
        """Write down what changed, if anything did; a full disk is worth a line in the log and no more."""
        try:
            self.logins.tidy()
        except OSError as error:
            log.error("the list of logins was not tidied: %s", error.strerror)
        if not self._changed:
            return
        now = self._clock()
        try:
            self._home.save_instances({name: held for name, held in self._names.items() if held[1] > now})
        except OSError as error:
            log.error("the names of instances were not written down: %s", error.strerror)
        else:
            self._changed = False
