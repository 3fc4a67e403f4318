"""What is read from the kernel the short way is what it says the long way. In a network namespace of its own, each."""

import subprocess
import sys
from pathlib import Path

from lab.tier import own_network

ROOT = Path(__file__).resolve().parents[2]
HEAD = """
import subprocess, sys
sys.path.insert(0, sys.argv[1])
from vmnet_hooks.errors import ConflictError, KernelError
from vmnet_hooks.kernel import linux
from vmnet_hooks.kernel.netlink import NetlinkError, View
from vmnet_hooks.kernel.objects import edge, nft, sysctl
from vmnet_hooks.model import ruleset
from vmnet_hooks.model.objects import LinkAttribute, Neighbour, NftElement, ProxyNeighbour, Route, Rule, Sysctl
from vmnet_hooks.model.plan import Change
from vmnet_hooks.model.resource import MAIN_TABLE, PROTO

def sh(text):
    subprocess.run(["sh", "-ec", text], check=True)

def put(want, have):
    edge(want.kind).set(want, have, View(kernel.netlink, kernel.nft))

def unset(have):
    kernel.apply([Change(have, None)])

def ours(cls):
    return {r.key for r in edge(cls.kind).ours(View(kernel.netlink, kernel.nft))}
"""


def run(script: str) -> None:
    command = [*own_network(), sys.executable, "-c", HEAD + script, str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr


def test_settings_of_a_link():
    """From the link's own message, and from /proc: the same, also where a link has no IPv6."""
    run("""
sh("ip link add da type veth peer name db; ip tuntap add dc mode tap; ip link set dc mtu 1000")
kernel = linux.Kernel()
names = [("ipv4", n) for n in ("forwarding", "proxy_arp", "send_redirects", "rp_filter")]
names += [("ipv6", n) for n in ("forwarding", "accept_ra", "proxy_ndp", "disable_ipv6", "addr_gen_mode")]
for turn in range(3):
    for dev in ("da", "db", "dc"):
        for at, (family, name) in enumerate(names):
            path = f"net/{family}/conf/{dev}/{name}"
            value = str((turn + at) % (3 if name in ("accept_ra", "rp_filter") else 2))
            if sysctl.read(path) is not None:
                sysctl.write_value(path, value)
    for dev in ("da", "db", "dc", "lo"):
        wanted = [Sysctl(f"net/{family}/conf/{dev}/{name}", "x") for family, name in names]
        there = {want.key: value for want in wanted if (value := sysctl.read(want.path)) is not None}
        assert len(there) == (4 if dev == "dc" else 9)
        assert {key: found.value for key, found in kernel.read(wanted).items()} == there, dev
assert kernel.read([Sysctl("net/ipv4/conf/gone/forwarding", "1")]) == {}
assert kernel.read([Sysctl("net/ipv6/conf/all/forwarding", "1")])
""")


def test_routes_are_found_by_one_look_up_or_by_a_dump():
    run("""
sh("ip link set lo up; ip link add up0 type veth peer name up1; ip tuntap add tap0 mode tap; ip tuntap add tap1 mode tap;"
   "for dev in up0 up1 tap0 tap1; do ip link set $dev up; done; ip addr add 10.0.0.1/24 dev up0")
wanted = [
    Route(222, "192.0.2.10/32", "tap0"), Route(222, "2001:db8::10/128", "tap0"),
    Route(222, "192.0.2.11/32", "tap0", metric=5), Route(222, "2001:db8::11/128", "tap0", metric=5),
    Route(222, "192.0.2.0/24", "up0"), Route(222, "2001:db8::/64", "up0"),
    Route(222, "0.0.0.0/0", "up0", "192.0.2.1"), Route(222, "::/0", "up0", "2001:db8::1"),
    Route(MAIN_TABLE, "192.0.2.0/24", "up0"), Route(MAIN_TABLE, "2001:db8::/64", "up0"),
    Route(MAIN_TABLE, "198.51.100.9/32", "tap1", src="10.0.0.1"), Route(70000, "203.0.113.1/32", "tap1"),
]
rules = [Rule(22000, side, net, 222) for side in ("from", "to") for net in ("192.0.2.0/24", "2001:db8::/64")]
kernel = linux.Kernel()
assert kernel.read([*wanted, *rules]) == {}
for with_rules in (False, True):
    for want in wanted:
        assert kernel.read([want]) == {}, want
        put(want, None)
        have = kernel.read([want])[want.key]
        assert want.covers(have) and have.proto == PROTO and have.table == want.table, have
        try:
            put(want, None)
            raise AssertionError(f"added twice: {want}")
        except NetlinkError as error:
            assert error.code == 17
        put(want, have)
    assert set(kernel.read(wanted)) == {want.key for want in wanted} == ours(Route)
    # Through another device it is not ours, and a metric makes it another one.
    assert kernel.read([Route(222, "192.0.2.10/32", "tap1"), Route(222, "192.0.2.10/32", "tap0", metric=7)]) == {}
    for want in wanted:
        unset(want)
        unset(want)
        assert kernel.read([want]) == {}, want
    for rule in rules if not with_rules else ():
        put(rule, None)
assert ours(Rule) == {rule.key for rule in rules} == set(kernel.read(rules))
# What a link that is down had is gone.
put(wanted[0], None)
sh("ip link set tap0 down")
assert kernel.read([wanted[0]]) == {} and not ours(Route)
""")


def test_a_process_that_stays_sees_what_others_do_to_routes():
    run("""
sh("ip link add up0 type veth peer name up1; ip link add up2 type veth peer name up3;"
   "for dev in up0 up1 up2 up3; do ip link set $dev up; done; ip addr add 192.0.2.2/24 dev up0")
kernel = linux.Kernel(memory=object())
four, six = Route(222, "0.0.0.0/0", "up0", "192.0.2.1"), Route(MAIN_TABLE, "2001:db8::/64", "up0")
assert kernel.read([four, six]) == {} and kernel._ra_links() == ()
for want in (four, six):
    put(want, None)
both = kernel.read([four, six])
assert set(both) == {four.key, six.key}
sh("ip route del default table 222; ip -6 route add default via fe80::1 dev up2 proto ra")
assert set(kernel.read([four, six])) == {six.key} and kernel._ra_links() == ("up2",)
sh("ip -6 route del 2001:db8::/64 dev up0; ip route add default via 192.0.2.1 dev up0 table 222 proto 86 onlink")
assert set(kernel.read([four, six])) == {four.key} and kernel._ra_links() == ("up2",)
# Of what goes with an address, or with a link, IPv4 says nothing.
sh("ip addr del 192.0.2.2/24 dev up0")
assert kernel.read([four]) == {}
sh("ip addr add 192.0.2.2/24 dev up0; ip route add default via 192.0.2.1 dev up0 table 222 proto 86")
assert set(kernel.read([four])) == {four.key}
sh("ip link set up0 down; ip link set up0 up; ip link del up2")
assert kernel.read([four]) == {} and kernel._ra_links() == ()
put(four, None)
# More than the socket holds.
sh("ip route add default via 192.0.2.1 dev up0 table 223 proto 86; ip route add default via 192.0.2.1 dev up0 table 224 proto 86")
assert set(kernel.read([four])) == {four.key}
lines = "".join(f"route add 10.{n >> 8}.{n & 255}.0/24 dev up0 table 225\\n" for n in range(3000))
subprocess.run(["ip", "-batch", "-"], input=lines, text=True, check=True)
sh("ip route del default table 222")
assert kernel.read([four]) == {}
""")


def test_elements_are_changed_all_or_none():
    run("""
mac, context = "52:54:00:aa:00:10", nft.Nft()
for table in (ruleset.INET, ruleset.ARP):
    context.apply([Change(None, table)])

def element(name, *parts, family="inet", value=""):
    return NftElement(family, name, parts, value)

def refused(*plan):
    before = {**context.listing("inet"), **context.listing("arp")}
    try:
        context.apply(list(plan))
    except KernelError as error:
        assert {**context.listing("inet"), **context.listing("arp")} == before
        return str(error)
    raise AssertionError("was done")

tap, source = element("guarded", '"tap0"'), element("arp_source", '"tap0"', family="arp", value="192.0.2.1")
other = element("arp_source", '"tap0"', family="arp", value="192.0.2.2")
context._context = None
context.apply([Change(None, tap), Change(None, source)])
assert context._context is None, "no library was asked"
assert context.elements([tap, source]) == {tap.key: tap, source.key: source}
context.apply([Change(None, tap), Change(None, source)])
context.apply([Change(source, other)])
assert context.elements([source]) == {source.key: other}
new = element("guarded", '"tap1"')
assert "File exists" in refused(Change(None, new), Change(None, source))
assert "No such file" in refused(Change(tap, None), Change(new, None))
assert "No such file" in refused(Change(None, new), Change(None, element("nonsense", '"tap1"')))
context._context = None
context.apply([Change(tap, None), Change(other, None)])
assert context._context is None and context.elements([tap, source]) == {}
prefixes = [
    element("prefixed", '"tap0"'), element("blocks4", '"tap0"', "10.1.0.8"),
    element("blocks6", '"tap0"', "0x20010db8000000008000000000000000"),
    element("blocks6", '"tap0"', "0x8000000000000000000000000000000"),
]
context.apply([Change(None, prefix) for prefix in prefixes])
assert context.elements(prefixes) == {prefix.key: prefix for prefix in prefixes}
context.apply([Change(prefix, None) for prefix in prefixes])
assert context._context is None and context.elements(prefixes) == {}
many = [Change(None, element("sources4", '"tap0"', mac, f"192.0.{n >> 8}.{n & 255}")) for n in range(500)]
context.apply(many)
assert len(context.listing("inet", "sources4")) == 500
context.apply(many[:150])
# A set of intervals is the library's.
prefix = element("prefixes4", '"tap0"', mac, "10.0.0.0/8")
context.apply([Change(None, prefix), Change(None, tap)])
assert context.elements([prefix, tap]) == {prefix.key: prefix, tap.key: tap}
""")


def test_tables_are_read_with_what_others_did_to_them():
    run("""
context = nft.Nft()
port = ruleset.guarded_port("lo", "02:11:22:33:44:55", ["10.5.5.254", "2001:db8:5::1"])
tables = (ruleset.INET, ruleset.ARP, ruleset.BRIDGE, port)
sh("nft add table inet other; nft add chain inet other guest; nft add rule inet other guest accept")
assert [context.table(table) for table in tables] == [None] * 4
sh("ip link set lo up")
for table in tables:
    context.apply([Change(None, table)])
    assert context.table(table) == table
sh("nft flush chain inet vmnet guest; nft add chain arp vmnet more; nft add rule bridge vmnet guard counter")
assert dict(context.table(ruleset.INET).rules)["guest"] == 0
assert dict(context.table(ruleset.ARP).rules)["more"] == 0
assert dict(context.table(ruleset.BRIDGE).rules)["guard"] == dict(ruleset.BRIDGE.rules)["guard"] + 1
sh("nft delete table inet vmnet; nft add table inet vmnet")
bare = context.table(ruleset.INET)
assert (bare.rules, bare.version) == ((), "")
""")


def test_neighbours_addresses_and_attributes():
    run("""
sh("ip link add br0 type bridge; ip tuntap add tap0 mode tap; ip link add bond0 type bond 2>/dev/null || :")
kernel = linux.Kernel()
for name, value in (("mtu", "1400"), ("address", "fe:54:00:aa:00:10"), ("master", "br0"), ("isolated", "on"), ("state", "up")):
    put(LinkAttribute("tap0", name, value), None)
    assert kernel.read([LinkAttribute("tap0", name, "")])[f"link tap0 {name}"].value == value
assert (kernel.link("tap0").master, kernel.link("br0").kind, kernel.link("br0").vlan_filtering) == ("br0", "bridge", False)
unset(LinkAttribute("tap0", "isolated", "on"))
unset(LinkAttribute("tap0", "master", "br0"))
assert kernel.read([LinkAttribute("tap0", "isolated", "on")]) == {} and kernel.link("tap0").master == ""
for want in (
    Neighbour("tap0", "192.0.2.10", "52:54:00:aa:00:10"), Neighbour("tap0", "2001:db8::10", "52:54:00:aa:00:10"),
    ProxyNeighbour("tap0", "192.0.2.1"), ProxyNeighbour("tap0", "2001:db8::1"),
):
    assert kernel.read([want]) == {}
    put(want, None)
    put(want, want)
    assert kernel.read([want]) == {want.key: want}
    unset(want)
    unset(want)
    assert kernel.read([want]) == {}
# The mark of the second and the third tells of another maker than the kernel.
lladdr = LinkAttribute("tap0", "lladdr", "fe80::1/64,fe80::2/64 proto 0,fe80::3/64 proto 18")
put(lladdr, None)
assert kernel.read([lladdr])[lladdr.key] == lladdr
assert LinkAttribute("tap0", "lladdr", "fe80::2/64").covers(lladdr)
kernel.rename("br0", "br1")
assert kernel.link("br0") is None and kernel.link("br1") is not None
try:
    kernel.rename("br1", "tap0")
    raise AssertionError("two links of one name")
except ConflictError as error:
    assert str(error).startswith("br1 can't be called tap0: there is an interface of that name already")
""")
