"""The spec of a RateLimit: how many requests the instances of a service let through.

Istio has no kind for it and leaves it to Envoy's filters. The words are those that users of meshes know:
``requests`` and ``burst`` as in Contour, ``interval`` as in Kuma, ``overrides`` for single callers as in
Linkerd's HTTPLocalRateLimitPolicy, whose ``total`` is a limit without ``per`` here and whose ``identity`` is
one with ``per: [caller]``. What Envoy calls ``max_tokens``, ``tokens_per_fill`` and ``fill_interval`` are
``burst``, ``requests`` and ``interval``; its ``filter_enforced`` of 0 % is ``enforcing: false``.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from busmesh.policy.fields import (
    DisplayName,
    Duration,
    Host,
    Many,
    Model,
    Some,
    Token,
    matched_header,
    refused,
    seconds,
)
from busmesh.policy.route import RequestMatch

CALLER, PATH, HEADER = "caller", "path", "header:"
#: Each request is held against each limit.
MAX_LIMITS = 32


def _key_part(text: str) -> str:
    if text in (CALLER, PATH):
        return text
    if not text.startswith(HEADER):
        hint = "write caller, path or header:NAME"
        raise refused("BM1271", "this cannot tell requests apart", hint)
    matched_header(text.removeprefix(HEADER))
    return text


def _parts_once(parts: tuple[str, ...]) -> tuple[str, ...]:
    if len({part.lower() for part in parts}) < len(parts):
        raise refused("BM1272", "one of these stands twice", "remove one")
    return parts


def _not_zero(duration: str) -> str:
    if not seconds(duration):
        raise refused("BM1207", "an interval of 0s is none", "write 1s, 1m or 1h")
    return duration


KeyPart = Annotated[
    str,
    AfterValidator(_key_part),
    Field(json_schema_extra={"pattern": r"^(caller|path|header:[!#$%&'*+.^_`|~0-9A-Za-z-]{1,128})$"}),
]
Interval = Annotated[Duration, AfterValidator(_not_zero)]
Count = Annotated[int, Field(ge=1, le=1_000_000)]


class LimitMatch(RequestMatch):
    """Conditions that must all hold, as in a Route. Several entries: one of them must."""

    caller: Host | None = Field(
        None, description="The calling service, by its proven identity: web, or web.shop."
    )
    source_namespace: Token | None = Field(
        None, alias="sourceNamespace", description="The namespace of the calling service."
    )


class QuotaSpec(Model):
    """So many requests in so long."""

    requests: Count = Field(description="Requests that are let through in each interval, on average.")
    interval: Interval = Field(
        "1s",
        description="They come back evenly: of 60 in 1m, one each second. A longer interval means a larger"
        " burst, unless burst says otherwise.",
    )
    burst: Count | None = Field(
        None,
        description="Requests that are let through at once after a rest; default: as many as requests. Less"
        " smooths the traffic and refuses more of what comes at once.",
    )

    @property
    def rate(self) -> float:
        """Requests per second."""
        return self.requests / seconds(self.interval)


class OverrideSpec(QuotaSpec):
    """What some callers get instead."""

    callers: Some[Host] = Field(description="Calling services, each of which gets all of it.")


class LimitSpec(QuotaSpec):
    """One limit. A request passes if all limits that it falls under let it pass."""

    name: DisplayName | None = Field(None, description="The label of this limit in refusals and telemetry.")
    match: Many[LimitMatch] = Field((), description="Empty or absent: every request.")
    per: Annotated[Many[KeyPart], AfterValidator(_parts_once)] = Field(
        (),
        description="What is counted apart: caller (the calling service), path (without the query),"
        " header:NAME (requests without it are counted together). Empty: all requests together.",
    )
    scope: Literal["local", "mesh"] = Field(
        "local",
        description="local: each instance lets so much through. mesh: all instances of the service"
        " together do, wherever the requests come, within 5 % in each second; the burst is divided among"
        " them, and a limit of a few requests per second is kept to one or two requests per instance.",
    )
    enforcing: bool = Field(
        True, description="false: refuses nothing, but counts what it would have refused."
    )
    overrides: Many[OverrideSpec] = Field(
        (), description="Other numbers for some callers, with per: [caller]."
    )

    @model_validator(mode="after")
    def _callers_apart(self) -> LimitSpec:
        if self.overrides and CALLER not in self.per:
            hint = "add caller to per, or write a limit that matches this caller"
            raise refused("BM1273", "overrides need callers that are counted apart", hint)
        return self


def _few(limits: tuple[LimitSpec, ...]) -> tuple[LimitSpec, ...]:
    if len(limits) > MAX_LIMITS:
        raise refused("BM1274", f"there are more than {MAX_LIMITS} limits")
    return limits


class RateLimitSpec(Model):
    """What the instances of ``host`` let through; more is answered with 429 and a Retry-After.

    Enforced by the agent of the instance that receives, so that no caller can evade it.
    """

    host: Host = Field(description="The service whose instances this is about.")
    limits: Annotated[Some[LimitSpec], AfterValidator(_few)]
