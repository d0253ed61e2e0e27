"""Keys and certificates on disk: ``$BUSMESH_HOME`` and the folder of each agent.

Folders are 0700 and files 0600, whatever the umask; a key that others can read is refused, not mended in
silence, because it may have been read already. Files are replaced by rename after fsync, so a crash leaves
the old one or the new one. A ``.key`` file holds the key *and* its certificate, since two files cannot be
replaced at once; the ``.crt`` beside it is for people and tools.

::

    ca/root.key  ca/root.crt          the authority, on its machine only
    ca/next.key  ca/retiring.key      while one root replaces another
    ca/grants/<token>.json            what each join token allows
    ca/bus.key                        what signs logins to a locked bus
    ca/instances.json                 which service has which instance name
    ca/logins                         which logins were signed for whom, until they end
    ca/bus-tls.key  ca/bus-tls.crt    the bus's own certificate, if the mesh vouches for it
    operator/<name>.key  .crt         who signs policies
    operator/<name>.creds             the logins of that operator, to the mesh and to its logs
    observer/<name>.creds             the login of who only looks
    join-token                        lets local agents in
    tokens/<token>                    join tokens for others, until somebody takes them there
    context.json                      bus URL and mesh name, for commands without flags
    trust.crt                         the roots
    trust/                            the authority's copy of the trust log
    agents/<instance>/svid.key  svid.crt  trust.crt  trust/  bus.creds  bus.crt  policies/  lock
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from busmesh.bus.accounts import BusAccounts
from busmesh.bus.login import Credentials
from busmesh.errors import IdentityError, NotFound, UsageError
from busmesh.identity import files
from busmesh.identity.ca import CertificateAuthority
from busmesh.identity.jointoken import Grant, JoinToken
from busmesh.identity.svid import Svid
from busmesh.identity.ticket import JoinTicket
from busmesh.identity.trust import TrustBundle
from busmesh.names import token

TRUST = "trust.crt"
BUS_LOGIN = "bus.creds"
#: Bytes of the file of names: a register that is full of the longest ones fits.
MAX_INSTANCES_FILE = 32 * 1024 * 1024
#: Seconds that an agent waits for the one before it, which may still be ending.
LOCK_PATIENCE_S = 1.0


@dataclass(frozen=True, slots=True)
class Context:
    """How commands without flags find the mesh.

    Attributes:
        bus: NATS URLs, separated by commas.
        mesh: its name.
        tls_ca: file in the home with the roots that vouch for the bus; empty for the machine's own.
    """

    bus: str
    mesh: str
    tls_ca: str = ""


class AgentHome:
    """What one agent keeps across restarts, so that it starts while authority and policy log are down."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __repr__(self) -> str:
        return f"<AgentHome {self.path}>"

    @contextlib.contextmanager
    def claimed(self) -> Iterator[None]:
        """Hold this folder: two agents of one name would answer each other's requests, and none succeeds.

        The lock ends with the process, however that ends. It says nothing of other machines.

        Raises:
            UsageError: an agent that runs has it (code BM3207).
        """
        if os.name != "posix":
            yield
            return
        import fcntl

        descriptor = os.open(files.private_folder(self.path) / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            deadline = time.monotonic() + LOCK_PATIENCE_S
            while True:
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() >= deadline:
                        raise UsageError(
                            f"an agent of the name {self.path.name} runs already, out of {self.path}",
                            code="BM3207",
                            hint="give this one a name of its own: --instance NAME; without one it gets one",
                        ) from None
                    time.sleep(0.05)
            yield
        finally:
            os.close(descriptor)

    @property
    def policies(self) -> Path:
        """The folder of the policy cache, made if missing."""
        return files.private_folder(self.path / "policies")

    @property
    def trust_log(self) -> Path:
        """The folder of what is known of the trust log."""
        return self.path / "trust"

    def svid(self) -> Svid:
        """Return the stored SVID; whether it is still valid is for a verifier to say.

        Raises:
            NotFound: none is stored (code BM4501).
            IdentityError: readable by others (code BM4502), or corrupt (BM4503).
        """
        return files.read_svid(self.path / "svid.key")

    def save_svid(self, svid: Svid) -> None:
        files.write_svid(self.path / "svid.key", svid)

    def trust(self, mesh: str) -> TrustBundle:
        """Return the stored roots of ``mesh``.

        Raises:
            NotFound: none are stored (code BM4501).
            IdentityError: they are not roots of ``mesh``, or others can write the file.
        """
        return files.read_trust(self.path / TRUST, mesh)

    def save_trust(self, bundle: TrustBundle) -> None:
        files.write(self.path / TRUST, bundle.to_pem())

    def credentials(self) -> Credentials | None:
        """Return the stored login to the bus, None if there is none.

        Raises:
            IdentityError: readable by others (code BM4502), or corrupt (BM4503).
        """
        return read_credentials(self.path / BUS_LOGIN)

    def save_bus_roots(self, pem: str) -> Path:
        """Store what vouches for the bus's own certificate; return the file."""
        path = self.path / "bus.crt"
        files.write(path, f"{pem}\n".encode())
        return path

    def save_credentials(self, credentials: Credentials | None) -> None:
        """Store a login; None forgets the one that is stored."""
        if credentials is None:
            (self.path / BUS_LOGIN).unlink(missing_ok=True)
        else:
            files.write(self.path / BUS_LOGIN, credentials.reveal().encode())


class Home:
    """``$BUSMESH_HOME``: what ``busmesh up`` keeps, and where the other commands find the mesh.

    Every reading method raises NotFound (code BM4501) if nothing is stored, IdentityError if others may read
    what is secret (BM4502) or the file is corrupt (BM4503); both name the file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def default(cls, environ: Mapping[str, str]) -> Home:
        """Return the home that ``BUSMESH_HOME`` names, or ``~/.busmesh``."""
        return cls(Path(environ.get("BUSMESH_HOME") or "~/.busmesh").expanduser())

    def __repr__(self) -> str:
        return f"<Home {self.path}>"

    def authority(self, mesh: str) -> CertificateAuthority:
        """Return the certificate authority of ``mesh``."""
        path = self.path / "ca" / "root.key"
        certificate, key = files.read_pair(path)
        with files.naming(path):
            return CertificateAuthority(mesh, certificate, key)

    def save_authority(self, ca: CertificateAuthority) -> None:
        files.write_pair(self.path / "ca" / "root.key", ca.certificate, ca.private_key)

    def other_authority(self, mesh: str, which: Literal["next", "retiring"]) -> CertificateAuthority | None:
        """Return the root that is to issue next, or the one that did until now; None if there is none."""
        path = self.path / "ca" / f"{which}.key"
        try:
            certificate, key = files.read_pair(path)
        except NotFound:
            return None
        with files.naming(path):
            return CertificateAuthority(mesh, certificate, key)

    def save_next_authority(self, ca: CertificateAuthority) -> None:
        files.write_pair(self.path / "ca" / "next.key", ca.certificate, ca.private_key)

    def switch_authority(self, mesh: str) -> None:
        """Issue by the next root from now on, and keep the present one as the retiring one.

        A crash in the middle leaves the next root where it was, so that this can be done again.
        """
        following, present = self.other_authority(mesh, "next"), self.authority(mesh)
        if following is None:
            raise NotFound("there is no next root to switch to", code="BM4501")
        if present.certificate != following.certificate:
            files.write_pair(self.path / "ca" / "retiring.key", present.certificate, present.private_key)
        self.save_authority(following)
        self._forget_authority("next")

    def forget_retiring(self) -> None:
        """Destroy the key of the root that was removed."""
        self._forget_authority("retiring")

    def _forget_authority(self, which: Literal["next", "retiring"]) -> None:
        for ending in (".key", ".crt"):
            (self.path / "ca" / f"{which}{ending}").unlink(missing_ok=True)

    @property
    def trust_log(self) -> Path:
        """The folder of what the authority knows of the trust log."""
        return self.path / "trust"

    def grants(self) -> dict[str, Grant]:
        """Return what each join token allows, by the token's id; empty if there are none."""
        found = {}
        for path in sorted((self.path / "ca" / "grants").glob("*.json")):
            with contextlib.suppress(NotFound):  # withdrawn a moment ago
                grant = _grant(path)
                found[grant.token.id] = grant
        return found

    def save_grant(self, grant: Grant) -> None:
        fields = asdict(grant) | {"token": grant.token.reveal()}
        files.write(
            self.path / "ca" / "grants" / f"{token(grant.token.id, 'token')}.json",
            json.dumps(fields).encode(),
        )

    def delete_grant(self, token_id: str) -> None:
        """Forget a token: nobody joins with it any more; who has joined stays."""
        (self.path / "ca" / "grants" / f"{token(token_id, 'token')}.json").unlink(missing_ok=True)

    def save_ticket(self, ticket: JoinTicket) -> Path:
        """Keep a join token that is meant for another machine; return its file."""
        path = self._ticket(ticket.token.id)
        files.write(path, f"{ticket.reveal()}\n".encode())
        return path

    def delete_ticket(self, token_id: str) -> None:
        """Forget the file that :meth:`save_ticket` wrote, if it is still here."""
        self._ticket(token_id).unlink(missing_ok=True)

    def _ticket(self, token_id: str) -> Path:
        return self.path / "tokens" / token(token_id, "token")

    def bus_accounts(self) -> BusAccounts:
        """Return what signs logins to the bus of this mesh."""
        path = self.path / "ca" / "bus.key"
        with files.naming(path):
            return BusAccounts.from_seeds(_json(path, secret=True))

    def save_bus_accounts(self, accounts: BusAccounts) -> None:
        files.write(self.path / "ca" / "bus.key", json.dumps(accounts.seeds()).encode())

    def instances(self) -> dict[str, tuple[str, float]]:
        """Return which service has which instance name, and until when (unix seconds)."""
        path = self.path / "ca" / "instances.json"
        try:
            fields = _json(path, most=MAX_INSTANCES_FILE)
        except NotFound:
            return {}
        found = {}
        for name, held in fields.items():
            match held:
                case [str(service), int() | float() as until]:
                    found[name] = (service, float(until))
                case _:
                    raise files.corrupt(path, f"{name[:80]!r} is held by nobody")
        return found

    def save_instances(self, names: Mapping[str, tuple[str, float]]) -> None:
        files.write(self.path / "ca" / "instances.json", json.dumps(names).encode())

    @property
    def bus_logins(self) -> Path:
        """The file of the logins that were signed, for who takes them back."""
        return self.path / "ca" / "logins"

    def save_server_certificate(self, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> None:
        """Store the bus's own certificate, for the server to read: ``ca/bus-tls.key`` and ``.crt``."""
        files.write_pair(self.path / "ca" / "bus-tls.key", certificate, key)

    def server_certificate(self) -> x509.Certificate:
        """Return the bus's own certificate."""
        return files.read_pair(self.path / "ca" / "bus-tls.key")[0]

    def login(self, role: str, name: str) -> Credentials | None:
        """Return the login of an ``operator`` or ``observer``, None if there is none."""
        return read_credentials(self._login(role, name))

    def save_login(self, role: str, name: str, credentials: Credentials) -> Path:
        """Store a login and return where."""
        path = self._login(role, name)
        files.write(path, credentials.reveal().encode())
        return path

    def delete_login(self, role: str, name: str) -> None:
        """Forget a login that counts no more."""
        self._login(role, name).unlink(missing_ok=True)

    def logins(self, role: str) -> list[str]:
        """Return the names of those of a role whose logins are here."""
        return sorted(path.stem for path in (self.path / role).glob("*.creds"))

    def _login(self, role: str, name: str) -> Path:
        return self.path / role / f"{token(name, role)}.creds"

    def operator(self, name: str) -> Svid:
        """Return the SVID of the operator ``name``."""
        return files.read_svid(self._operator(name))

    def operators(self) -> list[str]:
        """Return the names of the operators whose keys are here."""
        return sorted(path.stem for path in (self.path / "operator").glob("*.key"))

    def save_operator(self, svid: Svid) -> None:
        files.write_svid(self._operator(svid.id.operator), svid)

    def join_token(self) -> JoinToken:
        return self.join_ticket().token

    def save_join_token(self, join_token: JoinToken) -> None:
        save_join_token(self.path / "join-token", join_token)

    def join_ticket(self) -> JoinTicket:
        """Return the join token with what is known of the way to the bus."""
        return read_join_ticket(self.path / "join-token")

    def save_join_ticket(self, ticket: JoinTicket) -> None:
        files.write(self.path / "join-token", f"{ticket.reveal()}\n".encode())

    def context(self) -> Context:
        path = self.path / "context.json"
        fields = _json(path)
        bus, mesh, tls_ca = fields.get("bus"), fields.get("mesh"), fields.get("tls_ca", "")
        if not isinstance(bus, str) or not isinstance(mesh, str) or not isinstance(tls_ca, str):
            raise files.corrupt(path, "it lacks bus or mesh")
        with files.naming(path):
            return Context(bus, token(mesh, "mesh"), tls_ca)

    def save_context(self, context: Context) -> None:
        files.write(self.path / "context.json", json.dumps(asdict(context)).encode())

    def trust(self, mesh: str) -> TrustBundle:
        """Return the roots of ``mesh``."""
        return files.read_trust(self.path / TRUST, mesh)

    def save_trust(self, bundle: TrustBundle) -> None:
        files.write(self.path / TRUST, bundle.to_pem())

    def agent(self, instance: str) -> AgentHome:
        """Return the home of one agent; its folder is made when something is stored.

        Raises:
            InvalidName: ``instance`` is not a name.
        """
        return AgentHome(self.path / "agents" / token(instance, "instance"))

    def _operator(self, name: str) -> Path:
        return self.path / "operator" / f"{token(name, 'operator')}.key"


def read_join_token(path: Path) -> JoinToken:
    """Return the token of what :func:`read_join_ticket` reads."""
    return read_join_ticket(path).token


def read_join_ticket(path: Path) -> JoinTicket:
    """Read a token file from anywhere (``--join FILE``).

    Raises:
        NotFound: there is none (code BM4501).
        IdentityError: others can read it (code BM4502), or it is no token (BM4503).
    """
    try:
        return JoinTicket.parse(files.read(path, secret=True).decode("ascii", "replace"))
    except NotFound as error:
        raise NotFound(
            error.message,
            code=error.code,
            hint="`busmesh up` keeps it in its home as join-token; is BUSMESH_HOME set to that home?\n"
            "from another machine, copy it with mode 600 and name it: --join FILE",
        ) from None
    except IdentityError as error:
        if error.code != "BM4201":
            raise
        raise IdentityError(f"{path}: {error.message}", code="BM4503", hint=error.hint) from None


def save_join_token(path: Path, join_token: JoinToken | JoinTicket) -> None:
    """Write a token file of mode 0600, to be carried to another machine."""
    files.write(path, f"{join_token.reveal()}\n".encode(), anywhere=True)


def operator_login(home: Home) -> Credentials | None:
    """Return the login of who works at this home: of an operator, else of an observer; None without."""
    for role in ("operator", "observer"):
        for name in home.logins(role):
            return home.login(role, name)
    return None


def read_credentials(path: Path) -> Credentials | None:
    """Return the login in a ``.creds`` file, None if there is no such file.

    Raises:
        IdentityError: others can read it (code BM4502), or it is none (BM4503).
    """
    try:
        text = files.read(path, secret=True).decode("ascii", "replace")
    except NotFound:
        return None
    with files.naming(path):
        return Credentials.parse(text)


def _grant(path: Path) -> Grant:
    fields = _json(path, secret=True)
    text, expires = fields.get("token"), fields.get("expires")
    service, namespace = fields.get("service"), fields.get("namespace")
    created, description = fields.get("created"), fields.get("description", "")
    if not (isinstance(text, str) and isinstance(service, str) and isinstance(namespace, str)):
        raise files.corrupt(path, "it lacks token, service or namespace")
    for name, value in (("expires", expires), ("created", created)):
        if value is not None and not isinstance(value, int | float):
            raise files.corrupt(path, f"{name} is not a number")
    with files.naming(path):
        return Grant(JoinToken.parse(text), service, namespace, expires, created, str(description))


def _json(path: Path, *, secret: bool = False, most: int = files.MAX_FILE) -> dict[str, Any]:
    try:
        fields = json.loads(files.read(path, secret=secret, most=most))
    except (ValueError, RecursionError):
        raise files.corrupt(path, "it is not JSON") from None
    if not isinstance(fields, dict):
        raise files.corrupt(path, "it is not a JSON object")
    return fields
