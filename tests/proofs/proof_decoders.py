"""Every decoder of what comes over the bus, for BUSMESH_PROOF_SECONDS each, a minute by default.

Junk, damaged messages, and sealed ones that are hostile inside: each is read or refused by the error that is
promised, within 50 ms of the processor for 64 KiB. tests/decoders holds the same for some hundred examples
each, and that no decoder is missing here.
"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.decoders.decoder import Decoder
from tests.decoders.table import DECODERS
from tests.proofs.fuzzing import LONG, SECONDS, keep_on

pytestmark = pytest.mark.timeout(5 * SECONDS + 60)


@pytest.mark.parametrize("decoder", DECODERS, ids=str)
def proof_that_whatever_comes_is_read_or_refused(decoder: Decoder) -> None:
    taken = total = 0

    @LONG
    @given(st.data())
    def attempt(data: st.DataObject) -> None:
        nonlocal taken, total
        message = data.draw(decoder.messages())
        decoder.examine(message)
        total += 1
        if total % 16 == 0:
            taken += decoder.takes(message)

    keep_on(attempt)
    print(f"{decoder}: {total} messages, about {100 * 16 * taken / max(1, total):.0f} % of them taken")
