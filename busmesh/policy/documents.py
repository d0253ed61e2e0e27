"""Policy documents: native ones and Istio's, read into one form.

A document keeps what was published, as plain data, because ``policy get`` gives that back and the digest
covers it; and the spec that was read from it, because everything else works on that. A VirtualService and
a Route that say the same have the same kind of key and the same spec.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from pydantic import Field, ValidationError, field_validator

from busmesh.errors import InvalidDocument
from busmesh.names import DEFAULT_NAMESPACE, ServiceName, resolve_host
from busmesh.policy.authentication import RequestAuthenticationSpec
from busmesh.policy.authorization import AuthorizationPolicySpec, AuthorizationSpec
from busmesh.policy.destination import DestinationSpec
from busmesh.policy.fields import DocumentName, Model, Token, refused
from busmesh.policy.plain import canonical, check_plain
from busmesh.policy.ratelimit import RateLimitSpec
from busmesh.policy.route import RouteSpec, VirtualServiceSpec
from busmesh.policy.unsupported import KINDS_NOT_YET, field_not_yet
from busmesh.yamlfile import (
    Finding,
    InvalidDocuments,
    Path,
    Plain,
    YamlDocument,
    findings_of,
    nearest,
    read_yaml,
    refuse_errors,
    shorten,
)
from busmesh.yamlfile.findings import Level

Kind = Literal["Authorization", "Destination", "RateLimit", "RequestAuthentication", "Route"]
NATIVE = "busmesh/v1"
ISTIO = ("networking.istio.io/v1", "networking.istio.io/v1beta1", "networking.istio.io/v1alpha3")
ISTIO_SECURITY = ("security.istio.io/v1", "security.istio.io/v1beta1")
#: Istio's annotation for a policy that is counted and not enforced.
DRY_RUN = "istio.io/dry-run"


class Metadata(Model):
    """What a document is called."""

    name: DocumentName
    namespace: Token = DEFAULT_NAMESPACE
    labels: dict[str, str] = Field({}, description="For people and tools; without meaning here.")
    annotations: dict[str, str] = Field(
        {}, description='As labels, but for istio.io/dry-run: "true" of an authorization.'
    )

    @field_validator("annotations")
    @classmethod
    def _dry_run_or_not(cls, annotations: dict[str, str]) -> dict[str, str]:
        if annotations.get(DRY_RUN, "true") not in ("true", "false"):
            raise refused("BM1201", f'the annotation {DRY_RUN} is "true" or "false"')
        return annotations


class IstioMetadata(Metadata):
    """As Kubernetes gives it out: what its API server adds says nothing about routing and is let through."""

    creation_timestamp: Any = Field(None, alias="creationTimestamp")
    finalizers: Any = None
    generation: Any = None
    managed_fields: Any = Field(None, alias="managedFields")
    owner_references: Any = Field(None, alias="ownerReferences")
    resource_version: Any = Field(None, alias="resourceVersion")
    uid: Any = None


class RouteDocument(Model):
    """A Route: how requests addressed to some services are routed."""

    api_version: Literal["busmesh/v1"] = Field(alias="apiVersion")
    kind: Literal["Route"]
    metadata: Metadata
    spec: RouteSpec


class DestinationDocument(Model):
    """A Destination: the subsets of a service, and how requests are spread over its instances."""

    api_version: Literal["busmesh/v1"] = Field(alias="apiVersion")
    kind: Literal["Destination"]
    metadata: Metadata
    spec: DestinationSpec


class RateLimitDocument(Model):
    """A RateLimit: how many requests the instances of a service let through."""

    api_version: Literal["busmesh/v1"] = Field(alias="apiVersion")
    kind: Literal["RateLimit"]
    metadata: Metadata
    spec: RateLimitSpec


class AuthorizationDocument(Model):
    """An Authorization: which requests some instances serve."""

    api_version: Literal["busmesh/v1"] = Field(alias="apiVersion")
    kind: Literal["Authorization"]
    metadata: Metadata
    spec: AuthorizationSpec


IstioVersion = Literal[
    "networking.istio.io/v1", "networking.istio.io/v1beta1", "networking.istio.io/v1alpha3"
]


class VirtualServiceDocument(Model):
    """Istio's VirtualService, as far as busmesh supports it."""

    api_version: IstioVersion = Field(alias="apiVersion")
    kind: Literal["VirtualService"]
    metadata: IstioMetadata
    spec: VirtualServiceSpec
    status: dict[str, Any] = Field({}, description="Written by Kubernetes, without meaning here.")


class DestinationRuleDocument(Model):
    """Istio's DestinationRule, as far as busmesh supports it."""

    api_version: IstioVersion = Field(alias="apiVersion")
    kind: Literal["DestinationRule"]
    metadata: IstioMetadata
    spec: DestinationSpec
    status: dict[str, Any] = Field({}, description="Written by Kubernetes, without meaning here.")


SecurityVersion = Literal["security.istio.io/v1", "security.istio.io/v1beta1"]


class AuthorizationPolicyDocument(Model):
    """Istio's AuthorizationPolicy, as far as busmesh supports it."""

    api_version: SecurityVersion = Field(alias="apiVersion")
    kind: Literal["AuthorizationPolicy"]
    metadata: IstioMetadata
    spec: AuthorizationPolicySpec
    status: dict[str, Any] = Field({}, description="Written by Kubernetes, without meaning here.")


class RequestAuthenticationDocument(Model):
    """Istio's RequestAuthentication, as far as busmesh supports it."""

    api_version: SecurityVersion = Field(alias="apiVersion")
    kind: Literal["RequestAuthentication"]
    metadata: IstioMetadata
    spec: RequestAuthenticationSpec
    status: dict[str, Any] = Field({}, description="Written by Kubernetes, without meaning here.")


AnyDocument = (
    RouteDocument
    | DestinationDocument
    | RateLimitDocument
    | AuthorizationDocument
    | VirtualServiceDocument
    | DestinationRuleDocument
    | AuthorizationPolicyDocument
    | RequestAuthenticationDocument
)
#: What documents of each kind say, once they are read.
Spec = RouteSpec | DestinationSpec | RateLimitSpec | AuthorizationSpec | RequestAuthenticationSpec

#: The kind as written -> (the versions it may have, its model, its kind in a key).
KINDS: dict[str, tuple[tuple[str, ...], type[AnyDocument], Kind]] = {
    "Route": ((NATIVE,), RouteDocument, "Route"),
    "Destination": ((NATIVE,), DestinationDocument, "Destination"),
    "RateLimit": ((NATIVE,), RateLimitDocument, "RateLimit"),
    "Authorization": ((NATIVE,), AuthorizationDocument, "Authorization"),
    "VirtualService": (ISTIO, VirtualServiceDocument, "Route"),
    "DestinationRule": (ISTIO, DestinationRuleDocument, "Destination"),
    "AuthorizationPolicy": (ISTIO_SECURITY, AuthorizationPolicyDocument, "Authorization"),
    "RequestAuthentication": (ISTIO_SECURITY, RequestAuthenticationDocument, "RequestAuthentication"),
}


class DocumentKey(NamedTuple):
    """The identity of a document; publishing another of the same key replaces it."""

    kind: Kind
    namespace: str
    name: str

    @classmethod
    def parse(cls, text: str) -> DocumentKey:
        """Read ``route/orders`` or ``route/shop/orders``; the kind in any case, Istio's kinds too.

        Raises:
            InvalidDocument: another form, or a kind that there is not.
        """
        kinds = {name.lower(): identity for name, (_, _, identity) in KINDS.items()}
        kind, *rest = text.split("/")
        if kind.lower() not in kinds or len(rest) not in (1, 2) or not all(rest):
            raise InvalidDocument(
                f"{shorten(text)!r} names no document",
                code="BM1219",
                hint="write KIND/NAME or KIND/NAMESPACE/NAME, for example route/orders",
            )
        namespace = rest[0] if len(rest) == 2 else DEFAULT_NAMESPACE
        return cls(kinds[kind.lower()], namespace, rest[-1])

    def __str__(self) -> str:
        where = "" if self.namespace == DEFAULT_NAMESPACE else f"{self.namespace}/"
        return f"{self.kind}/{where}{self.name}"


@dataclass(frozen=True, slots=True)
class Document:
    """A document that is well-formed; whether it fits its neighbours is for ``validate`` to say.

    Attributes:
        plain: as published.
        spec: what it says, read from that.
        text: ``plain`` as canonical JSON; two documents are equal when this is.
        source: where it was read, for findings.
    """

    key: DocumentKey
    text: str
    plain: Plain = field(compare=False, repr=False)
    spec: Spec = field(compare=False, repr=False)
    source: YamlDocument = field(compare=False, repr=False)

    @classmethod
    def from_plain(cls, value: object, *, file: str = "") -> Document:
        """Read a document that came as data, from the bus or the disk.

        Raises:
            InvalidDocument: it is none that this version of busmesh knows.
        """
        return _read(YamlDocument(check_plain(value), file))

    def service(self, host: str) -> ServiceName:
        """Return the service that a host in this document means."""
        return resolve_host(host, self.key.namespace)

    def finding(
        self, code: str, message: str, path: Path, *, hint: str = "", level: Level = "error"
    ) -> Finding:
        """Make a finding about what stands at ``path`` of this document."""
        return self.source.finding(code, message, path, hint=hint, level=level)


def parse_documents(data: bytes, file: str) -> list[Document]:
    """Read every document of a file.

    Raises:
        InvalidDocument: with every finding about any of them.
    """
    documents: list[Document] = []
    findings: list[Finding] = []
    for source in read_yaml(data, file):
        try:
            documents.append(_read(source))
        except InvalidDocuments as error:
            findings.extend(error.findings)
    refuse_errors(findings)
    return documents


def _read(source: YamlDocument) -> Document:
    model, identity = _model_for(source)
    try:
        read = model.model_validate(source.data)
    except ValidationError as error:
        raise InvalidDocuments(findings_of(error, source, model, field_not_yet)) from None
    spec = _spec(read)
    key = DocumentKey(identity, read.metadata.namespace, read.metadata.name)
    return Document(key, canonical(source.data), source.data, spec, source)


def _spec(read: AnyDocument) -> Spec:
    """Return what a document says, in the one form that its kind has."""
    spec = read.spec
    if isinstance(spec, VirtualServiceSpec):
        return spec.as_route()
    if not isinstance(spec, AuthorizationPolicySpec):
        return spec
    dry_run = read.metadata.annotations.get(DRY_RUN) == "true"
    said = {name: getattr(spec, name) for name in AuthorizationPolicySpec.model_fields}
    if isinstance(spec, AuthorizationSpec):
        return spec.model_copy(update={"dry_run": spec.dry_run or dry_run})
    return AuthorizationSpec.model_construct(**said, dry_run=dry_run)


def _model_for(source: YamlDocument) -> tuple[type[AnyDocument], Kind]:
    data = source.data
    if not isinstance(data, dict):
        raise InvalidDocuments([source.finding("BM1203", "a document is a mapping", ())])
    for name in ("apiVersion", "kind"):
        if not isinstance(data.get(name), str):
            raise InvalidDocuments([source.finding("BM1202", f"{name} is missing", (name,))])
    version, kind = str(data["apiVersion"]), str(data["kind"])
    if kind in KINDS and version in KINDS[kind][0]:
        return KINDS[kind][1:]
    if code := KINDS_NOT_YET.get((version.partition("/")[0], kind)):
        raise InvalidDocuments([source.finding(code, f"the kind {kind} is not supported yet", ("kind",))])
    if kind in KINDS:
        versions = " or ".join(KINDS[kind][0])
        message = f"a {kind} of {shorten(version)!r} is not known"
        raise InvalidDocuments([source.finding("BM1206", message, ("apiVersion",), hint=f"write {versions}")])
    guess = nearest(kind, KINDS)
    hint = f"did you mean {guess}?" if guess else f"known: {', '.join(KINDS)}"
    raise InvalidDocuments(
        [source.finding("BM1205", f"unknown kind {shorten(kind)!r}", ("kind",), hint=hint)]
    )
