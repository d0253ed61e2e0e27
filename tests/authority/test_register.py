"""The register of names over restarts."""

from __future__ import annotations

import time
from pathlib import Path

from busmesh.authority.logins import newcomers
from busmesh.authority.register import CAPACITY, Register
from busmesh.bus.accounts import BusAccounts
from busmesh.bus.nkeys import KeyPair, Role
from busmesh.identity.jointoken import Grant, JoinToken
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


def test_there_is_no_login_for_the_key_of_another(tmp_path: Path) -> None:
    """It would be taken back from its owner as well when who asked for it is revoked."""
    register = Register(Home(tmp_path / "home"), Subjects("local"))
    register.accounts = BusAccounts.generate()
    orders = SpiffeId.workload("local", ServiceName("orders"), "orders-0")
    thief = SpiffeId.workload("local", ServiceName("parcel"), "parcel-0")
    key, until = KeyPair.generate(Role.USER), time.time() + 3600
    assert register.login(orders, key.raw_public, until, 1)
    assert register.login(thief, key.raw_public, until, 2) == ""
    assert register.login(orders, key.raw_public, until, 3), "its owner may have it renewed"
    assert register.login(thief, KeyPair.generate(Role.USER).raw_public, until, 4)
    assert [issued.holder for issued in register.logins if issued.key == key.public] == [str(orders)]


def test_there_is_none_for_the_key_of_a_join_token(tmp_path: Path) -> None:
    """Whoever has joined by it knows that key."""
    register = Register(Home(tmp_path / "home"), Subjects("local"))
    register.accounts = BusAccounts.generate()
    token = JoinToken.generate("local")
    register.logins.add(newcomers(Grant(token), time.time()))
    thief = SpiffeId.workload("local", ServiceName("parcel"), "parcel-0")
    assert register.login(thief, token.bus_key().raw_public, time.time() + 3600, 1) == ""
