"""``localityLbSetting`` of a load balancer: Istio's words for how far requests travel."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator, Field, model_validator

from busmesh.decide.balance import LocalitySpec
from busmesh.decide.balance.locality import TOPOLOGY, matches
from busmesh.policy.fields import Many, Model, refused
from busmesh.yamlfile import shorten

#: The rest of the world: among targets what no other names, among callers the last.
EVERYWHERE = "*"
_PLACE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
_LABEL_PRIORITY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,126}(?:=[A-Za-z0-9._/-]{0,63})?")


def _locality(text: str) -> str:
    parts = text.split("/")
    named = parts[:-1] if parts[-1] == "*" else parts
    if len(parts) > 3 or not all(_PLACE.fullmatch(part) for part in named):
        hint = "write region, region/zone or region/zone/subzone; the last may be '*'"
        raise refused("BM1263", f"{shorten(text)!r} is not a locality", hint)
    return text


def _region(text: str) -> str:
    if not _PLACE.fullmatch(text):
        raise refused("BM1265", f"{shorten(text)!r} is not a region", "failover is from region to region")
    return text


def _label_priority(text: str) -> str:
    if not _LABEL_PRIORITY.fullmatch(text):
        raise refused("BM1265", f"{shorten(text)!r} is not a label", "write label or label=value")
    return text


Locality = Annotated[str, AfterValidator(_locality)]
Region = Annotated[str, AfterValidator(_region)]
LabelPriority = Annotated[str, AfterValidator(_label_priority)]


class Distribute(Model):
    """Where the requests of callers in one locality go, in percent."""

    from_: Locality = Field(alias="from")
    to: dict[Locality, Annotated[int, Field(ge=1, le=100)]]

    @model_validator(mode="after")
    def _adds_up(self) -> Distribute:
        if sum(self.to.values()) != 100:
            message = f"the weights add up to {sum(self.to.values())}, not 100"
            raise refused("BM1264", message, "make them add up to 100")
        _refuse_overlap([place for place in self.to if place != EVERYWHERE])
        return self


class Failover(Model):
    """The region that takes over from another."""

    from_: Region = Field(alias="from")
    to: Region

    @model_validator(mode="after")
    def _elsewhere(self) -> Failover:
        if self.from_ == self.to:
            raise refused("BM1265", f"{self.from_} cannot take over from itself", "name another region")
        return self


def _refuse_overlap(localities: list[str]) -> None:
    for index, one in enumerate(localities):
        for other in localities[:index]:
            if matches(other, one) or matches(one, other):
                raise refused("BM1263", f"{one} and {other} overlap", "name each locality once")


class LocalityLbSetting(Model):
    """Which part of the world requests stay in. Callers without a locality prefer none."""

    enabled: bool | None = Field(
        None, description="By default on if this setting is given or outlierDetection is."
    )
    distribute: Many[Distribute] = Field(
        (), max_length=64, description="The first whose from matches the caller counts."
    )
    failover: Many[Failover] = Field(
        (), max_length=64, description="Where it goes when a region is ill. The nearer always comes first."
    )
    failover_priority: Many[LabelPriority] = Field(
        (),
        alias="failoverPriority",
        max_length=64,
        description="Labels; the more of them an instance has in common with the caller, the nearer it is.",
    )

    @model_validator(mode="after")
    def _fits(self) -> LocalityLbSetting:
        if self.distribute and (self.failover or self.failover_priority):
            raise refused("BM1265", "distribute and failover exclude each other", "remove one of them")
        sources = [entry.from_ for entry in self.distribute]
        _refuse_overlap(sources[:-1] if sources[-1:] == [EVERYWHERE] else sources)
        regions = [entry.from_ for entry in self.failover]
        if len(set(regions)) < len(regions):
            raise refused("BM1265", "a region has one that takes over from it", "remove the others")
        labels = {label.partition("=")[0] for label in self.failover_priority}
        if self.failover and labels & TOPOLOGY.keys():
            message = "failover and a topology label in failoverPriority exclude each other"
            raise refused("BM1265", message, "remove one of them")
        return self

    def as_spec(self) -> LocalitySpec:
        return LocalitySpec(
            distribute=tuple((entry.from_, tuple(entry.to.items())) for entry in self.distribute),
            failover=tuple((entry.from_, entry.to) for entry in self.failover),
            failover_priority=self.failover_priority,
        )
