"""The agent definition: what one file, the environment and the command line together say an agent is.

Each field explains itself: what it is, its unit and default, and what raising or lowering it costs.
"""

from __future__ import annotations

import re
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, ConfigDict, Field
from pydantic_core import PydanticCustomError

from busmesh.errors import InvalidName
from busmesh.members.announcement import LabelText
from busmesh.names import MAX_WORKERS, ServiceName
from busmesh.policy.fields import Duration, Many, Model, Token, seconds

_ADDRESS = re.compile(r"(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9.-]+):([0-9]{1,5})")


def split_address(text: str) -> tuple[str, int]:
    """Return host and port of an address that has been checked."""
    found = _ADDRESS.fullmatch(text)
    assert found is not None, "checked by the model"
    return found[1].strip("[]"), int(found[2])


def _address(text: str) -> str:
    found = _ADDRESS.fullmatch(text)
    if found is None or int(found[2]) > 65535:
        raise PydanticCustomError(
            "BM1220", "{text}", {"text": "not an address", "hint": "write 127.0.0.1:15001"}
        )
    return text


def _service(text: str) -> str:
    try:
        ServiceName.parse(text)
    except InvalidName as error:
        raise PydanticCustomError("BM1001", "{text}", {"text": error.message, "hint": error.hint}) from None
    return text


def _app(text: str) -> str:
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        parts, port = urlsplit(""), None
    if parts.scheme != "http" or not parts.hostname or parts.path not in ("", "/") or parts.query:
        raise PydanticCustomError(
            "BM1221",
            "{text}",
            {"text": "not the URL of an application", "hint": "write http://127.0.0.1:PORT, without a path"},
        )
    if port == 0:
        raise PydanticCustomError(
            "BM1221", "{text}", {"text": "an application has a port", "hint": "name it"}
        )
    return text


Address = Annotated[str, AfterValidator(_address)]
ServiceText = Annotated[str, AfterValidator(_service)]
AppUrl = Annotated[str, AfterValidator(_app)]


class Health(Model):
    """How the agent finds out whether its application works."""

    path: str = Field(
        "",
        pattern=r"^(/[\x21-\x7e]*)?$",
        max_length=1024,
        description="GET this path; 200 to 399 is healthy. Empty: opening a TCP connection is enough.",
    )
    interval: Duration = Field(
        "500ms",
        description="Between two checks. Shorter finds a hung application sooner and asks it more often.",
    )
    timeout: Duration = Field("500ms", description="For one check; a check without an answer has failed.")
    unhealthy_after: int = Field(
        2, alias="unhealthyAfter", ge=1, le=100, description="Failures in a row that make it unhealthy."
    )
    healthy_after: int = Field(
        1, alias="healthyAfter", ge=1, le=100, description="Successes in a row that make it healthy again."
    )


class BusLogin(Model):
    """Where the bus is and how to log in."""

    url: str = Field(
        "", max_length=2048, description="NATS URLs, comma-separated; empty: the home's context."
    )
    creds: str = Field("", description="A NATS .creds file.")
    nkey: str = Field("", description="A file with an nkey seed.")
    tls_ca: str = Field(
        "", alias="tlsCa", description="PEM file with the authorities of the bus's certificates."
    )


class LimitsOf(Model):
    """What the agent admits at once (Envoy's defaults)."""

    max_requests: int = Field(
        1024, alias="maxRequests", ge=1, le=1_000_000, description="Requests at work at the application."
    )
    max_pending: int = Field(
        1024, alias="maxPending", ge=1, le=1_000_000, description="Requests that wait for a connection to it."
    )
    max_connections: int = Field(
        10_000,
        alias="maxConnections",
        ge=1,
        le=1_000_000,
        description="Connections from the application to outbound; above it 503.",
    )
    max_body: int = Field(
        0, alias="maxBody", ge=0, description="Bytes of a request body; above it 413. 0: any size (as Envoy)."
    )
    max_header_bytes: int = Field(
        65_536,
        alias="maxHeaderBytes",
        ge=1024,
        le=65_536,
        description="Bytes of target and headers of a request; above it 431.",
    )
    max_headers: int = Field(
        100, alias="maxHeaders", ge=1, le=200, description="Header lines of a request; above it 431."
    )
    header_timeout: Duration = Field(
        "10s", alias="headerTimeout", description="From the first byte of a request to the end of its head."
    )
    idle_timeout: Duration = Field(
        "10m", alias="idleTimeout", description="A connection of the application may rest so long."
    )
    min_rate: int = Field(
        240,
        alias="minRate",
        ge=0,
        le=1_000_000,
        description="Bytes a second that a body must come, and a response be read, with; 0: any (Kestrel's).",
    )


class TelemetryOf(Model):
    """What the agent tells of itself."""

    access_log: float = Field(
        0.01,
        alias="accessLog",
        ge=0,
        le=1,
        description="Share of requests told as access events; errors always are.",
    )
    tracing: float = Field(
        0.01,
        ge=0,
        le=1,
        description="Share of requests traced, when the caller has not decided (Istio: 1 %).",
    )


class AgentDefinition(Model):
    """One agent. Without ``app`` it is a client: it calls others and serves nothing."""

    model_config = ConfigDict(title="Agent")

    api_version: Literal["busmesh/v1"] = Field("busmesh/v1", alias="apiVersion")
    kind: Literal["Agent"] = "Agent"
    service: ServiceText = Field(description="orders, or orders.shop for a namespace.")
    instance: Token | None = Field(
        None, description="Unique in the mesh. Default: the service and random digits."
    )
    labels: dict[LabelText, LabelText] = Field(
        default_factory=dict,
        max_length=32,
        description="Subsets are made of them; `version` names one by itself.",
    )
    weight: int = Field(100, ge=0, le=10_000, description="Share of requests relative to other instances.")
    locality: str = Field("", max_length=128, description="region/zone, for example eu-west/a.")
    app: AppUrl | None = Field(None, description="The application. Absent: a client-only agent.")
    health: Health = Field(default_factory=Health)
    outbound: Address = Field("127.0.0.1:15001", description="The application sends its requests here.")
    admin: Address = Field("127.0.0.1:15000", description="Health, metrics and state. Loopback by default.")
    workers: int = Field(
        1,
        ge=1,
        le=MAX_WORKERS,
        description="Processes that carry requests; they share port and identity. One uses one core;"
        " each more costs the memory of a process and a connection to the bus.",
    )
    upstreams: Many[ServiceText] = Field(
        (),
        description="Services known in advance, so that the first request to them is as fast as the others.",
    )
    drain: Duration = Field(
        "5s", description="At most this long, requests at work may finish after SIGTERM (Istio's default)."
    )
    limits: LimitsOf = Field(default_factory=LimitsOf)
    telemetry: TelemetryOf = Field(default_factory=TelemetryOf)
    bus: BusLogin = Field(default_factory=BusLogin)
    mesh: Token | None = Field(None, description="Default: the home's context, else local.")

    @property
    def name(self) -> ServiceName:
        return ServiceName.parse(self.service)

    @property
    def drain_s(self) -> float:
        return seconds(self.drain)

    @property
    def app_address(self) -> tuple[str, int] | None:
        if self.app is None:
            return None
        parts = urlsplit(self.app)
        return parts.hostname or "", parts.port or 80
