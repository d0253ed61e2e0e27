"""Junk at a fixed rate: ``python -m tests.proofs.junk PORT RATE SECONDS SUBJECT...``, to each in turn.

A process of its own, so that its work is on nobody's event loop. At the end it prints how many messages the
server has taken and in how many seconds, as a JSON line.
"""

from __future__ import annotations

import json
import sys
import time

import msgpack

from tests.security.rogue import Rogue

#: Messages in one write.
BATCH = 20


def main(port: str, rate: str, seconds: str, *subjects: str) -> None:
    sent, began = 0, time.monotonic()
    with Rogue(int(port)) as rogue:
        print(json.dumps({"started": True}), flush=True)
        while (now := time.monotonic() - began) < float(seconds):
            if sent >= now * float(rate):
                time.sleep(0.002)
                continue
            subject = subjects[sent // BATCH % len(subjects)]
            payloads = [msgpack.packb([1, (sent + n).to_bytes(16), b"junk" * 50]) for n in range(BATCH)]
            rogue.publish_all(subject, payloads, b"busmesh.local.inbox.rogue.1")
            sent += BATCH
        rogue.flush()
    print(json.dumps({"sent": sent, "seconds": time.monotonic() - began}), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
