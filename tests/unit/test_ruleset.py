"""Our nft tables, as text; nft itself takes them, in a namespace of its own."""

import re
import subprocess
import sys
from ipaddress import IPv6Address

import pytest
from lab.tier import own_network

from vmnet_hooks.model import ruleset
from vmnet_hooks.model.objects import Device, NftElement, NftTable, Sysctl

PORT = ruleset.guarded_port("eth1.100", "02:11:22:33:44:55", ["10.5.5.254", "10.5.6.254", "2001:db8:5::1", "fe80::1"])


def chains(table: NftTable) -> dict[str, list[str]]:
    found = dict(re.findall(r"\tchain (\S+) \{\n(.*?)\n\t\}", table.body, re.S))
    return {name: [line.strip() for line in text.splitlines()] for name, text in found.items()}


def test_a_shared_gateway_passes_the_port_neither_way():
    assert (PORT.family, PORT.name, PORT.key) == ("netdev", "vmnet-eth1.100", "nft netdev vmnet-eth1.100")
    both = chains(PORT)
    assert set(both) == {"egress", "ingress"}
    for hook, (head, *rules) in both.items():
        assert head == f'type filter hook {hook} device "eth1.100" priority filter; policy accept;'
        assert rules == [
            "ether saddr 02:11:22:33:44:55 counter drop",
            "ether daddr 02:11:22:33:44:55 counter drop",
            "arp saddr ip { 10.5.5.254, 10.5.6.254 } counter drop",
            "arp daddr ip { 10.5.5.254, 10.5.6.254 } counter drop",
            "ip6 saddr 2001:db8:5::1 icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } counter drop",
            "icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } @th,64,128 0x20010db8000500000000000000000001 counter drop",
            "ip6 saddr fe80::1 icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } counter drop",
            "icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } @th,64,128 0xfe800000000000000000000000000001 counter drop",
        ]


def test_one_family_alone():
    four = chains(ruleset.guarded_port("eth1", "02:11:22:33:44:55", ["10.5.5.254"]))["egress"]
    six = chains(ruleset.guarded_port("eth1", "02:11:22:33:44:55", ["2001:db8::1"]))["egress"]
    assert len(four) == 5 and not any("icmpv6" in rule for rule in four)
    assert len(six) == 5 and not any("arp" in rule for rule in six)


@pytest.mark.parametrize("table", [*ruleset.TABLES, PORT], ids=lambda t: t.key)
def test_rules_are_counted(table):
    counted = {name: sum(not line.startswith("type ") for line in lines) for name, lines in chains(table).items()}
    assert counted == dict(table.rules)
    assert table.rules == tuple(sorted(table.rules)), "as they are read"


@pytest.mark.parametrize("ifname", ["eth1", "eth1.100", "br-ex", "if@2", "a+b", "_x", "1x", "a@+b"])
def test_nft_takes_the_tables(ifname):
    table = ruleset.guarded_port(ifname, "02:11:22:33:44:55", ["10.5.5.254", "2001:db8::1"])
    text = "".join(t.statement() for t in (table, *ruleset.TABLES))
    text += NftElement("inet", "snat4", ("10.5.5.0/24", f'"{ifname}"'), "192.0.2.1").statement()
    text += NftElement("inet", "masquerade6", ("2001:db8::/64", f'"{ifname}"')).statement()
    link = f"ip link add {ifname} type veth peer name other && exec nft -f -"
    done = subprocess.run([*own_network(), "sh", "-c", link], input=text, text=True, capture_output=True)
    assert (done.returncode, done.stderr) == (0, "")


ROUND_TRIP = """
from vmnet_hooks.model import ruleset
from vmnet_hooks.kernel.objects import nft
from vmnet_hooks.model.plan import Change
from vmnet_hooks.model.objects import NftElement

context, mac = nft.Nft(), "52:54:00:aa:00:10"
for table in TABLES:
    context.apply([Change(None, table)])
    assert context.table(table) == table
for family, name, parts, narrower in ELEMENTS:
    element = NftElement(family, name, parts)
    assert context.elements([element]) == {}, element
    context.apply([Change(None, element)])
    assert context.elements([element]) == {element.key: element}, element
    assert context.listing(family) == {element.key: element} == context.listing(family, name), element
    if narrower:
        # A set of intervals answers with the element that holds it.
        inside = NftElement(family, name, narrower)
        assert context.elements([inside]) == {}, inside
    context.apply([Change(element, None)])
    assert context.elements([element]) == context.listing(family) == {}, element
# Another guest's, whose port has a longer name that starts the same, is not in the way.
for port in ("vif1.0", "vif1.01", "vif1.0-emu"):
    context.apply([Change(None, NftElement("inet", "prefixes4", (f'"{port}"', mac, "10.0.0.0/8")))])
assert len(context.listing("inet", "prefixes4")) == 3
"""


def test_elements_come_back_as_they_were_added():
    port, mac = '"vif1.0"', "52:54:00:aa:00:10"
    elements = [
        ("inet", "guarded", (port,), ()),
        ("inet", "closed", ("ipv6",), ()),
        ("inet", "sources4", (port, mac, "192.0.2.10"), ()),
        # Python 3.13 spells it ::ffff:192.0.2.10.
        ("inet", "sources6", (port, mac, str(IPv6Address("::ffff:c000:20a"))), ()),
        ("inet", "prefixed", (port,), ()),
        ("inet", "blocks4", (port, "10.1.0.8"), ()),
        ("inet", "blocks6", (port, "0x20010db8000000008000000000000000"), ()),
        ("inet", "blocks6", (port, "0x8000000000000000000000000000000"), ()),
        ("inet", "prefixes4", (port, mac, "10.1.0.0/16"), (port, mac, "10.1.2.0/24")),
        ("inet", "prefixes4", (port, mac, "0.0.0.0/0"), (port, mac, "0.0.0.0/8")),
        ("inet", "prefixes6", (port, mac, "2001:db8::/64"), (port, mac, "2001:db8::/96")),
        ("inet", "prefixes6", (port, mac, "::/0"), (port, mac, "::/64")),
        ("inet", "masquerade4", ("10.1.0.0/16", port), ("10.1.2.0/24", port)),
        ("inet", "masquerade4", ("10.1.2.3/32", port), ()),
        ("inet", "masquerade6", ("2001:db8::/64", port), ("2001:db8::/96", port)),
        ("inet", "masquerade6", ("2001:db8::1/128", port), ()),
        ("inet", "private4", ("10.1.2.3", port), ()),
        ("inet", "private6", ("2001:db8::1", port), ()),
        ("arp", "sources", (port, mac, "192.0.2.10"), ()),
        ("arp", "prefixes", (port, mac, "10.1.0.0/16"), (port, mac, "10.1.2.0/24")),
        ("arp", "prefixes", (port, mac, "0.0.0.0/0"), (port, mac, "0.0.0.0/8")),
        ("bridge", "tagged", (port,), ()),
        ("bridge", "sources6", (port, mac, "fe80::5054:ff:feaa:10"), ()),
        ("bridge", "prefixes4", (port, mac, "10.1.0.0/16"), (port, mac, "10.1.2.0/24")),
        ("bridge", "prefixes6", (port, mac, "::/0"), (port, mac, "::/64")),
        ("bridge", "targets", (port, mac, "0xfe80000000000000505400fffeaa0010"), ()),
        ("bridge", "targets", (port, mac, "0x1"), ()),
        ("bridge", "target_prefixes", (port, mac, f"{0x20010DB8 << 96:#x}-{(0x20010DB8 << 96) + (1 << 64) - 1:#x}"), ()),
        ("bridge", "target_prefixes", (port, mac, f"0x0-{(1 << 128) - 1:#x}"), (port, mac, "0x0-0xff")),
    ]
    script = ROUND_TRIP.replace("TABLES", "ruleset.TABLES").replace("ELEMENTS", repr(elements))
    done = subprocess.run([*own_network(), sys.executable, "-"], input=script, text=True, capture_output=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_nft_takes_the_keepers():
    """Each is its owner's; what stands in it is what the filters take off, at every place where something passes."""
    text = "".join(ruleset.KEEPERS.values()) + ruleset.KEEP_CLOSED
    done = subprocess.run([*own_network(), "nft", "-f", "-"], input=text, text=True, capture_output=True)
    assert (done.returncode, done.stderr) == (0, "")
    for family, table in (("inet", ruleset.INET), ("arp", ruleset.ARP), ("bridge", ruleset.BRIDGE)):
        assert "flags owner;" in ruleset.KEEPERS[family] and ruleset.KEEPER in ruleset.KEEPERS[family]
        for name, rules in chains(table).items():
            assert not any(rule.endswith(" accept") for rule in rules), f"{family} {name}: accepted, but not approved"
        assert all(f"set {name} {{ type ifname; }}" in table.body for name in ruleset.KEPT_SETS[family])
    assert ruleset.KEEPER not in {ruleset.port_table(name) for name in ("keeper", "_keeper", "")}


def test_names_of_tables_differ():
    names = ["a@b", "a+b", "a.b", "a-b", "a_b", "ab"]
    assert len({ruleset.guarded_port(name, "02:11:22:33:44:55", []).name for name in names}) == len(names)


def test_the_port_comes_first():
    assert Device("eth1.100", "vlan", level=99).order < PORT.order < Sysctl("a/b/c/d/e", "1").order
    assert PORT.link == "eth1.100" and ruleset.INET.link == "" and ruleset.INET.order == 0
