"""Who can issue certificates, and whether everybody's clock shows the same time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from busmesh.identity.profile import CLOCK_SKEW_S
from busmesh.identity.trust import TrustBundle
from busmesh.operator.attendance import Attended
from busmesh.operator.diagnosis.verdict import OTHER_HOME, Check, failed, ok, warning
from busmesh.operator.rollcall import RollCall
from busmesh.operator.wording import counted, named

#: Clocks that differ by more than this should be set, long before messages are refused at 20 s.
CLOCK_WARNING_S = 3.0
_SET_CLOCKS = f"set the clocks, for example by NTP: they may differ by {CLOCK_SKEW_S:g} s and no more"


def check_authorities(attended: Attended, bundle: TrustBundle) -> list[Check]:
    """Look at who can issue certificates: without any, nobody joins, and SVIDs end within the hour."""
    start = "start it where its home is: busmesh up, or busmesh authority run"
    issuing = [each for each in attended.authorities if each.presence.issues]
    found = []
    if issuing:
        found.append(ok("authority", f"{named(each.name for each in issuing)} answers and issues"))
    elif attended.astray:
        text = "an authority answers at a time that is not ours: it counts for nothing"
        found.append(failed("authority", text, _SET_CLOCKS))
    elif attended.dropped:
        found.append(failed("authority", "who answers as authority is not believed here", OTHER_HOME))
    elif not attended.authorities:
        text = "no authority answers: nobody can join, and SVIDs end that are not renewed"
        found.append(failed("authority", text, start))
    idle = [each.name for each in attended.authorities if not each.presence.issues]
    if idle:
        text = f"{named(idle)} answers with a root that does not issue"
        copy = "copy ca/ there from the home where the root was rotated: busmesh identity rotate"
        found.append(warning("authority", text, copy) if issuing else failed("authority", text, copy))
    behind = [each.name for each in issuing if each.presence.trust < bundle.version]
    if behind:
        text = f"{named(behind)} does not know trust bundle {bundle.version} yet"
        found.append(warning("authority", text, "does it reach the trust log? see its log"))
    return found


@dataclass(frozen=True, slots=True)
class Reading:
    """What somebody's clock showed.

    Attributes:
        who: whose it is.
        told: unix seconds that it showed when a message was signed.
        age: seconds that the message may have been signed before it was asked for.
    """

    who: str
    told: float
    age: float

    def off(self, now: float) -> float:
        """Return by how many seconds at least it is ahead (positive) or behind at our ``now``."""
        ahead = self.told - now
        return ahead if ahead > 0 else min(0.0, ahead + self.age)


def check_clocks(readings: Sequence[Reading], astray: int, now: float) -> list[Check]:
    """Compare clocks with ours.

    Args:
        readings: of those whose messages count.
        astray: messages that counted for nothing because of their time.
        now: unix seconds, when the messages came.
    """
    found = []
    if astray:
        text = (
            f"{counted(astray, 'answer was', 'answers were')} signed more than {CLOCK_SKEW_S:g} s before"
            " or after now, and counted for nothing"
        )
        found.append(failed("clocks", text, _SET_CLOCKS))
    apart = [(each, off) for each in readings if abs(off := each.off(now)) > CLOCK_WARNING_S]
    if apart:
        names = named(f"{each.who} by {off:+.0f} s" for each, off in apart)
        found.append(warning("clocks", f"clocks that differ from this machine's: {names}", _SET_CLOCKS))
    elif readings and not astray:
        found.append(ok("clocks", f"no clock differs from this one by more than {CLOCK_WARNING_S:g} s"))
    return found


def readings_of(roll: RollCall, attended: Attended) -> list[Reading]:
    """Return what the clocks of all who answered showed."""
    agents = [
        Reading(member.instance, roll.told[key], member.interval)
        for member in roll.members
        if (key := (member.name, member.instance)) in roll.told
    ]
    return agents + [Reading(f"authority {each.name}", each.told, 1.0) for each in attended.authorities]
