"""Amounts in documents, each with the range that it may have."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field

from busmesh.policy.fields import Duration, refused, seconds

#: The largest number that Istio's own fields hold.
MAX_COUNT = 2**32 - 1


def _positive(duration: str) -> str:
    if seconds(duration) == 0:
        raise refused("BM1207", f"{duration} is out of range", "from 1ms to 24h")
    return duration


Span = Annotated[Duration, AfterValidator(_positive)]
Percent = Annotated[int, Field(ge=0, le=100)]
#: Of a rate that has to be reached: at 0 it would always be.
Threshold = Annotated[float, Field(gt=0, le=100)]
Count = Annotated[int, Field(ge=0, le=MAX_COUNT)]
Positive = Annotated[int, Field(ge=1, le=MAX_COUNT)]
