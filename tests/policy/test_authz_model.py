"""The engine against the plainest evaluator that there can be, which reads documents and knows no tricks."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from busmesh.decide.authz.facts import Claims
from busmesh.decide.request import RequestHead
from busmesh.names import ServiceName, SpiffeId
from busmesh.policy.compileauthz import compile_authorizer
from busmesh.policy.documents import Document

Plain = dict[str, Any]
SERVICES = ["web", "cart", "webs"]
NAMESPACES = ["default", "shop"]
PATHS = ["/", "/a", "/a/b", "/ab", "/b.css"]
METHODS = ["GET", "POST", "PUT"]


def sets(*words: str) -> st.SearchStrategy[list[str]]:
    return st.lists(st.sampled_from(words), min_size=1, max_size=2)


def some(**fields: st.SearchStrategy[Any]) -> st.SearchStrategy[Plain]:
    return st.fixed_dictionaries({}, optional=fields).filter(bool)


PRINCIPALS = sets(
    "local/ns/default/svc/web", "cluster.local/ns/shop/sa/cart", "*", "*/svc/web", "local/ns/shop/*"
)
USERS = sets("i/ann", "i/*", "*", "*/bob")
PLACES = sets("default", "sh*", "*op", "*")
SOURCES = some(
    principals=PRINCIPALS,
    notPrincipals=PRINCIPALS,
    namespaces=PLACES,
    notNamespaces=PLACES,
    requestPrincipals=USERS,
    notRequestPrincipals=USERS,
)
WAYS = sets("/a", "/a*", "/a/*", "*.css", "*", "/")
VERBS = sets("GET", "P*", "*T", "*")
OPERATIONS = some(paths=WAYS, notPaths=WAYS, methods=VERBS, notMethods=VERBS)
VALUES = sets("1", "1*", "*2", "*")
CONDITIONS = st.tuples(
    st.sampled_from(["request.headers[x-a]", "request.auth.claims[c]", "source.namespace"]),
    some(values=VALUES, notValues=VALUES),
).map(lambda pair: {"key": pair[0], **pair[1]})
RULES = st.fixed_dictionaries(
    {},
    optional={
        "from": st.lists(SOURCES.map(lambda source: {"source": source}), min_size=1, max_size=2),
        "to": st.lists(OPERATIONS.map(lambda operation: {"operation": operation}), min_size=1, max_size=2),
        "when": st.lists(CONDITIONS, max_size=2),
    },
)
POLICIES = st.fixed_dictionaries(
    {
        "action": st.sampled_from(["ALLOW", "DENY", "AUDIT"]),
        "dryRun": st.booleans(),
        "rules": st.lists(RULES, max_size=2),
    }
)
REQUESTS = st.fixed_dictionaries(
    {
        "service": st.sampled_from(SERVICES),
        "namespace": st.sampled_from(NAMESPACES),
        "method": st.sampled_from(METHODS),
        "path": st.sampled_from(PATHS),
        "header": st.sampled_from([None, "1", "12", "3"]),
        "claims": st.sampled_from(
            [None, {}, {"iss": "i", "sub": "ann", "c": "1"}, {"iss": "i", "c": ["12", "2"]}]
        ),
    }
)


def fits(patterns: Iterable[str], values: Iterable[str]) -> bool:
    def fit(pattern: str, value: str) -> bool:
        if pattern == "*":
            return value != ""
        if pattern.endswith("*"):
            return value.startswith(pattern[:-1])
        return value.endswith(pattern[1:]) if pattern.startswith("*") else value == pattern

    return any(fit(pattern, value) for pattern in patterns for value in values)


def both(entry: Plain, field: str, negative: str, values: list[str]) -> bool:
    return (field not in entry or fits(entry[field], values)) and (
        negative not in entry or not fits(entry[negative], values)
    )


def holds(rule: Plain, request: Plain) -> bool:
    who = f"ns/{request['namespace']}/{{}}/{request['service']}"
    principals = [
        f"{mesh}/{who.format(kind)}" for mesh in ("local", "cluster.local") for kind in ("svc", "sa")
    ]
    claims = request["claims"]
    user = [f"{claims['iss']}/{claims['sub']}"] if claims and "sub" in claims else []

    def source(entry: Plain) -> bool:
        return (
            both(entry, "principals", "notPrincipals", principals)
            and both(entry, "namespaces", "notNamespaces", [request["namespace"]])
            and both(entry, "requestPrincipals", "notRequestPrincipals", user)
        )

    def operation(entry: Plain) -> bool:
        method, path = [request["method"]], [request["path"]]
        return both(entry, "paths", "notPaths", path) and both(entry, "methods", "notMethods", method)

    def condition(entry: Plain) -> bool:
        found = (claims or {}).get("c", [])
        values = {
            "source.namespace": [request["namespace"]],
            "request.headers[x-a]": [] if request["header"] is None else [request["header"]],
            "request.auth.claims[c]": [found] if isinstance(found, str) else found,
        }
        return both(entry, "values", "notValues", values[entry["key"]])

    return (
        ("from" not in rule or any(source(entry["source"]) for entry in rule["from"]))
        and ("to" not in rule or any(operation(entry["operation"]) for entry in rule["to"]))
        and all(condition(entry) for entry in rule.get("when", []))
    )


def allowed(policies: list[Plain], request: Plain) -> bool:
    matching = [
        policy["action"] for policy in policies if any(holds(rule, request) for rule in policy["rules"])
    ]
    if "DENY" in matching:
        return False
    return "ALLOW" in matching or all(policy["action"] != "ALLOW" for policy in policies)


@given(st.lists(POLICIES, min_size=1, max_size=4), st.lists(REQUESTS, min_size=1, max_size=8))
def test_the_engine_decides_as_istio_says(policies: list[Plain], requests: list[Plain]) -> None:
    documents = [
        Document.from_plain(
            {
                "apiVersion": "busmesh/v1",
                "kind": "Authorization",
                "metadata": {"name": f"p{number}"},
                "spec": spec,
            }
        )
        for number, spec in enumerate(policies)
    ]
    made = compile_authorizer(documents, ServiceName("orders"), {})
    assert made is not None
    enforced = [policy for policy in policies if not policy["dryRun"]]
    for request in requests:
        who = SpiffeId.workload("local", ServiceName(request["service"], request["namespace"]), "i")
        headers = [] if request["header"] is None else [(b"X-A", request["header"].encode())]
        head = RequestHead(request["method"].encode(), request["path"].encode(), headers)
        claims = None if request["claims"] is None else Claims(request["claims"])
        decision = made.decide(who, head, claims)
        assert decision.allowed == allowed(enforced, request)
        if len(enforced) < len(policies):
            assert decision.shadow is not None
            assert decision.shadow.allowed == allowed(policies, request)
        else:
            assert decision.shadow is None
        audits = {
            f"Authorization/p{number}"
            for number, policy in enumerate(policies)
            if policy["action"] == "AUDIT" and not policy["dryRun"]
            if any(holds(rule, request) for rule in policy["rules"])
        }
        assert set(decision.audits) == audits
