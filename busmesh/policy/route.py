"""The spec of a Route, and of Istio's VirtualService, whose fields it shares."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Annotated

from pydantic import AfterValidator, Field, model_validator

from busmesh.policy.actions import (
    HttpDirectResponse,
    HttpRedirect,
    HttpRewrite,
    SplitBy,
)
from busmesh.policy.faults import HttpFault
from busmesh.policy.fields import (
    DisplayName,
    Duration,
    HeaderValue,
    Host,
    Many,
    MatchedHeader,
    Model,
    PathMatch,
    Percent,
    Some,
    StringMatch,
    SubsetName,
    Token,
    ValueMatch,
    WrittenHeader,
    refused,
)
from busmesh.policy.retries import HttpRetries, Retries
from busmesh.yamlfile import Path


class RequestMatch(Model):
    """Conditions on a request itself."""

    name: DisplayName | None = None
    uri: PathMatch | None = Field(None, description="The path, without the query, not percent-decoded.")
    ignore_uri_case: bool = Field(False, alias="ignoreUriCase", description="For exact and prefix of uri.")
    method: ValueMatch | None = None
    authority: ValueMatch | None = Field(None, description="The Host header, with its port if it has one.")
    headers: dict[MatchedHeader, StringMatch] = Field({}, description="Names in any case; {}: is present.")
    without_headers: dict[MatchedHeader, StringMatch] = Field(
        {}, alias="withoutHeaders", description="Headers that must be absent or different."
    )
    query_params: dict[str, StringMatch] = Field(
        {}, alias="queryParams", description="The first parameter of each name, not percent-decoded."
    )


class HttpMatch(RequestMatch):
    """Conditions that must all hold. Several entries: one of them must."""

    scheme: ValueMatch | None = Field(None, description="Inside the mesh every request is http.")
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


class HttpMirror(Model):
    """Where copies of requests go; nobody waits for what comes back."""

    destination: DestinationRef
    percentage: Percent | None = Field(None, description="Of the requests. Absent: of all.")

    @property
    def fraction(self) -> float:
        return 1.0 if self.percentage is None else self.percentage.fraction


class HttpRule(Model):
    """What happens to the requests that it matches; the first rule that matches is taken.

    It has exactly one of ``route``, ``redirect`` and ``directResponse``.
    """

    name: DisplayName | None = Field(None, description="The label of this rule in telemetry.")
    route: Many[RouteDestination] = Field((), description="Where requests go.")
    redirect: HttpRedirect | None = None
    direct_response: HttpDirectResponse | None = Field(None, alias="directResponse")
    headers: Headers | None = None
    timeout: Duration | None = Field(None, description="For the whole request, all tries included.")
    retries: HttpRetries | None = Field(None, description="Absent: two, where another try is safe.")
    fault: HttpFault | None = None
    rewrite: HttpRewrite | None = None
    mirror: DestinationRef | None = Field(None, description="Where copies of requests go.")
    mirror_percentage: Percent | None = Field(
        None, alias="mirrorPercentage", description="Of the requests that mirror gets. Absent: all."
    )
    mirror_percent: int | None = Field(
        None, alias="mirrorPercent", ge=0, le=100, description="The old form of mirrorPercentage."
    )
    mirror_percent_oldest: int | None = Field(
        None, alias="mirror_percent", ge=0, le=100, description="The oldest form of mirrorPercentage."
    )
    mirrors: Many[HttpMirror] = Field((), description="As mirror, for several.")

    @model_validator(mode="after")
    def _fits_together(self) -> HttpRule:
        actions = {"route": self.route, "redirect": self.redirect, "directResponse": self.direct_response}
        given = [name for name, action in actions.items() if action]
        if len(given) != 1:
            said = f", not {' and '.join(given)}" if given else " is missing"
            raise refused("BM1241", f"exactly one of route, redirect and directResponse{said}")
        if given != ["route"] and (useless := self.about_sending()):
            message = f"a rule with {given[0]} sends nothing on, so it has no {useless[0]}"
            raise refused("BM1242", message, f"remove {useless[0]}")
        self._mirrors_fit()
        return self

    def about_sending(self) -> list[str]:
        """Return the fields given that only say something of requests which are sent on."""
        about = {
            "timeout": self.timeout,
            "retries": self.retries,
            "fault": self.fault,
            "rewrite": self.rewrite,
            "mirror": self.mirror,
            "mirrors": self.mirrors,
        }
        return [name for name, value in about.items() if value]

    def _mirrors_fit(self) -> None:
        shares = (self.mirror_percentage, self.mirror_percent, self.mirror_percent_oldest)
        given = sum(share is not None for share in shares)
        if self.mirror is not None and self.mirrors:
            raise refused("BM1242", "one of mirror and mirrors, not both", "move mirror into mirrors")
        if given > 1:
            raise refused("BM1242", "the share of the mirror stands here twice", "keep mirrorPercentage")
        if given and self.mirror is None:
            raise refused("BM1246", "a share of a mirror, and no mirror", "add mirror, or remove the share")

    def destinations(self) -> Iterator[tuple[Path, DestinationRef]]:
        """Yield every destination, mirrors included, and where it stands below the rule."""
        for index, target in enumerate(self.route):
            yield ("route", index, "destination"), target.destination
        if self.mirror is not None:
            yield ("mirror",), self.mirror
        for index, copy in enumerate(self.mirrors):
            yield ("mirrors", index, "destination"), copy.destination

    def copies(self) -> tuple[HttpMirror, ...]:
        """Return where copies go, however the document spells it."""
        if self.mirror is None:
            return self.mirrors
        percentage = self.mirror_percentage
        for percent in (self.mirror_percent, self.mirror_percent_oldest):
            if percent is not None:
                percentage = Percent(value=float(percent))
        return (HttpMirror(destination=self.mirror, percentage=percentage),)


class HttpRoute(HttpRule):
    """A rule of a Route."""

    retries: Retries | None = Field(None, description="Absent: two, where another try is safe.")
    split_by: SplitBy | None = Field(
        None, alias="splitBy", description="Of several destinations everybody always gets the same one."
    )
    match: Many[RouteMatch] = Field((), description="Empty or absent: every request.")

    def about_sending(self) -> list[str]:
        return super().about_sending() + ["splitBy"] * (self.split_by is not None)


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
