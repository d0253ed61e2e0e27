"""What a rule may do beside choosing a destination: rewrite, redirect, answer, and split by user."""

from __future__ import annotations

import re
from base64 import b64decode
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from busmesh.decide.rewrite import is_plain_path
from busmesh.policy.fields import MatchedHeader, Model, Status, refused, refused_pattern
from busmesh.policy.regex import RefusedPattern, substitution
from busmesh.yamlfile import shorten

_AUTHORITY = re.compile(
    r"(?:[A-Za-z0-9](?:[A-Za-z0-9._-]{0,251}[A-Za-z0-9])?|\[[0-9A-Fa-f:.]{2,45}\])(?::[0-9]{1,5})?"
)
_URI = re.compile(r"/[\x21\x22\x24-\x7e]*")
#: RFC 6265 section 4.1.1 takes a token; so does a query parameter that nobody has to encode.
_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,128}")
#: Bytes. A fixed response travels in every revision to every agent.
MAX_BODY = 64 * 1024
#: Statuses whose responses have no body (RFC 9110 section 6.4.1).
_WITHOUT_BODY = frozenset((204, 205, 304))


def _rewritten_path(text: str) -> str:
    if not text.isascii() or len(text) > 1024 or not is_plain_path(text.encode()):
        raise refused(
            "BM1243",
            f"{shorten(text)!r} cannot replace a path",
            "begin with '/'; percent-encode what is not ASCII; neither query, fragment nor '..'",
        )
    return text


def _redirect_uri(text: str) -> str:
    if len(text) > 1024 or not _URI.fullmatch(text):
        hint = "begin with '/', and percent-encode what is not ASCII; the host stands in authority"
        raise refused("BM1243", f"{shorten(text)!r} is no path to be redirected to", hint)
    return text


def _authority(text: str) -> str:
    if not _AUTHORITY.fullmatch(text):
        raise refused("BM1244", f"{shorten(text)!r} is no authority", "write host or host:port")
    return text


def _parameter(text: str) -> str:
    if not _NAME.fullmatch(text):
        raise refused("BM1248", f"{shorten(text)!r} is no name of a cookie or a query parameter")
    return text


Authority = Annotated[str, AfterValidator(_authority)]
ParameterName = Annotated[str, AfterValidator(_parameter)]


class RegexRewrite(Model):
    r"""Replaces each part of the path that matches; ``\1`` is the first group."""

    match: str = Field(description="In RE2's syntax.")
    rewrite: str = Field(description=r"May hold \0 to \9, and \\ for a backslash.", max_length=1024)

    @model_validator(mode="after")
    def _fits(self) -> RegexRewrite:
        try:
            substitution(self.match, self.rewrite)
        except RefusedPattern as error:
            raise refused_pattern(error) from None
        return self


class HttpRewrite(Model):
    """What the request says when it is sent on."""

    uri: Annotated[str, AfterValidator(_rewritten_path)] | None = Field(
        None,
        description="In place of the prefix that was matched; after another match, of the whole path."
        " Without uri in the match the prefix is '/'.",
    )
    authority: Authority | None = Field(None, description="The new Host.")
    uri_regex_rewrite: RegexRewrite | None = Field(None, alias="uriRegexRewrite")

    @model_validator(mode="after")
    def _one_way(self) -> HttpRewrite:
        if self.uri is not None and self.uri_regex_rewrite is not None:
            raise refused("BM1242", "one of uri and uriRegexRewrite, not both", "remove one")
        if self.uri is None and self.uri_regex_rewrite is None and self.authority is None:
            hint = "add uri, uriRegexRewrite or authority"
            raise refused("BM1246", "a rewrite that rewrites nothing is none", hint)
        return self


class HttpRedirect(Model):
    """The caller is told to go elsewhere; what is absent stays as in the request."""

    uri: Annotated[str, AfterValidator(_redirect_uri)] | None = Field(
        None, description="The whole new path. The query stays, unless this has one."
    )
    authority: Authority | None = None
    port: int | None = Field(None, ge=1, le=65535)
    derive_port: Literal["FROM_PROTOCOL_DEFAULT", "FROM_REQUEST_PORT"] | None = Field(
        None, alias="derivePort"
    )
    scheme: Literal["http", "https"] | None = None
    redirect_code: Literal[301, 302, 303, 307, 308] = Field(301, alias="redirectCode")

    @model_validator(mode="after")
    def _goes_somewhere(self) -> HttpRedirect:
        if self.port is not None and self.derive_port is not None:
            raise refused("BM1242", "one of port and derivePort, not both", "remove one")
        if not (self.uri or self.authority or self.scheme or self.port):
            hint = "add uri, authority, scheme or port"
            raise refused("BM1246", "this redirects to where the request came from", hint)
        return self


def _base64(text: str) -> str:
    try:
        b64decode(text, validate=True)
    except ValueError:
        raise refused("BM1247", "bytes is not base64", "write text as string") from None
    return text


class HttpBody(Model):
    """The content of a fixed response."""

    text: str | None = Field(None, alias="string", description="Sent as UTF-8.")
    data: Annotated[str, AfterValidator(_base64)] | None = Field(
        None, alias="bytes", description="In base64."
    )

    def content(self) -> bytes:
        if self.data is not None:
            return b64decode(self.data)
        return (self.text or "").encode()

    @model_validator(mode="after")
    def _one_form(self) -> HttpBody:
        if self.text is not None and self.data is not None:
            raise refused("BM1242", "one of string and bytes, not both", "remove one")
        if len(self.content()) > MAX_BODY:
            raise refused("BM1247", f"a fixed response has at most {MAX_BODY} bytes")
        return self


class HttpDirectResponse(Model):
    """A response that stands here. Its content type is text/plain unless the rule's headers set another."""

    status: Status
    body: HttpBody | None = None

    @model_validator(mode="after")
    def _may_have_a_body(self) -> HttpDirectResponse:
        if self.status in _WITHOUT_BODY and self.body is not None and self.body.content():
            raise refused("BM1247", f"a response with status {self.status} has no body", "remove body")
        return self


class SplitBy(Model):
    """What of a request says whose it is: the split then gives everybody always the same destination.

    A request that does not say is split as if this were not there. Users move between destinations only as
    far as weights change; the assignment hangs on the names of document and rule.
    """

    header: MatchedHeader | None = Field(None, description="The value of this header.")
    cookie: ParameterName | None = Field(None, description="The value of this cookie.")
    query: ParameterName | None = Field(None, description="The first query parameter of this name.")
    caller: Literal[True] | None = Field(None, description="The calling service, proven by its certificate.")

    @model_validator(mode="after")
    def _one(self) -> SplitBy:
        given = [part for part in (self.header, self.cookie, self.query, self.caller) if part is not None]
        if len(given) != 1:
            raise refused("BM1242", "exactly one of header, cookie, query and caller", "name one")
        return self
