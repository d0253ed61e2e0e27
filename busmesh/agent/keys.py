"""The keys of token issuers: read from files, or asked of a service of the mesh, and looked at again.

Files are looked at every 5 s. A service is asked through this agent's own listener, so that it has proven
who it is like any other, and again each minute. What cannot be had leaves what was known before in force:
keys that were good are not bad because somebody is down.
"""

from __future__ import annotations

import asyncio
import http.client
import logging
import time
from collections.abc import Callable, Mapping
from urllib.parse import urlsplit

from busmesh.actors.actor import Actor
from busmesh.errors import BusmeshError
from busmesh.identity.keysets import MAX_JWKS, KeySets

log = logging.getLogger(__name__)

LOOK_S = 5.0
ASK_S = 60.0


class Wanted:
    """Other key sets are needed than before."""


class TokenKeys(Actor[Wanted]):
    """Keeps the key sets that documents name.

    Args:
        outbound: address of this agent's listener, once it listens.

    Attributes:
        on_problem: called with a key set and what is wrong with it, or an empty text once that is over.
    """

    interval = LOOK_S
    capacity = 16

    def __init__(self, outbound: Callable[[], tuple[str, int]]) -> None:
        super().__init__("keys")
        self.sets = KeySets()
        self._outbound = outbound
        self.on_problem: Callable[[str, str], None] = lambda uri, problem: None
        self._wanted: Mapping[str, float] = {}
        self._asked: dict[str, float] = {}  # when a service was last asked with success
        self.problems: dict[str, str] = {}

    def use(self, uris: Mapping[str, float]) -> None:
        """Hold the key sets at ``uris``, each with the seconds that fetching it may take; files at once."""
        self._wanted = uris
        self.sets.keep(uris)
        for known in (self._asked, self.problems):
            for uri in known.keys() - uris.keys():
                del known[uri]
        self._read_files()
        if uris:
            self.mailbox.tell(Wanted())

    async def receive(self, message: Wanted) -> None:
        await self._ask_services()

    async def tick(self) -> None:
        self._read_files()
        await self._ask_services()

    def _read_files(self) -> None:
        wrong = self.sets.read_files(self._wanted)
        for uri in self._wanted:
            if urlsplit(uri).scheme == "file":
                self._note(uri, str(wrong[uri]) if uri in wrong else "")

    async def _ask_services(self) -> None:
        for uri, timeout in list(self._wanted.items()):
            now = time.monotonic()
            if urlsplit(uri).scheme != "http" or now - self._asked.get(uri, -ASK_S) < ASK_S:
                continue
            try:
                text = await asyncio.to_thread(fetch, self._outbound(), uri, timeout)
            except BusmeshError as error:
                self._note(uri, str(error))
                continue
            if uri in self._wanted:  # still
                self._asked[uri] = now
                self.sets.put(uri, text)
                self._note(uri, "")

    def _note(self, uri: str, problem: str) -> None:
        if self.problems.get(uri, "") == problem:
            return
        if problem:
            self.problems[uri] = problem
            log.warning("keys: %s", problem)
        else:
            del self.problems[uri]
        self.on_problem(uri, problem)

    def statistics(self) -> dict[str, object]:
        return {"wanted": list(self._wanted), "problems": dict(self.problems)}


def fetch(outbound: tuple[str, int], uri: str, timeout: float) -> str:
    """Ask a service of the mesh for its key set, and wait for it: for a thread of its own.

    Raises:
        BusmeshError: no answer, another than 200, more than 64 KiB, or no text (code BM4702).
    """
    parts = urlsplit(uri)
    path = f"{parts.path}?{parts.query}" if parts.query else parts.path
    connection = http.client.HTTPConnection(*outbound, timeout=timeout)
    try:
        connection.request("GET", path, headers={"Host": parts.netloc, "Connection": "close"})
        answer = connection.getresponse()
        data = answer.read(MAX_JWKS + 1)
        if answer.status != 200:
            raise BusmeshError(
                f"{parts.netloc} answers {answer.status} when asked for its keys", code="BM4702"
            )
        if len(data) > MAX_JWKS:
            raise BusmeshError(f"the key set of {parts.netloc} is larger than 64 KiB", code="BM4702")
        return data.decode()
    except (OSError, http.client.HTTPException) as error:
        message = f"{parts.netloc} does not answer when asked for its keys: {error}"
        raise BusmeshError(message, code="BM4702") from None
    except UnicodeDecodeError:
        raise BusmeshError(f"the key set of {parts.netloc} is not UTF-8", code="BM4702") from None
    finally:
        connection.close()
