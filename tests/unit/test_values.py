"""Parsers of MACs, names and addresses."""
# ruff: noqa: E501  (tables of inputs and messages)

import ipaddress

import pytest

from vmnet_hooks import values
from vmnet_hooks.errors import one_line


@pytest.mark.parametrize("text", ["tap0", "eth0.222", "vnet12", "a", "a23456789012345", "br-ex", "if@2", "1x"])
def test_ifname(text):
    assert values.ifname(text) == text


@pytest.mark.parametrize(
    "text", ["", ".", "..", "a/b", "a b", "a" * 16, "-a", "a\n", 'a"', "a*", "täp", "a:b", "all", "default", None, 3, True, ["a"]]
)
def test_not_an_ifname(text):
    with pytest.raises(ValueError):
        values.ifname(text)


@pytest.mark.parametrize(
    ("text", "mac"),
    [
        ("52:54:00:AA:00:10", "52:54:00:aa:00:10"),
        ("52-54-00-aa-00-10", "52:54:00:aa:00:10"),
        ("00:00:00:00:00:01",) * 2,
    ],
)
def test_mac(text, mac):
    assert values.mac(text) == mac


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("52:54:00:aa:00", "is not a MAC"),
        ("52:54:00:aa:00:1g", "is not a MAC"),
        ("525400aa0010", "is not a MAC"),
        ("52:54:00:aa:00:10\n", "is not a MAC"),
        ("01:00:5e:00:00:01", "multicast"),
        ("ff:ff:ff:ff:ff:ff", "multicast"),
        ("00:00:00:00:00:00", "zero MAC"),
        (3, "is int, not a string"),
    ],
)
def test_not_a_mac(text, message):
    with pytest.raises(ValueError, match=message):
        values.mac(text)


@pytest.mark.parametrize("text", ["public", "a", "a.b-c_d+e", "_x", "a" * 63])
def test_name(text):
    assert values.name(text) == text


@pytest.mark.parametrize("text", ["", "a" * 64, ".a", "-a", "a b", "a/b", "ä", "a\n", 1, None])
def test_not_a_name(text):
    with pytest.raises(ValueError):
        values.name(text)


def test_address():
    assert str(values.address("2001:DB8:0::10")) == "2001:db8::10"
    for text in ("192.0.2.1/24", "192.0.2.01", "x", "", 3, None, "fe80::1%eth0"):
        with pytest.raises(ValueError):
            values.address(text)


def test_integer_is_no_boolean():
    parse = values.integer(1, 3)
    assert parse(1) == 1 and parse(3) == 3
    for value in (0, 4, True, 1.0, "1", None):
        with pytest.raises(ValueError, match="from 1 to 3"):
            parse(value)


@pytest.mark.parametrize(
    ("mac", "address"),
    [
        # RFC 4291 appendix A: 34-56-78-9A-BC-DE becomes 3656:78FF:FE9A:BCDE (the u bit is flipped).
        ("34:56:78:9a:bc:de", "2001:db8::3656:78ff:fe9a:bcde"),
        ("52:54:00:aa:00:10", "2001:db8::5054:ff:feaa:10"),
        ("02:00:00:00:00:01", "2001:db8::ff:fe00:1"),
        ("fe:ff:ff:ff:ff:ff", "2001:db8::fcff:ffff:feff:ffff"),
    ],
)
def test_eui64(mac, address):
    assert str(values.eui64(ipaddress.IPv6Network("2001:db8::/64"), mac)) == address


def test_one_line():
    assert one_line("a\nb\tc\x1b[31m\u202e\u2028") == "a\\nb\\tc\\x1b[31m\\u202e\\u2028"
    assert one_line("grün 域") == "grün 域"


# --- VLAN IDs --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "vids"),
    [([], ()), ([10], (10,)), (["20-22", 10, 21], (10, 20, 21, 22)), ([1, 4094], (1, 4094)), (["7-7"], (7,)), ([3, 3], (3,))],
)
def test_vids(value, vids):
    assert values.vids(value) == vids


def test_every_vid():
    assert values.vids(["1-4094"]) == tuple(range(1, 4095))
    assert values.ranges(range(1, 4095)) == "1-4094"


@pytest.mark.parametrize(
    "value",
    [
        *(10, "10", None, {}, True, "10-20", (10,)),
        *([0], [4095], [-1], [True], [1.0], [None], ["10"], [""], ["-"], ["1-"], ["-1"], ["20-10"], ["0-3"], ["4000-4095"]),
        *(["1-2-3"], ["a-b"], ["1 - 2"], [" 1-2"], ["1-2 "], ["+1-2"], ["0x1-0x2"], [[1]], [10**4000], ["1-" + "9" * 5000]),
        *(["²-³"], ["1–2"], ["10,20"]),
    ],
    ids=lambda value: repr(value)[:30],
)
def test_no_vids(value):
    with pytest.raises(ValueError) as caught:
        values.vids(value)
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize(
    ("numbers", "text"),
    [((), ""), ((5,), "5"), ((5, 6), "5-6"), ((5, 7), "5,7"), ((1, 2, 3, 5, 8, 9), "1-3,5,8-9"), ((4093, 4094), "4093-4094")],
)
def test_ranges_and_back(numbers, text):
    assert values.ranges(numbers) == text and values.ranges(reversed(numbers)) == text
    assert values.numbers(text) == set(numbers)


@pytest.mark.parametrize(
    ("text", "source", "kept"),
    [
        ("192.0.2.10", "192.0.2.10", "192.0.2.10"),
        ("192.0.2.10/32", "192.0.2.10", "192.0.2.10/32"),
        ("10.99.0.0/24", "10.99.0.0/24", "10.99.0.0/24"),
        ("10.99.0.0/255.255.255.0", "10.99.0.0/24", "10.99.0.0/24"),
        ("0.0.0.0/0", "0.0.0.0/0", "0.0.0.0/0"),
        ("::/0", "::/0", "::/0"),
        ("2001:DB8:0::/64", "2001:db8::/64", "2001:db8::/64"),
        ("2001:db8::10/128", "2001:db8::10", "2001:db8::10/128"),
    ],
)
def test_addresses_and_prefixes(text, source, kept):
    assert (values.source(text), values.address_or_prefix(text)) == (source, kept)


@pytest.mark.parametrize(
    "value", ["10.99.0.1/24", "2001:db8::1/64", "", "/24", "10.0.0.0/33", "fe80::1%eth0", "fe80::%eth0/64", 3, None]
)
def test_no_address_and_no_prefix(value):
    for parse in (values.source, values.address_or_prefix):
        with pytest.raises(ValueError):
            parse(value)


@pytest.mark.parametrize("text", ["192.0.2.1/24", "192.0.2.0/31", "10.0.0.1/32", "2001:db8::1/64", "fe80::1/64"])
def test_interface(text):
    assert str(values.interface(text)) == text


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("192.0.2.1", "has no prefix length"),
        ("192.0.2.1/", "is not an address"),
        ("192.0.2.1/33", "is not an address"),
        ("192.0.2.1/24/24", "is not an address"),
        ("2001:db8::1", "has no prefix length"),
        ("fe80::1%eth0/64", "has a zone"),
        ("", "is not an address"),
        ("a/24", "is not an address"),
        (3, "is not an address"),
    ],
)
def test_no_interface(value, message):
    with pytest.raises(ValueError, match=message):
        values.interface(value)
