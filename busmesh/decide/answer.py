"""Rules that answer by themselves instead of sending a request anywhere: a redirect, a fixed response."""

from __future__ import annotations

from dataclasses import dataclass

_DEFAULT_PORTS = {b"http": b"80", b"https": b"443"}


@dataclass(frozen=True, slots=True)
class DirectResponse:
    """A response that stands in the policy itself; the rule's response headers are done to it.

    Attributes:
        body: may be empty. Without a content type among the rule's headers it is ``text/plain``, as in Envoy.
    """

    status: int
    body: bytes = b""


@dataclass(frozen=True, slots=True)
class Redirect:
    """A response that names another place; what is None is taken from the request.

    Attributes:
        status: 301, 302, 303, 307 or 308.
        uri: the whole new path; the query of the request follows unless ``uri`` has one of its own.
        authority: host, and a port if wanted.
        scheme: ``http`` or ``https``; requests inside the mesh are ``http``.
        port: replaces whatever port there is; 0 stands for that of the scheme.
        request_port: the port is that of the request's authority.
    """

    status: int = 301
    uri: bytes | None = None
    authority: bytes | None = None
    scheme: bytes | None = None
    port: int | None = None
    request_port: bool = False

    def location(self, authority: bytes, target: bytes) -> bytes:
        """Return the value of ``Location`` (RFC 9110 section 10.2.2) for a request.

        Args:
            authority: what the request is addressed to.
            target: of the request line.
        """
        scheme = self.scheme or b"http"
        _, own_port = split_port(authority)
        host, port = split_port(self.authority or authority)
        if self.port is not None:
            port = b"%d" % self.port if self.port else b""
        elif self.request_port:
            port = own_port or _DEFAULT_PORTS[b"http"]
        elif self.authority is None and scheme != b"http" and port == _DEFAULT_PORTS[b"http"]:
            port = b""
        if port == _DEFAULT_PORTS[scheme]:
            port = b""
        colon = b":" if port else b""
        return b"%b://%b%b%b%b" % (scheme, host, colon, port, self._path(target))

    def _path(self, target: bytes) -> bytes:
        if self.uri is None:
            return b"/" if target == b"*" else target
        _, mark, query = target.partition(b"?")
        return self.uri if b"?" in self.uri else self.uri + mark + query


def split_port(authority: bytes) -> tuple[bytes, bytes]:
    """Return host and port of an authority; the port is empty if there is none."""
    host, colon, port = authority.rpartition(b":")
    return (host, port) if colon and port.isdigit() else (authority, b"")
