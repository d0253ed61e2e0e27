"""What one caller tells the others about the instances of a service, as plain data.

Who reports is not in it: that is what the signature around it proves.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from busmesh.errors import InvalidName, RemoteProtocolError
from busmesh.names import ServiceName, token

VERSION = 1
#: Instances of which one report may speak.
MAX_SEEN = 1024
#: Far above what a report of so many takes; to be looked at before decoding.
MAX_BYTES = 128 * 1024
_MAX_COUNT = 2**31 - 1


class Seen(NamedTuple):
    """What one reporter saw of one instance lately: calls, those that failed, and whether it ejected it."""

    calls: int
    failures: int
    ejected: bool


def merged(views: Iterable[Mapping[str, Seen]]) -> dict[str, Seen]:
    """Return what several detectors of one agent saw together: an instance may belong to several subsets."""
    together: dict[str, Seen] = {}
    for view in views:
        for instance, (calls, failures, ejected) in view.items():
            before = together.get(instance, Seen(0, 0, False))
            together[instance] = Seen(
                before.calls + calls, before.failures + failures, before.ejected or ejected
            )
    return together


@dataclass(frozen=True, slots=True)
class Report:
    """What one reporter saw of the instances of ``service``."""

    service: ServiceName
    seen: Mapping[str, Seen]

    def to_plain(self) -> dict[str, object]:
        """Return the report as it travels."""
        return {
            "v": VERSION,
            "service": self.service.name,
            "namespace": self.service.namespace,
            "seen": {
                name: [view.calls, view.failures, int(view.ejected)] for name, view in self.seen.items()
            },
        }


def parse_report(plain: object) -> Report:
    """Read a report that came from the bus, decoded but otherwise unchecked.

    Raises:
        RemoteProtocolError: it is none, speaks of too many instances, or counts what cannot be.
    """
    if not isinstance(plain, dict) or plain.get("v") != VERSION:
        raise RemoteProtocolError("no report of a version known here", code="BM5201")
    seen = plain.get("seen")
    if not isinstance(seen, dict) or len(seen) > MAX_SEEN:
        raise RemoteProtocolError(f"a report speaks of at most {MAX_SEEN} instances", code="BM5202")
    try:
        service = ServiceName(_name(plain.get("service")), _name(plain.get("namespace")))
        views = {_name(name): _view(value) for name, value in seen.items()}
    except InvalidName as error:
        raise RemoteProtocolError(f"a report that cannot be read: {error.message}", code="BM5203") from None
    return Report(service, views)


def _name(value: object) -> str:
    if not isinstance(value, str):
        raise RemoteProtocolError("a name in a report is no text", code="BM5203")
    return token(value, "name")


def _view(value: object) -> Seen:
    match value:
        case [int(calls), int(failures), int(ejected)] if (
            0 <= failures <= calls <= _MAX_COUNT and ejected in (0, 1)
        ):
            return Seen(calls, failures, bool(ejected))
    raise RemoteProtocolError("a report counts what cannot be", code="BM5203")
