"""The configuration of a NATS server for a mesh: logins, TLS, limits, JetStream.

It holds no secret and need not change when agents come and go: the server knows the operator and the account,
and learns at each login what the account's signing key has granted. Which logins count no more it is told by
the authority while it runs, and keeps in a folder beside its streams.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from busmesh.bus.accounts import MAX_DISK, BusAccounts

#: NATS's own default. Larger payloads hold up everybody else on the same connection.
MAX_PAYLOAD = 1024 * 1024
#: Where in its folder a server keeps its accounts, with the logins that count no more.
ACCOUNTS = "accounts"
#: How often the servers of a cluster compare their accounts: so long may one that was away lack a revocation.
SYNC = "10s"


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """PEM files of the server's certificate and its key."""

    certificate: Path
    key: Path


@dataclass(frozen=True, slots=True)
class Security:
    """What locks a bus down.

    Attributes:
        mesh: whose bus it is.
        accounts: who may log in.
        tls: None for a bus that is reached without: on loopback, or behind something that encrypts.
    """

    mesh: str
    accounts: BusAccounts
    tls: TlsFiles | None = None

    def lines(self, store: Path) -> list[str]:
        """Return what locks a server.

        Args:
            store: its folder, in which it keeps what it is told of the accounts.
        """
        operator, accounts = self.accounts.server_claims(self.mesh)
        lines = [
            f"operator: {operator}",
            f"system_account: {self.accounts.system.public}",
            f"resolver {{ type: full, dir: {quoted(store / ACCOUNTS)}, interval: {quoted(SYNC)} }}",
            "resolver_preload {",
            *(f"  {account}: {jwt}" for account, jwt in accounts.items()),
            "}",
        ]
        if self.tls is not None:
            lines += [
                "tls {",
                f"  cert_file: {quoted(self.tls.certificate)}",
                f"  key_file: {quoted(self.tls.key)}",
                '  min_version: "1.3"',
                "  timeout: 5",
                "}",
            ]
        return lines


def quoted(value: str | Path) -> str:
    """Return a string as the server's configuration language writes it."""
    return json.dumps(str(value), ensure_ascii=False)


def base_lines(*, name: str, listen: str, store: Path, max_payload: int = MAX_PAYLOAD) -> list[str]:
    """Return what every bus of a mesh is told.

    Args:
        name: the server's own, unique in a cluster.
        listen: ``host:port``.
        store: folder of the streams.
        max_payload: bytes of the largest message.
    """
    return [
        f"server_name: {quoted(name)}",
        f"listen: {listen}",
        f"max_payload: {max_payload}",
        # The policy log is small and precious, so it is on the disk when its writer hears of it.
        f"jetstream {{ store_dir: {quoted(store)}, max_mem: 64MB, max_file: {MAX_DISK},"
        " sync_interval: always }",
    ]


#: What a bus that others reach is told besides. Each bounds what one client costs everybody else.
LIMITS = (
    "max_connections: 10000",
    "max_control_line: 4KB",
    # A client that does not read is cut off once this much waits for it. For an agent 1 MiB was waiting with
    # one stream, 10 MiB with 32 at once; less would cut off busy ones, more is what a connection may cost.
    "max_pending: 32MB",
    'write_deadline: "5s"',
    # Somebody who connects and says nothing is let go.
    "authorization { timeout: 3 }",
    'ping_interval: "10s"',
    "ping_max: 3",
)
