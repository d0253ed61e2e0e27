"""The admin endpoint: health, metrics and what this agent believes, over HTTP on loopback.

It answers only to its own names in ``Host``, so that a web page cannot reach it by DNS rebinding, and
sends no CORS header. A page needs neither to send a simple POST to a loopback address, so whatever a browser
marks as sent by a page is refused.
"""

from __future__ import annotations

import ipaddress
import json
import re
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from busmesh.relay.client.answers import Answer, reason_of
from busmesh.relay.client.listener import Listener
from busmesh.relay.client.refusals import Limits
from busmesh.relay.client.request import Request

_LIMITS = Limits(body=64 * 1024, connections=64, idle_timeout=60.0, tunnels=False)


@dataclass(frozen=True, slots=True)
class Reply:
    """What a page of the admin endpoint returns."""

    body: bytes
    content_type: str = "application/json"
    status: int = 200


def as_json(value: object, status: int = 200) -> Reply:
    return Reply(json.dumps(value, indent=2, default=str).encode() + b"\n", status=status)


#: An IPv6 address in brackets, or a name or IPv4 address, each with or without a port.
_AUTHORITY = re.compile(rb"(?:\[([0-9A-Fa-f:.]+)\]|([A-Za-z0-9._-]+))(?::[0-9]*)?")

#: Browsers send these with requests of pages, and no script can take them off.
_ORIGIN = re.compile(rb"(?im)^(?:origin:|sec-fetch-site:(?![ \t]*none[ \t]*\r))")


def _from_a_page(headers: bytes) -> bool:
    """Say whether a page in a browser sent this; an address typed into the browser is no page."""
    return _ORIGIN.search(headers) is not None


Page = Callable[[], Reply]


class Admin:
    """Serves pages by (method, path).

    Args:
        pages: what there is; called synchronously at each request.
        host: the address bound; it may stand in ``Host`` as well.
    """

    def __init__(self, pages: Mapping[tuple[str, str], Page], host: str) -> None:
        self._pages = pages
        self._host = host
        self._listener = Listener(self._handle, limits=_LIMITS)

    async def serve(self, bound: socket.socket) -> tuple[str, int]:
        return await self._listener.serve(bound)

    def _handle(self, request: Request) -> None:
        if not self._knows(request.authority):
            request.answer(
                Answer(403, "RBAC", "foreign_host", "this endpoint answers to its own address only")
            )
            return
        if _from_a_page(request.head.block):
            message = "this endpoint does not answer to web pages"
            request.answer(Answer(403, "RBAC", "foreign_origin", message))
            return
        path = request.head.path.decode("ascii", "replace")
        method = request.head.method.decode("ascii", "replace")
        page = self._pages.get(("GET" if method == "HEAD" else method, path))
        if page is None:
            allowed = sorted({known for known, at in self._pages if at == path})
            if allowed:
                allowed += ["HEAD"] if "GET" in allowed else []
                answer = Answer(405, "DPE", "method_not_allowed", f"{path} takes {', '.join(allowed)}")
                headers = answer.headers() + f"allow: {', '.join(allowed)}\r\n".encode()
                request.respond(405, reason_of(405), headers, answer.body())
                return
            known = sorted({at for _, at in self._pages})
            request.answer(Answer(404, "NR", "no_such_page", f"there are {', '.join(known)}"))
            return
        reply = page()
        headers = f"content-type: {reply.content_type}\r\ncache-control: no-store\r\n".encode()
        request.respond(reply.status, reason_of(reply.status), headers, reply.body, len(reply.body))

    def _knows(self, authority: bytes) -> bool:
        found = _AUTHORITY.fullmatch(authority)
        if found is None:
            return False
        host = (found[1] or found[2]).decode("ascii").lower()
        if host in ("localhost", self._host):
            return True
        try:
            # An address in Host cannot come from DNS, so it cannot be rebound.
            ipaddress.ip_address(host)
        except ValueError:
            return False
        return True

    async def close(self) -> None:
        await self._listener.close()
