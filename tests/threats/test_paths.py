"""Paths that pass for others: through two agents, to an application that writes down what came."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from tests.decide.test_authz_paths import TARGET, VARIANTS
from tests.support.mesh import eventually
from tests.threats.raw import exchange, status
from tests.threats.stage import Stage

DENIED = """
apiVersion: busmesh/v1
kind: Authorization
metadata: {name: no-secrets}
spec: {hosts: [vault], action: DENY, rules: [{to: [{operation: {paths: [/admin/secret]}}]}]}
"""
#: Names alike that the rule does not mean.
OTHERS = ("/", "/admin", "/admin/secrets", "/admin/secre")


def asked(stage: Stage, paths: Iterable[str]) -> dict[str, int]:
    """Return the status that each of these paths gets, on a connection of its own."""
    head = "GET {} HTTP/1.1\r\nHost: vault\r\nConnection: close\r\n\r\n"
    return {path: status(exchange(stage.address(), head.format(path).encode())) for path in paths}


def test_t13_two_hundred_spellings_of_a_denied_path(stage: Stage) -> None:
    vault, target = stage.mesh.instance("vault", "vault-0"), TARGET.decode()
    eventually(lambda: asked(stage, ["/"]) == {"/": 200}, "the instance serves")
    before = len(vault.seen())
    statuses = Counter(asked(stage, VARIANTS).values())
    assert len(vault.seen()) - before == statuses[200] >= 180, "without the rule they arrive"

    stage.mesh.publish(DENIED)
    eventually(lambda: asked(stage, [target]) == {target: 403}, "the rule is in force")
    before = len(vault.seen())
    found = asked(stage, VARIANTS)
    assert [path for path, one in found.items() if one not in (400, 403)] == []
    assert len(vault.seen()) == before
    assert asked(stage, OTHERS) == dict.fromkeys(OTHERS, 200)
    assert len(vault.seen()) == before + len(OTHERS)
