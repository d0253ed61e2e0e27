"""One instance's part of a limit that all instances of a service keep together, without a central server.

Every agent tells the others how much is asked of it and how much it admitted. From that each works out the
same division: who is asked for less than an equal part gets what it needs, the others share what is left in
equal parts (max-min fairness; Bertsekas and Gallager, Data Networks, section 6.5). So traffic that meets
one instance alone may use the whole limit there.

That alone would be off: reports are late, demand moves, an instance does not use all that it was given. So
each agent also keeps the account of the whole limit: the rate times the time that passed, less all that was
admitted. What is missing in it is given out in addition, what is too much is held back, within a quarter of
a second. The accounts of the agents are drawn to their median.

Nobody's word can hurt much. An instance that claims any demand gets an equal part of what the others want
as well; whatever is claimed, nobody goes below its equal part of the limit, one n-th among n instances; and
no account makes a rate of more than 1.4 times the limit, and that only until it is used up. What an
instance admits itself is for its own agent to decide in any case.

What this keeps: while more is asked than the limit, 5 instances at 100 a second admit 95 to 105 in each
second, 99 times of 100 also if requests come at random; within two seconds also after all the traffic has
moved to another instance, or one has died or joined; with reports 0 to 50 ms late and one in ten lost. The
average is within 1 %. Where the traffic of instances with less than their equal part comes at random, each
second has the randomness of that part, and the average stays. A limit below some requests a second per
instance is kept to one or two requests per instance, and over minutes.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from statistics import median

from busmesh.decide.sharereport import Entry
from busmesh.decide.tokenbucket import TokenBucket

#: Seconds between two reports. Half of it would cost double and take a third off the swing of the total;
#: twice as long would double the swing.
PERIOD_S = 0.1
#: Part of the account's balance that is given out, or held back, per second. More corrects sooner; but what
#: is known of the others is 0.1 to 0.2 s old, and from 8 on the total begins to ring, by 9 % at 12.
GAIN = 4.0
#: Seconds over which demand is averaged. Shorter: it jumps with each random burst. Longer: the old share
#: stands longer after traffic has moved.
DEMAND_S = 0.3
#: What is offered to demand beyond its average, so that an instance can use its peaks.
HEADROOM = 1.25
#: The most that the account remembers, in seconds of the limit: of what was not used, and of what was too
#: much.
CREDIT_S = 0.1
DEBT_S = 0.25
#: Seconds in which accounts that differ come together. They are kept with reports that are late and lost at
#: different times; without this the one with the larger balance would take from the others for ever.
AGREEMENT_S = 0.5
#: Seconds that a key with new traffic keeps to its equal part: it may have begun everywhere at once, and
#: the others are heard one period later.
HOLD_S = 0.25
#: Part of the limit for an agent that cannot have heard the others yet.
NEWCOMER = 0.1
#: Tokens that a bucket holds at least, if the burst allows it: with one, a request that comes a little late
#: finds that a token was lost.
LEAST_DEPTH = 2.0


def fair_level(capacity: float, demands: Iterable[float]) -> float:
    """Return what each demand is cut to so that together they fit: infinite if they fit as they are."""
    waiting = sorted(demands)
    count = len(waiting)
    for index, demand in enumerate(waiting):
        level = capacity / (count - index)
        if demand > level:
            return level
        capacity -= demand
    return math.inf


def fair_share(capacity: float, mine: float, others: Iterable[float]) -> float:
    """Return my part of ``capacity``: max-min fair, and an equal part of what nobody asks for."""
    demands = [mine, *others]
    level = fair_level(capacity, demands)
    if level < math.inf:
        return min(mine, level)
    return mine + (capacity - sum(demands)) / len(demands)


def depth(burst: float, part: float) -> float:
    """Return how many tokens an instance with this ``part`` (0 to 1) of a limit may save up."""
    return max(burst * min(part, 1.0), min(LEAST_DEPTH, burst))


class Share:
    """This instance's part of one key of one limit: a bucket whose rate follows what the others report.

    Attributes:
        key: what the others call it.
        total: requests per second for all instances together.
        burst: requests at once, for all instances together.
        bucket: what is admitted here.
        demand: requests per second that came here, averaged.
        admitted: how many were, since the beginning.
        balance: of the account: requests that all together may still make up for, below 0 if too many were
            admitted.
        active: whether others are told of it. The bucket of one that is not goes on at the last rate.
    """

    __slots__ = (
        "_at",
        "_booked",
        "_busy",
        "_offered",
        "_seen",
        "_since",
        "active",
        "admitted",
        "balance",
        "bucket",
        "burst",
        "demand",
        "key",
        "total",
    )

    def __init__(self, key: bytes, total: float, burst: float, part: float, now: float) -> None:
        """Begin with a ``part`` (above 0, up to 1) of the rate and of the burst, and a full bucket."""
        self.key = key
        self.total = total
        self.burst = burst
        self.bucket = TokenBucket(total * part, depth(burst, part), now)
        self.admitted = 0
        self.begin(part, now)
        self.active = False

    def begin(self, part: float, now: float) -> None:
        """Begin to share: traffic has come, perhaps everywhere at once."""
        self._at = self._since = self._busy = now
        self._booked = self.admitted
        self._offered = 0
        self._seen: dict[str, int] = {}
        self.demand = self.balance = 0.0
        self.active = True
        self.keep_to(part, now)

    def keep_to(self, part: float, now: float) -> None:
        """Go on with this part of the rate and of the burst."""
        self._set(self.total * part, now)

    def idle(self, now: float) -> float:
        """Return the seconds since the last tick that found a request."""
        return now - self._busy

    def full(self, now: float) -> bool:
        """Whether nothing is lost if the bucket is forgotten."""
        return self.bucket.advance(now) >= self.bucket.burst

    def offered(self) -> None:
        """Count a request that this limit alone decides on."""
        self._offered += 1

    def take(self, now: float) -> None:
        """Admit a request for which there is a token."""
        self.bucket.take(now)
        self.admitted += 1

    def tick(
        self, now: float, reports: Mapping[str, Entry], instances: int, *, settled: bool = True
    ) -> float:
        """Work out the rate for the next period and return it.

        Args:
            now: seconds.
            reports: the last that each other instance said of this key; without those that are too old.
            instances: how many share the limit, this one and those without traffic included.
            settled: whether this agent can have heard the others.
        """
        passed = now - self._at
        if passed > 0:
            self._at = now
            recent = 1.0 - math.exp(-passed / DEMAND_S)
            self.demand += recent * (self._offered / passed - self.demand)
            if self._offered:
                self._busy = now
                self._offered = 0
            self._book(passed, reports, instances)
            self._set(self._rate(now, reports, instances, settled), now)
        return self.bucket.rate

    def _book(self, passed: float, reports: Mapping[str, Entry], instances: int) -> None:
        """Bring the account up to date with what was admitted here and is known of elsewhere."""
        admitted = self.admitted - self._booked
        self._booked = self.admitted
        seen = self._seen
        for peer, entry in reports.items():
            # Whoever counts from 0 again has restarted; the first count that is heard says nothing yet.
            admitted += max(0, entry.admitted - seen.get(peer, entry.admitted))
        self._seen = {peer: entry.admitted for peer, entry in reports.items()}
        balance = self.balance + self.total * passed - admitted
        agreed = median([balance, *(entry.balance for entry in reports.values())])
        balance += (1.0 - math.exp(-passed / AGREEMENT_S)) * (agreed - balance)
        debt = max(DEBT_S * self.total, 2.0 * instances)
        self.balance = min(max(balance, -debt), max(CREDIT_S * self.total, 1.0))

    def _rate(self, now: float, reports: Mapping[str, Entry], instances: int, settled: bool) -> float:
        equal = self.total / max(instances, 1 + len(reports))
        if not settled or instances <= 1 or now - self._since < HOLD_S:
            self.balance = 0.0
            return min(equal, self.total if settled else self.total * NEWCOMER)
        mine, others = self.demand * HEADROOM, [entry.demand * HEADROOM for entry in reports.values()]
        capacity = self.total
        if self.balance < 0 or mine + sum(others) > capacity:
            capacity = max(capacity + GAIN * self.balance, 0.0)
        return max(fair_share(capacity, mine, others), equal)

    def _set(self, rate: float, now: float) -> None:
        self.bucket.change(rate, depth(self.burst, rate / self.total), now)

    def __repr__(self) -> str:
        return (
            f"<Share {self.key.hex()} rate={self.bucket.rate:.1f} of {self.total:g} demand={self.demand:.1f}"
            f" admitted={self.admitted} balance={self.balance:.1f} peers={len(self._seen)}>"
        )
