"""One request to an agent's own listener, and what its admin endpoint says of it."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from typing import Any

from busmesh.decide.request import RequestHead
from busmesh.errors import BusmeshError, UsageError
from busmesh.names import ServiceName, service_of_authority
from busmesh.policy.compile import Caller
from busmesh.policy.documents import Document
from busmesh.policy.explain import Question, explain
from busmesh.policy.revision import PolicySet
from busmesh.relay.application.call import AppFailure, AppResponse, Call
from busmesh.relay.application.pool import Application, PoolLimits
from busmesh.relay.application.rendering import render_request
from busmesh.telemetry.tracecontext import TRACE_ID

#: Seconds for a page of the admin endpoint.
PAGE_S = 5.0
#: A request may be written down as ended a moment after its last byte has come.
TRIES, PAUSE_S = 20, 0.05

Address = tuple[str, int]
#: What came back, and what the agent says of how; None if it was not asked.
Answered = tuple[AppResponse | AppFailure, dict[str, Any] | None]


@dataclass(frozen=True, slots=True)
class Way:
    """A request to be made.

    Attributes:
        headers: ``Name: value\\r\\n`` lines.
        timeout: seconds for the whole of it.
        explain: ask the agent afterwards how it went.
    """

    method: bytes
    target: bytes
    headers: str
    body: bytes
    timeout: float
    explain: bool = False


def admin_address(text: str) -> Address:
    """Read the address of an admin endpoint.

    Raises:
        UsageError: it is none (code BM1222).
    """
    host, _, port = text.removeprefix("http://").rstrip("/").rpartition(":")
    if not host or not port.isdigit() or int(port) > 65535:
        raise UsageError(
            f"{text[:80]!r} is no address", code="BM1222", hint="write HOST:PORT, for example 127.0.0.1:15000"
        )
    return host.strip("[]"), int(port)


async def through(way: Way, admin: Address) -> Answered:
    """Send by the agent with this admin endpoint.

    Raises:
        BusmeshError: it does not answer as an agent does (code BM3303).
    """
    page = await _page(admin, b"GET", b"/config")
    outbound = page.get("outbound")
    if not isinstance(outbound, str):
        raise _no_agent(admin, "it does not say where it listens")
    return await answered(way, admin_address(outbound), admin)


async def answered(way: Way, outbound: Address, admin: Address) -> Answered:
    """Send to an agent's listener and, if that is wanted, ask how it went."""
    headers, trace = way.headers, ""
    if way.explain:
        traceparent = str((await _page(admin, b"POST", b"/explain")).get("traceparent"))
        trace = traceparent[TRACE_ID]
        kept = [line for line in headers.split("\r\n")[:-1] if not line.lower().startswith("traceparent:")]
        headers = "".join(f"{line}\r\n" for line in [*kept, f"traceparent: {traceparent}"])
    message = render_request(way.method, way.target, headers.encode(), way.body)
    result = await _exchange(outbound, way.method, message, way.timeout)
    if not way.explain:
        return result, None
    found = await _account(admin, trace)
    if found.get("explanation") is None:  # it went nowhere, so nobody has looked on
        found["explanation"] = await _by_policies(admin, way)
    return result, found


async def _account(admin: Address, trace: str) -> dict[str, Any]:
    """Return what the agent wrote down; if no rule matched, that is hardly anything."""
    nothing = {"trace": trace, "done": False, "rule": None, "flags": "", "tries": [], "destination": None}
    found: dict[str, Any] = nothing
    for _ in range(TRIES):
        requests = (await _page(admin, b"GET", b"/explain"))["requests"]
        found = next((one for one in requests if one["trace"] == trace), nothing)
        if found.get("done") or not found.get("tries"):
            break
        await asyncio.sleep(PAUSE_S)
    return found


async def _by_policies(admin: Address, way: Way) -> dict[str, object] | None:
    """Return what the policies of this agent make of a request; None if it names no service."""
    policies, config = await _page(admin, b"GET", b"/policies"), await _page(admin, b"GET", b"/config")
    definition = config["definition"]
    name = ServiceName.parse(definition["service"])
    head = RequestHead.from_block(way.method, way.target, way.headers.encode())
    service = service_of_authority(head.header(b"host") or b"", name.namespace)
    if service is None:
        return None
    documents = [Document.from_plain(plain, file="the agent") for plain in policies["documents"]]
    put_in = {document.key: made for document, made in zip(documents, policies["put_in"], strict=True)}
    policy_set = PolicySet(policies["revision"], {one.key: one for one in documents}, put_in)
    caller = Caller(name, definition["labels"], name.namespace)
    return explain(policy_set, Question(caller, service, head, definition["locality"], config["instance"]))


async def _page(admin: Address, method: bytes, path: bytes) -> dict[str, Any]:
    host = f"[{admin[0]}]" if ":" in admin[0] else admin[0]
    message = render_request(method, path, f"Host: {host}:{admin[1]}\r\n".encode(), b"")
    result = await _exchange(admin, method, message, PAGE_S)
    if isinstance(result, AppFailure):
        raise _no_agent(admin, result.message)
    try:
        page = json.loads(result.body)
    except ValueError:
        page = None
    if not isinstance(page, dict) or result.status >= 300:
        raise _no_agent(admin, f"{path.decode()} answered {result.status}")
    return page


def _no_agent(admin: Address, why: str) -> BusmeshError:
    return BusmeshError(
        f"no agent answers at {admin[0]}:{admin[1]}: {why}",
        code="BM3303",
        hint="name the admin address of a running agent; it stands in its line that says ready",
    )


async def _exchange(
    address: Address, method: bytes, message: bytes, timeout: float
) -> AppResponse | AppFailure:
    pool = Application(*address, PoolLimits(connections=1, pending=1))
    answer: asyncio.Future[AppResponse | AppFailure] = asyncio.get_running_loop().create_future()
    pool.send(Call(method, message, answer.set_result))
    try:
        async with asyncio.timeout(timeout):
            return await answer
    except TimeoutError:
        return AppFailure(True, "timeout", f"nothing came within {timeout:g} s")
    finally:
        pool.close()
