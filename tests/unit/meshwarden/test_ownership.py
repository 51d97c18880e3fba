"""Who may speak for which hosts and domains."""

import pytest

from meshwarden.core.faults import InvalidInput
from meshwarden.core.ownership import DOMAIN, HOST, SHARED, Ownership, parse_ownership

OWNED = parse_ownership(
    "ownership",
    b"hosts: {shop: [shop.io, '*.shop.io'], bank: [bank.io]}\ndomains: {shop: [shop, 'shop-*']}",
)


@pytest.mark.parametrize(
    ("sort", "value", "namespace", "is_allowed"),
    [
        (HOST, "shop.io", "shop", True),
        (HOST, "a.b.shop.io", "shop", True),
        (HOST, "*.a.shop.io", "shop", True),
        (HOST, "*", "shop", False),
        (HOST, "*.io", "shop", False),
        (HOST, "xshop.io", "shop", False),
        (HOST, "bank.io", "shop", False),
        (HOST, "a.bank.io", "bank", False),
        (HOST, "shop.io", "nobody", False),
        (HOST, "*", SHARED, True),
        (DOMAIN, "shop", "shop", True),
        (DOMAIN, "shop-eu", "shop", True),
        (DOMAIN, "shopping", "shop", False),
        (DOMAIN, "bank", "bank", False),
        ("subjectPrefix", "x", "bank", True),
    ],
)
def test_a_namespace_owns_what_its_patterns_cover(sort, value, namespace, is_allowed):
    assert OWNED.allows(sort, value, namespace) is is_allowed


def test_a_sort_that_the_setting_does_not_name_is_anybodys():
    assert Ownership().allows(HOST, "x.io", "shop")
    hosts = parse_ownership("ownership", b"hosts: {}")
    assert not hosts.allows(HOST, "x.io", "shop")
    assert hosts.allows(DOMAIN, "x", "shop")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("hosts: {a: ['*.x.io'], b: [y.x.io]}", "ownership:1: 'y.x.io' of 'b' lies within"),
        ("hosts: {a: [x.io], b: [x.io]}", "'x.io' of 'a' lies within 'x.io' of 'b'"),
        ("domains: {a: ['a*'], b: [ab]}", "'ab' of 'b' lies within 'a*' of 'a'"),
        ("hosts: {a: ['x.io:80']}", "no host pattern"),
        ("hosts: {a: [X.io]}", "lower case"),
        ("host: {}", "did you mean 'hosts'"),
        ("hosts: {a: x.io}", "hosts.a"),
        ("a: 1\n---\nb: 1", "one document"),
    ],
)
def test_what_is_wrong_with_it_is_told(text, told):
    with pytest.raises(InvalidInput) as caught:
        parse_ownership("ownership", text.encode())
    assert told in str(caught.value)
