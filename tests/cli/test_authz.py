"""``busmesh authz check`` by documents in files: yes or no, by which rule, and the exit status."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.test_policy import Done
from tests.support.processes import ROOT, clean_environment

POLICIES = """\
apiVersion: busmesh/v1
kind: Authorization
metadata: {name: orders}
spec:
  hosts: [orders]
  rules:
    - from: [{source: {serviceAccounts: [web]}}]
      to: [{operation: {methods: [GET], paths: ["/orders*"]}}]
    - when: [{key: "request.headers[x-team]", values: [red]}]
    - when: [{key: "request.auth.claims[groups]", values: [staff]}]
---
apiVersion: security.istio.io/v1
kind: RequestAuthentication
metadata: {name: people, namespace: default}
spec:
  jwtRules: [{issuer: idp, jwksUri: "file:///keys"}]
"""


def check(tmp_path: Path, *args: str) -> Done:
    file = tmp_path / "policies.yaml"
    file.write_text(POLICIES)
    command = [sys.executable, "-m", "busmesh", "authz", "check", *args, "-f", str(file), "-o", "json"]
    done = subprocess.run(
        command, cwd=ROOT, env=clean_environment(), capture_output=True, text=True, timeout=30, check=False
    )
    return Done(done.returncode, done.stdout, done.stderr)


@pytest.mark.parametrize(
    ("args", "status", "code", "rule"),
    [
        (("web", "orders", "GET", "/orders/1"), 0, "allowed", 0),
        (("web", "orders", "POST", "/orders/1"), 1, "no_token", None),
        (("cart", "orders", "GET", "/orders/1"), 1, "no_token", None),
        (("cart", "orders", "GET", "/", "--header", "x-team: red"), 0, "allowed", 1),
        (("cart", "orders", "GET", "/", "--claim", "groups=staff", "--claim", "groups=x"), 0, "allowed", 2),
        (("cart", "orders", "GET", "/", "--claim", "groups=x"), 1, "not_allowed", None),
        (("cart", "orders", "GET", "/", "--claims", '{"iss": "evil", "groups": "staff"}'), 1, "token", None),
        (("web", "orders", "GET", "/orders/../admin"), 1, "no_token", None),
        (("cart", "payments", "GET", "/"), 0, "no_policy", None),
    ],
)
def test_it_says_yes_or_no_and_which_rule(
    tmp_path: Path, args: tuple[str, ...], status: int, code: str, rule: int | None
) -> None:
    done = check(tmp_path, *args)
    assert done.status == status, done.err
    [row] = done.rows
    assert (row["allowed"], row["code"], row["rule"]) == (status == 0, code, rule)


@pytest.mark.parametrize(
    ("option", "value", "code"),
    [
        ("--header", "no colon", "BM1209"),
        ("--claim", "x", "BM2317"),
        ("--claims", "[]", "BM2317"),
        ("--label", "x", "BM2318"),
        ("--header", "x-busmesh-source: a", "BM2319"),
    ],
)
def test_what_cannot_be_asked_is_said(tmp_path: Path, option: str, value: str, code: str) -> None:
    done = check(tmp_path, "web", "orders", "GET", "/", option, value)
    assert done.status == 2
    assert code in done.err
