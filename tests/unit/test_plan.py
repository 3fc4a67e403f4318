"""diff, order, inverse, batches, and the commands that resources print as."""
# ruff: noqa: E501  (tables of inputs and messages)

import subprocess

import pytest

from vmnet_hooks.declared import compose
from vmnet_hooks.errors import ConflictError
from vmnet_hooks.model.objects import (
    KINDS,
    Address,
    Device,
    HostName,
    Ifb,
    LinkAttribute,
    Neighbour,
    NftChain,
    NftElement,
    NftTable,
    ProxyNeighbour,
    Route,
    Rule,
    Sysctl,
    TableName,
)
from vmnet_hooks.model.objects.bridge import Adoption, FdbEntry, PortMac, PortVlans
from vmnet_hooks.model.objects.dnsmasq import Dnsmasq
from vmnet_hooks.model.plan import Change, Release, batches, diff
from vmnet_hooks.records import decode, encode, encoded

ONE_OF_EACH = [
    NftTable("arp", "\tset a { type ifname; }", (("guard", 1), ("input", 2))),
    NftElement("arp", "arp_source", ('"tap0"',), "192.0.2.1"),
    NftElement("inet", "sources4", ('"tap0"', "52:54:00:aa:00:10", "192.0.2.10")),
    NftChain.of("tap0", "guests"),
    NftChain.at_wire("vif1.0", "wired"),
    NftElement("netdev", "wires", ('"vif1.0"',), "7"),
    Ifb(),
    Sysctl("net/ipv4/conf/eth0.222/forwarding", "1"),
    Sysctl("net/ipv6/conf/all/forwarding", "1"),
    LinkAttribute("tap0", "mtu", "1400"),
    LinkAttribute("tap0", "address", "fe:ff:ff:ff:ff:ff"),
    LinkAttribute("tap0", "master", "br0"),
    LinkAttribute("tap0", "isolated", "on"),
    LinkAttribute("tap0", "lladdr", "fe80::1/64,fe80::2/64"),
    LinkAttribute("tap0", "state", "up"),
    Address("eth1", "2001:db8::1/64"),
    Neighbour("tap0", "192.0.2.10", "52:54:00:aa:00:10"),
    ProxyNeighbour("eth1", "2001:db8::10"),
    TableName(222, "snf_routed"),
    HostName("tap0", "dom1", ("10.0.1.1", "2001:db8::10")),
    Dnsmasq("lan", "bind-dynamic\ninterface=br0\n", "52:54:00:aa:00:10,10.9.0.10\n"),
    ProxyNeighbour("eth1", "192.0.2.10"),
    Route(254, "192.0.2.10/32", "vif1.0", src="192.0.2.1", metric=2),
    Route(254, "192.0.2.10/32", "vif1.0-emu", src="192.0.2.1", metric=1),
    Route(222, "192.0.2.10/32", "tap0"),
    Route(222, "::/0", "eth1", "2001:db8::1"),
    Rule(22000, "from", "192.0.2.0/24", 222),
    Device("eth1.100", "vlan", "eth1", (("protocol", "802.1Q"), ("id", "100"))),
    Device("br0", "bridge", options=(("stp_state", "0"), ("forward_delay", "0")), level=2),
    LinkAttribute("bond0", "primary", "eth0"),
    LinkAttribute("br0", "tx", "off"),
    LinkAttribute("eth7", "promisc", "on"),
    FdbEntry("br0", "02:00:00:00:00:01"),
    PortVlans("tap0", 10, "20-30"),
    LinkAttribute("tap0", "learning", "off"),
    PortMac("tap0", "52:54:00:aa:00:10", "10,20-30"),
    PortVlans("br0", 0, "100", own=True),
    Adoption(
        "eth0",
        "br0",
        ("192.0.2.13/24 broadcast 192.0.2.255 scope global", "2001:db8::13/64 scope global nodad"),
        ("192.0.2.128/25 dev {dev} table 254 proto 3", "0.0.0.0/0 via 192.0.2.1 dev {dev} table 254 proto 3"),
        ("192.0.2.1 lladdr 02:00:00:00:00:09 nud permanent",),
        ("net/ipv4/conf/{dev}/rp_filter=2",),
        True,
        "br0",
    ),
    Address("br0", "192.0.2.13/24"),
    Route(254, "192.0.2.0/24", "br0", src="192.0.2.1"),
    NftTable("netdev", "\tchain egress { }", (("egress", 4),), "vmnet-eth1"),
]
each = pytest.mark.parametrize("resource", ONE_OF_EACH, ids=lambda r: r.key)


def by_key(*resources):
    return {r.key: r for r in resources}


@each
def test_records_keep_everything(resource):
    again = decode(encode(resource))
    assert again == resource and type(again) is type(resource) and again.key == resource.key
    for left_out_of_equality in ("body", "level", "master", "stays", "proto"):
        assert getattr(again, left_out_of_equality, None) == getattr(resource, left_out_of_equality, None)


def test_no_record():
    assert encode(None) is None and encoded([None]) == [None]


def test_keys_differ():
    assert len({r.key for r in ONE_OF_EACH}) == len(ONE_OF_EACH)
    assert {type(r) for r in ONE_OF_EACH} == {kind.resource for kind in KINDS.values()}
    assert {name: kind.resource.kind for name, kind in KINDS.items()} == {name: name for name in KINDS}


@each
def test_what_is_there_needs_no_change(resource):
    assert diff(by_key(resource), {}, by_key(resource)) == []


@each
def test_change_and_inverse(resource):
    change = Change(None, resource)
    assert change.inverse == Change(resource, None) and change.inverse.inverse == change
    assert change.subject is resource and change.inverse.subject is resource
    assert str(change)


@each
def test_commands_are_shell(resource):
    for change in (Change(None, resource), Change(resource, None)):
        if isinstance(resource, Sysctl) and change.want is None:
            # A value is never removed, only changed.
            continue
        done = subprocess.run(["sh", "-n"], input=str(change), text=True, capture_output=True)
        assert not done.returncode, done.stderr


def test_only_ours_and_only_what_is_still_ours_is_released():
    ours, theirs = Sysctl("a/b/c/eth1/x", "1"), Sysctl("a/b/c/eth1/x", "7")
    before = Sysctl("a/b/c/eth1/x", "0")
    release = {ours.key: Release(ours, before)}
    assert diff({}, release, by_key(ours)) == [Change(ours, before)]
    assert diff({}, release, by_key(theirs)) == []
    assert diff({}, release, {}) == []
    assert diff({}, {ours.key: Release(ours, ours)}, by_key(ours)) == []


def test_a_foreign_route_is_a_conflict_and_ours_is_replaced():
    want = Route(222, "0.0.0.0/0", "eth1", "192.0.2.1")
    with pytest.raises(
        ConflictError, match="another program's route is in the way: default via 203.0.113.1 dev eth0 table 222 proto 3"
    ):
        diff(by_key(want), {}, by_key(Route(222, "0.0.0.0/0", "eth0", "203.0.113.1", 3)))
    [change] = diff(by_key(want), {}, by_key(Route(222, "0.0.0.0/0", "eth0", "203.0.113.1")))
    assert str(change) == "ip route replace default via 192.0.2.1 dev eth1 table 222 proto 86 onlink"
    # The same way, whoever made it, is good enough.
    assert diff(by_key(want), {}, by_key(Route(222, "0.0.0.0/0", "eth1", "192.0.2.1", 3))) == []


def test_clean_up_first_and_backwards_then_set_up():
    wants = [r for r in ONE_OF_EACH if r.key != "link tap0 isolated"]
    set_up = [c.subject for c in diff(by_key(*reversed(wants)), {}, {})]
    assert [r.order for r in set_up] == sorted(r.order for r in wants)
    kinds = [r.key for r in set_up]
    assert kinds.index("nft arp") < kinds.index('nft arp arp_source "tap0"') < kinds.index("link tap0 state")
    assert kinds.index("link tap0 mtu") < kinds.index("link tap0 master") < kinds.index("link tap0 state")
    assert kinds.index("link tap0 state") < kinds.index("route 222 192.0.2.10/32") < kinds.index("route 222 ::/0")
    # What is on a link of ours goes with it.
    wants = [r for r in wants if isinstance(r, Device) or r.link not in ("br0", "eth1.100")]
    release = {r.key: Release(r, None) for r in wants}
    assert [c.subject.order for c in diff({}, release, by_key(*wants))] == sorted((r.order for r in wants), reverse=True)


def test_nft_changes_share_a_transaction():
    plan = [Change(None, r) for r in ONE_OF_EACH]
    steps = list(batches(plan))
    assert [len(step) for step in steps] == [6, *[1] * (len(plan) - 6)]
    assert [c for step in steps for c in step] == plan


def test_spelling():
    assert [str(Change(None, r)) for r in ONE_OF_EACH[1:]] == [
        "nft 'add element arp vmnet arp_source { \"tap0\" : 192.0.2.1 }'"
        "  # arptables -A OUTPUT -o tap0 --opcode Request -j mangle --mangle-ip-s 192.0.2.1",
        "nft 'add element inet vmnet sources4 { \"tap0\" . 52:54:00:aa:00:10 . 192.0.2.10 }'",
        "nft -f - <<'EOF'\n"
        'add chain netdev vmnet port-tap0 { type filter hook ingress device "tap0" priority filter - 10; policy accept; }\n'
        "add rule netdev vmnet port-tap0 goto guests\nEOF",
        "nft -f - <<'EOF'\nadd chain netdev vmnet-wires-between-guests port-vif1.0 "
        '{ type filter hook ingress device "vif1.0" priority filter - 10; policy drop; }\n'
        "add rule netdev vmnet-wires-between-guests port-vif1.0 goto wired\nEOF",
        "nft 'add element netdev vmnet-wires-between-guests wires { \"vif1.0\" : 7 }'",
        "ip link add name vmnet-ifb index 7761262 address 02:00:00:00:00:86 txqueuelen 1000 numtxqueues 8 type ifb\n"
        "ip link set dev vmnet-ifb alias vmnet-hooks\n"
        "sysctl -qwe net/ipv6/conf/vmnet-ifb/addr_gen_mode=1\nethtool -K vmnet-ifb tx off\nip link set dev vmnet-ifb up",
        "sysctl -qw net/ipv4/conf/eth0.222/forwarding=1",
        str(Change(None, ONE_OF_EACH[8])),
        "ip link set dev tap0 mtu 1400",
        "ip link set dev tap0 address fe:ff:ff:ff:ff:ff",
        "ip link set dev tap0 master br0",
        "bridge link set dev tap0 isolated on",
        "ip -6 addr add fe80::1/64 dev tap0 nodad\nip -6 addr add fe80::2/64 dev tap0 nodad",
        "ip link set dev tap0 up",
        "ip -6 addr add 2001:db8::1/64 dev eth1 nodad",
        "ip neigh replace 192.0.2.10 lladdr 52:54:00:aa:00:10 dev tap0 nud permanent",
        "ip -6 neigh add proxy 2001:db8::10 dev eth1",
        "mkdir -p /etc/iproute2/rt_tables.d; echo '222 snf_routed' > /etc/iproute2/rt_tables.d/vmnet-snf_routed.conf",
        "mkdir -p /run/vmnet-hosts; printf %s '10.0.1.1 dom1\n2001:db8::10 dom1\n' > /run/vmnet-hosts/tap0",
        "mkdir -p /run/vmnet-dnsmasq/names/lan; install -d -o 65534 /var/lib/vmnet-hooks/dnsmasq/lan\n"
        "printf %s 'bind-dynamic\ninterface=br0\n' > /run/vmnet-dnsmasq/lan.conf\n"
        "printf %s '52:54:00:aa:00:10,10.9.0.10\n' > /run/vmnet-dnsmasq/lan.hosts\n"
        "setpriv --reuid=65534 --regid=65534 --clear-groups --inh-caps=-all,+net_admin,+net_raw,+net_bind_service "
        "--ambient-caps=-all,+net_admin,+net_raw,+net_bind_service "
        "--bounding-set=-all,+net_admin,+net_raw,+net_bind_service --no-new-privs "
        "dnsmasq --conf-file=/run/vmnet-dnsmasq/lan.conf",
        "ip neigh add proxy 192.0.2.10 dev eth1",
        "ip route add 192.0.2.10/32 dev vif1.0 table 254 proto 86 src 192.0.2.1 metric 2",
        "ip route add 192.0.2.10/32 dev vif1.0-emu table 254 proto 86 src 192.0.2.1 metric 1",
        "ip route add 192.0.2.10/32 dev tap0 table 222 proto 86",
        "ip -6 route add default via 2001:db8::1 dev eth1 table 222 proto 86 onlink",
        "ip rule add from 192.0.2.0/24 lookup 222 pref 22000 protocol 86",
        "ip link add link eth1 name eth1.100 type vlan protocol 802.1Q id 100\nip link set dev eth1.100 alias vmnet-hooks",
        "ip link add name br0 type bridge stp_state 0 forward_delay 0\nip link set dev br0 alias vmnet-hooks",
        "ip link set dev bond0 type bond primary eth0",
        "ethtool -K br0 tx off",
        "ip link set dev eth7 promisc on",
        "bridge fdb replace 02:00:00:00:00:01 dev br0 self permanent",
        "bridge vlan add dev tap0 vid 20-30\nbridge vlan add dev tap0 vid 10 pvid untagged",
        "bridge link set dev tap0 learning off",
        "bridge fdb replace 52:54:00:aa:00:10 dev tap0 master static sticky",
        "bridge vlan add dev br0 vid 100 self",
        "sysctl -qw net/ipv4/conf/br0/rp_filter=2\n"
        "ip addr replace 192.0.2.13/24 broadcast 192.0.2.255 scope global dev br0\n"
        "ip addr replace 2001:db8::13/64 scope global nodad dev br0\n"
        "ip link set dev eth0 master br0\n"
        "ip link set dev eth0 up\n"
        "ip route replace 192.0.2.128/25 dev br0 table 254 proto 3\n"
        "ip route replace 0.0.0.0/0 via 192.0.2.1 dev br0 table 254 proto 3\n"
        "ip neigh replace 192.0.2.1 lladdr 02:00:00:00:00:09 nud permanent dev br0\n"
        "ip neigh del 192.0.2.1 dev eth0 2>/dev/null || :\n"
        "ip addr del 192.0.2.13/24 dev eth0 2>/dev/null || :\n"
        "ip addr del 2001:db8::13/64 dev eth0 2>/dev/null || :\n"
        "sysctl -qw net/ipv6/conf/eth0/disable_ipv6=1",
        "ip addr add 192.0.2.13/24 broadcast 192.0.2.255 dev br0",
        "ip route add 192.0.2.0/24 dev br0 table 254 proto 86 src 192.0.2.1",
        "nft -f - <<'EOF'\nadd table netdev vmnet-eth1\ndelete table netdev vmnet-eth1\n"
        'table netdev vmnet-eth1 {\n\tcomment "vmnet-hooks "\n\tchain egress { }\n}\nEOF',
    ]


def test_an_update_of_a_map_deletes_first():
    old, new = (NftElement("arp", "arp_source", ('"tap0"',), a) for a in ("192.0.2.1", "192.0.2.9"))
    assert new.statement(old) == (
        'delete element arp vmnet arp_source { "tap0" }\nadd element arp vmnet arp_source { "tap0" : 192.0.2.9 }\n'
    )


def test_link_local_addresses_change_one_by_one():
    old, new = (
        LinkAttribute("t", "lladdr", "fe80::1/64,fe80::2/64"),
        LinkAttribute("t", "lladdr", "fe80::2/64,fe80::3/64"),
    )
    assert new.set_command(old) == "ip -6 addr add fe80::3/64 dev t nodad\nip -6 addr del fe80::1/64 dev t"


def test_shared_resources_differ_by_what_is_not_compared():
    """A process that stays keeps them: one that stays behind is not one that goes with its last guest."""
    compose._first.cache_clear()
    goes, stays = (LinkAttribute("eth1", "state", "up", stays=stays) for stays in (False, True))
    assert goes == stays and compose._once(goes) is goes and compose._once(stays).stays and not compose._once(goes).stays
    assert compose._once(LinkAttribute("eth1", "state", "up")) is goes
