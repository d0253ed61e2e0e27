"""A caller's agent as the receiver knows it: by a session."""

from __future__ import annotations

import time

from busmesh.names import SpiffeId, Subjects
from busmesh.telemetry.series import RequestMetrics
from busmesh.wire.frame import Session


class Peer:
    """A session with a caller, and what is prepared once for all its requests.

    Attributes:
        since: when the handshake was complete (monotonic seconds).
        heard: when a frame of it was opened last that says that the caller lives.
        gone: since when somebody says, unsealed, that the caller is gone; 0 if nobody does.
    """

    __slots__ = (
        "certificate_line",
        "gone",
        "gone_head",
        "heard",
        "metrics",
        "reply_head",
        "session",
        "since",
    )

    def __init__(self, session: Session, subjects: Subjects, me: SpiffeId, fingerprint: str) -> None:
        self.session = session
        self.since = self.heard = time.monotonic()
        self.gone = 0.0
        replies = subjects.replies(session.peer.instance, session.worker, me.instance)
        self.reply_head = f"PUB {replies}".encode()
        #: Where the bus says that the caller is gone.
        self.gone_head = f"{subjects.gone_prefix(me.instance)}{session.number:x}-".encode()
        # As Envoy's x-forwarded-client-cert: who proved what to whom.
        self.certificate_line = (
            f"x-forwarded-client-cert: By={me};Hash={fingerprint};URI={session.peer}\r\n".encode()
        )
        self.metrics: RequestMetrics | None = None
