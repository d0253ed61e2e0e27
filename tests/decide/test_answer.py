from __future__ import annotations

import pytest

from busmesh.decide.answer import Redirect, split_port


@pytest.mark.parametrize(
    ("redirect", "authority", "target", "expected"),
    [
        (Redirect(uri=b"/new"), b"orders", b"/old?x=1", b"http://orders/new?x=1"),
        (Redirect(uri=b"/new?y=2"), b"orders", b"/old?x=1", b"http://orders/new?y=2"),
        (Redirect(uri=b"/new"), b"orders:8080", b"/old", b"http://orders:8080/new"),
        (Redirect(authority=b"shop.example"), b"orders:8080", b"/a?b", b"http://shop.example/a?b"),
        (Redirect(authority=b"shop.example:81"), b"orders", b"/a", b"http://shop.example:81/a"),
        (Redirect(scheme=b"https"), b"orders", b"/a", b"https://orders/a"),
        (Redirect(scheme=b"https"), b"orders:80", b"/a", b"https://orders/a"),
        (Redirect(scheme=b"https"), b"orders:8443", b"/a", b"https://orders:8443/a"),
        (Redirect(scheme=b"https", port=8443), b"orders:80", b"/a", b"https://orders:8443/a"),
        (Redirect(scheme=b"https", port=443), b"orders:80", b"/a", b"https://orders/a"),
        (Redirect(scheme=b"https", port=80), b"orders", b"/a", b"https://orders:80/a"),
        (Redirect(port=80), b"orders:8080", b"/a", b"http://orders/a"),
        (Redirect(scheme=b"https", port=0), b"orders:8080", b"/a", b"https://orders/a"),
        (Redirect(authority=b"b", request_port=True), b"orders:8080", b"/a", b"http://b:8080/a"),
        (Redirect(authority=b"b:9", request_port=True), b"orders", b"/a", b"http://b/a"),
        (Redirect(authority=b"b", scheme=b"https", request_port=True), b"a", b"/", b"https://b:80/"),
        (Redirect(authority=b"[::1]:9"), b"orders", b"/a", b"http://[::1]:9/a"),
        (Redirect(authority=b"b"), b"orders", b"*", b"http://b/"),
        (Redirect(uri=b"/new", authority=b"b"), b"orders", b"//evil/x", b"http://b/new"),
    ],
)
def test_where_a_redirect_leads(redirect: Redirect, authority: bytes, target: bytes, expected: bytes) -> None:
    assert redirect.location(authority, target) == expected


@pytest.mark.parametrize(
    ("authority", "expected"),
    [
        (b"a", (b"a", b"")),
        (b"a:1", (b"a", b"1")),
        (b"a:", (b"a:", b"")),
        (b"[::1]", (b"[::1]", b"")),
        (b"[::1]:9", (b"[::1]", b"9")),
    ],
)
def test_the_port_of_an_authority(authority: bytes, expected: tuple[bytes, bytes]) -> None:
    assert split_port(authority) == expected
