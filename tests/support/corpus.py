"""gunicorn's corpora: 81 requests that are invalid, 62 that are valid, and why some fare otherwise here.

They were collected by people who have never heard of busmesh. Most lack ``Host``, which alone has a request
refused; so each of them is also tried addressed to a service that there is.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

SERVICE = "orders"
#: Those among the hosts of the corpora that can be the name of a service.
HOSTS = ("a", "example.com", "localhost", "victim.com", "whatever", "x")
#: Those that cannot.
_NO_NAME = re.compile(rb"(?i)(?<=\r\nhost: )0\.0\.0\.0[=:]5000(?=\r\n)")
_HOST = re.compile(rb"(?i)\r\nhost[ \t]*:")
#: S2 of the project's goals: of 81 at least 75 are refused; a pair of Envoys refuses 69.
GOAL = 75


@dataclass(frozen=True)
class Request:
    """A request as an application is to see it."""

    method: str
    target: str
    body: bytes


@dataclass(frozen=True)
class Valid:
    """Bytes of a connection, and the requests that are in them."""

    data: bytes
    requests: tuple[Request, ...]

    def addressed(self) -> bytes:
        """Return them with each request addressed to the service."""
        data = _NO_NAME.sub(SERVICE.encode(), self.data)
        at = 0
        for request in self.requests:
            target = f" {request.target} HTTP/1.".encode("latin-1")
            at = data.index(target, at) + len(target)
            data = data[:at] + with_host(data[at:])
        return data


def with_host(data: bytes) -> bytes:
    """Address a request whose Host is missing or names no service, so that something else must be found."""
    line, crlf, rest = data.partition(b"\r\n")
    head, _, _ = rest.partition(b"\r\n\r\n")
    if not crlf or _HOST.search(crlf + head):
        return _NO_NAME.sub(SERVICE.encode(), data)
    return b"%b\r\nHost: %b\r\n%b" % (line, SERVICE.encode(), rest)


def _read(name: str) -> dict[str, object]:
    found: dict[str, object] = json.loads(Path(__file__).with_name(name).read_text())["requests"]
    return found


INVALID = {name: str(data).encode("latin-1") for name, data in _read("gunicorn_invalid.json").items()}
VALID = {
    name: Valid(
        case["data"].encode("latin-1"),
        tuple(Request(r["method"], r["target"], r["body"].encode("latin-1")) for r in case["requests"]),
    )
    for name, case in _read("gunicorn_valid.json").items()
    if isinstance(case, dict)
}

#: Invalid, passed on as they are, and why that harms nobody.
WAIVED = {
    "041": "two lines of Content-Type are for the application to judge; they frame and route nothing",
    "rfc9110_trailer_forbidden_host_01": "trailers are dropped, so a Host in one reaches nobody",
    "rfc9112_leading_crlf_02": "RFC 9112 section 2.2 has servers ignore blank lines before a request",
}
#: The same, addressed to a service.
WAIVED_WITH_HOST = {
    **WAIVED,
    "006": "a target of 4 KiB: within our limit, beyond gunicorn's",
    "007": "header lines of 8 KiB: within our limit, beyond gunicorn's",
    "008": "headers of 12 KiB: within our limit, beyond gunicorn's",
    "010": "a limit of 10 bytes per header, set for that test",
    "011": "a limit of two header lines, set for that test",
    "012": "a limit of 98 bytes per header, set for that test",
    "017": "a header of 8 KiB: within our limit, beyond gunicorn's",
    "limit_header_default_01": "a header of 8 KiB: within our limit, beyond gunicorn's",
    "019": "X-Forwarded-Proto against X-Forwarded-Ssl: whom to believe is the application's setting",
    "040": "Content_Length and Transfer_Encoding are dropped, so they disguise nothing",
    "chunked_07": "Transfer_Encoding is dropped, so it disguises nothing",
}

_CODING = "only chunked: a coding before it can be taken for another framing (RFC 9112 section 6.1 has 501)"
_FOLDING = "a folded header line, which gunicorn takes only if it is told to"
_METHOD = "a method that nobody has registered; gunicorn takes it, and two spellings only if it is told to"
_PROXY = "the PROXY protocol, which gunicorn takes only if it is told to: a client of an agent is no proxy"
_TLS = "TLS through the agent: the mesh encrypts by itself"
#: Valid, and refused all the same though addressed to a service.
REFUSED = {
    "005": "a fragment, which no request target has (RFC 9112 section 3.2)",
    "013": "blanks in chunk extensions, which no sender may write (RFC 9110 section 5.6.3)",
    "025": _CODING,
    "025_line": _CODING,
    "028": "a blank before the colon, which gunicorn takes only if it is told to (RFC 9112 section 5.1)",
    "029": _CODING,
    "030": _CODING,
    "031": _METHOD,
    "031compat": _METHOD,
    "031compat2": _METHOD,
    "099": "a body of 8,599 bytes that is said to have 17,914",
    "compat_obs_fold": _FOLDING,
    "compat_obs_fold_huge": _FOLDING,
    "pp_01": _PROXY,
    "pp_02": _PROXY,
    "pp_04": _PROXY,
    "pp_05": _PROXY,
    "rfc9112_smuggle_gzip_chunked_01": _CODING,
    "rfc9112_smuggle_te_identity_chunked_01": _CODING,
    "rfc9112_target_absolute_https_01": _TLS,
    "rfc9112_target_absolute_ipv6_01": "an address is the name of no service",
    "rfc9112_target_absolute_userinfo_01": "a user in a URL, which is an error (RFC 9110 section 4.2.4)",
    "rfc9112_target_authority_connect_01": _TLS,
    "rfc9112_target_authority_ipv6_01": _TLS,
}
