"""Where requests come from: the instance beside this agent."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Origin:
    """The caller as balancing sees it.

    Attributes:
        service: as ``name.namespace``.
        instance: its name.
        locality: ``region/zone/subzone``, empty if it has none.
        labels: what it carries.
    """

    service: str = ""
    instance: str = ""
    locality: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
