"""How busy an instance is: what its application says of itself, and what its agent counts.

Applications say it in the header ``endpoint-load-metrics`` of their responses, in the text formats of ORCA
(xds.data.orca.v3.OrcaLoadReport), as Envoy and gRPC read it::

    endpoint-load-metrics: TEXT cpu_utilization=0.3,rps_fractional=120
    endpoint-load-metrics: JSON {"application_utilization": 0.3}

Where Envoy tells each caller with each response, here the agent takes the report and announces it once a
second, so that callers which get few responses, or none yet, know as much as the others.
"""

from __future__ import annotations

import json
import math
from typing import NamedTuple

from pydantic import BaseModel, ConfigDict, Field

#: A report of more bytes is not read.
MAX_REPORT = 4096
#: A report this old says nothing of now, in seconds.
STALE_S = 10.0
#: What JSON calls the fields, if it is written by protobuf.
_CAMEL = {
    "cpuUtilization": "cpu_utilization",
    "applicationUtilization": "application_utilization",
    "rpsFractional": "rps_fractional",
}


class Load(BaseModel):
    """What an instance announces of its load.

    Attributes:
        qps: requests per second, whoever sent them.
        eps: those of them that failed.
        utilisation: of what it can do; 1.0 is all.
    """

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)

    qps: float = Field(ge=0, le=1e9)
    eps: float = Field(ge=0, le=1e9)
    utilisation: float = Field(ge=0, le=1e6)


class Report(NamedTuple):
    """What an application says; None for what it does not say."""

    utilisation: float
    qps: float | None
    eps: float | None


def read_report(value: bytes) -> Report | None:
    """Read the value of ``endpoint-load-metrics``.

    The utilisation is ``application_utilization`` if that is set, else ``cpu_utilization`` (as Envoy's
    client-side weighted round robin has it).

    Returns:
        None if it is malformed, too long, in ORCA's binary format, or says nothing of the utilisation.
    """
    if len(value) > MAX_REPORT:
        return None
    form, _, text = value.decode("latin-1").strip(" \t").partition(" ")
    try:
        said = _read_json(text) if form == "JSON" else _read_text(text) if form == "TEXT" else {}
    except (ValueError, OverflowError, RecursionError):  # an integer may be larger than any float
        return None
    utilisation = said.get("application_utilization") or said.get("cpu_utilization")
    if not utilisation:
        return None
    return Report(utilisation, said.get("rps_fractional") or None, said.get("eps"))


def _read_text(text: str) -> dict[str, float]:
    pairs = (item.partition("=") for item in text.split(","))
    return {name.strip(): _number(float(number)) for name, _, number in pairs}


def _read_json(text: str) -> dict[str, float]:
    fields = json.loads(text)
    if not isinstance(fields, dict):
        raise ValueError("not an object")
    return {
        _CAMEL.get(str(name), str(name)): _number(value)
        for name, value in fields.items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    }


def _number(value: float) -> float:
    if not (math.isfinite(value) and 0 <= value <= 1e6):
        raise ValueError("not a figure that a report has")
    return float(value)


class LoadMeter:
    """Makes an announcement's load out of totals that only grow, and the application's latest report."""

    def __init__(self) -> None:
        self._at: float | None = None
        self._served = self._failed = 0

    def measure(self, served: int, failed: int, report: Report | None, now: float) -> Load | None:
        """Return the load since the last call; None at the first one, or if the application reports nothing.

        Args:
            served: requests answered since the start.
            failed: those with a status of 500 or more.
            report: the application's, if it is not stale.
            now: monotonic seconds.
        """
        since, self._at = self._at, now
        more, wrong = served - self._served, failed - self._failed
        self._served, self._failed = served, failed
        if report is None or since is None or now <= since:
            return None
        qps = more / (now - since) if report.qps is None else report.qps
        eps = wrong / (now - since) if report.eps is None else report.eps
        return Load(qps=min(qps, 1e9), eps=min(eps, 1e9), utilisation=report.utilisation)

    def __repr__(self) -> str:
        return f"<LoadMeter served={self._served} failed={self._failed}>"
