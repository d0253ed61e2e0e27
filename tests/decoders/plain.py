"""Decoders of what nobody signs: the server, JetStream, telemetry, what applications and their users say."""

from __future__ import annotations

import asyncio
import json
from functools import partial
from types import SimpleNamespace
from typing import Any, cast

from cryptography.hazmat.primitives.asymmetric import ec

from busmesh.authority.shutout import refusal_of
from busmesh.bus.bus import Bus
from busmesh.bus.client import Client
from busmesh.bus.denial import Denial
from busmesh.bus.jwt import claims_of
from busmesh.bus.messages import Message, is_no_responders, parse_headers
from busmesh.bus.options import BusOptions
from busmesh.bus.parser import Parser
from busmesh.bus.policylog import PolicyLog, TrustLog
from busmesh.bus.server import told
from busmesh.cli.output import Output
from busmesh.cli.telemetry import shown
from busmesh.decide.authz.authenticate import JwtRule, TokenRefused
from busmesh.demo.heard import Heard
from busmesh.errors import BusmeshError, RemoteProtocolError
from busmesh.identity.keysets import KeySets
from busmesh.identity.tokens import JwtTokens, _read_keys
from busmesh.members.load import read_report
from busmesh.operator.numbers import Numbers
from busmesh.telemetry import tracecontext
from busmesh.telemetry.metrics import Registry
from tests.decoders.decoder import Decoder
from tests.decoders.world import NOW, SUBJECTS, driven

MIB = 1024 * 1024


# -- the server ----------------------------------------------------------------------------------------


def _protocol(data: bytes) -> object:
    heard: list[object] = []
    parser = Parser(lambda *message: heard.append(message), heard.append)
    parser.feed(data[: len(data) // 3])
    parser.feed(data[len(data) // 3 :])
    return heard or None


def _information(data: bytes) -> object:
    """Give a client what the server says of itself."""
    client: Any = object.__new__(Client)
    client.bad_messages = 0
    uri = SimpleNamespace(scheme="nats", netloc="127.0.0.1:4222", hostname="127.0.0.1")
    client._current_server = SimpleNamespace(uri=uri)
    client._server_pool, client._server_info = [client._current_server], {}
    client.options = {"dont_randomize": True}
    client._discovered_server_cb = None
    client._lame_duck_mode_cb = None
    driven(client._take_info(data))
    return None if client.bad_messages else client


def _headers(data: bytes) -> object:
    found = parse_headers(data)
    assert all(isinstance(text, str) for pair in found.items() for text in pair)
    return found or (is_no_responders(data) or None)


def _denial(data: bytes) -> object:
    denial = Denial.parse(data.decode("utf-8", "replace"))
    return None if denial is None else (denial.message, denial.hint)


# -- JetStream -----------------------------------------------------------------------------------------


class _Answering:
    """A bus on which every question gets the same answer."""

    options = BusOptions((), "answering", "inbox")

    def __init__(self, payload: bytes) -> None:
        self._answer = Message("", payload)
        self._left = 12

    async def request(self, *question: object, **options: object) -> Message:
        self._left -= 1
        if not self._left:
            raise BusmeshError("a log of so many entries")
        return self._answer


def _log(kind: type[PolicyLog], data: bytes) -> object:
    log = kind(cast(Bus, _Answering(data)), SUBJECTS)

    async def use() -> object:
        taken = None
        for work in (log.last(), log.read(0, 3), log.ensure(), log.append(b"x", 1)):
            try:
                taken = await work or taken
            except BusmeshError:
                continue
        return taken

    return asyncio.run(use())


# -- telemetry -----------------------------------------------------------------------------------------

_METRICS = b"busmesh.local.telemetry.metrics.default.orders.orders-0"


def _metrics() -> bytes:
    registry = Registry({"service": "orders", "instance": "orders-0"})
    for reporter in ("source", "destination"):
        metrics = registry.requests(cast(Any, reporter), "web", "spiffe://local/web", "orders", "v1", "all")
        for number in range(20):
            metrics.record(503 if number % 7 == 0 else 200, "", number / 100)
    return json.dumps(registry.tick(NOW, 1.0)).encode()


def _numbers(data: bytes) -> object:
    numbers = Numbers()
    numbers.hear(_METRICS, b"", data, b"")
    return None if numbers.dropped else repr(numbers)


def _demo(data: bytes) -> object:
    heard = Heard(lambda: 1.0)
    heard.hear(_METRICS, b"", data, b"")
    figures = heard.figures(lambda entry: True)
    return None if heard.dropped else (figures.success, figures.percentiles_ms())


def _shown(data: bytes) -> object:
    lines = [
        shown(f"busmesh.local.telemetry.{signal}.default.orders.orders-0", data, output)
        for signal in ("metrics", "access", "events", "traces", "other")
        for output in (Output.WIDE, Output.JSON)
    ]
    for line in lines:
        assert line is None or not any(ord(letter) < 32 for letter in line if letter != "\n"), (
            "a terminal obeys it"
        )
    return lines[0]


def _as_yaml(data: bytes) -> object:
    return shown("", data, Output.YAML)


_EVENTS = json.dumps({"time": NOW, "events": [
    {"time": NOW, "kind": "ejected", "message": "m", "detail": {"a": 1}, "source_service": "a", "status": 200,
     "destination_service": "b", "duration_ms": 1.5, "attempts": 2, "flags": "UF", "path": "/",
     "method": "GET"}
]}).encode()  # fmt: skip
_SPANS = json.dumps({"resourceSpans": [{"scopeSpans": [{"spans": [
    {"name": "a", "kind": 2, "startTimeUnixNano": "1", "endTimeUnixNano": "9", "traceId": "a", "spanId": "b",
     "attributes": [{"key": "http.response.status_code", "value": {"intValue": "200"}}]}
]}]}]}).encode()  # fmt: skip


# -- what applications and their users say -------------------------------------------------------------

_KEY = ec.generate_private_key(ec.SECP256R1())
_ISSUER = "https://idp.example"


def _key_set() -> bytes:
    import jwt  # the package under test imports it late as well

    key = json.loads(jwt.algorithms.ECAlgorithm.to_jwk(_KEY.public_key()))
    return json.dumps(
        {"keys": [key | {"kid": "e", "use": "sig", "alg": "ES256", "key_ops": ["verify"]}]}
    ).encode()


_KEYS = _key_set()
_RULE = JwtRule("RequestAuthentication/a", _ISSUER, jwks=_KEYS.decode())


def _token(payload: bytes) -> bytes:
    """Return a token of the true issuer that claims whatever ``payload`` is."""
    import jwt

    return jwt.api_jws.encode(payload, _KEY, algorithm="ES256", headers={"kid": "e"}).encode()


def _tokens(data: bytes) -> object:
    rule, claims = JwtTokens(KeySets(), capacity=4).verify((_RULE,), data, NOW)
    claims.values(("groups", "x"))
    claims.values(("scope",))
    return rule, repr(claims), [claims.values((name,)) for name in claims.payload]


_CLAIMS = json.dumps(
    {
        "iss": _ISSUER,
        "sub": "ann",
        "exp": NOW + 300,
        "nbf": NOW,
        "aud": "a",
        "scope": "a b",
        "groups": ["x", 1],
    }
).encode()


def _trace(data: bytes) -> object:
    return tracecontext.parse(data)


PLAIN = [
    Decoder(
        "NATS protocol",
        _protocol,
        (
            b"INFO {}\r\nPING\r\nMSG a.b 1 3\r\nabc\r\nMSG a 2 c.d 0\r\n\r\n+OK\r\n",
            b"HMSG a 1 b 12 15\r\nNATS/1.0\r\n\r\nabc\r\n-ERR 'x'\r\nPONG\r\n",
        ),
        ("bus.parser:Parser._cut", "bus.parser:Parser.feed"),
        refuses=(RemoteProtocolError,),
        cap=MIB,
    ),
    Decoder(
        "NATS server's information",
        _information,
        (b'{"connect_urls": ["127.0.0.1:1", "[::1]:2"], "ldm": true, "max_payload": 5, "headers": true}',),
        ("bus.client:Client._take_info",),
        form="json",
    ),
    Decoder(
        "NATS server's greeting",
        told,
        (b'INFO {"server_id": "a", "jetstream": true}\r\n',),
        ("bus.server:told",),
    ),
    Decoder(
        "headers of a message",
        _headers,
        (b"NATS/1.0 503\r\n\r\n", b"NATS/1.0 100 Idle\r\nA: b\r\n\r\n"),
        ("bus.messages:parse_headers",),
    ),
    Decoder(
        "denial",
        _denial,
        (
            b'Permissions Violation for Publish to "busmesh.local.policy.revision"',
            b'Permissions Violation for Subscription to "$JS.API.>"',
        ),
        ("bus.denial:Denial.parse",),
    ),
    Decoder(
        "login",
        lambda data: claims_of(data.decode("latin-1")) or None,
        (b"e30.eyJzdWIiOiJVQSIsImV4cCI6MX0.x",),
        ("bus.jwt:claims_of",),
    ),
    Decoder(
        "a server's answer to an account's claims",
        lambda data: True if refusal_of(data) == "" else None,
        (b'{"server": {}, "data": {"account": "A", "code": 200, "message": "jwt updated"}}',),
        ("authority.shutout:refusal_of",),
        form="json",
    ),
    *(
        Decoder(
            f"JetStream's answer, {kind.what}",
            partial(_log, kind),
            (
                b'{"state": {"last_seq": 4}, "message": {"data": "YWJj"}, "config": {}}',
                b'{"state": {"last_seq": 2}, "message": {}, "stream": "BUSMESH_local_%b", "seq": 1}' % stream,
            ),
            (
                "bus.policylog:_json",
                "bus.policylog:_entry",
                "bus.policylog:_refused",
                "bus.policylog:PolicyLog.last",
            ),
            form="json",
            cap=MIB,
            seconds=0.4,  # read a dozen times
        )
        for kind, stream in ((PolicyLog, b"POLICY"), (TrustLog, b"TRUST"))
    ),
    Decoder(
        "metrics, as operators hear them",
        _numbers,
        (_metrics(),),
        ("operator.numbers:Numbers.hear",),
        form="json",
        cap=MIB,
    ),
    Decoder(
        "metrics, as the demo hears them",
        _demo,
        (_metrics(),),
        ("demo.heard:Heard.hear",),
        form="json",
        cap=MIB,
    ),
    Decoder(
        "telemetry on a terminal",
        _shown,
        (_metrics(), _EVENTS, _SPANS),
        ("cli.telemetry:shown",),
        form="json",
        cap=MIB,
        seconds=0.5,
    ),
    Decoder(
        "telemetry as YAML", _as_yaml, (_EVENTS, _SPANS), ("cli.telemetry:shown",), form="json", seconds=2.0
    ),
    Decoder(
        "load that an application reports",
        read_report,
        (b"TEXT cpu_utilization=0.3,eps=1", b'JSON {"cpu_utilization": 0.5, "rps_fractional": 3}'),
        ("members.load:read_report", "members.load:_read_json"),
    ),
    Decoder(
        "load that an application reports as JSON",
        lambda data: read_report(b"JSON " + data),
        (b'{"cpu_utilization": 0.5, "rps_fractional": 3, "eps": 0.1}',),
        ("members.load:_read_json",),
        form="json",
    ),
    Decoder(
        "token of an end user",
        _tokens,
        (_CLAIMS,),
        (
            "identity.tokens:JwtTokens._verify",
            "identity.tokens:_claimed",
            "identity.tokens:_decode",
            "identity.tokens:_span",
        ),
        _token,
        "json",
        (TokenRefused,),
    ),
    Decoder(
        "key set",
        lambda data: tuple(_read_keys(data.decode("utf-8", "replace"))) or None,
        (_KEYS,),
        ("identity.tokens:_read_keys",),
        form="json",
    ),
    Decoder(
        "trace context",
        _trace,
        (b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",),
        ("telemetry.tracecontext:parse",),
    ),
]
