"""What the server says when a login lacks a right, and what can be done about it."""

from __future__ import annotations

import re
from dataclasses import dataclass

_VIOLATION = re.compile(r"permissions violation for (publish|subscription) to \"([^\"]*)\"", re.IGNORECASE)

_OPERATORS = (
    "only operators change policies: run this in the home that holds an operator's key "
    "(--home, BUSMESH_HOME), or name the login: --creds operator/NAME.creds"
)
_LOOKING = (
    "an operator's login may do this, and an observer's: --creds FILE; `busmesh bus login NAME` makes one "
    "in the home of the authority"
)
_MEMBERS = (
    "an agent's login is good for its own instance and service: start it under the name that it enrolled "
    "with, or remove bus.creds and svid.key from agents/INSTANCE in its home, so that it enrols again"
)
_NEWCOMERS = "a newcomer's login comes with the join token: copy the whole file, and name it with --join"
_OTHERS = (
    "grant it in your NATS server, or lock the bus by `busmesh bus config`, which grants what busmesh needs"
)

#: By what follows ``busmesh.<mesh>.``; publishing and subscribing differ where a pair is given.
_HINTS: dict[str, str] = {
    "authority": _NEWCOMERS,
    "member": _MEMBERS,
    "who": _MEMBERS,
    "relay": _MEMBERS,
    "session": _MEMBERS,
    "reply": _MEMBERS,
    "gone": _MEMBERS,
    "inbox": _MEMBERS,
    "limits": _MEMBERS,
    "evidence": _MEMBERS,
    "roll": _LOOKING,
}


@dataclass(frozen=True, slots=True)
class Denial:
    """One refusal by the server.

    Attributes:
        publishing: True for a publish, False for a subscription.
        subject: what it was about.
        holder: whose login it was, as the login itself says; empty if it does not.
    """

    publishing: bool
    subject: str
    holder: str = ""

    @classmethod
    def parse(cls, text: str, holder: str = "") -> Denial | None:
        """Read the text of an ``-ERR``; None if it is about something else."""
        found = _VIOLATION.search(text)
        return None if found is None else cls(found.group(1).lower() == "publish", found.group(2), holder)

    @property
    def message(self) -> str:
        """One line that names the login and the subject."""
        verb = "publish to" if self.publishing else "subscribe to"
        who = f"the login of {self.holder}" if self.holder else "this login"
        return f"the bus refused: {who} may not {verb} {self.subject}"

    @property
    def hint(self) -> str:
        """What to do next."""
        if self.subject.startswith("$JS.API."):
            return _OPERATORS
        words = self.subject.split(".")
        if len(words) < 3 or words[0] != "busmesh":
            return _OTHERS
        if words[2:] == ["authority", "attendance"]:
            return _LOOKING
        if words[2] == "policy":
            if words[3:] in (["revision"], ["dryrun"]):
                return _OPERATORS
            return _MEMBERS if self.publishing else _LOOKING
        if words[2] == "telemetry":
            return _MEMBERS if self.publishing else _LOOKING
        return _HINTS.get(words[2], _OTHERS)
