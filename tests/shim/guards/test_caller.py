from __future__ import annotations

import pytest
from starlette.datastructures import Address

from shim.guards.caller import caller_of


@pytest.mark.parametrize(
    ("address", "caller"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2::7", "2001:db8:1:2::/64"),
        ("2001:DB8:1:2:ffff:ffff:ffff:ffff", "2001:db8:1:2::/64"),
        ("2001:db8:1:3::7", "2001:db8:1:3::/64"),
        ("fe80::7%eth0", "fe80::/64"),
        ("::1", "::/64"),
        ("a proxy's word", "a proxy's word"),
    ],
)
def test_a_caller_is_an_address_or_the_64_of_an_ipv6_one(address: str, caller: str) -> None:
    assert caller_of(Address(address, 50_000)) == caller


def test_who_has_no_address_is_nobody() -> None:
    assert caller_of(None) == ""
