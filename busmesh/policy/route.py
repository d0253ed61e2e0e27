"""The spec of a Route, and of Istio's VirtualService, whose fields it shares."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated

from pydantic import AfterValidator, Field

from busmesh.policy.fields import (
    DisplayName,
    Duration,
    HeaderValue,
    Host,
    Many,
    MatchedHeader,
    Model,
    PathMatch,
    Some,
    StringMatch,
    SubsetName,
    Token,
    ValueMatch,
    WrittenHeader,
    refused,
)


class HttpMatch(Model):
    """Conditions that must all hold. Several entries: one of them must."""

    name: DisplayName | None = None
    uri: PathMatch | None = Field(None, description="The path, without the query, not percent-decoded.")
    ignore_uri_case: bool = Field(False, alias="ignoreUriCase", description="For exact and prefix of uri.")
    method: ValueMatch | None = None
    headers: dict[MatchedHeader, StringMatch] = Field({}, description="Names in any case; {}: is present.")
    without_headers: dict[MatchedHeader, StringMatch] = Field(
        {}, alias="withoutHeaders", description="Headers that must be absent or different."
    )
    query_params: dict[str, StringMatch] = Field(
        {}, alias="queryParams", description="The first parameter of each name, not percent-decoded."
    )
    source_labels: dict[str, str] = Field(
        {}, alias="sourceLabels", description="Labels that the calling instance carries."
    )
    source_namespace: Token | None = Field(
        None, alias="sourceNamespace", description="The namespace of the caller."
    )


class RouteMatch(HttpMatch):
    """As Istio's, and the calling service by name."""

    caller: Host | None = Field(None, description="The calling service: web, or web.shop.")


class DestinationRef(Model):
    """The instances of a service, or of one subset of it."""

    host: Host
    subset: SubsetName | None = Field(
        None, description="Declared by a Destination, or the instances whose label version has this value."
    )


def _names_once(headers: dict[str, str]) -> dict[str, str]:
    if name := _twice(headers):
        raise refused("BM1218", f"the header {name!r} stands twice here, in different cases")
    return headers


def _twice(names: Iterable[str]) -> str | None:
    seen: set[str] = set()
    for name in names:
        if name.lower() in seen:
            return name
        seen.add(name.lower())
    return None


HeaderValues = Annotated[dict[WrittenHeader, HeaderValue], AfterValidator(_names_once)]


class HeaderOperations(Model):
    """Done in the order remove, set, add."""

    set: HeaderValues = Field({}, description="Replace every header of the name.")
    add: HeaderValues = Field({}, description="Add one beside what is there.")
    remove: Many[WrittenHeader] = Field((), description="Take out every header of the name.")


class Headers(Model):
    """Operations on the request as it goes out and on the response as it comes back."""

    request: HeaderOperations | None = None
    response: HeaderOperations | None = None


class RouteDestination(Model):
    """One target of a rule."""

    destination: DestinationRef
    weight: int | None = Field(None, ge=0, le=1_000_000, description="Percent. Several must add up to 100.")
    headers: Headers | None = Field(None, description="Done before those of the rule.")


class HttpRule(Model):
    """What happens to the requests that it matches; the first rule that matches is taken."""

    name: DisplayName | None = Field(None, description="The label of this rule in telemetry.")
    route: Some[RouteDestination]
    headers: Headers | None = None
    timeout: Duration | None = Field(None, description="For the whole request, all tries included.")


class HttpRoute(HttpRule):
    """A rule of a Route."""

    match: Many[RouteMatch] = Field((), description="Empty or absent: every request.")


class RouteSpec(Model):
    """How requests addressed to ``hosts`` are routed."""

    hosts: Some[Host] = Field(description="The services whose requests this is about.")
    http: Some[HttpRoute]


def _mesh_only(gateways: tuple[str, ...]) -> tuple[str, ...]:
    if any(gateway != "mesh" for gateway in gateways):
        raise refused("BM1311", "gateways other than mesh are not supported yet", "remove the gateways")
    return gateways


Gateways = Annotated[Many[str], AfterValidator(_mesh_only)]


class IstioMatch(HttpMatch):
    """Istio's HTTPMatchRequest."""

    gateways: Gateways = ()


class IstioRoute(HttpRule):
    """Istio's HTTPRoute."""

    match: Many[IstioMatch] = ()


class VirtualServiceSpec(Model):
    """Istio's VirtualService."""

    hosts: Some[Host]
    gateways: Gateways = ()
    http: Some[IstioRoute]

    def as_route(self) -> RouteSpec:
        """Return the same as a RouteSpec: what it does not know, ``gateways``, only ever says "mesh"."""
        plain = self.model_dump(by_alias=True, exclude_unset=True, exclude={"gateways": True})
        for rule in plain["http"]:
            for entry in rule.get("match", ()):
                entry.pop("gateways", None)
        return RouteSpec.model_validate(plain)
