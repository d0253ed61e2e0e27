from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest

from busmesh.names import ServiceName
from busmesh.policy.documents import Document, DocumentKey
from busmesh.policy.revision import PolicySet
from busmesh.policy.validate import validate_bundle

Make = Callable[..., Document]
ORDERS = ServiceName("orders")
LIVE: Mapping[ServiceName, list[dict[str, str]]] = {ORDERS: [{"version": "v1"}, {"version": "v2"}]}


def published(*documents: Document) -> PolicySet:
    return PolicySet(1, {document.key: document for document in documents})


def codes(*args: Any, **options: Any) -> list[str]:
    return [f"{finding.level} {finding.code}" for finding in validate_bundle(*args, **options)]


def targets(*pairs: tuple[str, object]) -> str:
    """A rule that sends to subsets of orders: ``("v1", 80)``; None stands for no weight."""
    lines = ["- route:"]
    for subset, weight in pairs:
        lines.append(f"  - destination: {{host: orders, subset: {subset}}}")
        lines += [f"    weight: {weight}"] * (weight is not None)
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("pairs", "expected"),
    [
        ([("v1", None)], []),
        ([("v1", 1)], []),
        ([("v1", 250)], []),
        ([("v1", 80), ("v2", 20)], []),
        ([("v1", 100), ("v2", 0)], []),
        ([("v1", 0)], ["error BM2105"]),
        ([("v1", 0), ("v2", 0)], ["error BM2105"]),
        ([("v1", None), ("v2", None)], ["error BM2105"]),
        ([("v1", 80), ("v2", 30)], ["error BM2104"]),
        ([("v1", 80), ("v2", None)], ["error BM2104"]),
    ],
)
def test_weights_of_several_destinations_add_up_to_100(
    pairs: list[tuple[str, object]], expected: list[str], route: Make
) -> None:
    assert codes([route(rules=targets(*pairs))], None, LIVE) == expected


def test_a_finding_cites_the_line_and_says_the_mend(route: Make) -> None:
    (finding,) = validate_bundle([route(rules=targets(("v1", 80), ("v2", 30)))], None, LIVE)
    assert str(finding) == ("f.yaml:8:7: BM2104 the weights add up to 110, not 100 (make them add up to 100)")


def test_a_subset_is_declared_or_carried_by_an_instance_or_refused(route: Make, destination: Make) -> None:
    split = route(rules=targets(("v1", 80), ("v3", 20)))
    declares = destination(subsets="[{name: v3, labels: {version: v3}}]")
    assert codes([split], None, LIVE) == ["error BM2103"]
    assert codes([split], None, {}) == ["error BM2103", "error BM2103"]
    assert codes([split, declares], None, LIVE) == []
    assert codes([declares, split], None, LIVE) == []
    assert codes([split], published(declares), LIVE) == []
    assert codes([split], published(destination("payments", "[{name: v3}]")), LIVE) == ["error BM2103"]


def test_what_nobody_could_be_asked_about_is_a_doubt(route: Make) -> None:
    (finding,) = validate_bundle([route(rules=targets(("v1", None)))])
    assert (finding.level, finding.code, finding.line) == ("warning", "BM2103", 8)


def test_taking_a_subset_from_under_a_route_is_refused(route: Make, destination: Make) -> None:
    split, declares = route(rules=targets(("beta", None))), destination(subsets="[{name: beta}]")
    before = published(split, declares)
    assert codes([], before, LIVE, remove=[declares.key]) == ["error BM2103"]
    assert codes([destination(subsets="[]")], before, LIVE) == ["error BM2103"]
    assert codes([], before, {ORDERS: [{"version": "beta"}]}, remove=[declares.key]) == []
    assert codes([], before, LIVE, remove=[declares.key, split.key]) == []
    assert codes([route()], before, LIVE, remove=[declares.key]) == []


def test_instances_that_went_away_do_not_stand_in_the_way_of_other_documents(route: Make) -> None:
    before = published(route(rules=targets(("v9", None))))
    assert codes([route("payments")], before, {**LIVE, ServiceName("payments"): [{}]}) == []


def test_a_service_that_nobody_serves_is_a_doubt(route: Make) -> None:
    (finding,) = validate_bundle([route(rules="- route: [{destination: {host: ordres}}]")], None, LIVE)
    assert (finding.level, finding.code, finding.line) == ("warning", "BM2109", 7)
    assert finding.message == "nobody serves ordres now"
    assert finding.hint == "did you mean orders?"
    assert codes([route("payments")], None, LIVE) == ["warning BM2109"]
    assert codes([route("payments")], None, {}) == []  # nobody is there at all: the mesh is still to come


def test_one_name_stands_once_in_a_bundle(documents: Callable[..., list[Document]], route: Make) -> None:
    twice = [route("orders"), route("orders", rules="- route: [{destination: {host: payments}}]")]
    assert codes(twice) == ["error BM2101"]
    assert "stands in f.yaml:3 already" in validate_bundle(twice)[0].message


def test_one_document_speaks_for_a_host(route: Make, destination: Make) -> None:
    rival = route("rival", host="orders")
    assert codes([route("orders"), rival]) == ["error BM2102"]
    (finding,) = validate_bundle([rival], published(route("orders")))
    assert (finding.code, finding.line) == ("BM2102", 5)
    assert "busmesh policy delete route/default/orders" in finding.hint
    assert codes([rival], published(route("orders")), remove=[route("orders").key]) == []
    assert codes([destination("other", host="orders")], published(destination("orders"))) == ["error BM2102"]
    assert codes([route("orders"), destination("orders")]) == []
    assert codes([route("orders", host="orders.shop")], published(route("other", host="orders"))) == []
    assert codes([route("a", host="orders.shop"), route("b", host="orders", namespace="shop")]) == [
        "error BM2102"
    ]


def test_a_document_is_not_its_own_rival(route: Make) -> None:
    assert codes([route("orders")], published(route("orders"))) == []


def test_a_host_stands_once_in_a_route(documents: Callable[..., list[Document]]) -> None:
    text = (
        "{apiVersion: busmesh/v1, kind: Route, metadata: {name: a},"
        " spec: {hosts: [orders, orders.default.svc], http: [{route: [{destination: {host: a}}]}]}}"
    )
    assert codes(documents(text)) == ["error BM2102"]


@pytest.mark.parametrize(
    ("first", "expected"),
    [
        ("", ["warning BM2107"]),
        ("match: []", ["warning BM2107"]),
        ("match: [{}]", ["warning BM2107"]),
        ("match: [{name: all, headers: {}}]", ["warning BM2107"]),
        ("match: [{method: {exact: GET}}, {uri: {prefix: /}}]", ["warning BM2107"]),
        ("match: [{uri: {prefix: /}, method: {exact: GET}}]", []),
        ("match: [{uri: {prefix: /a}}]", []),
        ("match: [{sourceNamespace: shop}]", []),
        ("match: [{caller: web}]", []),
    ],
)
def test_a_rule_behind_one_that_takes_everything_is_doubted(
    first: str, expected: list[str], route: Make
) -> None:
    everything = "route: [{destination: {host: orders}}]"
    rules = f"- {everything}\n  {first}\n- {everything}\n"
    findings = validate_bundle([route(rules=rules)])
    assert [f"{finding.level} {finding.code}" for finding in findings] == expected
    assert all(finding.path == ("spec", "http", 1) for finding in findings)


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        ("{delay: {fixedDelay: 1s}}", [("delay",)]),
        ("{delay: {fixedDelay: 1s, percent: 0}, abort: {httpStatus: 500}}", [("abort",)]),
        ("{delay: {fixedDelay: 1s}, abort: {httpStatus: 500}}", [("delay",), ("abort",)]),
        ("{abort: {httpStatus: 500, percentage: {value: 0}}}", []),
    ],
)
def test_a_fault_that_does_not_say_how_often_is_doubted(
    fault: str, expected: list[tuple[str]], route: Make
) -> None:
    rule = f"- route: [{{destination: {{host: orders}}}}]\n  fault: {fault}\n"
    findings = validate_bundle([route(rules=rule)])
    assert [finding.path for finding in findings] == [
        ("spec", "http", 0, "fault", *part) for part in expected
    ]
    assert all((finding.level, finding.code) == ("warning", "BM2121") for finding in findings)


def test_mirrors_are_destinations(route: Make, destination: Make) -> None:
    send = "- route: [{destination: {host: orders}}]\n  "
    one = route(rules=f"{send}mirror: {{host: orders, subset: beta}}")
    several = route(rules=f"{send}mirrors: [{{destination: {{host: ordres}}}}]")
    (dangling,) = validate_bundle([one], None, LIVE)
    assert (dangling.code, dangling.path) == ("BM2103", ("spec", "http", 0, "mirror", "subset"))
    (unserved,) = validate_bundle([several], None, LIVE)
    path = ("spec", "http", 0, "mirrors", 0, "destination", "host")
    assert (unserved.code, unserved.path) == ("BM2109", path)
    declares = destination(subsets="[{name: beta}]")
    assert codes([one, declares], None, LIVE) == []
    assert codes([], published(one, declares), LIVE, remove=[declares.key]) == ["error BM2103"]


def test_a_rule_that_answers_by_itself_has_no_weights(route: Make) -> None:
    assert codes([route(rules="- redirect: {uri: /a}")], None, LIVE) == []


def test_names_of_rules_are_labels_so_they_differ(route: Make) -> None:
    rule = "- name: a\n  match: [{method: {exact: GET}}]\n  route: [{destination: {host: orders}}]\n"
    assert codes([route(rules=rule * 2)]) == ["error BM2108"]


def test_a_subset_is_declared_once(destination: Make) -> None:
    assert codes([destination(subsets="[{name: a}, {name: a}]")]) == ["error BM2106"]


def test_removing_what_was_never_there_is_left_to_the_revision(route: Make) -> None:
    assert codes([], published(route()), remove=[DocumentKey("Route", "default", "none")]) == []


@pytest.mark.parametrize(
    ("rule", "what"),
    [
        ('match: [{uri: {regex: "/.*a.{100}b"}}]', "the rule does not apply to a longer value"),
        ('match: [{headers: {a: {regex: ".*a.{100}b"}}}]', "the rule does not apply to a longer value"),
        (
            'rewrite: {uriRegexRewrite: {match: "/.*a.{100}b", rewrite: /}}',
            "a longer path is answered with 400",
        ),
    ],
)
def test_a_regex_too_large_for_long_texts_is_told_of(rule: str, what: str, route: Make) -> None:
    to = "route: [{destination: {host: orders}}]"
    (finding,) = validate_bundle([route(rules=f"- {rule}\n  {to}")], None, LIVE)
    assert (finding.level, finding.code) == ("warning", "BM2151")
    assert finding.message.endswith(what)
    usual = rule.replace("a.{100}b", "a.{20}b")
    assert codes([route(rules=f"- {usual}\n  {to}")], None, LIVE) == []
