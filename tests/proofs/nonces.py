"""One life of a pair of agents: a handshake, and frames both ways, with what each was sealed with.

``python -m tests.proofs.nonces HOME FRAMES`` takes two stored SVIDs, as agents that are started again do. It
writes 20 bytes to stdout for each frame: eight that tell the key, and the nonce.
"""

from __future__ import annotations

import hashlib
import sys
import time
from pathlib import Path
from unittest.mock import patch

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from busmesh.identity.handshake import Handshake
from busmesh.identity.holder import Identity
from busmesh.identity.store import Home
from busmesh.wire.frame import Kind, Session, read_header

MESH, CALLER, INSTANCE = "local", "shop-0", "orders-0"
#: Bytes of what is written for a frame.
ENTRY = 8 + 12


class Sealer:
    """AES-256-GCM of the library that writes down each key and nonce before it seals."""

    def __init__(self, key: bytes) -> None:
        self._cipher = AESGCM(key)
        self._key = hashlib.sha256(key).digest()[:8]
        self.decrypt = self._cipher.decrypt

    def encrypt(self, nonce: bytes, plaintext: bytes, header: bytes) -> bytes:
        sys.stdout.buffer.write(self._key + nonce)
        return self._cipher.encrypt(nonce, plaintext, header)


def sessions(home: Home) -> tuple[Session, Session]:
    """Shake hands and return both ends, as the two sides of the relay make them."""
    bundle, now = home.trust(MESH), time.time()
    caller, instance = (Identity(home.agent(name).svid(), bundle) for name in (CALLER, INSTANCE))
    client = Handshake.client(caller.tls, instance.svid.id)
    server = Handshake.server(instance.tls)
    flight = client.feed(b"", now)
    while flight:
        answer = server.feed(flight, now)
        flight = client.feed(answer, now) if answer else b""
    mine, theirs = client.keys, server.keys
    return (
        Session(1, instance.svid.id, send=(mine.client_key, mine.client_iv),
                receive=(mine.server_key, mine.server_iv), started=0.0),
        Session(1, caller.svid.id, send=(theirs.server_key, theirs.server_iv),
                receive=(theirs.client_key, theirs.client_iv), started=0.0),
    )  # fmt: skip


def main(home: str, frames: str) -> None:
    with patch("busmesh.wire.frame.AESGCM", Sealer):
        caller, instance = sessions(Home(Path(home)))
    for stream in range(int(frames) // 2):
        for sender, receiver, kind in ((caller, instance, Kind.REQUEST), (instance, caller, Kind.RESPONSE)):
            frame = sender.seal(kind, stream, b"body")
            assert receiver.open(frame, read_header(frame)[2]) == b"body"


if __name__ == "__main__":
    main(*sys.argv[1:])
