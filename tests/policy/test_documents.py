from __future__ import annotations

from collections.abc import Callable

import pytest

from busmesh.errors import InvalidDocument
from busmesh.names import ServiceName, resolve_host, service_of_authority
from busmesh.policy.destination import DestinationSpec
from busmesh.policy.documents import Document, DocumentKey, parse_documents
from busmesh.policy.fields import seconds
from busmesh.policy.route import RouteSpec
from busmesh.yamlfile import InvalidDocuments

ROUTE = """\
apiVersion: busmesh/v1
kind: Route
metadata: {name: orders}
spec:
  hosts: [orders]
  http:
    - MARK
      route:
        - destination: {host: orders}
"""
VIRTUAL_SERVICE = ROUTE.replace("busmesh/v1", "networking.istio.io/v1").replace(
    "kind: Route", "kind: VirtualService"
)
DESTINATION = """\
apiVersion: busmesh/v1
kind: Destination
metadata: {name: orders}
spec:
  host: orders
  trafficPolicy: {MARK}
"""


def said(text: str) -> list[str]:
    """What is found in a document, one line each; empty if it is fine."""
    try:
        parse_documents(text.encode(), "f")
    except InvalidDocuments as error:
        return [str(finding) for finding in error.findings]
    return []


def in_rule(fields: str) -> list[str]:
    return said(ROUTE.replace("MARK", fields))


def in_match(fields: str) -> list[str]:
    return in_rule(f"match: [{{{fields}}}]")


def in_set(fields: str) -> list[str]:
    return in_rule(f"headers: {{request: {{set: {{{fields}}}}}}}")


@pytest.mark.parametrize(
    "fields",
    [
        "name: a rule",
        "timeout: 5s",
        "timeout: 1m30s",
        "timeout: 0s",
        "timeout: 1.5s",
        "timeout: ~",
        "match: []",
        "match: [{}]",
        "match: [{uri: {prefix: /a}, method: {exact: GET}, ignoreUriCase: true}]",
        "match: [{uri: {regex: '/a/[0-9]+'}}]",
        "match: [{headers: {x-a: {}, X-B: {exact: ''}}, withoutHeaders: {c: {prefix: d}}}]",
        "match: [{queryParams: {q: {exact: '1'}}}]",
        "match: [{sourceLabels: {version: v1}, sourceNamespace: shop, caller: web.shop}]",
        "headers: {request: {set: {a: b}, add: {c: d}, remove: [e]}, response: {remove: [server]}}",
        "headers: {request: {set: {x: '100 % sure', y: 'a%20b'}}}",
        "match: [{scheme: {exact: http}, authority: {regex: 'orders(:[0-9]+)?'}}]",
        "fault: {delay: {fixedDelay: 5s, percentage: {value: 0.1}}}",
        "fault: {delay: {fixedDelay: 5s, percent: 10}, abort: {httpStatus: 400, percentage: {value: 100}}}",
        "fault: {abort: {httpStatus: 500}}",
        "retries: {attempts: 3, perTryTimeout: 2s, retryOn: 'gateway-error,connect-failure,refused-stream'}",
        "retries: {attempts: 0}",
        "retries: {}",
        "retries: {retryOn: '5xx, reset,,retriable-4xx , 503,429,envoy-ratelimited'}",
        "retries: {retryOn: 'reset-before-request,retriable-status-codes,deadline-exceeded,internal'}",
        "retries: {retryRemoteLocalities: true, retryIgnorePreviousHosts: false, backoff: 100ms}",
        "mirror: {host: orders, subset: v2}",
        "mirror: {host: orders}\n      mirrorPercentage: {value: 12.5}",
        "mirror: {host: orders}\n      mirrorPercent: 50",
        "mirror: {host: orders}\n      mirror_percent: 50",
        "mirrors: [{destination: {host: a}, percentage: {value: 1}}, {destination: {host: b}}]",
        "rewrite: {uri: /v1, authority: 'orders.example:8080'}",
        "rewrite: {uriRegexRewrite: {match: '^/a/(.*)', rewrite: '/b/\\1'}}",
        "rewrite: {authority: '[::1]:80'}",
    ],
)
def test_what_a_rule_may_say(fields: str) -> None:
    assert in_rule(fields) == []


@pytest.mark.parametrize(
    ("found", "code", "rest"),
    [
        (in_rule("timout: 5s"), "BM1201", "did you mean 'timeout'?"),
        (in_rule("timeout: 5"), "BM1203", 'put it in quotes: "5"'),
        (in_rule("timeout: 5 s"), "BM1207", "write 5s, 100ms"),
        (in_rule("timeout: 5d"), "BM1207", "5d"),
        (in_rule("timeout: 25h"), "BM1207", "from 1ms to 24h"),
        (in_rule("timeout: 10us"), "BM1207", "from 1ms"),
        (in_rule(f"timeout: {'9' * 80}h"), "BM1207", "..."),
        (in_rule("name: ''"), "BM1204", "1 to 128"),
        (in_match("uri: {prefix: a}"), "BM1212", "'a'"),
        (in_match("uri: {}"), "BM1217", "missing"),
        (in_match("uri: {exact: /a, prefix: /b}"), "BM1217", "not several"),
        (in_match("uri: {regex: '(?=a)'}"), "BM1208", "RE2"),
        (in_match("uri: {regex: '(a+'}"), "BM1208", "missing )"),
        (in_match("method: GET"), "BM1203", "a mapping"),
        (in_match("headers: {'a b': {}}"), "BM1209", "'a b'"),
        (in_match("headers: {':path': {exact: /}}"), "BM1209", "uri"),
        (in_match("headers: {uri: {exact: /}}"), "BM1209", "use the field uri"),
        (in_match("headers: {a: {exact: true}}"), "BM1203", 'put it in quotes: "true"'),
        (in_match("headers: {a: ~}"), "BM1203", "a mapping"),
        (in_match("sourceNamespace: 'a.*'"), "BM1001", "not a name"),
        (in_match("caller: a.b.c"), "BM1213", "a.b.c"),
        (in_match("caller: '*'"), "BM1320", "wildcards"),
        (in_set("Host: a"), "BM1211", "belongs to the mesh"),
        (in_set("':authority': a"), "BM1211", ":authority"),
        (in_set("Content-Length: '1'"), "BM1211", ""),
        (in_set("Transfer-Encoding: chunked"), "BM1211", ""),
        (in_set("Connection: close"), "BM1211", ""),
        (in_set("x-busmesh-source: a"), "BM1211", ""),
        (in_set("X_Busmesh_Source: a"), "BM1211", ""),
        (in_set('a: "b\\r\\nc: d"'), "BM1210", "control characters"),
        (in_set('a: "b\\nc"'), "BM1210", "control characters"),
        (in_set("'a\tb': c"), "BM1209", ""),
        (in_set("a: '%REQ(:path)%'"), "BM1321", "VARIABLES"),
        (in_set("a: 100%%"), "BM1321", "VARIABLES"),
        (in_set("a: b, A: c"), "BM1218", "'A'"),
        (in_rule("headers: {request: {remove: [te]}}"), "BM1211", "'te'"),
        (in_rule("route: []"), "BM1105", "twice"),
        (in_match("scheme: {}"), "BM1217", "missing"),
        (in_rule("fault: {}"), "BM1246", "is none"),
        (in_rule("fault: {delay: {}}"), "BM1202", "fixedDelay"),
        (in_rule("fault: {delay: {fixedDelay: 5}}"), "BM1203", "in quotes"),
        (in_rule("fault: {delay: {fixedDelay: 5s, percentage: {value: 100.5}}}"), "BM1204", "100"),
        (in_rule("fault: {delay: {fixedDelay: 5s, percentage: {value: -1}}}"), "BM1204", "0"),
        (in_rule("fault: {delay: {fixedDelay: 5s, percentage: 5}}"), "BM1203", "a mapping"),
        (
            in_rule("fault: {delay: {fixedDelay: 5s, percent: 1, percentage: {value: 1}}}"),
            "BM1242",
            "percent",
        ),
        (in_rule("fault: {abort: {httpStatus: 100}}"), "BM1204", "200"),
        (in_rule("fault: {abort: {httpStatus: 600}}"), "BM1204", "599"),
        (in_rule("fault: {abort: {percentage: {value: 1}}}"), "BM1202", "httpStatus"),
        (in_rule("retries: {attempts: -1}"), "BM1204", "0"),
        (in_rule("retries: {attempts: 101}"), "BM1204", "100"),
        (in_rule("retries: {retryOn: gateway-eror}"), "BM1245", "did you mean gateway-error?"),
        (in_rule("retries: {retryOn: '5XX'}"), "BM1245", "did you mean 5xx?"),
        (in_rule("retries: {retryOn: '700'}"), "BM1245", "no reason"),
        (in_rule("retries: {retryOn: '503;504'}"), "BM1245", "no reason"),
        (in_rule("retries: {retryOn: 'reset,retriable-headers'}"), "BM1364", "not supported yet"),
        (in_rule(f"retries: {{retryOn: '{'5xx,' * 300}'}}"), "BM1245", "1024"),
        (in_rule("retries: {hedgeOnPerTryTimeout: true}"), "BM1246", "perTryTimeout"),
        (in_rule("retries: {hedgeOnPerTryTimeout: true, perTryTimeout: 0s}"), "BM1246", "perTryTimeout"),
        (in_rule("mirrorPercentage: {value: 5}"), "BM1246", "no mirror"),
        (in_rule("mirror: {host: a}\n      mirrors: [{destination: {host: b}}]"), "BM1242", "not both"),
        (in_rule("mirror: {host: a}\n      mirrorPercent: 5\n      mirror_percent: 5"), "BM1242", "twice"),
        (in_rule("mirror: {host: a}\n      mirrorPercent: 101"), "BM1204", "100"),
        (in_rule("mirrors: [{percentage: {value: 5}}]"), "BM1202", "destination"),
        (in_rule("rewrite: {}"), "BM1246", "is none"),
        (in_rule("rewrite: {uri: v1}"), "BM1243", "begin with '/'"),
        (in_rule("rewrite: {uri: /a/../b}"), "BM1243", "'..'"),
        (in_rule("rewrite: {uri: //evil.example}"), "BM1243", "cannot replace"),
        (in_rule("rewrite: {uri: '/a?b'}"), "BM1243", "query"),
        (in_rule("rewrite: {uri: '/a b'}"), "BM1243", "percent-encode"),
        (in_rule("rewrite: {uri: /é}"), "BM1243", "percent-encode"),
        (in_rule("rewrite: {authority: 'a b'}"), "BM1244", "host:port"),
        (in_rule('rewrite: {authority: "a\\r\\nb: c"}'), "BM1244", "authority"),
        (in_rule("rewrite: {uri: /a, uriRegexRewrite: {match: a, rewrite: b}}"), "BM1242", "not both"),
        (in_rule("rewrite: {uriRegexRewrite: {match: '(a', rewrite: b}}"), "BM1208", "missing )"),
        (in_rule("rewrite: {uriRegexRewrite: {match: a, rewrite: '\\1'}}"), "BM1208", "0 groups"),
        (in_rule("rewrite: {uriRegexRewrite: {match: a}}"), "BM1202", "rewrite"),
        (in_rule("redirect: {uri: /a}"), "BM1241", "not route and redirect"),
        (in_rule("directResponse: {status: 503}"), "BM1241", "not route and directResponse"),
        (in_rule("splitBy: {}"), "BM1242", "exactly one"),
        (in_rule("splitBy: {header: a, cookie: b}"), "BM1242", "exactly one"),
        (in_rule("splitBy: {caller: false}"), "BM1204", "True"),
        (in_rule("splitBy: {cookie: 'a=b'}"), "BM1248", "cookie"),
        (in_rule("splitBy: {header: 'a b'}"), "BM1209", "header"),
    ],
)
def test_what_a_rule_may_not_say(found: list[str], code: str, rest: str) -> None:
    (line,) = found
    assert f" {code} " in line
    assert rest in line


def instead_of_a_route(fields: str) -> list[str]:
    return said(ROUTE[: ROUTE.index("      route:")].replace("MARK", fields))


@pytest.mark.parametrize(
    "fields",
    [
        "redirect: {uri: /v1/bookRatings, authority: newratings.default.svc.cluster.local}",
        "redirect: {scheme: https, derivePort: FROM_REQUEST_PORT, redirectCode: 308}",
        "redirect: {uri: '/a?b=c', port: 8443}",
        "directResponse: {status: 503, body: {string: unknown error}}",
        "directResponse: {status: 503, body: {bytes: dW5rbm93biBlcnJvcg==}}",
        "directResponse: {status: 204}\n      headers: {response: {set: {content-type: text/plain}}}",
        "directResponse: {status: 204, body: {}}",
    ],
)
def test_what_may_stand_in_place_of_a_route(fields: str) -> None:
    assert instead_of_a_route(fields) == []


@pytest.mark.parametrize(
    ("fields", "code", "rest"),
    [
        ("name: a", "BM1241", "is missing"),
        ("route: []", "BM1241", "is missing"),
        ("redirect: {uri: /a}\n      directResponse: {status: 200}", "BM1241", "redirect and directResponse"),
        ("redirect: {}", "BM1246", "where the request came from"),
        ("redirect: {derivePort: FROM_REQUEST_PORT}", "BM1246", "where the request came from"),
        ("redirect: {uri: /a, port: 1, derivePort: FROM_REQUEST_PORT}", "BM1242", "not both"),
        ("redirect: {uri: a}", "BM1243", "begin with '/'"),
        ("redirect: {uri: 'https://a/'}", "BM1243", "authority"),
        ('redirect: {uri: "/a\\r\\nSet-Cookie: b"}', "BM1243", "path"),
        ("redirect: {uri: '/a#b'}", "BM1243", "path"),
        ("redirect: {authority: a/b}", "BM1244", "authority"),
        ("redirect: {uri: /a, port: 0}", "BM1204", "1"),
        ("redirect: {uri: /a, scheme: ftp}", "BM1204", "https"),
        ("redirect: {uri: /a, redirectCode: 300}", "BM1204", "308"),
        ("redirect: {uri: /a}\n      fault: {abort: {httpStatus: 500}}", "BM1242", "no fault"),
        ("redirect: {uri: /a}\n      rewrite: {uri: /a}", "BM1242", "no rewrite"),
        ("redirect: {uri: /a}\n      timeout: 5s", "BM1242", "no timeout"),
        ("redirect: {uri: /a}\n      splitBy: {header: a}", "BM1242", "no splitBy"),
        ("directResponse: {status: 200}\n      mirrors: [{destination: {host: a}}]", "BM1242", "no mirrors"),
        ("directResponse: {status: 200}\n      retries: {attempts: 1}", "BM1242", "no retries"),
        ("directResponse: {}", "BM1202", "status"),
        ("directResponse: {status: 100}", "BM1204", "200"),
        ("directResponse: {status: 204, body: {string: a}}", "BM1247", "no body"),
        ("directResponse: {status: 200, body: {string: a, bytes: YQ==}}", "BM1242", "not both"),
        ("directResponse: {status: 200, body: {bytes: 'a b'}}", "BM1247", "base64"),
        (f"directResponse: {{status: 200, body: {{string: {'a' * 70_000}}}}}", "BM1247", "65536"),
    ],
)
def test_what_may_not(fields: str, code: str, rest: str) -> None:
    (line,) = instead_of_a_route(fields)
    assert f" {code} " in line
    assert rest in line


@pytest.mark.parametrize("field", ["splitBy: {header: a}", "retries: {hedgeOnPerTryTimeout: true}"])
def test_what_istio_does_not_know_is_not_taken_from_a_virtual_service(field: str) -> None:
    (line,) = said(VIRTUAL_SERVICE.replace("MARK", field))
    assert " BM1201 " in line


NOT_YET_IN_A_RULE = ["corsPolicy", "delegate"]
NOT_YET_IN_A_FAULT = [
    ("exponentialDelay", "fault: {{delay: {{fixedDelay: 1s, {}: 1s}}}}"),
    ("grpcStatus", "fault: {{abort: {{httpStatus: 500, {}: UNAVAILABLE}}}}"),
    ("http2Error", "fault: {{abort: {{httpStatus: 500, {}: x}}}}"),
]
NOT_YET_IN_A_MATCH = ["port", "statPrefix"]
NOT_YET_IN_A_POLICY = ["tls", "portLevelSettings", "tunnel", "proxyProtocol"]
NOT_YET_IN_A_POOL = {
    "tcp": ["tcpKeepalive", "maxConnectionDuration", "idleTimeout"],
    "http": ["idleTimeout", "h2UpgradePolicy", "useClientProtocol", "maxConcurrentStreams"],
}
NOT_YET_IN_A_BALANCER = ["zoneAwareLbSetting"]


@pytest.mark.parametrize("text", [ROUTE, VIRTUAL_SERVICE], ids=["native", "istio"])
@pytest.mark.parametrize(
    ("field", "place"),
    [(field, "{}: x") for field in NOT_YET_IN_A_RULE]
    + NOT_YET_IN_A_FAULT
    + [(field, "match: [{{{}: x}}]") for field in NOT_YET_IN_A_MATCH]
    + [("port", "match: [{{}}]\n      route: [{{destination: {{host: a, {}: {{number: 1}}}}}}]")],
)
def test_what_istio_knows_and_busmesh_does_not_is_refused_by_name(text: str, field: str, place: str) -> None:
    if "route:" in place:
        text = text[: text.rindex("      route:")]
    (line,) = said(text.replace("MARK", place.format(field)))
    assert f"{field} is not supported yet" in line
    assert " BM13" in line


@pytest.mark.parametrize(
    ("fields", "field"),
    [(f"{field}: x", field) for field in NOT_YET_IN_A_POLICY]
    + [(f"loadBalancer: {{{field}: x}}", field) for field in NOT_YET_IN_A_BALANCER]
    + [
        (f"connectionPool: {{{part}: {{{field}: x}}}}", field)
        for part, fields in NOT_YET_IN_A_POOL.items()
        for field in fields
    ]
    + [("outlierDetection: {consecutiveErrors: 1}", "consecutiveErrors")]
    + [("loadBalancer: {simple: PASSTHROUGH}", "the balancer PASSTHROUGH")],
)
def test_so_it_is_in_a_destination(fields: str, field: str) -> None:
    (line,) = said(DESTINATION.replace("{MARK}", f"{{{fields}}}"))
    assert f"{field} is not supported yet" in line
    assert " BM13" in line


@pytest.mark.parametrize(
    ("old", "new", "code"),
    [
        ("hosts: [orders]", "hosts: [orders]\n  tcp: []", "BM1309"),
        ("hosts: [orders]", "hosts: [orders]\n  tls: []", "BM1310"),
        ("hosts: [orders]", "hosts: [orders]\n  gateways: [edge]", "BM1311"),
        ("hosts: [orders]", "hosts: [orders]\n  exportTo: ['*']", "BM1312"),
        ("MARK", "match: [{gateways: [mesh, edge]}]", "BM1311"),
        ("hosts: [orders]", "hosts: ['*']", "BM1320"),
        ("hosts: [orders]", "hosts: ['*.shop']", "BM1320"),
        ("hosts: [orders]", "hosts: [www.example.com]", "BM1213"),
        ("hosts: [orders]", "hosts: []", "BM1220"),
        ("hosts: [orders]", "hosts: orders", "BM1203"),
        ("{name: orders}", "{}", "BM1202"),
        ("{name: orders}", "{name: Orders}", "BM1001"),
        ("{name: orders}", "{name: orders, namespace: a.b}", "BM1001"),
        ("{name: orders}", "{name: orders, namspace: a}", "BM1201"),
        ("kind: VirtualService", "kind: VirtualServices", "BM1205"),
        ("kind: VirtualService", "kind: Gateway", "BM1311"),
        ("networking.istio.io/v1", "networking.istio.io/v2", "BM1206"),
        ("networking.istio.io/v1", "busmesh/v1", "BM1206"),
        ("kind: VirtualService", "kind: [a]", "BM1202"),
        ("spec:", "status: {}\nspecs: {}\nspec:", "BM1201"),
    ],
)
def test_what_a_virtual_service_may_not_say(old: str, new: str, code: str) -> None:
    text = VIRTUAL_SERVICE.replace(old, new, 1).replace("MARK", "name: a")
    (line,) = said(text)
    assert f" {code} " in line


@pytest.mark.parametrize("kind", ["Telemetry", "Rollout"])
def test_kinds_that_are_announced_are_not_called_unknown(kind: str) -> None:
    (line,) = said(f"apiVersion: busmesh/v1\nkind: {kind}\n")
    assert "is not supported yet" in line


def test_a_virtual_service_becomes_what_a_route_is() -> None:
    fields = "name: a\n      match: [{gateways: [mesh], uri: {prefix: /a}}]\n      timeout: 1s"
    (istio,) = parse_documents(
        VIRTUAL_SERVICE.replace("MARK", fields).replace("  hosts:", "  gateways: [mesh]\n  hosts:").encode(),
        "f",
    )
    (native,) = parse_documents(ROUTE.replace("MARK", fields.replace("gateways: [mesh], ", "")).encode(), "f")
    assert istio.key == native.key == DocumentKey("Route", "default", "orders")
    assert istio.spec == native.spec
    assert istio != native, "each gives back what was published"


def test_what_kubernetes_adds_is_let_through() -> None:
    added = "{name: orders, uid: x, generation: 1, creationTimestamp: 2026-11-23, managedFields: [{a: 1}]}"
    text = (
        VIRTUAL_SERVICE.replace("{name: orders}", added).replace("MARK", "name: a") + "status: {ok: true}\n"
    )
    assert said(text) == []
    (line,) = said(ROUTE.replace("{name: orders}", "{name: orders, uid: x}").replace("MARK", "name: a"))
    assert "BM1201" in line


@pytest.mark.parametrize(
    ("host", "service"),
    [
        ("orders", ServiceName("orders", "shop")),
        ("orders.pay", ServiceName("orders", "pay")),
        ("orders.pay.mesh", ServiceName("orders", "pay")),
        ("orders.pay.svc", ServiceName("orders", "pay")),
        ("orders.pay.svc.cluster.local", ServiceName("orders", "pay")),
        ("orders.default", ServiceName("orders")),
    ],
)
def test_a_host_means_a_service_seen_from_the_namespace_of_its_document(
    host: str, service: ServiceName, route: Callable[..., Document]
) -> None:
    assert resolve_host(host, "shop") == service
    assert service_of_authority(f"{host.upper()}:8080".encode(), "shop") == service
    document = route("orders", namespace="shop", host=host)
    assert document.service(host) == service


@pytest.mark.parametrize(
    "host", ["", "a.b.c", "a..b", "a b", "A", "a.b.svc.cluster", "svc.cluster.local.", "*"]
)
def test_other_hosts_mean_nothing(host: str) -> None:
    assert said(ROUTE.replace("[orders]", f"['{host}']").replace("MARK", "name: a")) != []


@pytest.mark.parametrize(
    ("text", "expected"),
    [("5s", 5), ("100ms", 0.1), ("1h", 3600), ("1m30s", 90), ("0s", 0), ("1.5s", 1.5), ("1500us", 0.0015)],
)
def test_durations(text: str, expected: float) -> None:
    assert seconds(text) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("simple", "subset", "expected"),
    [
        ("", "", "LEAST_REQUEST"),
        ("LEAST_CONN", "", "LEAST_REQUEST"),
        ("UNSPECIFIED", "", "LEAST_REQUEST"),
        ("RANDOM", "", "RANDOM"),
        ("RANDOM", "ROUND_ROBIN", "ROUND_ROBIN"),
        ("", "ROUND_ROBIN", "ROUND_ROBIN"),
    ],
)
def test_a_subset_has_the_balancer_of_its_destination_unless_it_has_its_own(
    simple: str, subset: str, expected: str, documents: Callable[..., list[Document]]
) -> None:
    def policy(name: str) -> str:
        return f"trafficPolicy: {{loadBalancer: {{simple: {name}}}}}" if name else "trafficPolicy: {}"

    text = DESTINATION.replace("  trafficPolicy: {MARK}", f"  {policy(simple)}")
    (document,) = documents(f"{text}  subsets: [{{name: v1, {policy(subset)}}}]\n")
    assert isinstance(document.spec, DestinationSpec)
    assert document.spec.balancer("v1").simple == expected


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("route/orders", DocumentKey("Route", "default", "orders")),
        ("VirtualService/shop/orders", DocumentKey("Route", "shop", "orders")),
        ("destinationrule/a", DocumentKey("Destination", "default", "a")),
    ],
)
def test_a_key_can_be_typed(text: str, key: DocumentKey) -> None:
    assert DocumentKey.parse(text) == key
    assert DocumentKey.parse(str(key)) == key


@pytest.mark.parametrize("text", ["orders", "route/", "route/a/b/c", "pod/a", ""])
def test_other_texts_name_no_document(text: str) -> None:
    with pytest.raises(InvalidDocument, match="BM1219"):
        DocumentKey.parse(text)


def test_a_document_from_the_bus_is_checked_like_one_from_a_file(route: Callable[..., Document]) -> None:
    document = route("orders")
    again = Document.from_plain(document.plain, file="revision 7")
    assert again == document
    assert isinstance(again.spec, RouteSpec)
    deep: list[object] = []
    for _ in range(100_000):
        deep = [deep]
    for hostile in (
        None,
        3,
        [],
        {},
        {"kind": 1},
        {1: 2},
        deep,
        {"kind": "Route", "apiVersion": "busmesh/v1"},
        {"a": b"b"},
    ):
        with pytest.raises(InvalidDocument):
            Document.from_plain(hostile)
