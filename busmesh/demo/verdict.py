"""What the demo promises, held against what the caller has counted. Pure: figures in, promises out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from busmesh.demo.board import Board
from busmesh.demo.cast import AGENTS
from busmesh.demo.desk import Published
from busmesh.demo.ledger import CANARY_PARTS, SPLIT_PARTS, Ledger, Part, share

#: In percent, and whole numbers: 78 % is within two of 80, whatever binary fractions say.
SPLIT_PERCENT = 80
SPLIT_TOLERANCE = 2
#: Fewer requests prove nothing.
FEWEST_SPLIT = 100
FEWEST_CANARY = 10


@dataclass(frozen=True, slots=True)
class Promise:
    """One promise.

    Attributes:
        name: in two or three words.
        held: whether it was kept.
        said: the figures, on one line.
    """

    name: str
    held: bool
    said: str


def promises(board: Board) -> list[Promise]:
    """Return every promise of the demo and whether it was kept."""
    ledger = board.ledger
    return [
        split_promise(ledger.versions("orders", SPLIT_PARTS, canary=False)),
        canary_promise(ledger.versions("orders", CANARY_PARTS, canary=True)),
        policy_promise(board.published),
        no_failure_promise(ledger, board.victim),
        *no_crash_promises(board.casualties),
    ]


def split_promise(counts: Counter[str]) -> Promise:
    """80 % to v1, within two percent."""
    total = counts.total()
    held = (
        total >= FEWEST_SPLIT
        and abs(100 * counts["v1"] - SPLIT_PERCENT * total) <= SPLIT_TOLERANCE * total
        and counts["v1"] + counts["v2"] == total
    )
    said = f"{_percent(counts, 'v1')} to v1 and {_percent(counts, 'v2')} to v2, of {total:,} requests"
    return Promise("80 to 20", held, said)


def canary_promise(counts: Counter[str]) -> Promise:
    """Every request that asks for the canary gets it."""
    total = counts.total()
    held = total >= FEWEST_CANARY and counts["v2"] == total
    said = f"{counts['v2']:,} of {total:,} requests with x-canary: always went to v2"
    return Promise("canary", held, said)


def policy_promise(published: Sequence[Published]) -> Promise:
    """Every revision is in force at every agent."""
    held = len(published) == 2 and all(revision.in_force == len(AGENTS) for revision in published)
    if not published:
        return Promise("policies", False, "nothing was published")
    fewest = min(each.in_force for each in published)
    slowest = max(each.after_ms for each in published)
    said = f"{len(published)} revisions in force at {fewest} of {len(AGENTS)} agents, within {slowest:.0f} ms"
    return Promise("policies", held, said)


def no_failure_promise(ledger: Ledger, victim: str) -> Promise:
    """No request fails, whatever is killed."""
    held = ledger.failed == 0 and ledger.sent_in[Part.KILL] > 0
    said = f"{ledger.failed:,} of {ledger.total:,} requests failed"
    if victim:
        said += f", {'' if ledger.failed else 'though '}{victim} was killed"
    return Promise("no failure", held, said)


def no_crash_promises(casualties: Mapping[str, str]) -> list[Promise]:
    """Nothing ends that nobody killed; no line if so."""
    return [
        Promise("no crash", False, f"{name} ended by itself: {words.splitlines()[-1] if words else 'no log'}")
        for name, words in casualties.items()
    ]


def summary(board: Board, kept: Sequence[Promise]) -> dict[str, Any]:
    """Return all of it as plain data, for ``-o json``."""
    ledger = board.ledger
    split = ledger.versions("orders", SPLIT_PARTS, canary=False)
    canary = ledger.versions("orders", CANARY_PARTS, canary=True)
    return {
        "ok": all(promise.held for promise in kept),
        "promises": [{"name": p.name, "held": p.held, "said": p.said} for p in kept],
        "started_s": round(board.started_s, 3),
        "processes": board.processes,
        "requests": ledger.total,
        "failed": ledger.failed,
        "failures": ledger.failures,
        "split": _shares(split),
        "canary": _shares(canary),
        "killed": board.victim,
        "requests_after_kill": ledger.sent_in[Part.KILL],
        "lost_tries": board.lost_tries,
        "revisions": [
            {
                "number": revision.number,
                "file": revision.name,
                "agents": revision.agents,
                "in_force": revision.in_force,
                "after_ms": round(revision.after_ms, 1),
            }
            for revision in board.published
        ],
        "latency_ms": {
            service: dict(zip(("p50", "p99"), ledger.percentiles_ms(service), strict=True))
            for service in ("web", "orders")
        },
        "telemetry_messages": board.heard.messages,
    }


def _shares(counts: Counter[str]) -> dict[str, Any]:
    shares = {version: round(counts[version] / counts.total(), 4) for version in sorted(counts)}
    return {"requests": counts.total(), "shares": shares}


def _percent(counts: Counter[str], version: str) -> str:
    found = share(counts, version)
    return "-" if found is None else f"{found * 100:.1f} %"
