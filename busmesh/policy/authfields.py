"""The words that authorization documents are made of: patterns, principals, paths, keys of conditions."""

from __future__ import annotations

import re
from typing import Annotated
from urllib.parse import unquote_to_bytes

from pydantic import AfterValidator, Field

from busmesh.decide.authz.paths import is_plain
from busmesh.errors import InvalidName
from busmesh.names import token
from busmesh.policy.fields import Model, Some, matched_header, refused
from busmesh.yamlfile import shorten

MAX_PATTERN = 1024
_METHOD = re.compile(r"[!#$%&'+.^_`|~0-9A-Z-]+")
#: Percent-encoded, what means something in a path that is not.
_SIGNS = frozenset(b"25 2F 5C 3B 3F 2E 23".split())
_ESCAPE = re.compile(rb"%([0-9A-Fa-f]{2})")
_KEY = re.compile(r"(?P<name>[a-z.A-Z]+)(?P<path>(?:\[[^\[\]]+\])*)")
_NO_ADDRESSES = "between agents there are no addresses: use principals or namespaces"
#: Keys that Istio knows and that mean nothing here.
_FOREIGN_KEYS = {
    "source.ip": ("BM1370", _NO_ADDRESSES),
    "remote.ip": ("BM1370", _NO_ADDRESSES),
    "destination.ip": ("BM1370", "an instance has one address: use a selector"),
    "destination.port": ("BM1315", "an instance has one application address: remove it"),
    "connection.sni": ("BM1370", "between agents there are no connections: use request.headers[host]"),
}
#: Key -> how many names in brackets follow: none, one, or one or more.
KEYS = {
    "request.headers": range(1, 2),
    "request.auth.claims": range(1, 17),
    "request.auth.principal": range(1),
    "request.auth.audiences": range(1),
    "request.auth.presenter": range(1),
    "source.principal": range(1),
    "source.namespace": range(1),
    "source.serviceAccount": range(1),
}


def _pattern(text: str) -> str:
    literal = literal_of(text)
    if not text or len(text) > MAX_PATTERN:
        raise refused("BM1250", f"a pattern has 1 to {MAX_PATTERN} characters")
    if "*" in literal:
        hint = "write text, prefix*, *suffix, or * for anything"
        raise refused("BM1250", f"{shorten(text)!r} holds a * in its middle, or two", hint)
    return text


def literal_of(pattern: str) -> str:
    """Return what of a pattern is text."""
    if pattern.endswith("*"):
        return pattern[:-1]
    return pattern.removeprefix("*")


def _principal(text: str) -> str:
    plain = _pattern(text).removeprefix("spiffe://")
    if "/i/" in plain:
        hint = "name the service: MESH/ns/NAMESPACE/svc/SERVICE"
        raise refused("BM1251", "instances come and go, a principal is a service", hint)
    if "://" in plain:
        raise refused("BM1251", f"{shorten(text)!r} is no principal", "write MESH/ns/NAMESPACE/svc/SERVICE")
    return plain


def _account(text: str) -> str:
    try:
        for part in text.split("/", 1):
            token(part, "name")
    except InvalidName:
        raise refused(
            "BM1251", f"{shorten(text)!r} is no service account", "write SERVICE or NAMESPACE/SERVICE"
        ) from None
    return text


def _method(text: str) -> str:
    if (literal := literal_of(_pattern(text))) and not _METHOD.fullmatch(literal):
        raise refused("BM1252", f"{shorten(text)!r} is no method", "write it in capital letters")
    return text


def _path(text: str) -> str:
    """Refuse what no path is once it is read in every way: such a rule would never do what it says."""
    if "{" in text or "}" in text:
        raise refused("BM1371", "path templates are not supported yet", "use a prefix: /orders/*")
    literal = literal_of(_pattern(text)).encode()
    if not text.startswith(("/", "*")):
        raise refused("BM1212", f"a path begins with '/', {shorten(text)!r} does not")
    before, after = b"/x" if text.startswith("*") else b"", b"x" if text.endswith("*") else b""
    whole = before + unquote_to_bytes(literal) + after
    meaning = any(found[1].upper() in _SIGNS for found in _ESCAPE.finditer(literal))
    if meaning or b"%" in whole or not is_plain(whole):
        raise refused(
            "BM1253",
            f"no path is {shorten(text)!r} once it is read in every way",
            "write it without % ; ? # \\ //, without dot segments, and without dots or blanks at their ends",
        )
    return text


def condition_key(text: str) -> tuple[str, tuple[str, ...]]:
    """Take a key that has been checked apart: ``request.headers[x]`` is ("request.headers", ("x",))."""
    found = _KEY.fullmatch(text)
    assert found is not None, "checked by the model"
    return found["name"], tuple(re.findall(r"\[([^\[\]]+)\]", found["path"]))


def _key(text: str) -> str:
    found = _KEY.fullmatch(text)
    name = text if found is None else found["name"]
    if name in _FOREIGN_KEYS:
        code, hint = _FOREIGN_KEYS[name]
        if code == "BM1315":
            raise refused("BM1315", f"the key {name} is not supported yet", hint)
        raise refused("BM1370", f"the key {name} is not supported yet", hint)
    if name.startswith("experimental."):
        raise refused("BM1372", "filters of Envoy are not supported yet", "remove it")
    if found is None or name not in KEYS or len(condition_key(text)[1]) not in KEYS[name]:
        known = ", ".join(f"{key}[...]" if 0 not in count else key for key, count in KEYS.items())
        raise refused("BM1254", f"{shorten(text)!r} is no key of a condition", f"known: {known}")
    if name == "request.headers":
        matched_header(condition_key(text)[1][0])
    return text


Pattern = Annotated[str, AfterValidator(_pattern)]
Principal = Annotated[str, AfterValidator(_principal)]
Account = Annotated[str, AfterValidator(_account)]
Method = Annotated[str, AfterValidator(_method)]
PathPattern = Annotated[str, AfterValidator(_path)]
ConditionKey = Annotated[str, AfterValidator(_key)]

_SETS = "Each is text, prefix*, *suffix, or * for anything but nothing."
Patterns = Annotated[Some[Pattern], Field(description=_SETS)]


class Selector(Model):
    """The instances that carry all of these labels."""

    match_labels: dict[str, str] = Field(
        {},
        alias="matchLabels",
        description="Labels of the receiving instance; app is its service unless it says otherwise.",
    )
