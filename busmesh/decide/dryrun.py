"""Two sets of rules held against each other on the same requests: what would go elsewhere, and how many.

Where both split at random, both are asked at the same place between 0 and 1: the one that the request path
is about to take. So 90/10 against 80/20 shows a tenth of the requests move from the one to the other and
none move back, where two independent draws would show every fourth differ.

What is counted has a bound: paths are shortened to their shape, and what is too much is counted together.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NamedTuple

from busmesh.decide.answer import DirectResponse
from busmesh.decide.request import RequestHead
from busmesh.decide.route import Rule, ServicePolicy, Target, choose_rule
from busmesh.names import ServiceName

#: Different differences that one agent counts apart.
MAX_DIFFERENCES = 100
#: Pairs of rules whose settings were compared.
MAX_PAIRS = 4096
MAX_PATH = 80
WINDOW_S = 1.0
#: What a request is given that no rule matches.
NO_RULE = "404 no_route"
#: Segments that name one thing of many: numbers, UUIDs, long words with digits.
_NAMES_ONE = re.compile(rb"[0-9]+|[0-9a-fA-F-]{16,}|(?=[^/]*[0-9])[^/]{12,}|[^/]{33,}")


class Difference(NamedTuple):
    """One way in which requests differ, before and after.

    Attributes:
        path: its shape; empty for whatever did not fit.
        rules: names, empty where none matches.
        goes: destinations, or the answer in their place.
        settings: what else changes: timeout, retries, limits.
        refused: why the request would be refused, and is not now.
    """

    service: str
    method: str
    path: str
    rule_before: str
    rule_after: str
    goes_before: str
    goes_after: str
    settings: tuple[str, ...] = ()
    refused: str = ""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a set of rules makes of one request."""

    goes: str
    target: Target | None = None
    rewritten: tuple[bytes | None, bytes] | None = None


def outcome(rule: Rule | None, head: RequestHead, place: float | None) -> Outcome:
    """Return where a rule sends a request.

    Args:
        rule: None if none matches.
        head: of the request.
        place: where the split is asked; None to take the next one of its own sequence.
    """
    if rule is None:
        return Outcome(NO_RULE)
    if rule.answer is not None:
        kind = "response" if isinstance(rule.answer, DirectResponse) else "redirect"
        return Outcome(f"{rule.answer.status} {kind}")
    split = rule.split
    assert split is not None, "a rule that does not answer sends"
    owner = rule.owner(head) if rule.owner is not None else None
    if owner is not None:
        target = split.pick_for(owner)
    else:
        target = split.pick() if place is None else split.at(place)
    rewrite = rule.rewrite
    rewritten = None if rewrite is None else (rewrite.target(head.target), rewrite.authority or b"")
    return Outcome(target.key, target, rewritten)


def changed(before: Rule, after: Rule) -> tuple[str, ...]:
    """Return which settings differ between two rules, but for where they send."""
    pairs: dict[str, tuple[object, object]] = {
        "timeout": (before.timeout, after.timeout),
        "retries": (before.retries, after.retries),
        "fault": (before.fault, after.fault),
        "mirrors": (_mirrors(before), _mirrors(after)),
        "answer": (before.answer, after.answer),
        "headers": (_headers(before), _headers(after)),
    }
    return tuple(name for name, (one, other) in pairs.items() if one != other)


def changed_target(before: Target, after: Target) -> tuple[str, ...]:
    """Return which settings differ between two revisions of one destination."""
    pairs: dict[str, tuple[object, object]] = {
        "subset": (dict(before.labels), dict(after.labels)),
        "balancer": (before.balancer, after.balancer),
        "traffic": (before.traffic, after.traffic),
        "headers": (_headers(before), _headers(after)),
    }
    return tuple(name for name, (one, other) in pairs.items() if one != other)


def _mirrors(rule: Rule) -> list[tuple[str, float]]:
    return [(mirror.target.key, mirror.fraction) for mirror in rule.mirrors]


def _headers(side: Rule | Target) -> tuple[str, str]:
    return repr(side.request_headers), repr(side.response_headers)


def shape(path: bytes) -> str:
    """Return a path with ``*`` for each segment that seems to name one thing of many, and not too long."""
    segments = (b"*" if _NAMES_ONE.fullmatch(part) else part for part in path[:1024].split(b"/"))
    text = b"/".join(segments).decode("latin-1")
    return text if len(text) <= MAX_PATH else f"{text[: MAX_PATH - 3]}..."


class Tally:
    """Counts differences, so many of them apart and the others by rule and destination, then all together."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self.counts: dict[Difference, int] = {}
        self.others = 0

    def add(self, difference: Difference) -> None:
        for found in (difference, difference._replace(path="", method="")):
            room = self._capacity if found.path else self._capacity + self._capacity // 4
            if found in self.counts or len(self.counts) < room:
                self.counts[found] = self.counts.get(found, 0) + 1
                return
        self.others += 1

    def __repr__(self) -> str:
        return f"<Tally differences={len(self.counts)} others={self.others}>"


class Comparison:
    """A second set of rules beside the one in force.

    Args:
        after: what the second set says of a service.
        reaches: says whether a destination has an instance that could be sent to.
        per_second: requests that are compared; the others are only counted.

    Attributes:
        seen: requests that came meanwhile; ``compared`` of them were held against both.
    """

    def __init__(
        self,
        after: Callable[[ServiceName], ServicePolicy],
        reaches: Callable[[Target], bool],
        per_second: int,
    ) -> None:
        self._after = after
        self._reaches = reaches
        self._per_second = per_second
        self._window_ends = 0.0
        self._left = 0
        self._rules: dict[tuple[Rule, Rule], tuple[str, ...]] = {}
        self.tally = Tally(MAX_DIFFERENCES)
        self.seen = self.compared = 0

    def look(self, service: ServiceName, head: RequestHead, rule: Rule | None, now: float) -> None:
        """Take a request whose rule was chosen and whose destination was not yet.

        Args:
            service: that it is addressed to.
            head: as it came.
            rule: of the set in force; None if none matches.
            now: monotonic seconds.
        """
        self.seen += 1
        if now >= self._window_ends:
            self._window_ends, self._left = now + WINDOW_S, self._per_second
        if not self._left:
            return
        self._left -= 1
        self.compared += 1
        found = self.compare(service, head, rule)
        if found is not None:
            self.tally.add(found)

    def compare(self, service: ServiceName, head: RequestHead, rule: Rule | None) -> Difference | None:
        """Return how a request would fare otherwise; None if just the same."""
        other = choose_rule(self._after(service), head)
        place = rule.split.upcoming() if rule is not None and rule.split is not None else None
        # Where there is nothing to choose between, the first set takes no place and any one will do.
        before = outcome(rule, head, 0.0 if place is None else place)
        after = outcome(other, head, place)
        settings = self._settings(rule, before, other, after)
        refused = self._refused(before, after)
        names = (rule.name if rule is not None else "", other.name if other is not None else "")
        if not (settings or refused) and names[0] == names[1] and before.goes == after.goes:
            return None
        path = shape(head.path)
        method = head.method[:16].decode("latin-1")
        return Difference(str(service), method, path, *names, before.goes, after.goes, settings, refused)

    def _settings(
        self, rule: Rule | None, before: Outcome, other: Rule | None, after: Outcome
    ) -> tuple[str, ...]:
        settings: tuple[str, ...] = ()
        if rule is not None and other is not None:
            known = self._rules.get((rule, other))
            if known is None:
                if len(self._rules) >= MAX_PAIRS:
                    self._rules.clear()
                known = self._rules[rule, other] = changed(rule, other)
            settings = known
        if before.target is not None and after.target is not None and before.target == after.target:
            settings += changed_target(before.target, after.target)
        if before.rewritten != after.rewritten:
            settings += ("rewrite",)
        return tuple(dict.fromkeys(settings))

    def _refused(self, before: Outcome, after: Outcome) -> str:
        """Say why a request would be refused that is not refused now; empty if it would not be."""
        now, then = self._refusal(before), self._refusal(after)
        return then if then and not now else ""

    def _refusal(self, found: Outcome) -> str:
        if found.target is None:
            return found.goes if found.goes[:1] in ("4", "5") else ""
        if found.rewritten is not None and found.rewritten[0] is None:
            return "400 bad_rewrite"
        return "" if self._reaches(found.target) else "503 no_healthy_upstream"

    def statistics(self) -> dict[str, int]:
        return {"seen": self.seen, "compared": self.compared, "differences": len(self.tally.counts)}

    def __repr__(self) -> str:
        return f"<Comparison seen={self.seen} compared={self.compared} {self.tally!r}>"


def most_frequent(counts: Iterable[tuple[Difference, int]]) -> list[tuple[Difference, int]]:
    """Sort differences, the most frequent first."""
    return sorted(counts, key=lambda pair: (-pair[1], pair[0]))
