"""The policy log: an append-only JetStream stream of signed revisions.

Appending states the sequence expected, so of two operators publishing at once one wins and the other is told.
Whoever may publish at all can append junk; readers pass over it, so a sequence says nothing about a
revision's number. The stream is never the only copy: every agent keeps the revisions on disk and gives them
back when the stream has lost them.
"""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from typing import Any

from busmesh.bus.bus import Bus
from busmesh.bus.messages import Message
from busmesh.errors import BusmeshError, BusUnavailable
from busmesh.names import Subjects

#: One revision, envelope included.
MAX_ENTRY = 640 * 1024
#: Entries that are asked for at once: one after the other, thousands take longer than anybody waits. They are
#: held at once too, and anybody can fill the log of an open bus with junk: more cost memory, 1.5 MiB each.
WINDOW = 16
#: A replicated stream says it with 10164 while another entry is on its way.
_WRONG_SEQUENCE = (10071, 10164)
_NO_STREAM = 10059
_READING = ("STREAM.INFO", "STREAM.MSG.GET")
_EXISTS_OTHERWISE = 10058
#: Not enabled on the server, and not for this account.
_NO_JETSTREAM = (10076, 10039)
_HINT = "the NATS server needs JetStream (`busmesh up` enables it; else `nats-server -js`)"


class RevisionConflict(BusmeshError):
    """Somebody else published a revision first."""


class LogUnavailable(BusUnavailable):
    """The bus stands, but its JetStream does not answer or is not enabled."""


class PolicyLog:
    """Reads and appends entries; knows nothing of what is in them."""

    what = "policy log"
    entry = "revision"

    def __init__(self, bus: Bus, subjects: Subjects) -> None:
        self._bus = bus
        self._subjects = subjects
        self._stream = subjects.policy_stream
        self._subject = subjects.revision
        self._abroad = False

    async def _api(self, verb: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        """Call the JetStream API; an error comes back as the answer's ``error``, which is a dict then."""
        payload = json.dumps(body).encode() if body is not None else b""
        subject = f"$JS.API.{verb}.{self._stream}"
        if self._abroad and verb in _READING:
            subject = self._subjects.log_api(subject)
        try:
            answer = await self._bus.request(subject, payload, timeout=2.0)
        except BusUnavailable as error:
            raise LogUnavailable(
                f"the {self.what} cannot be reached: {error.message}",
                code="BM3101",
                hint=_HINT,
            ) from None
        return _json(answer)

    async def last(self) -> int:
        """Return the number of the last revision, 0 for an empty log or none at all."""
        # A login to the mesh's account of a locked bus asks elsewhere; it may be replaced while we run.
        self._abroad = self._bus.options.grants(self._subjects.log_api(f"$JS.API.STREAM.INFO.{self._stream}"))
        answer = await self._api("STREAM.INFO")
        if "error" in answer:
            if answer["error"].get("err_code") == _NO_STREAM:
                return 0
            raise _refused(answer)
        try:
            return int(answer["state"]["last_seq"])
        except (KeyError, TypeError, ValueError, OverflowError):
            raise LogUnavailable("JetStream answered without the log's state", code="BM3103") from None

    async def ensure(self) -> None:
        """Make the stream unless it exists."""
        answer = await self._api(
            "STREAM.CREATE",
            {
                "name": self._stream,
                "subjects": [self._subject],
                "retention": "limits",
                "storage": "file",
                "discard": "new",
                "max_msg_size": MAX_ENTRY,
                "max_msgs": -1,
                "max_bytes": -1,
                "max_age": 0,
                "num_replicas": 1,
                "allow_direct": True,
                "deny_delete": True,
                "deny_purge": True,
            },
        )
        if "error" in answer and answer["error"].get("err_code") != _EXISTS_OTHERWISE:
            raise _refused(answer)

    async def read(self, after: int, most: int | None = None) -> list[tuple[int, bytes]]:
        """Return (sequence, entry) of what comes after ``after``, in order: all of it, or the first ``most``.

        Raises:
            LogUnavailable: no JetStream, or it stopped answering in the middle.
        """
        last = await self.last()
        if most is not None:
            last = min(last, after + most)
        return [entry async for batch in self.batches(after, last) for entry in batch]

    async def batches(self, after: int, last: int) -> AsyncIterator[list[tuple[int, bytes]]]:
        """Yield (sequence, entry) of what comes after ``after``, up to ``last``, in order, a few at a time.

        Raises:
            LogUnavailable: no JetStream, or it stopped answering in the middle.
        """
        while after < last:
            sequences = range(after + 1, min(after + WINDOW, last) + 1)
            found = await asyncio.gather(*map(self._get, sequences), return_exceptions=True)
            for entry in found:
                if isinstance(entry, BaseException):
                    raise entry
            yield list(zip(sequences, found, strict=True))  # type: ignore[arg-type]  # exceptions are out
            after = sequences[-1]

    async def _get(self, sequence: int) -> bytes:
        answer = await self._api("STREAM.MSG.GET", {"seq": sequence})
        if "error" in answer:
            raise _refused(answer)
        return _entry(answer)

    async def append(self, entry: bytes, sequence: int) -> None:
        """Append ``entry`` as the one of this ``sequence``.

        Raises:
            RevisionConflict: the log has another length.
            LogUnavailable: nobody stored it.
        """
        try:
            answer = await self._bus.request(
                self._subject,
                entry,
                timeout=3.0,
                headers={"Nats-Expected-Last-Sequence": str(sequence - 1)},
            )
        except BusUnavailable as error:
            raise LogUnavailable(f"the {self.entry} was not stored: {error.message}", code="BM3102") from None
        result = _json(answer)
        if "error" in result:
            if result["error"].get("err_code") in _WRONG_SEQUENCE:
                raise RevisionConflict(
                    "somebody else published a moment ago",
                    code="BM3104",
                    hint="look at `busmesh policy history` and publish again",
                )
            raise _refused(result)
        if (result.get("stream"), result.get("seq")) != (self._stream, sequence):
            # Agents listen on the subject too, and anybody may answer.
            raise LogUnavailable(f"somebody else than the {self.what} took the {self.entry}", code="BM3103")


class TrustLog(PolicyLog):
    """The same for what the mesh believes: trust bundles and revocations, in a stream of their own.

    Its order means little: a bundle has a number, and a revocation holds wherever it stands.
    """

    what = "trust log"
    entry = "entry"

    def __init__(self, bus: Bus, subjects: Subjects) -> None:
        super().__init__(bus, subjects)
        self._stream = subjects.trust_stream
        self._subject = subjects.trust


def _json(message: Message) -> dict[str, Any]:
    try:
        answer = json.loads(message.payload)
    except (ValueError, RecursionError):  # UnicodeDecodeError is a ValueError
        answer = None
    if not isinstance(answer, dict) or not isinstance(answer.get("error", {}), dict):
        raise LogUnavailable("JetStream answered with something else than an object", code="BM3103")
    return answer


def _entry(answer: dict[str, Any]) -> bytes:
    try:
        # An entry without a byte comes without the field.
        return base64.b64decode(answer["message"].get("data", ""), validate=True)
    except (KeyError, TypeError, AttributeError, ValueError):
        raise LogUnavailable("JetStream answered with a message that cannot be read", code="BM3103") from None


def _refused(answer: dict[str, Any]) -> LogUnavailable:
    error = answer["error"]
    hint = _HINT if error.get("err_code") in _NO_JETSTREAM else ""
    return LogUnavailable(
        f"JetStream refused: {str(error.get('description', error))[:200]}", code="BM3103", hint=hint
    )
