"""Who plays in the demo: which instances of which services, each from a definition that is shipped."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import busmesh

PACKAGE = Path(busmesh.__file__).parent


@dataclass(frozen=True, slots=True)
class Role:
    """One instance.

    Attributes:
        service: what it serves, or who it calls as.
        instance: its name.
        definition: the file below ``agents/``.
        version: of its application; empty for a client-only agent.
    """

    service: str
    instance: str
    definition: str
    version: str = ""


#: Everybody's requests come in through this client-only agent.
CALLER = Role("shopper", "shopper-0", "client-only.yaml")
#: One of two instances of a version can be killed without a version gone.
SHOP = (
    Role("web", "web-0", "web.yaml", "v1"),
    Role("orders", "orders-v1-0", "orders-v1.yaml", "v1"),
    Role("orders", "orders-v1-1", "orders-v1.yaml", "v1"),
    Role("orders", "orders-v2-0", "orders-v2.yaml", "v2"),
    Role("payments", "payments-0", "payments.yaml", "v1"),
    Role("payments", "payments-1", "payments.yaml", "v1"),
)
AGENTS = (CALLER, *SHOP)
SPLIT = "policies/orders-split.yaml"
CANARY = "policies/orders-canary.yaml"


def shipped(name: str) -> Path:
    """Return the path of a file under ``agents/`` or ``policies/``: in the wheel, else in the checkout."""
    packaged = PACKAGE / "_data" / name
    return packaged if packaged.exists() else PACKAGE.parent / name


def as_typed(path: Path) -> str:
    """Return ``path`` as a person in the current folder would type it."""
    with_dots = os.path.relpath(path)
    return str(path) if with_dots.startswith("..") else with_dots
