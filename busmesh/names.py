"""Names and addresses: one function decides what may become part of a subject.

A service called ``*`` or ``a.b`` would turn into a wildcard or into somebody else's subject, and a
subject of 5,000 characters makes the NATS server close the publisher's connection. So every token
that a user, a peer or a document supplies passes through :func:`token` before anything else.
"""

from __future__ import annotations

import re
import secrets
from dataclasses import dataclass
from functools import lru_cache
from urllib.parse import urlsplit

from busmesh.errors import InvalidName

#: A DNS label (RFC 1123 section 2.1), as Kubernetes uses it for names.
_TOKEN = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
DEFAULT_NAMESPACE = "default"
DEFAULT_MESH = "local"
#: What ``<service>.<namespace>.mesh`` ends with when a caller writes the long form.
MESH_SUFFIX = "mesh"


def token(value: str, what: str) -> str:
    """Return ``value`` if it is a DNS label of 1 to 63 characters.

    Args:
        value: the text that a user, a peer or a document supplied.
        what: what it names ("service", "instance"), for the error.

    Raises:
        InvalidName: anything else, wildcards, dots, blanks and capitals included.
    """
    if _TOKEN.fullmatch(value) is None:
        shown = value if len(value) <= 80 else value[:77] + "..."
        raise InvalidName(
            f"{what} {shown!r} is not a name",
            code="BM1001",
            hint="use 1 to 63 of a-z, 0-9 and '-', beginning and ending with a letter or digit",
        )
    return value


def generated_instance(service: str) -> str:
    """Return a fresh instance name for ``service``: the service and eight random hex digits."""
    return f"{service[:54].rstrip('-')}-{secrets.token_hex(4)}"


@dataclass(frozen=True, slots=True, order=True)
class ServiceName:
    """A service within its namespace; written ``orders`` in the default one, else ``orders.shop``."""

    name: str
    namespace: str = DEFAULT_NAMESPACE

    @classmethod
    def parse(cls, text: str, *, namespace: str = DEFAULT_NAMESPACE) -> ServiceName:
        """Read ``orders``, ``orders.shop`` or ``orders.shop.mesh``; ``namespace`` fills the short form.

        Raises:
            InvalidName: empty, too many parts, or a part that is no token.
        """
        parts = text.split(".")
        if len(parts) == 3 and parts[2] == MESH_SUFFIX:
            parts.pop()
        if len(parts) > 2:
            raise InvalidName(
                f"service {text[:80]!r} has too many parts",
                code="BM1002",
                hint="write service, service.namespace or service.namespace.mesh",
            )
        return cls(
            token(parts[0], "service"),
            token(parts[1], "namespace") if len(parts) == 2 else namespace,
        )

    def __str__(self) -> str:
        return self.name if self.namespace == DEFAULT_NAMESPACE else f"{self.name}.{self.namespace}"


def resolve_host(host: str, namespace: str) -> ServiceName:
    """Return the service that a host means to somebody in ``namespace``.

    ``orders``, ``orders.shop``, ``orders.shop.mesh`` and Kubernetes' ``orders.shop.svc`` and
    ``orders.shop.svc.cluster.local`` are known.

    Raises:
        InvalidName: anything else.
    """
    for suffix in (".svc.cluster.local", ".svc"):
        if host.endswith(suffix) and host.count(".") == suffix.count(".") + 1:
            return ServiceName.parse(host.removesuffix(suffix), namespace=namespace)
    return ServiceName.parse(host, namespace=namespace)


@lru_cache(maxsize=4096)
def service_of_authority(authority: bytes, namespace: str = DEFAULT_NAMESPACE) -> ServiceName | None:
    """Return the service that a ``Host`` or authority means, or None if it names none.

    It is read as `resolve_host` reads it, with or without a port and in any case. Cached, because a
    process sees few different ones; the cache is bounded, because a hostile client may send many.
    """
    host, colon, port = authority.partition(b":")
    if colon and not port.isdigit():
        return None
    try:
        return resolve_host(host.decode("ascii").lower(), namespace)
    except (UnicodeDecodeError, InvalidName):
        return None


@dataclass(frozen=True, slots=True)
class SpiffeId:
    """Who a workload or operator is: the one identity type of the mesh (SPIFFE-ID, section 2).

    ``spiffe://<mesh>/ns/<ns>/svc/<service>/i/<instance>`` or ``spiffe://<mesh>/operator/<name>`` or
    ``spiffe://<mesh>/authority/<name>``.
    """

    mesh: str
    service: ServiceName | None = None
    instance: str = ""
    operator: str = ""
    authority: str = ""

    @classmethod
    def workload(cls, mesh: str, service: ServiceName, instance: str) -> SpiffeId:
        return cls(mesh, service, token(instance, "instance"))

    @classmethod
    def parse(cls, uri: str) -> SpiffeId:
        """Read an ID in exactly one of the three forms.

        Raises:
            InvalidName: any other URI: another scheme, query, fragment, port, userinfo or form.
        """
        bad = InvalidName(f"{uri[:200]!r} is not a SPIFFE ID of a mesh", code="BM1003")
        try:
            parts = urlsplit(uri)
        except ValueError:
            raise bad from None
        mesh, path = parts.netloc, parts.path.split("/")
        try:
            token(mesh, "mesh")
            match path:
                case ["", "ns", namespace, "svc", service, "i", instance]:
                    name = ServiceName(token(service, "service"), token(namespace, "namespace"))
                    parsed = cls.workload(mesh, name, instance)
                case ["", "operator", operator]:
                    parsed = cls(mesh, operator=token(operator, "operator"))
                case ["", "authority", authority]:
                    parsed = cls(mesh, authority=token(authority, "authority"))
                case _:
                    raise bad
        except InvalidName:
            raise bad from None
        if str(parsed) != uri:  # a query, fragment, other scheme or spelling was dropped by the parse
            raise bad
        return parsed

    @property
    def principal(self) -> str:
        """The ID without the instance: what metrics are labelled by, as there are few services."""
        return str(self).partition("/i/")[0]

    def __str__(self) -> str:
        if self.service is not None:
            path = f"ns/{self.service.namespace}/svc/{self.service.name}/i/{self.instance}"
        elif self.operator:
            path = f"operator/{self.operator}"
        else:
            path = f"authority/{self.authority}"
        return f"spiffe://{self.mesh}/{path}"


#: Processes that one agent may consist of.
MAX_WORKERS = 64


def _worker(number: int) -> str:
    return f".{number}" if number else ""


class Subjects:
    """Every subject of one mesh.

    Nothing else in busmesh writes a subject by hand, except that :mod:`busmesh.bus.permissions` writes them
    with wildcards.
    """

    def __init__(self, mesh: str = DEFAULT_MESH) -> None:
        self.mesh = token(mesh, "mesh")
        self.root = f"busmesh.{mesh}"
        self.revision = f"{self.root}.policy.revision"
        self.dry_run = f"{self.root}.policy.dryrun"
        self.enrol = f"{self.root}.authority.enrol"
        self.renew = f"{self.root}.authority.renew"
        self.attendance = f"{self.root}.authority.attendance"
        self.shut_out = f"{self.root}.authority.shutout"
        self.roll_call = f"{self.root}.roll"
        self.policy_stream = f"BUSMESH_{mesh}_POLICY"
        self.trust = f"{self.root}.trust.entry"
        self.drill = f"{self.root}.trust.drill"
        self.trust_stream = f"BUSMESH_{mesh}_TRUST"

    def log_api(self, subject: str) -> str:
        """Where a subject of JetStream's API is asked on a locked bus, by who has no login to the logs."""
        return f"{self.root}.logs.{subject.removeprefix('$JS.API.')}"

    def member(self, service: ServiceName, instance: str) -> str:
        return f"{self.root}.member.{service.namespace}.{service.name}.{token(instance, 'instance')}"

    @property
    def all_members(self) -> str:
        return f"{self.root}.member.*.*.*"

    def members(self, service: ServiceName) -> str:
        return f"{self.root}.member.{service.namespace}.{service.name}.*"

    def limits(self, service: ServiceName, sender: str = "*") -> str:
        """Where ``sender``, an instance of a service, tells the others of the limits that they share.

        Without a sender it is where all of them are heard. A subject names who speaks, so that a login can be
        held to its own.
        """
        who = sender if sender == "*" else token(sender, "instance")
        return f"{self.root}.limits.{service.namespace}.{service.name}.{who}"

    def evidence(self, service: ServiceName, sender: str = "*") -> str:
        """Where ``sender``, a caller of a service, tells the other callers what it sees of its instances.

        Without a sender it is where all of them are heard.
        """
        who = sender if sender == "*" else token(sender, "instance")
        return f"{self.root}.evidence.{service.namespace}.{service.name}.{who}"

    def who(self, service: ServiceName) -> str:
        return f"{self.root}.who.{service.namespace}.{service.name}"

    def relay(self, instance: str, worker: int = 0) -> str:
        """Where sealed frames for an instance go, to one of its workers if it has several."""
        return f"{self.root}.relay.{token(instance, 'instance')}{_worker(worker)}"

    def session(self, instance: str) -> str:
        return f"{self.root}.session.{token(instance, 'instance')}"

    def replies(self, instance: str, worker: int, sender: str = "") -> str:
        """Where ``sender`` sends what answers a worker of ``instance``; the frame says which request.

        One subject for each two: the server remembers who listens to it, where a subject per request would
        have to be looked up each time. It names the sender, so that a login can be held to its own. Without
        a sender it is where all is heard, notices as well.
        """
        who = token(sender, "instance") if sender else ">"
        return f"{self.root}.reply.{token(instance, 'instance')}.{worker}.{who}"

    def notice_prefix(self, instance: str, worker: int) -> str:
        """The prefix of where a worker hears, unsealed, that a request reached nobody; its stream follows.

        The bus says so there, and an agent that does not know the session below it, by its own name.
        No instance is called so, since no name begins with ``_``.
        """
        return f"{self.root}.reply.{token(instance, 'instance')}.{worker}._"

    def gone_prefix(self, instance: str) -> str:
        """The prefix of where the bus says that nobody took a response; session and stream follow."""
        return f"{self.root}.gone.{token(instance, 'instance')}."

    def inbox_prefix(self, instance: str) -> str:
        """The prefix of this instance's inboxes for control traffic: never the shared ``_INBOX``."""
        return f"{self.root}.inbox.{token(instance, 'instance')}"

    def role_inbox(self, role: str, name: str) -> str:
        """The prefix of the inboxes of who is no instance: ``operator``, ``authority``, ``join``.

        No instance's name begins with an underscore, so none can be given such an inbox by its name.
        """
        return f"{self.root}.inbox._{token(role, 'role')}-{token(name, role)}"

    def ack(self, service: ServiceName, instance: str) -> str:
        return f"{self.root}.policy.ack.{service.namespace}.{service.name}.{token(instance, 'instance')}"

    @property
    def acks(self) -> str:
        return f"{self.root}.policy.ack.*.*.*"

    def dry_report(self, service: ServiceName, instance: str) -> str:
        """Where an agent says how its requests would fare by a dry run."""
        where = f"{service.namespace}.{service.name}.{token(instance, 'instance')}"
        return f"{self.root}.policy.dryreport.{where}"

    @property
    def dry_reports(self) -> str:
        return f"{self.root}.policy.dryreport.*.*.*"

    def telemetry(self, signal: str, service: ServiceName, instance: str) -> str:
        where = f"{service.namespace}.{service.name}.{token(instance, 'instance')}"
        return f"{self.root}.telemetry.{token(signal, 'signal')}.{where}"

    def signals(self, signal: str | None = None) -> str:
        """Every message of one telemetry signal, or of all signals."""
        which = "" if signal is None else f".{token(signal, 'signal')}"
        return f"{self.root}.telemetry{which}.>"
