"""The key sets of token issuers that are kept elsewhere: files now, and whatever an agent fetches.

Who fetches puts the text here; who verifies tokens reads it, and never waits.
"""

from __future__ import annotations

from collections.abc import Container, Iterable
from pathlib import Path
from urllib.parse import unquote, urlsplit

from busmesh.errors import BusmeshError

#: Bytes of a key set; Google's has 2,000.
MAX_JWKS = 64 * 1024
FILE = "file"


class KeySets:
    """Texts of key sets by their URI; no more than documents name, see `keep`."""

    def __init__(self) -> None:
        self._texts: dict[str, str] = {}

    def jwks(self, uri: str) -> str | None:
        return self._texts.get(uri)

    def put(self, uri: str, text: str) -> None:
        """Take what was found at ``uri``; the tokens verified by what was there before are verified anew."""
        if self._texts.get(uri) != text:
            self._texts[uri] = text

    def keep(self, uris: Container[str]) -> None:
        """Forget every key set that no document names any more."""
        self._texts = {uri: text for uri, text in self._texts.items() if uri in uris}

    def read_files(self, uris: Iterable[str]) -> dict[str, BusmeshError]:
        """Read those of ``uris`` that are files, and return what is wrong with which.

        A file that cannot be read leaves what was read before: keys that were good are not bad now.
        """
        wrong: dict[str, BusmeshError] = {}
        for uri in uris:
            if urlsplit(uri).scheme == FILE:
                try:
                    self.put(uri, read_key_file(uri))
                except BusmeshError as error:
                    wrong[uri] = error
        return wrong

    def __repr__(self) -> str:
        return f"<KeySets {len(self._texts)}>"


def read_key_file(uri: str) -> str:
    """Return the text of the key set that a ``file:///...`` URI names.

    Raises:
        BusmeshError: it cannot be read, is larger than 64 KiB, or no text.
    """
    path = Path(unquote(urlsplit(uri).path))
    try:
        if path.exists() and not path.is_file():  # reading a pipe would never end
            raise BusmeshError(f"the key set {path} is no file", code="BM4701")
        with path.open("rb") as file:
            data = file.read(MAX_JWKS + 1)
        if len(data) > MAX_JWKS:
            raise BusmeshError(f"the key set {path} is larger than 64 KiB", code="BM4701")
        return data.decode()
    except UnicodeDecodeError:
        raise BusmeshError(f"the key set {path} is not UTF-8", code="BM4701") from None
    except OSError as error:
        raise BusmeshError(
            f"the key set {path} cannot be read: {error.strerror}",
            code="BM4701",
            hint="tokens of its issuer are refused until it can",
        ) from None
