"""The fault of a rule: Istio's HTTPFaultInjection.

A fault that does not say how often is one of no request: so it is in Istio, whose older documentation said
"of all". Publishing one brings a warning.
"""

from __future__ import annotations

from pydantic import Field, model_validator

from busmesh.policy.fields import Duration, Model, Percent, Status, refused


class Delay(Model):
    """A pause before a request is sent on."""

    fixed_delay: Duration = Field(alias="fixedDelay")
    percentage: Percent | None = Field(None, description="Of the requests. Absent: of none, as in Istio.")
    percent: int | None = Field(None, ge=0, le=100, description="The old form of percentage.")

    @property
    def fraction(self) -> float:
        return (self.percent or 0) / 100 if self.percentage is None else self.percentage.fraction

    @model_validator(mode="after")
    def _one_share(self) -> Delay:
        if self.percentage is not None and self.percent is not None:
            raise refused("BM1242", "percentage and percent say the same", "remove percent, the old form")
        return self


class Abort(Model):
    """A response in place of sending a request on."""

    http_status: Status = Field(alias="httpStatus")
    percentage: Percent | None = Field(None, description="Of the requests. Absent: of none, as in Istio.")

    @property
    def fraction(self) -> float:
        return 0.0 if self.percentage is None else self.percentage.fraction


class HttpFault(Model):
    """Errors on purpose, to see how callers bear them. The two are drawn independently, the delay first."""

    delay: Delay | None = None
    abort: Abort | None = None

    @model_validator(mode="after")
    def _some(self) -> HttpFault:
        if self.delay is None and self.abort is None:
            raise refused("BM1246", "a fault without delay and abort is none", "add one of them")
        return self
