"""``trafficPolicy.loadBalancer``: what may be said, what may not, and what agents make of it."""

from __future__ import annotations

import textwrap

import pytest

from busmesh.decide.affinity import Cookie
from busmesh.decide.balance import BalancerSpec, HashSpec, LocalitySpec, Warmup
from busmesh.decide.hashkey import HashKey
from busmesh.decide.sticky import StickySession
from busmesh.policy.destination import DestinationSpec
from busmesh.policy.documents import parse_documents
from busmesh.policy.loadbalancer import LoadBalancer, balancer_spec
from busmesh.yamlfile import InvalidDocuments

DESTINATION = """\
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: orders}
spec:
  host: orders
  trafficPolicy:
    loadBalancer:
"""


def policy_of(fields: str) -> LoadBalancer:
    text = DESTINATION + textwrap.indent(fields, "      ")
    (document,) = parse_documents(text.encode(), "f")
    assert isinstance(document.spec, DestinationSpec)
    assert document.spec.traffic_policy is not None
    assert document.spec.traffic_policy.load_balancer is not None
    return document.spec.traffic_policy.load_balancer


def spec(fields: str) -> BalancerSpec:
    return balancer_spec(policy_of(fields))


def said(fields: str) -> list[str]:
    try:
        policy_of(fields)
    except InvalidDocuments as error:
        return [str(finding) for finding in error.findings]
    return []


def hashed(fields: str) -> HashSpec | None:
    return spec(f"consistentHash: {{{fields}}}").hash


USER = HashKey("header", "x-user")


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ("httpHeaderName: x-user", HashSpec(USER, "ringHash", 1024)),
        ("httpHeaderName: x-user, ringHash: {}", HashSpec(USER, "ringHash", 1024)),
        ("httpHeaderName: x-user, ringHash: {minimumRingSize: 4096}", HashSpec(USER, "ringHash", 4096)),
        ("httpHeaderName: x-user, minimumRingSize: 64", HashSpec(USER, "ringHash", 64)),
        ("httpHeaderName: x-user, maglev: {}", HashSpec(USER, "maglev", 16381)),
        ("httpHeaderName: x-user, maglev: {tableSize: 65537}", HashSpec(USER, "maglev", 65537)),
        ("httpQueryParameterName: user", HashSpec(HashKey("query", "user"))),
        ("useSourceIp: true", HashSpec(HashKey("caller instance"))),
        ("caller: instance", HashSpec(HashKey("caller instance"))),
        ("caller: service", HashSpec(HashKey("caller service"))),
        ("useSourceIp: false, caller: service", HashSpec(HashKey("caller service"))),
        ("httpCookie: {name: user}", HashSpec(HashKey("cookie", cookie=Cookie("user")))),
        ("httpCookie: {name: user, ttl: 0s}", HashSpec(HashKey("cookie", cookie=Cookie("user", "", 0.0)))),
        (
            "httpCookie: {name: user, path: /shop, ttl: 720h}",
            HashSpec(HashKey("cookie", cookie=Cookie("user", "/shop", 2_592_000.0))),
        ),
    ],
)
def test_consistent_hashes(fields: str, expected: HashSpec) -> None:
    assert hashed(fields) == expected


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ("{}", BalancerSpec()),
        ("simple: PEAK_EWMA", BalancerSpec("PEAK_EWMA")),
        ("simple: CLIENT_SIDE_WEIGHTED_ROUND_ROBIN", BalancerSpec("CLIENT_SIDE_WEIGHTED_ROUND_ROBIN")),
        ("stickySession: {header: x-session}", BalancerSpec(sticky=StickySession(header="x-session"))),
        ("stickySession: {cookie: {name: s}}", BalancerSpec(sticky=StickySession(Cookie("s", "", 0.0)))),
        (
            "simple: RANDOM\nstickySession: {cookie: {name: s, path: /, ttl: 1h}}",
            BalancerSpec("RANDOM", sticky=StickySession(Cookie("s", "/", 3600.0))),
        ),
        ("warmup: {duration: 30s}", BalancerSpec(warmup=Warmup(30.0, 10.0, 1.0))),
        (
            "warmup: {duration: 1m, minimumPercent: 2.5, aggression: 2}",
            BalancerSpec(warmup=Warmup(60.0, 2.5, 2.0)),
        ),
        ("warmup: {duration: 0s}", BalancerSpec()),
        ("warmupDurationSecs: 90s", BalancerSpec(warmup=Warmup(90.0))),
        ("localityLbSetting: {}", BalancerSpec(locality=LocalitySpec())),
        ("localityLbSetting: {enabled: true}", BalancerSpec(locality=LocalitySpec())),
        ("localityLbSetting: {enabled: false, failover: [{from: a, to: b}]}", BalancerSpec()),
        (
            "localityLbSetting: {failover: [{from: a, to: b}], failoverPriority: [version, rack=7]}",
            BalancerSpec(locality=LocalitySpec((), (("a", "b"),), ("version", "rack=7"))),
        ),
        (
            "localityLbSetting: {distribute: [{from: a/b/*, to: {a/b/*: 80, a/c/*: 20}}]}",
            BalancerSpec(locality=LocalitySpec((("a/b/*", (("a/b/*", 80), ("a/c/*", 20))),))),
        ),
        (
            "localityLbSetting: {distribute: [{from: a, to: {'*': 20, a: 80}}, {from: '*', to: {'*': 100}}]}",
            BalancerSpec(locality=LocalitySpec((("a", (("*", 20), ("a", 80))), ("*", (("*", 100),))))),
        ),
    ],
)
def test_what_a_load_balancer_may_say(fields: str, expected: BalancerSpec) -> None:
    assert spec(fields) == expected


def test_outlier_detection_makes_requests_stay_near_unless_that_is_switched_off() -> None:
    assert balancer_spec(None) == BalancerSpec()
    assert balancer_spec(None, outlier_detection=True) == BalancerSpec(locality=LocalitySpec())
    assert balancer_spec(LoadBalancer(), outlier_detection=True).locality == LocalitySpec()
    off = policy_of("localityLbSetting: {enabled: false}")
    assert balancer_spec(off, outlier_detection=True).locality is None
    assert balancer_spec(None, panic_percent=50).panic_percent == 50


@pytest.mark.parametrize(
    ("fields", "code", "rest"),
    [
        ("simple: FASTEST", "BM1204", ""),
        ("simple: PASSTHROUGH", "BM1322", "LEAST_REQUEST"),
        ("simple: RANDOM\nconsistentHash: {caller: service}", "BM1260", "not both"),
        ("stickySession: {header: x}\nconsistentHash: {caller: service}", "BM1260", "stricter"),
        ("consistentHash: {}", "BM1261", "one key"),
        ("consistentHash: {maglev: {}}", "BM1261", "httpHeaderName"),
        ("consistentHash: {caller: service, useSourceIp: true}", "BM1261", "one key"),
        ("consistentHash: {httpHeaderName: a, httpQueryParameterName: b}", "BM1261", "one key"),
        ("consistentHash: {caller: service, ringHash: {}, maglev: {}}", "BM1261", "not both"),
        ("consistentHash: {caller: service, maglev: {}, minimumRingSize: 9}", "BM1261", "old"),
        ("consistentHash: {caller: somebody}", "BM1204", "instance"),
        ("consistentHash: {httpHeaderName: 'a b'}", "BM1209", "'a b'"),
        ("consistentHash: {httpHeaderName: ':path'}", "BM1209", ""),
        ("consistentHash: {httpQueryParameterName: ''}", "BM1204", ""),
        ("consistentHash: {httpCookie: {}}", "BM1202", "name"),
        ("consistentHash: {httpCookie: {name: 'a b'}}", "BM1262", "'a b'"),
        ("consistentHash: {httpCookie: {name: 'a=b'}}", "BM1262", ""),
        ("consistentHash: {httpCookie: {name: a, path: b}}", "BM1262", "'/'"),
        ("consistentHash: {httpCookie: {name: a, path: '/; Domain=x'}}", "BM1262", "'/'"),
        ('consistentHash: {httpCookie: {name: a, path: "/\\r\\nb: c"}}', "BM1262", ""),
        ("consistentHash: {httpCookie: {name: a, ttl: 500d}}", "BM1207", ""),
        ("consistentHash: {httpCookie: {name: a, ttl: 9601h}}", "BM1207", "9600h"),
        ("consistentHash: {httpCookie: {name: a, ttl: 10ms}}", "BM1207", "from 1s"),
        ("consistentHash: {caller: service, ringHash: {minimumRingSize: 0}}", "BM1204", ""),
        ("consistentHash: {caller: service, ringHash: {minimumRingSize: 65537}}", "BM1204", ""),
        ("consistentHash: {caller: service, maglev: {tableSize: 16384}}", "BM1268", "16381"),
        ("consistentHash: {caller: service, maglev: {tableSize: 7}}", "BM1204", ""),
        ("consistentHash: {caller: service, maglev: {tableSize: 2305843009213693951}}", "BM1204", ""),
        ("stickySession: {}", "BM1267", "one of the two"),
        ("stickySession: {header: x, cookie: {name: a}}", "BM1267", ""),
        ("stickySession: {header: Host}", "BM1211", ""),
        ("warmup: {}", "BM1202", "duration"),
        ("warmup: {duration: 1s, minimumPercent: 101}", "BM1204", ""),
        ("warmup: {duration: 1s, aggression: 0.5}", "BM1204", ""),
        ("warmup: {duration: 1s}\nwarmupDurationSecs: 1s", "BM1266", "use warmup"),
        ("warmup: {duration: 1s}\nconsistentHash: {caller: service}", "BM1266", "keys would move"),
        ("localityLbSetting: {distribute: [{from: a, to: {a: 50}}]}", "BM1264", "50"),
        ("localityLbSetting: {distribute: [{from: a, to: {}}]}", "BM1264", "0"),
        ("localityLbSetting: {distribute: [{from: a, to: {a: 0, b: 100}}]}", "BM1204", ""),
        ("localityLbSetting: {distribute: [{from: 'a/*/b', to: {a: 100}}]}", "BM1263", "a/*/b"),
        ("localityLbSetting: {distribute: [{from: 'a//b', to: {a: 100}}]}", "BM1263", ""),
        ("localityLbSetting: {distribute: [{from: a/b/c/d, to: {a: 100}}]}", "BM1263", ""),
        ("localityLbSetting: {distribute: [{from: a, to: {a/b: 50, 'a/*': 50}}]}", "BM1263", "overlap"),
        (
            "localityLbSetting: {distribute: [{from: a, to: {a: 100}}, {from: a/b, to: {a: 100}}]}",
            "BM1263",
            "overlap",
        ),
        (
            "localityLbSetting: {distribute: [{from: '*', to: {a: 100}}, {from: a, to: {a: 100}}]}",
            "BM1263",
            "overlap",
        ),
        ("localityLbSetting: {failover: [{from: a, to: a}]}", "BM1265", "itself"),
        ("localityLbSetting: {failover: [{from: a/b, to: c}]}", "BM1265", "region"),
        ("localityLbSetting: {failover: [{from: a, to: '*'}]}", "BM1265", "region"),
        ("localityLbSetting: {failover: [{from: a, to: b}, {from: a, to: c}]}", "BM1265", "one"),
        ("localityLbSetting: {failoverPriority: ['a b']}", "BM1265", "label"),
        (
            "localityLbSetting: {failover: [{from: a, to: b}], distribute: [{from: a, to: {a: 100}}]}",
            "BM1265",
            "exclude",
        ),
        (
            "localityLbSetting:\n  failover: [{from: a, to: b}]\n"
            "  failoverPriority: [topology.kubernetes.io/zone]",
            "BM1265",
            "topology",
        ),
        (f"localityLbSetting: {{failoverPriority: [{', '.join(['a'] * 65)}]}}", "BM1204", "64"),
        ("localityLbSetting: {enabled: 'yes'}", "BM1203", ""),
        ("zoneAwareLbSetting: {}", "BM1337", "localityLbSetting"),
        ("consistantHash: {}", "BM1201", "consistentHash"),
    ],
)
def test_what_a_load_balancer_may_not_say(fields: str, code: str, rest: str) -> None:
    (line,) = said(fields)
    assert f" {code} " in line
    assert rest in line


def test_a_subset_replaces_the_load_balancer_whole() -> None:
    text = (
        DESTINATION
        + "      simple: RANDOM\n      warmup: {duration: 30s}\n"
        + "  subsets: [{name: v1, trafficPolicy: {loadBalancer: {simple: ROUND_ROBIN}}}, {name: v2}]\n"
    )
    (document,) = parse_documents(text.encode(), "f")
    assert isinstance(document.spec, DestinationSpec)
    assert document.spec.balancer("v1") == BalancerSpec("ROUND_ROBIN")
    assert document.spec.balancer("v2") == document.spec.balancer(None)
    assert document.spec.balancer(None) == BalancerSpec("RANDOM", warmup=Warmup(30.0))
