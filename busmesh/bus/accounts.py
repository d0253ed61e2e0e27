"""The keys of a locked bus, and the logins that they sign.

The **operator** key says which accounts a server has. The mesh lives in two of them:

- **account**: agents, newcomers and who only looks; operators and the authority too, for all but the logs.
- **logs**: JetStream with the policy log and the trust log, and whoever writes to them.

JetStream sends an answer wherever whoever asks wants it, whatever that login may publish. So the logs have an
account that imports nothing: an answer to somebody in the mesh's account stays in the mesh's account, and
no subject there leads to a log. What goes the other way is what :func:`shared_logs` lists.

The **signing** keys sign the users of these two. Logins are taken back by telling the server of the accounts
anew, which the operator key signs, by a login to the **system** account, and only the authority has one.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field, fields

from busmesh.bus.jwt import Account, AccountLimits, Permissions, User, account_jwt, operator_jwt, user_jwt
from busmesh.bus.login import Credentials
from busmesh.bus.nkeys import KeyPair, Role, public_text
from busmesh.bus.permissions import shared_logs
from busmesh.errors import UsageError
from busmesh.names import Subjects

#: Bytes that the policy log and the trust log may take together, and more than both do.
MAX_DISK = 1024 * 1024 * 1024
#: When the accounts in a server's configuration were issued, in unix seconds: before all that it is told
#: later, so that a restart brings back no login that was taken back meanwhile.
BEGINNING = 1.0


@dataclass(frozen=True, slots=True)
class BusAccounts:
    """The keys of one mesh's bus. The seeds are for a file of mode 0600 and nothing else."""

    operator: KeyPair = field(repr=False)
    account: KeyPair = field(repr=False)
    signing: KeyPair = field(repr=False)
    logs: KeyPair = field(repr=False)
    logs_signing: KeyPair = field(repr=False)
    system: KeyPair = field(repr=False)

    @classmethod
    def generate(cls) -> BusAccounts:
        account = [KeyPair.generate(Role.ACCOUNT) for _ in range(5)]
        return cls(KeyPair.generate(Role.OPERATOR), *account)

    @classmethod
    def from_seeds(cls, seeds: Mapping[str, object]) -> BusAccounts:
        """Read what :meth:`seeds` gave.

        Raises:
            UsageError: a key is missing or none, or of another role (code BM3011).
        """
        keys = {}
        for name in (each.name for each in fields(cls)):
            text = seeds.get(name)
            if not isinstance(text, str):
                raise UsageError(f"it lacks the {name} key", code="BM3011")
            keys[name] = KeyPair.parse(text)
            if (keys[name].role is Role.OPERATOR) is not (name == "operator"):
                raise UsageError(f"its {name} key is another one's", code="BM3011")
        return cls(**keys)

    def seeds(self) -> dict[str, str]:
        return {each.name: getattr(self, each.name).reveal() for each in fields(self)}

    @property
    def account_id(self) -> str:
        return self.account.public

    def server_claims(self, mesh: str, *, max_disk: int = MAX_DISK) -> tuple[str, dict[str, str]]:
        """Return what a server must know: the operator's JWT, and the JWT of each account by its id."""
        accounts = self.mesh_accounts(mesh, BEGINNING, max_disk=max_disk)
        accounts[self.system.public] = account_jwt(self.operator, self.system, Account("SYS"), BEGINNING)
        return operator_jwt(self.operator, f"busmesh-{mesh}", BEGINNING), accounts

    def mesh_accounts(
        self, mesh: str, now: float, revoked: Mapping[str, int] | None = None, *, max_disk: int = MAX_DISK
    ) -> dict[str, str]:
        """Return the JWT of each account that has users, by its id.

        Args:
            mesh: the mesh's name.
            now: when they are issued, unix seconds.
            revoked: by the user's public key, up to when what was issued to it counts no more. One key may
                have a login to each account.
            max_disk: bytes that the logs may take together.
        """
        shared, revoked = shared_logs(Subjects(mesh)), revoked or {}
        logs = Account(
            f"busmesh-{mesh}-logs",
            signing_keys=(self.logs_signing.public,),
            limits=AccountLimits(disk=max_disk, streams=2),
            exports=shared,
            revoked=revoked,
        )
        mine = Account(
            f"busmesh-{mesh}",
            signing_keys=(self.signing.public,),
            imports={self.logs.public: shared},
            revoked=revoked,
        )
        # A server that begins with the importing one would not find what it imports.
        return {
            self.logs.public: account_jwt(self.operator, self.logs, logs, now),
            self.account.public: account_jwt(self.operator, self.account, mine, now),
        }

    def login(
        self, name: str, public: bytes, permissions: Permissions, *, expires: float | None = None
    ) -> str:
        """Return the JWT of a user in the mesh's account.

        Args:
            name: shown by the server's list of connections.
            public: the user's public key, 32 bytes.
            permissions: what it may do.
            expires: unix seconds from which on the server cuts it off; None is never.
        """
        user = User(name, public_text(Role.USER, public), permissions, expires)
        return user_jwt(self.signing, self.account.public, user, time.time())

    def credentials(
        self,
        name: str,
        permissions: Permissions,
        *,
        expires: float | None = None,
        key: KeyPair | None = None,
        writing: Permissions | None = None,
    ) -> Credentials:
        """Return a login with a fresh key, or with ``key``, for a holder on this machine.

        Args:
            name: shown by the server's list of connections.
            permissions: what it may do in the mesh's account.
            expires: unix seconds from which on the server cuts it off; None is never.
            key: the holder's.
            writing: what the same key may do in the account of the logs; None: it has no login there.
        """
        key = key or KeyPair.generate(Role.USER)
        jwt = self.login(name, key.raw_public, permissions, expires=expires)
        if writing is None:
            return Credentials(key, jwt)
        user = User(name, key.public, writing, expires)
        return Credentials(key, jwt, user_jwt(self.logs_signing, self.logs.public, user, time.time()))

    def system_credentials(self, name: str, permissions: Permissions) -> Credentials:
        """Return a login to the system account with a fresh key, for the authority."""
        key = KeyPair.generate(Role.USER)
        user = User(name, key.public, permissions)
        return Credentials(key, user_jwt(self.system, self.system.public, user, time.time()))
