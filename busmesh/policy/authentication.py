"""The spec of Istio's RequestAuthentication: whose tokens say who the end user is."""

from __future__ import annotations

import json
import re
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, model_validator

from busmesh.errors import InvalidName
from busmesh.names import DEFAULT_NAMESPACE, resolve_host
from busmesh.policy.authfields import Selector
from busmesh.policy.fields import Duration, Many, MatchedHeader, Model, Some, WrittenHeader, refused
from busmesh.yamlfile import shorten

MAX_JWKS = 64 * 1024
_PRIVATE = frozenset(("d", "p", "q", "dp", "dq", "qi", "oth"))
_PARAM = re.compile(r"[A-Za-z0-9._~-]{1,128}")


def _jwks(text: str) -> str:
    bad = refused("BM1257", "jwks is not a JSON Web Key Set", 'write {"keys": [...]} as JSON, at most 64 KiB')
    if len(text) > MAX_JWKS:
        raise bad
    try:
        read: Any = json.loads(text)
    except (ValueError, RecursionError):
        raise bad from None
    keys = read.get("keys") if isinstance(read, dict) else None
    if not isinstance(keys, list) or not keys or not all(isinstance(key, dict) for key in keys):
        raise bad
    for key in keys:
        if key.get("kty") == "oct" or _PRIVATE & key.keys():
            raise refused("BM1258", "jwks holds a secret", "everybody in the mesh reads it: public keys only")
        if key.get("kty") not in ("RSA", "EC", "OKP"):
            raise refused(
                "BM1257", f"the key type {shorten(str(key.get('kty')))!r} is not known", "use RSA or EC"
            )
    return text


def _jwks_uri(text: str) -> str:
    hint = "write file:///... or http://SERVICE/..."
    bad = refused("BM1259", f"{shorten(text)!r} is no place of a key set", hint)
    if not text.isascii() or not text.isprintable() or len(text) > 2048:
        raise bad
    try:
        parts = urlsplit(text)
        if parts.scheme == "http":
            resolve_host(parts.netloc.partition(":")[0], DEFAULT_NAMESPACE)
    except (ValueError, InvalidName):
        raise bad from None
    if parts.scheme == "https":
        hint = "let a service of the mesh fetch it, or write it to a file:///..."
        raise refused("BM1374", "key sets outside of the mesh are not supported yet", hint)
    whole = bool(parts.netloc) == (parts.scheme == "http") and parts.path.startswith("/")
    if parts.scheme not in ("file", "http") or not whole:
        raise bad
    return text


def _name(text: str) -> str:
    if not _PARAM.fullmatch(text):
        raise refused("BM1259", f"{shorten(text)!r} is no name", "use 1 to 128 of A-Z a-z 0-9 - . _ ~")
    return text


ParamName = Annotated[str, AfterValidator(_name)]


class JwtHeader(Model):
    """A header with a token."""

    name: MatchedHeader
    prefix: str = Field("", max_length=128, description="Before the token, blanks included: 'Bearer '.")


class ClaimToHeader(Model):
    """A header for the application, taken from every request and written from a verified token."""

    header: WrittenHeader
    claim: str = Field(min_length=1, max_length=256, description="a, or a.b for one within another.")


class JwtRule(Model):
    """An issuer whose tokens count."""

    issuer: str = Field(min_length=1, max_length=1024, description="What the claim iss is.")
    audiences: Many[str] = Field((), description="One of which the claim aud names; absent: any.")
    jwks: Annotated[str, AfterValidator(_jwks)] | None = Field(None, description="The issuer's public keys.")
    jwks_uri: Annotated[str, AfterValidator(_jwks_uri)] | None = Field(
        None, alias="jwksUri", description="Where they are: file:///... at each agent, or http://SERVICE/..."
    )
    from_headers: Many[JwtHeader] = Field(
        (), alias="fromHeaders", description="With nothing of the three: Authorization: Bearer, access_token."
    )
    from_params: Many[ParamName] = Field((), alias="fromParams")
    from_cookies: Many[ParamName] = Field((), alias="fromCookies")
    forward_original_token: bool = Field(
        False, alias="forwardOriginalToken", description="The application gets the token, too."
    )
    output_payload_to_header: WrittenHeader | None = Field(
        None, alias="outputPayloadToHeader", description="Gets the claims, base64url."
    )
    output_claim_to_headers: Many[ClaimToHeader] = Field((), alias="outputClaimToHeaders")
    timeout: Duration = Field("5s", description="For fetching jwksUri.")

    @model_validator(mode="after")
    def _keys_once(self) -> JwtRule:
        if (self.jwks is None) == (self.jwks_uri is None):
            hint = "busmesh asks no issuer for its configuration"
            raise refused("BM1257", "one of jwks and jwksUri is needed", hint)
        return self


class RequestAuthenticationSpec(Model):
    """Whose tokens say who the end user is."""

    selector: Selector | None = Field(None, description="Absent: every instance of the namespace.")
    jwt_rules: Some[JwtRule] = Field(alias="jwtRules")
