"""The register of names over restarts."""

from __future__ import annotations

import time
from pathlib import Path

from busmesh.authority.register import CAPACITY, Register
from busmesh.identity.store import Home
from busmesh.names import ServiceName, SpiffeId, Subjects


def test_a_full_register_of_the_longest_names_is_read_again(tmp_path: Path) -> None:
    """An authority that cannot read its own register would not start any more."""
    home, until = Home(tmp_path / "home"), time.time() + 3600.123456
    service = ServiceName("s" * 63, "n" * 63)
    register = Register(home, Subjects("local"))
    for number in range(CAPACITY):
        assert register.claim(SpiffeId.workload("local", service, f"{number:063}"), until)
    assert not register.claim(SpiffeId.workload("local", service, "one-more"), until)
    register.save()
    again = Register(home, Subjects("local"))
    assert again.owner(f"{CAPACITY - 1:063}") == str(service)
    assert not again.claim(SpiffeId.workload("local", ServiceName("other"), f"{0:063}"), until)
