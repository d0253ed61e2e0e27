"""What one agent says of a dry run: how many requests it saw, and how they would fare; signed by it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from busmesh.decide.dryrun import MAX_DIFFERENCES, Comparison, Difference, most_frequent
from busmesh.members.versioned import Codec

PURPOSE = "policy.dryrun-report"
VERSION = 1
#: Of the body; an envelope takes 64 KiB. Checked before decoding.
MAX_BYTES = 56 * 1024

Stand = Literal["comparing", "refused", "ended"]
_Text = Annotated[str, StringConstraints(max_length=160)]


class Differing(BaseModel):
    """So many requests that differ in one way; the fields are those of a difference."""

    model_config = ConfigDict(frozen=True, extra="ignore", defer_build=True)

    service: _Text
    method: _Text = ""
    path: _Text = ""
    rule_before: _Text = ""
    rule_after: _Text = ""
    goes_before: _Text = ""
    goes_after: _Text = ""
    settings: tuple[_Text, ...] = Field(default=(), max_length=16)
    refused: _Text = ""
    count: int = Field(ge=1, lt=2**53)

    @classmethod
    def of(cls, difference: Difference, count: int) -> Differing:
        texts = {name: text[:160] for name, text in difference._asdict().items() if isinstance(text, str)}
        return cls(**texts, settings=difference.settings, count=count)

    @property
    def difference(self) -> Difference:
        return Difference(**{name: getattr(self, name) for name in Difference._fields})


class DryReport(BaseModel):
    """What one agent says of one dry run, from its beginning on; the signer of the envelope says it.

    Attributes:
        id: of the dry run.
        stand: "refused" with a reason, or "ended" because the policies in force have changed meanwhile.
        seen: requests of the application beside it.
        compared: those that were held against both.
        others: those that differ in a way that is not listed.
    """

    model_config = ConfigDict(frozen=True, extra="ignore", defer_build=True)

    id: str = Field(max_length=16)
    stand: Stand
    code: str = Field(default="", max_length=32)
    reason: str = Field(default="", max_length=512)
    seen: int = Field(default=0, ge=0, lt=2**53)
    compared: int = Field(default=0, ge=0, lt=2**53)
    others: int = Field(default=0, ge=0, lt=2**53)
    differences: tuple[Differing, ...] = Field(default=(), max_length=2 * MAX_DIFFERENCES)


_CODEC = Codec(DryReport, "a report of a dry run", VERSION, MAX_BYTES, ("BM5301", "BM5302", "BM5303"))


def report_of(name: str, stand: Stand, comparison: Comparison | None, code: str, reason: str) -> DryReport:
    """Return what an agent says of its comparison; None if it made none."""
    if comparison is None:
        return DryReport(id=name, stand=stand, code=code, reason=reason[:512])
    found = most_frequent(comparison.tally.counts.items())
    return DryReport(
        id=name,
        stand=stand,
        code=code,
        reason=reason[:512],
        seen=comparison.seen,
        compared=comparison.compared,
        others=comparison.tally.others,
        differences=tuple(Differing.of(difference, count) for difference, count in found),
    )


def encode(report: DryReport) -> bytes:
    """Write a report; if it is too large the rarer half of its differences is only counted."""
    body = _CODEC.encode(report)
    while len(body) > MAX_BYTES:
        kept = report.differences[: len(report.differences) // 2]
        dropped = sum(one.count for one in report.differences[len(kept) :])
        report = report.model_copy(update={"differences": kept, "others": report.others + dropped})
        body = _CODEC.encode(report)
    return body


def decode(body: bytes) -> DryReport:
    """Read the body of a signed report.

    Raises:
        RemoteProtocolError: too large (code BM5301), of another version (BM5302), or no report (BM5303).
    """
    return _CODEC.decode(body)
