"""Who may do what: documents, as operators write them, and requests."""

from __future__ import annotations

import json

import pytest

from busmesh.decide.authz.authorizer import Authorizer
from busmesh.decide.authz.facts import Claims
from busmesh.decide.request import RequestHead
from busmesh.names import ServiceName, SpiffeId
from busmesh.policy.compileauthz import compile_authorizer
from busmesh.policy.documents import Document, parse_documents
from busmesh.policy.revision import PolicySet

ORDERS = ServiceName("orders")

#: Policies, one to a line as ``[NAMESPACE/]ACTION {rest of the spec}``, and the requests that they meet:
#: ``CALLER METHOD TARGET [NAME:VALUE...] [{claims}] -> yes|no|400``. A caller is a service.
CASES: list[tuple[str, str, str]] = [
    (
        "nothing is allowed",
        "ALLOW {}",
        """
        web GET / -> no
        web POST /orders -> no
        web.shop GET / -> no
        web OPTIONS * -> no
        web GET /%00 -> no
        """,
    ),
    (
        "everything is allowed",
        "ALLOW {rules: [{}]}",
        """
        web GET / -> yes
        web.shop DELETE /a/../b -> yes
        web get / -> yes
        web GET /%00 -> yes
        web OPTIONS * -> yes
        """,
    ),
    (
        "everything is denied, whatever is allowed",
        """
        ALLOW {rules: [{}]}
        DENY {rules: [{}]}
        """,
        """
        web GET / -> no
        web.shop POST /a -> no
        """,
    ),
    (
        "a denial of something allows the rest",
        "DENY {rules: [{to: [{operation: {methods: [DELETE]}}]}]}",
        """
        web GET / -> yes
        web DELETE / -> no
        web delete / -> 400
        web Delete / -> 400
        web PATCH /a -> yes
        """,
    ),
    (
        "one of several is enough, in each list",
        """
        ALLOW {rules: [{from: [{source: {principals: [local/ns/default/svc/web]}}, {source:\
 {namespaces: [shop]}}],\
 to: [{operation: {methods: [GET, HEAD]}}, {operation: {paths: [/public]}}]}]}
        """,
        """
        web GET /x -> yes
        web HEAD /x -> yes
        web POST /x -> no
        web POST /public -> yes
        web.shop GET /x -> yes
        cart.shop POST /public -> yes
        cart.shop POST /x -> no
        cart GET /x -> no
        web.other GET /x -> no
        """,
    ),
    (
        "all fields of a source and of an operation must hold",
        """
        ALLOW {rules: [{from: [{source: {principals: ["*/svc/web"], namespaces: [shop]}}],\
 to: [{operation: {methods: [GET], paths: [/a]}}]}]}
        """,
        """
        web.shop GET /a -> yes
        web GET /a -> no
        cart.shop GET /a -> no
        web.shop POST /a -> no
        web.shop GET /b -> no
        """,
    ),
    (
        "one rule of several, one policy of several",
        """
        ALLOW {rules: [{to: [{operation: {paths: [/a]}}]}, {to: [{operation: {paths: [/b]}}]}]}
        ALLOW {rules: [{to: [{operation: {paths: [/c]}}]}]}
        DENY {rules: [{from: [{source: {namespaces: [shop]}}]}]}
        """,
        """
        web GET /a -> yes
        web GET /b -> yes
        web GET /c -> yes
        web GET /d -> no
        web.shop GET /a -> no
        web.shop GET /d -> no
        """,
    ),
    (
        "principals in every form",
        """
        ALLOW {rules: [{from: [{source: {principals: [local/ns/default/svc/web,\
 cluster.local/ns/shop/sa/web,\
 "spiffe://local/ns/x/svc/y", "local/ns/team-a/*", "*/ns/team-b/sa/web", "cluster.local/ns/team-c/*"]}}]}]}
        """,
        """
        web GET / -> yes
        web.shop GET / -> yes
        y.x GET / -> yes
        any.team-a GET / -> yes
        web.team-b GET / -> yes
        web.team-c GET / -> yes
        web2 GET / -> no
        web2.shop GET / -> no
        y.default GET / -> no
        any.team-ab GET / -> no
        cart.team-b GET / -> no
        x-web GET / -> no
        """,
    ),
    (
        "a principal of another mesh is nobody's",
        "ALLOW {rules: [{from: [{source: {principals: [other/ns/default/svc/web]}}]}]}",
        """
        web GET / -> no
        """,
    ),
    (
        "everybody in the mesh has a principal",
        'ALLOW {rules: [{from: [{source: {principals: ["*"]}}]}]}',
        """
        web GET / -> yes
        web.shop GET / -> yes
        """,
    ),
    (
        "all but some principals",
        """
        ALLOW {rules: [{from: [{source: {notPrincipals: [local/ns/default/svc/web,\
 cluster.local/ns/shop/*]}}]}]}
        """,
        """
        web GET / -> no
        cart GET / -> yes
        web.shop GET / -> no
        cart.shop GET / -> no
        web.x GET / -> yes
        """,
    ),
    (
        "namespaces",
        'DENY {rules: [{from: [{source: {namespaces: [shop, "team-*", "*-dev"]}}]}]}',
        """
        web GET / -> yes
        web.shop GET / -> no
        web.shops GET / -> yes
        web.team-a GET / -> no
        web.team GET / -> yes
        web.a-dev GET / -> no
        web.dev GET / -> yes
        """,
    ),
    (
        "only one namespace: the usual wall around a team",
        "DENY {rules: [{from: [{source: {notNamespaces: [default]}}]}]}",
        """
        web GET / -> yes
        web.shop GET / -> no
        web.defaults GET / -> no
        """,
    ),
    (
        "service accounts are services",
        "ALLOW {rules: [{from: [{source: {serviceAccounts: [web, shop/cart]}}]}]}",
        """
        web GET / -> yes
        web.shop GET / -> no
        cart.shop GET / -> yes
        cart GET / -> no
        """,
    ),
    (
        "all but one service account",
        "DENY {rules: [{from: [{source: {notServiceAccounts: [web]}}]}]}",
        """
        web GET / -> yes
        web.shop GET / -> no
        cart GET / -> no
        """,
    ),
    (
        "methods with patterns",
        'ALLOW {rules: [{to: [{operation: {methods: [GET, "P*", "*SE"]}}]}]}',
        """
        web GET / -> yes
        web POST / -> yes
        web PUT / -> yes
        web PURGE / -> yes
        web BROWSE / -> yes
        web HEAD / -> no
        web GETS / -> no
        web get / -> 400
        web M-SEARCH / -> no
        """,
    ),
    (
        "all but some methods",
        "DENY {rules: [{to: [{operation: {notMethods: [GET, HEAD]}}]}]}",
        """
        web GET / -> yes
        web HEAD / -> yes
        web POST / -> no
        web get / -> 400
        """,
    ),
    (
        "an allowed path is that path",
        "ALLOW {rules: [{to: [{operation: {paths: [/a, /b/, /café, /x%20y, /v1/items:batch]}}]}]}",
        """
        web GET /a -> yes
        web GET /a?q=1 -> yes
        web GET /a? -> yes
        web GET /a/ -> no
        web GET /A -> no
        web GET /%61 -> yes
        web GET /b/ -> yes
        web GET /b -> no
        web GET /caf%C3%A9 -> yes
        web GET /caf%c3%a9 -> yes
        web GET /cafe%CC%81 -> no
        web GET /x%20y -> yes
        web GET /x+y -> no
        web GET /v1/items:batch -> yes
        web GET /v1/items%3Abatch -> yes
        web GET /a/. -> no
        web GET //a -> no
        web GET /./a -> no
        web GET /a;x -> no
        web GET /a%00 -> 400
        web GET /c/../a -> no
        web GET /a/../a -> no
        """,
    ),
    (
        "an allowed prefix",
        'ALLOW {rules: [{to: [{operation: {paths: ["/public/*", "/p*", "*.css"]}}]}]}',
        """
        web GET /public/ -> yes
        web GET /public/a -> yes
        web GET /public -> yes
        web GET /private -> yes
        web GET /x -> no
        web GET /x/y.css -> yes
        web GET /x/y.css?v=1 -> yes
        web GET /x.js?y.css -> no
        web GET /public/a%2Fb -> yes
        web GET /public/a%20b;v=1 -> yes
        web GET /public/../x -> no
        web GET /public/%2e%2e/x -> no
        web GET /public/..%2fx -> no
        web GET /public/..;/x -> no
        web GET /public/%252e%252e/x -> no
        web GET /public%5c..%5cx -> no
        web GET /x/../public -> no
        web GET /public/a/../b -> yes
        web GET /x.js%3Fy.css -> no
        web GET /x.js;y.css -> no
        web GET /x.js%00.css -> 400
        web GET /x.js%23.css -> no
        """,
    ),
    (
        "all but an allowed path",
        'ALLOW {rules: [{to: [{operation: {notPaths: ["/admin*", /secret]}}]}]}',
        """
        web GET / -> yes
        web GET /x -> yes
        web GET /admin -> no
        web GET /admin/x -> no
        web GET /%61dmin -> no
        web GET //admin -> no
        web GET /x/../admin -> no
        web GET /admin/../x -> no
        web GET /secret -> no
        web GET /secret/ -> no
        web GET /secrets -> yes
        web GET /a%2fb -> yes
        """,
    ),
    (
        "a denied path is that path however it is spelt",
        "DENY {rules: [{to: [{operation: {paths: [/admin]}}]}]}",
        """
        web GET / -> yes
        web GET /admin -> no
        web GET /admin/ -> no
        web GET /admin/x -> yes
        web GET /administrator -> yes
        web GET /ADMIN -> yes
        web GET /%61dmin -> no
        web GET //admin// -> no
        web GET /admin;x=1 -> no
        web GET /admin%20 -> no
        web GET /admin?x -> no
        web GET /x?/admin -> yes
        web GET /admin%2e -> no
        web GET /x/..;/admin -> no
        web GET /admin%252f -> no
        """,
    ),
    (
        "a denied prefix, suffix and presence",
        """
        DENY {rules: [{to: [{operation: {paths: ["/admin/*", "*.php"], methods: [GET]}}]}]}
        DENY {rules: [{to: [{operation: {paths: ["*"], methods: [POST]}}]}]}
        """,
        """
        web GET /admin -> yes
        web GET /admin/ -> no
        web GET /x.php -> no
        web GET /x.php/ -> no
        web GET /x.php;a -> no
        web GET /x.phpx -> yes
        web POST / -> no
        web PUT /admin/ -> yes
        """,
    ),
    (
        "all but some paths are denied",
        'DENY {rules: [{to: [{operation: {notPaths: [/healthz, "/public/*"]}}]}]}',
        """
        web GET /healthz -> yes
        web GET /healthz/ -> no
        web GET /public/x -> yes
        web GET /public/../x -> no
        web GET /x/../healthz -> no
        web GET /public/%2e%2e/x -> no
        web GET /public/a%20b -> yes
        web GET /public%2fx -> no
        """,
    ),
    (
        "paths and notPaths of one operation are about the same reading",
        'DENY {rules: [{to: [{operation: {paths: ["/admin*"], notPaths: ["/admin/public*"]}}]}]}',
        """
        web GET /admin/public/x -> yes
        web GET /admin/x -> no
        web GET /admin/public/../x -> no
        web GET /other -> yes
        """,
    ),
    (
        "hosts in any case, with and without a port",
        """
        ALLOW {rules: [{to: [{operation: {hosts: [orders, "*.Shop.example", "api.example:8080",\
 "dev-*"]}}]}]}
        """,
        """
        web GET / host:orders -> yes
        web GET / host:ORDERS -> yes
        web GET / host:orders:80 -> yes
        web GET / host:orders. -> yes
        web GET / host:orders.default -> no
        web GET / host:a.shop.example -> yes
        web GET / host:A.SHOP.example:8443 -> yes
        web GET / host:shop.example -> no
        web GET / host:api.example:8080 -> yes
        web GET / host:api.example -> no
        web GET / host:dev-1 -> yes
        web GET / -> no
        web GET / host:orders host:evil -> no
        """,
    ),
    (
        "denied hosts",
        "DENY {rules: [{to: [{operation: {hosts: [admin.example]}}]}]}",
        """
        web GET / host:admin.example -> no
        web GET / host:Admin.Example:80 -> no
        web GET / host:admin.example. -> no
        web GET / host:x host:admin.example -> no
        web GET / host:x -> yes
        web GET / -> yes
        """,
    ),
    (
        "all but some hosts",
        'DENY {rules: [{to: [{operation: {notHosts: [orders, "*.example"]}}]}]}',
        """
        web GET / host:orders -> yes
        web GET / host:a.example -> yes
        web GET / host:b -> no
        web GET / host:orders host:b -> no
        """,
    ),
    (
        "a header that allows",
        'ALLOW {rules: [{when: [{key: "request.headers[X-Team]", values: [red, "blue-*"]}]}]}',
        """
        web GET / x-team:red -> yes
        web GET / X-TEAM:red -> yes
        web GET / x-team:blue-1 -> yes
        web GET / x-team:blue -> no
        web GET / x-team:reddish -> no
        web GET / -> no
        web GET / x-team:red x-team:red -> no
        web GET / x-team:red x-team:green -> no
        web GET / x_team:red -> no
        web GET / xx-team:red -> no
        web GET / y:x-team:red -> no
        """,
    ),
    (
        "a header that denies",
        'DENY {rules: [{when: [{key: "request.headers[x-role]", values: [guest]}]}]}',
        """
        web GET / -> yes
        web GET / x-role:guest -> no
        web GET / x-role:admin -> yes
        web GET / x-role:admin x-role:guest -> no
        web GET / x-role:guest x-role:admin -> no
        web GET / x_role:guest -> no
        web GET / X_Role:guest -> no
        web GET / x-role: -> yes
        """,
    ),
    (
        "a header that must be there, and one that must not have a value",
        """
        ALLOW {rules: [{when: [{key: "request.headers[a]", values: ["*"]}, {key: "request.headers[b]",\
 notValues: [x]}]}]}
        """,
        """
        web GET / a:1 -> yes
        web GET / a: -> no
        web GET / -> no
        web GET / a:1 b:y -> yes
        web GET / a:1 b:x -> no
        web GET / a:1 b:y b:x -> no
        """,
    ),
    (
        "who has not the header is denied",
        'DENY {rules: [{when: [{key: "request.headers[x-key]", notValues: [k1, k2]}]}]}',
        """
        web GET / x-key:k1 -> yes
        web GET / x-key:k3 -> no
        web GET / -> no
        web GET / x-key:k1 x-key:k3 -> no
        """,
    ),
    (
        "values and notValues both hold",
        'ALLOW {rules: [{when: [{key: source.namespace, values: ["team-*"], notValues: [team-x]}]}]}',
        """
        web.team-a GET / -> yes
        web.team-x GET / -> no
        web GET / -> no
        """,
    ),
    (
        "the caller among the conditions",
        """
        ALLOW {rules: [{when: [{key: source.principal, values: ["spiffe://local/ns/shop/svc/*"]}]},\
 {when: [{key: source.serviceAccount, values: [web]}]}]}
        """,
        """
        web GET / -> yes
        cart GET / -> no
        cart.shop GET / -> yes
        web.other GET / -> no
        """,
    ),
    (
        "who calls for an end user",
        'ALLOW {rules: [{from: [{source: {requestPrincipals: ["https://idp/*"]}}]}]}',
        """
        web GET / -> no
        web GET / {"iss":"https://idp","sub":"ann"} -> yes
        web GET / {"iss":"https://idp.evil","sub":"ann"} -> no
        web GET / {"iss":"https://idp"} -> no
        web GET / {"sub":"ann"} -> no
        """,
    ),
    (
        "who calls for nobody is denied",
        'DENY {rules: [{from: [{source: {notRequestPrincipals: ["*"]}}]}]}',
        """
        web GET / -> no
        web GET / {"iss":"i","sub":"s"} -> yes
        web GET / {"iss":"i"} -> no
        """,
    ),
    (
        "claims",
        """
        ALLOW {rules: [{when: [{key: "request.auth.claims[groups]", values: [admins, "dev-*"]},\
 {key: "request.auth.claims[realm][roles]", values: [editor]}]}, {when: [{key:\
 "request.auth.claims[scope]",\
 values: [orders.read]}]}, {when: [{key: "request.auth.claims[level]", values: ["3", "true"]}]}]}
        """,
        """
        web GET / {"groups":["admins","x"],"realm":{"roles":["editor"]}} -> yes
        web GET / {"groups":"admins","realm":{"roles":"editor"}} -> yes
        web GET / {"groups":["dev-1"],"realm":{"roles":["viewer"]}} -> no
        web GET / {"groups":["users"],"realm":{"roles":["editor"]}} -> no
        web GET / {"groups":["admins"],"realm":"editor"} -> no
        web GET / {"groups":{"admins":1},"realm":{"roles":["editor"]}} -> no
        web GET / {"scope":"orders.read"} -> yes
        web GET / {"scope":"a\\u0020orders.read\\u0020b"} -> yes
        web GET / {"scope":"orders.readwrite"} -> no
        web GET / {"groups":"a\\u0020admins","realm":{"roles":"editor"}} -> no
        web GET / {"level":3} -> yes
        web GET / {"level":true} -> yes
        web GET / {"level":4} -> no
        web GET / {"level":null} -> no
        web GET / {} -> no
        web GET / -> no
        """,
    ),
    (
        "a claim that denies, and one that must not be",
        """
        DENY {rules: [{when: [{key: "request.auth.claims[banned]", values: ["true"]}]}]}
        DENY {rules: [{when: [{key: "request.auth.claims[tier]", notValues: [gold]}], to: [{operation:\
 {paths: [/vip]}}]}]}
        """,
        """
        web GET / -> yes
        web GET / {"banned":true} -> no
        web GET / {"banned":false} -> yes
        web GET /vip -> no
        web GET /vip {"tier":"gold"} -> yes
        web GET /vip {"tier":["silver"]} -> no
        """,
    ),
    (
        "the token's other words",
        """
        ALLOW {rules: [{when: [{key: request.auth.audiences, values: [orders]}, {key:\
 request.auth.presenter,\
 values: [app]}, {key: request.auth.principal, values: [i/s]}]}]}
        """,
        """
        web GET / {"iss":"i","sub":"s","aud":"orders","azp":"app"} -> yes
        web GET / {"iss":"i","sub":"s","aud":["x","orders"],"azp":"app"} -> yes
        web GET / {"iss":"i","sub":"s","aud":"x","azp":"app"} -> no
        web GET / {"iss":"i","sub":"t","aud":"orders","azp":"app"} -> no
        web GET / {"iss":"i","sub":"s","aud":"orders"} -> no
        """,
    ),
    (
        "AUDIT decides nothing",
        """
        AUDIT {rules: [{}]}
        """,
        """
        web GET / -> yes
        """,
    ),
    (
        "nor does it stand in the way of ALLOW",
        """
        AUDIT {rules: [{}]}
        ALLOW {rules: [{to: [{operation: {methods: [GET]}}]}]}
        """,
        """
        web GET / -> yes
        web POST / -> no
        """,
    ),
    (
        "a mesh that denies by default, and what its services allow",
        """
        mesh/ALLOW {}
        ALLOW {selector: {matchLabels: {app: orders}}, rules: [{from: [{source: {principals:\
 ["*/svc/web"]}}]}]}
        """,
        """
        web GET / -> yes
        cart GET / -> no
        """,
    ),
    (
        "documents of other namespaces and other labels are about others",
        """
        shop/ALLOW {}
        ALLOW {selector: {matchLabels: {app: payments}}}
        ALLOW {selector: {matchLabels: {version: v2}}}
        istio-system/ALLOW {selector: {matchLabels: {tier: front}}}
        """,
        """
        web GET / -> yes
        """,
    ),
    (
        "labels of the instance, in the root namespace as well",
        """
        istio-system/DENY {selector: {matchLabels: {version: v1, app: orders}}, rules: [{to:\
 [{operation: {paths: [/x]}}]}]}
        """,
        """
        web GET /x -> no
        web GET /y -> yes
        """,
    ),
]


def policy(number: int, line: str) -> str:
    where, _, spec = line.strip().partition(" ")
    namespace, _, action = where.rpartition("/")
    inside = f", {spec[1:-1]}" if spec != "{}" else ""
    return (
        "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\n"
        f"metadata: {{name: p{number}, namespace: {namespace or 'default'}}}\n"
        f"spec: {{action: {action}{inside}}}\n"
    )


def documents(lines: str) -> list[Document]:
    texts = [policy(number, line) for number, line in enumerate(lines.strip().splitlines())]
    read = parse_documents("---\n".join(texts).encode(), "f.yaml")
    return list(PolicySet(1, {document.key: document for document in read}).documents.values())


def authorizer(lines: str) -> Authorizer | None:
    return compile_authorizer(documents(lines), ORDERS, {"version": "v1"})


def caller(text: str) -> SpiffeId:
    return SpiffeId.workload("local", ServiceName.parse(text), "i-1")


def asked(text: str) -> tuple[SpiffeId, RequestHead, Claims | None]:
    who, method, target, *rest = text.split()
    claims = [json.loads(word) for word in rest if word.startswith("{")]
    pairs = [word.partition(":") for word in rest if not word.startswith("{")]
    block = b"".join(f"{name}: {value}\r\n".encode() for name, _, value in pairs)
    head = RequestHead.from_block(method.encode(), target.encode(), block)
    return caller(who), head, Claims(claims[0]) if claims else None


ROWS = [
    pytest.param(lines, request, expected, id=f"{name}: {request}")
    for name, lines, table in CASES
    for request, _, expected in (row.strip().partition(" -> ") for row in table.strip().splitlines())
]


def test_there_are_two_hundred_cases() -> None:
    assert len(ROWS) >= 200


@pytest.mark.parametrize(("lines", "request_", "expected"), ROWS)
def test_a_request_meets_policies(lines: str, request_: str, expected: str) -> None:
    made = authorizer(lines)
    if made is None:
        assert expected == "yes"
        return
    decision = made.decide(*asked(request_))
    said = "yes" if decision.allowed else "400" if decision.status == 400 else "no"
    assert said == expected, decision
    assert decision.allowed or decision.status in (400, 403)
    assert made.decide(*asked(request_)) == decision  # and the second time, when the caller is known


def said_of(lines: str, request: str) -> tuple[bool, str, str, int]:
    made = authorizer(lines)
    assert made is not None
    decision = made.decide(*asked(request))
    return decision.allowed, decision.code, decision.policy, decision.rule


def test_a_decision_names_the_document_and_the_rule() -> None:
    lines = """
    ALLOW {rules: [{to: [{operation: {paths: [/a]}}]}, {to: [{operation: {paths: [/b]}}]}]}
    DENY {rules: [{to: [{operation: {methods: [TRACE]}}]}, {to: [{operation: {paths: [/b/c]}}]}]}
    """
    assert said_of(lines, "web GET /b") == (True, "allowed", "Authorization/p0", 1)
    assert said_of(lines, "web GET /b/c") == (False, "denied", "Authorization/p1", 1)
    assert said_of(lines, "web GET /x") == (False, "not_allowed", "Authorization/p0", -1)
    assert said_of(lines, "web GET /%00") == (False, "path", "", -1)
    assert said_of(lines, "web trace /a") == (False, "method", "", -1)
    assert said_of("DENY {rules: [{to: [{operation: {paths: [/b]}}]}]}", "web GET /a")[:2] == (
        True,
        "no_policy",
    )


def test_a_reason_names_who_would_have_had_to_allow_it() -> None:
    made = authorizer("\n".join(["ALLOW {}"] * 5))
    assert made is not None
    decision = made.decide(*asked("web GET /"))
    names = "Authorization/p0, Authorization/p1, Authorization/p2"
    assert decision.reason == f"no rule of {names} and 2 more allows it"
    assert decision.policy == ""


def test_what_is_known_of_a_caller_costs_nothing_more() -> None:
    made = authorizer('ALLOW {rules: [{from: [{source: {principals: ["*/svc/web"]}}]}]}')
    assert made is not None
    first, second = (made.decide(*asked("web GET /")) for _ in range(2))
    assert first is second
    assert "callers=1" in repr(made)


def test_callers_are_kept_within_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("busmesh.decide.authz.authorizer.MAX_CALLERS", 3)
    made = authorizer('ALLOW {rules: [{from: [{source: {principals: ["*/svc/s1"]}}]}]}')
    assert made is not None
    for number in (0, 1, 2, 3, 4, 1, 0):
        assert made.decide(*asked(f"s{number} GET /")).allowed is (number == 1)
    assert "callers=3" in repr(made)


def native(spec: str, *, name: str = "a", namespace: str = "default", annotation: str = "") -> Document:
    noted = f', annotations: {{istio.io/dry-run: "{annotation}"}}' if annotation else ""
    (document,) = parse_documents(
        "apiVersion: busmesh/v1\nkind: Authorization\n"
        f"metadata: {{name: {name}, namespace: {namespace}{noted}}}\nspec: {spec}\n".encode(),
        "f.yaml",
    )
    return document


def test_a_dry_run_says_what_would_be_and_lets_be() -> None:
    denies = "{action: DENY, dryRun: true, rules: [{to: [{operation: {paths: [/a]}}]}]}"
    made = compile_authorizer([native(denies)], ORDERS, {})
    assert made is not None
    decision = made.decide(*asked("web GET /a"))
    assert (decision.allowed, decision.code) == (True, "no_policy")
    assert decision.shadow is not None
    assert (decision.shadow.allowed, decision.shadow.policy) == (False, "Authorization/a")
    other = made.decide(*asked("web GET /b")).shadow
    assert other is not None
    assert other.allowed


def test_a_dry_run_of_an_allowance_tells_who_would_lose_access_and_who_would_win_it() -> None:
    enforced = native("{rules: [{from: [{source: {serviceAccounts: [web]}}]}]}", name="now")
    tried = native("{dryRun: true, rules: [{from: [{source: {serviceAccounts: [cart]}}]}]}", name="next")
    made = compile_authorizer([enforced, tried], ORDERS, {})
    assert made is not None
    for who, now, then in (("web", True, True), ("cart", False, True), ("other", False, False)):
        decision = made.decide(*asked(f"{who} GET /"))
        assert decision.shadow is not None
        assert (decision.allowed, decision.shadow.allowed) == (now, then)
    alone = compile_authorizer([tried], ORDERS, {})
    assert alone is not None
    decision = alone.decide(*asked("web GET /"))
    assert decision.shadow is not None
    assert (decision.allowed, decision.shadow.allowed) == (True, False)


@pytest.mark.parametrize(("annotation", "shadow"), [("true", True), ("false", False), ("", False)])
def test_istios_annotation_is_a_dry_run(annotation: str, shadow: bool) -> None:
    document = native("{}", annotation=annotation)
    istio = Document.from_plain(
        json.loads(
            document.text.replace("busmesh/v1", "security.istio.io/v1beta1").replace(
                '"Authorization"', '"AuthorizationPolicy"'
            )
        )
    )
    for some in (document, istio):
        made = compile_authorizer([some], ORDERS, {})
        assert made is not None
        decision = made.decide(*asked("web GET /"))
        assert decision.allowed is shadow
        assert (decision.shadow is not None) is shadow
    assert istio.key == document.key


def test_audits_are_told_and_change_nothing() -> None:
    made = authorizer(
        """
        AUDIT {rules: [{to: [{operation: {paths: ["/admin*"]}}]}]}
        AUDIT {rules: [{from: [{source: {namespaces: [shop]}}]}]}
        DENY {rules: [{to: [{operation: {methods: [DELETE]}}]}]}
        """
    )
    assert made is not None
    for request, allowed, audits in (
        ("web GET /", True, ()),
        ("web GET /x/../admin", True, ("Authorization/p0",)),
        ("web.shop GET /", True, ("Authorization/p1",)),
        ("web.shop DELETE /%61dmin", False, ("Authorization/p0", "Authorization/p1")),
        ("web GET /admin%00", True, ("Authorization/p0",)),
    ):
        decision = made.decide(*asked(request))
        assert (decision.allowed, decision.audits) == (allowed, audits)


@pytest.mark.parametrize(
    ("spec", "namespace", "service", "labels", "expected"),
    [
        ("{}", "default", "orders", {}, True),
        ("{}", "default", "orders.shop", {}, False),
        ("{}", "shop", "orders.shop", {}, True),
        ("{}", "mesh", "orders.shop", {}, True),
        ("{}", "istio-system", "orders", {}, True),
        ("{hosts: [orders]}", "default", "orders", {}, True),
        ("{hosts: [orders]}", "default", "payments", {}, False),
        ("{hosts: [orders, payments.default.mesh]}", "default", "payments", {}, True),
        ("{hosts: [orders]}", "shop", "orders", {}, False),
        ("{hosts: [orders]}", "shop", "orders.shop", {}, True),
        ("{hosts: [orders.shop]}", "default", "orders.shop", {}, False),
        ("{hosts: [orders.shop]}", "mesh", "orders.shop", {}, True),
        ("{selector: {matchLabels: {app: orders}}}", "default", "orders", {}, True),
        ("{selector: {matchLabels: {app: orders}}}", "default", "orders", {"app": "x"}, False),
        (
            "{selector: {matchLabels: {app: orders, version: v2}}}",
            "default",
            "orders",
            {"version": "v2"},
            True,
        ),
        (
            "{selector: {matchLabels: {app: orders, version: v2}}}",
            "default",
            "orders",
            {"version": "v1"},
            False,
        ),
        ("{selector: {matchLabels: {tier: a}}}", "default", "orders", {}, False),
        ("{selector: {}}", "default", "orders", {}, True),
    ],
)
def test_a_document_is_about_the_instances_that_it_means(
    spec: str, namespace: str, service: str, labels: dict[str, str], expected: bool
) -> None:
    made = compile_authorizer([native(spec, namespace=namespace)], ServiceName.parse(service), labels)
    assert (made is not None) is expected


def test_without_a_document_about_an_instance_there_is_no_authorizer() -> None:
    assert compile_authorizer([], ORDERS, {}) is None
