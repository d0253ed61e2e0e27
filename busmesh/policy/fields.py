"""The words that policy documents are made of: hosts, durations, header names, values to match.

Each is checked where it stands, so that an error cites it. Codes in the 13xx range mean that Istio knows
the thing and busmesh does not yet: it is refused, because ignoring half a document is worse than saying no.
"""

from __future__ import annotations

import re
from typing import Annotated, LiteralString, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from busmesh.errors import InvalidName
from busmesh.names import resolve_host, token
from busmesh.policy.regex import RefusedPattern, full_match
from busmesh.yamlfile import shorten

T = TypeVar("T")
#: A list in a document, immutable once read. Only the container may differ in type, not the items.
Many = Annotated[tuple[T, ...], Field(strict=False)]


def _not_empty(items: tuple[T, ...]) -> tuple[T, ...]:
    if not items:
        raise refused("BM1220", "at least one is needed here")
    return items


#: As ``Many``. The length is looked at last, so that an item at fault is not reported as missing as well.
Some = Annotated[Many[T], AfterValidator(_not_empty), Field(json_schema_extra={"minItems": 1})]

_TCHAR = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,128}")  # RFC 9110 section 5.6.2
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
_LABEL = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,61}[A-Za-z0-9])?")
_DNS_SUBDOMAIN = re.compile(r"[a-z0-9](?:[a-z0-9.-]{0,251}[a-z0-9])?")
_DURATION = re.compile(r"(?:[0-9]{1,9}(?:\.[0-9]{1,9})?(?:h|ms|us|m|s))+")
_PART = re.compile(r"([0-9.]+)(h|ms|us|m|s)")
_SECONDS = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6}
_ENVOY_VARIABLE = re.compile(r"%(?:%|[A-Z_]+[(:%])")

#: Headers that the mesh itself writes or that belong to one connection (RFC 9110 section 7.6.1).
PROTECTED_HEADERS = frozenset(
    {
        "connection",
        "content-length",
        "host",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "x-forwarded-client-cert",
    }
)
PROTECTED_PREFIX = "x-busmesh-"
#: What Istio's ``headers`` match silently ignores; here it is refused.
_NOT_HEADERS = {"uri": "uri", "scheme": "uri", "method": "method", "authority": "hosts"}


class Model(BaseModel):
    """Base of every part of a document: immutable, no conversion, no unknown field."""

    # Kinds that nobody publishes cost nothing: 3 MiB and 50 ms of an agent's start in all. The
    # first document of a kind costs 2 to 6 ms more.
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, defer_build=True)


def refused(code: LiteralString, message: str, hint: str = "") -> PydanticCustomError:
    """Make the error of a validator; the message goes in as data, because it may hold braces."""
    return PydanticCustomError(code, "{text}", {"text": message, "hint": hint})


def refused_pattern(error: RefusedPattern) -> PydanticCustomError:
    """Make the error of a validator out of that of a pattern."""
    code: LiteralString = "BM1208" if error.code == "BM1208" else "BM1215"
    return refused(code, error.message, error.hint)


def _host(text: str) -> str:
    if "*" in text:
        raise refused("BM1320", "hosts with wildcards are not supported yet", "list the services by name")
    try:
        resolve_host(text, "default")
    except InvalidName:
        raise refused(
            "BM1213",
            f"{shorten(text)!r} is not a service of the mesh",
            "write service, service.namespace or service.namespace.svc.cluster.local",
        ) from None
    return text


def _token(text: str) -> str:
    try:
        return token(text, "name")
    except InvalidName as error:
        raise refused("BM1001", error.message, error.hint) from None


def _document_name(text: str) -> str:
    if not _DNS_SUBDOMAIN.fullmatch(text):
        raise refused("BM1001", f"{shorten(text)!r} is not a name", "use a-z, 0-9, '-' and '.', at most 253")
    return text


def _subset_name(text: str) -> str:
    if not _LABEL.fullmatch(text):
        raise refused("BM1216", f"{shorten(text)!r} cannot be a label", "use at most 63 of A-Z a-z 0-9 - _ .")
    return text


def _display_name(text: str) -> str:
    if not 0 < len(text) <= 128 or _CONTROL.search(text):
        raise refused("BM1204", "a name has 1 to 128 characters, none of them a control character")
    return text


def seconds(duration: str) -> float:
    """Return the seconds of a duration that has been checked: ``1m30s`` is 90."""
    return sum(float(number) * _SECONDS[unit] for number, unit in _PART.findall(duration))


def is_duration(text: str) -> bool:
    """Say whether ``text`` is written as durations are, whatever its length of time."""
    return len(text) <= 64 and _DURATION.fullmatch(text) is not None


def _plain_duration(text: str) -> str:
    if not is_duration(text):
        raise refused("BM1207", f"{shorten(text)!r} is not a duration", "write 5s, 100ms, 1h or 1m30s")
    return text


def _duration(text: str) -> str:
    _plain_duration(text)
    if not (seconds(text) == 0 or 1e-3 <= seconds(text) <= 86400):
        raise refused("BM1207", f"{text} is out of range", "0s switches it off; else from 1ms to 24h")
    return text


def _long_duration(text: str) -> str:
    _plain_duration(text)
    if not (seconds(text) == 0 or 1 <= seconds(text) <= 400 * 86400):  # browsers keep a cookie for 400 days
        raise refused("BM1207", f"{text} is out of range", "0s, or from 1s to 9600h")
    return text


def _header_name(text: str) -> str:
    if text.startswith(":"):
        raise refused(
            "BM1209", f"{shorten(text)!r} is not a header of HTTP/1.1", "match uri or method instead"
        )
    if not _TCHAR.fullmatch(text):
        raise refused("BM1209", f"{shorten(text)!r} is not a header name")
    return text


def matched_header(text: str) -> str:
    """Return ``text`` if a header of this name can be looked at.

    Raises:
        PydanticCustomError: it is none, or what HTTP/1.1 keeps elsewhere.
    """
    _header_name(text)
    if instead := _NOT_HEADERS.get(text.lower()):
        raise refused("BM1209", f"{text!r} is not matched among headers", f"use the field {instead}")
    return text


def _written_header(text: str) -> str:
    plain = text.lower().replace("_", "-")  # many servers read x_busmesh_source as x-busmesh-source
    if plain in PROTECTED_HEADERS or plain.startswith((PROTECTED_PREFIX, ":")):
        raise refused("BM1211", f"{shorten(text)!r} belongs to the mesh: no policy may touch it")
    return _header_name(text)


def _header_value(text: str) -> str:
    if _CONTROL.search(text) or len(text.encode()) > 8192:
        raise refused("BM1210", "a header value has at most 8 KiB and no control characters")
    if _ENVOY_VARIABLE.search(text):
        raise refused(
            "BM1321", "Envoy's %VARIABLES% in header values are not supported yet", "write the value out"
        )
    return text


Host = Annotated[str, AfterValidator(_host)]
Token = Annotated[str, AfterValidator(_token)]
DocumentName = Annotated[str, AfterValidator(_document_name)]
SubsetName = Annotated[str, AfterValidator(_subset_name)]
DisplayName = Annotated[str, AfterValidator(_display_name)]
Duration = Annotated[
    str, AfterValidator(_duration), Field(json_schema_extra={"pattern": f"^{_DURATION.pattern}$"})
]
LongDuration = Annotated[
    str, AfterValidator(_long_duration), Field(json_schema_extra={"pattern": f"^{_DURATION.pattern}$"})
]
MatchedHeader = Annotated[str, AfterValidator(matched_header)]
WrittenHeader = Annotated[str, AfterValidator(_written_header)]
HeaderValue = Annotated[str, AfterValidator(_header_value)]


Status = Annotated[int, Field(ge=200, le=599)]


class Percent(Model):
    """A share of requests."""

    value: float = Field(0.0, ge=0, le=100, description="Percent; fractions such as 0.1 are fine.")

    @property
    def fraction(self) -> float:
        return self.value / 100


class StringMatch(Model):
    """How a value is compared; with none of the three, that it is there at all."""

    exact: str | None = Field(None, description="The value is this.", max_length=8192)
    prefix: str | None = Field(None, description="The value begins with this.", max_length=8192)
    regex: str | None = Field(None, description="The whole value matches this, in RE2's syntax.")

    def ways(self) -> list[str]:
        """Return what is given of the three: nothing, or one once the model is valid."""
        return [text for text in (self.exact, self.prefix, self.regex) if text is not None]

    @model_validator(mode="after")
    def _one_way(self) -> StringMatch:
        if len(self.ways()) > 1:
            raise refused("BM1217", "one of exact, prefix and regex, not several")
        if self.regex is not None:
            try:
                full_match(self.regex)
            except RefusedPattern as error:
                raise refused_pattern(error) from None
        return self


def _some_way(match: StringMatch) -> StringMatch:
    if not match.ways():
        raise refused("BM1217", "one of exact, prefix and regex is missing")
    return match


def _path_match(match: StringMatch) -> StringMatch:
    for text in (match.exact, match.prefix):
        if text is not None and not text.startswith("/"):
            raise refused("BM1212", f"a path begins with '/', {shorten(text)!r} does not")
    return _some_way(match)


ValueMatch = Annotated[StringMatch, AfterValidator(_some_way)]
PathMatch = Annotated[StringMatch, AfterValidator(_path_match)]
