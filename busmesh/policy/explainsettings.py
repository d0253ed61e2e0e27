"""Settings of rules and destinations as plain data, and balancers in words."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from enum import Enum

from busmesh.decide.balance import BalancerSpec
from busmesh.decide.limits import NO_LIMITS, Limits

#: How each balancer chooses, by `balancer_name`.
BALANCING = {
    "LEAST_REQUEST": "of two drawn by weight, the one with fewer requests under way",
    "ROUND_ROBIN": "next in turn, by weight",
    "RANDOM": "drawn by weight",
    "PEAK_EWMA": "of two drawn by weight, the one that would probably answer first",
    "CLIENT_SIDE_WEIGHTED_ROUND_ROBIN": "next in turn, by the load that instances report",
    "ringHash": "the place of its key on the ring",
    "maglev": "the place of its key in the table",
}


def balancer_name(spec: BalancerSpec) -> str:
    """Return what chooses an instance, in one word or two."""
    name = spec.hash.algorithm if spec.hash is not None else spec.simple
    return f"{name}, sticky" if spec.sticky is not None else name


def set_limits(limits: Limits) -> dict[str, object]:
    """Return the limits that somebody set."""
    names = [each.name for each in dataclasses.fields(limits)]
    return {
        name: getattr(limits, name) for name in names if getattr(limits, name) != getattr(NO_LIMITS, name)
    }


def plainly(value: object) -> object:
    """Return settings as plain data: what JSON knows, with functions left out and sets sorted."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = [each.name for each in dataclasses.fields(value) if each.repr]
        return {name: plainly(getattr(value, name)) for name in fields}
    match value:
        case bytes():
            return value.decode("latin-1")
        case Enum():
            return plainly(value.value)
        case float() if not math.isfinite(value):
            return None
        case None | bool() | int() | float() | str():
            return value
        case frozenset() | set():
            return sorted(plainly(item) for item in value)  # type: ignore[type-var]  # of one kind each
        case tuple() | list():
            return [plainly(item) for item in value]
        case Mapping():
            return {str(name): plainly(item) for name, item in value.items()}
        case _:
            return str(value)
