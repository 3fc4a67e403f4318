"""Our nft tables. Guests are elements of sets and maps, never rules: the cost per packet does not depend on their number.

Our base chains have the standard priorities (raw, filter, srcnat). A verdict of ours does not keep the chains of other tables
from dropping the packet.
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from ipaddress import IPv6Address

from .. import values
from . import blocks, port_rules
from .facts import Host
from .objects import FORWARDING_GATE, NftElement, NftTable, Sysctl, port_table, shared_set, shares_table
from .resource import FORWARD_TABLE, NAT_TABLE, SENDERS_TABLE, TABLE, WIRES_TABLE, Resource

# Sets are keyed by interface name: an element outlives the tap, and matches a new tap of the same name. What there is of each
# guest is in hash sets: each element of an interval set makes every change of it slower. The name of a set determines its table,
# see objects.table_of.
#
# Prefixes of guests are in `blocks4` and `blocks6`, see blocks.py, without the MAC, which is compared before. They are looked up
# last, and for taps in `prefixed` only. `prefixes…` and `target_prefixes`, which are interval sets, are of guests that run since
# an older version.
#
# `neighbours` limits the next hops that a guest makes the host look for: of what is on-link, that is the destination. An address
# is sought for as long as the kernel looks for it, and known if it sends on that link within this time.
#
# What a guest's network does not reach (see networks/reach.py) ends in `enclosed`: a tap has the group of its network, so that
# one look-up tells whether two taps are of networks that reach one another. A guest that runs since an older version has none.
#
# The agent answers what guests in `served4` and `served6` ask by DHCP, and the router solicitations of those in `routed6`: it has
# seen them before any chain. What a relay sends has other ports.
#
# With thousands of guests, what costs is each look-up of an element of one of them, as no cache holds them all. Packets from taps
# with a group, which have a bit that no other group has, get by with one: that of their source. What that does not tell is looked
# up by name, so that a tap that has lost its group is as closed as any. `exits…` is the way to the network's gateway, which is
# one neighbour; `fenced` has the networks with taps in `enclosed` and in `limited`.
#
# What a guest may send to the host is judged in `input`: two bits of the priority carry it from a bridge's port up to IP, as 1
# for `none` to 3 for `services`. Another bit says that the host does not route for the
# port's bridge, see GUESTS. UDP has no connections: what the host asks for is known for a minute. One more bit marks what answers
# on a forwarded port, see FORWARD.
#
# A packet that passes a filter goes to the chain `approved`, which clears the marks that KEEPERS set: two bits of the packet's
# priority (the second one for ports with known addresses). Without a keeper these bits are never set. One more bit says that the
# packet's checksum is finished, see GUESTS: what comes from a port in `checked` without it is dropped, so that nothing passes
# while the port's chain is gone.
_INET = (
    port_rules.ROLES
    + """\
	set guarded { type ifname; }
	set checked { type ifname; }
	set macs { type ifname . ether_addr; }
"""
    + port_rules.SOURCES
    + """\
	set served4 { type ifname . ether_addr; }
	set served6 { type ifname . ether_addr; }
	set routed6 { type ifname . ether_addr; }
	set closed { type nf_proto; }
	set forwarding { type ifname; }
	set limited { type ifname; }
	set sought4 { type ifname . ipv4_addr; flags dynamic,timeout; }
	set sought6 { type ifname . ipv6_addr; flags dynamic,timeout; }
	set known4 { type ifname . ipv4_addr; flags dynamic,timeout; }
	set known6 { type ifname . ipv6_addr; flags dynamic,timeout; }
	set seekers { type ifname; flags dynamic,timeout; }
	set exits4 { type ifname . devgroup . ipv4_addr; }
	set exits6 { type ifname . devgroup . ipv6_addr; }
	set fenced { type devgroup; }
	set enclosed { type ifname; }
	set isolated { type ifname; }
	set bridged { type ifname . ifname; }
	set unbound { type ifname; }
	set inner { type ifname; }
	set ways { type ifname . devgroup; }
	set reached { type devgroup . devgroup; }
	set passages { type ifname . ifname; }
	set entries { type ifname . devgroup; }
	set outsiders { type ifname; }
	set repliers { type ifname; }
	set mutes { type ifname; }
	set asking { type ifname; }
	set asked4 { type ipv4_addr . inet_service . inet_service; flags dynamic,timeout; }
	set asked6 { type ipv6_addr . inet_service . inet_service; flags dynamic,timeout; }
	chain guard {
		type filter hook prerouting priority raw; policy accept;
		iifgroup & 0x40000000 != 0 goto tap
		iifname @guarded goto guest
		goto served
	}
	chain tap {
		iifname . ether saddr . ip saddr @sources4 goto source4
		iifname . ether saddr . ip6 saddr @sources6 goto source6
		iifname @guarded goto guest
		goto served
	}
	chain served {
		udp sport 68 udp dport 67 ip frag-off & 0x1fff == 0 iifname . ether saddr @served4 drop
		udp sport 546 udp dport 547 exthdr frag missing iifname . ether saddr @served6 drop
		icmpv6 type 133 exthdr frag missing iifname . ether saddr @routed6 drop
	}
	chain source4 {
		meta priority & 0x10000000 == 0 iifname @checked counter drop
		udp sport != 67-68 goto approved
		meta l4proto 6 goto approved
		jump served
		jump roles4
		goto approved
	}
	chain source6 {
		meta priority & 0x10000000 == 0 iifname @checked counter drop
		udp sport != 546-547 goto approved
		meta l4proto 6 goto approved
		jump served
		jump roles6
		goto approved
	}
	chain vrrp4 {
		goto router
	}
	chain vrrp6 {
		goto router
	}
	chain guest {
		meta priority & 0x10000000 == 0 iifname @checked counter drop
		jump served
		meta protocol vmap { ip : jump roles4, ip6 : jump roles6 }
		iifname . ether saddr . ip saddr @sources4 goto approved
		iifname . ether saddr . ip6 saddr @sources6 goto approved
		iifname . ether saddr . ip saddr @prefixes4 goto approved
		iifname . ether saddr . ip6 saddr @prefixes6 goto approved
		ip saddr 0.0.0.0 udp sport 68 udp dport 67 goto unnumbered
		ip6 saddr :: icmpv6 type { nd-neighbor-solicit, mld2-listener-report } goto unnumbered
		iifname @prefixed goto prefixed
		counter drop
	}
	chain prefixed {
		iifname . ether saddr @macs meta protocol vmap { ip : goto blocks4, ip6 : goto blocks6 }
		counter drop
	}
	chain blocks4 {
"""
    + blocks.rules(blocks.IPV4, "goto approved")
    + """\
		counter drop
	}
	chain blocks6 {
"""
    + blocks.rules(blocks.IPV6, "goto approved")
    + """\
		counter drop
	}
	chain unnumbered {
		iifname . ether saddr @macs goto approved
		counter drop
	}
	chain approved {
		meta priority set meta priority & 0x8fffffff
	}
	chain forward {
		type filter hook forward priority filter; policy accept;
		meta nfproto ipv6 meta nfproto @closed jump gate
		oifname @isolated goto apart
		iifname @isolated goto apart
		iifgroup & 0x40000000 != 0 oifname . iifgroup . rt ip nexthop @exits4 return
		iifgroup & 0x40000000 != 0 oifname . iifgroup . rt ip6 nexthop @exits6 return
		iifgroup & 0x40000000 != 0 iifgroup @fenced goto fenced
		iifname @enclosed jump enclosed
		iifname @limited goto neighbours
		iifname . ip saddr @sought4 update @known4 { iifname . ip saddr timeout 5m }
		iifname . ip6 saddr @sought6 update @known6 { iifname . ip6 saddr timeout 5m }
	}
	chain fenced {
		jump enclosed
		goto neighbours
	}
	chain neighbours {
		oifname . rt ip nexthop @known4 return
		oifname . rt ip6 nexthop @known6 return
		oifname . rt ip nexthop @sought4 return
		oifname . rt ip6 nexthop @sought6 return
		oifname @limited return
		iifname != @limited return
		update @seekers { iifname timeout 1m limit rate over 20/second burst 100 packets } counter drop
		meta nfproto ipv4 limit rate over 100/second burst 100 packets counter drop
		meta nfproto ipv6 limit rate over 100/second burst 100 packets counter drop
		add @sought4 { oifname . rt ip nexthop timeout 3s }
		add @sought6 { oifname . rt ip6 nexthop timeout 3s }
	}
	chain apart {
		iifname . oifname != @bridged counter drop
	}
	chain gate {
		iifname . oifname @bridged goto approved
		iifname != @forwarding counter drop
		goto approved
	}
	chain enclosed {
		oifname . iifgroup @ways return
		iifgroup . oifgroup @reached return
		iifname . oifname @passages return
		iifname . oifgroup @entries return
		iifname @unbound oifname != @inner oifgroup < 1073741824 return
		oifgroup 0 oifname @guarded return
		meta priority & 0x01000000 != 0 return
		iifname @enclosed counter drop
	}
	chain input {
		type filter hook input priority filter; policy accept;
		iifname @outsiders goto outsider
		meta priority & 0x0c000000 vmap { 0x04000000 : goto none, 0x08000000 : goto replies, 0x0c000000 : goto services }
	}
	chain outsider {
		iifname @mutes goto none
		iifname @repliers goto replies
		goto services
	}
	chain services {
		meta l4proto { icmp, ipv6-icmp } return
		meta l4proto { tcp, udp } th dport 53 return
		udp dport { 67, 547 } return
		goto replies
	}
	chain replies {
		tcp flags & (syn | ack) != syn return
		icmp type { echo-reply, destination-unreachable, time-exceeded, parameter-problem } return
		icmpv6 type { 1-4, 129, 134, 137 } return
		ip saddr . udp sport . udp dport @asked4 return
		ip6 saddr . udp sport . udp dport @asked6 return
		udp sport . udp dport { 67 . 68, 547 . 546 } return
		ip frag-off & 0x1fff != 0 return
		frag frag-off != 0 return
		meta priority & 0x01000000 != 0 return
		goto none
	}
	chain none {
		meta l4proto igmp return
		icmpv6 type { 130-133, 135, 136, 143 } return
		counter drop
	}
	chain output {
		type filter hook output priority filter; policy accept;
		oifname @outsiders goto asks
		oifname @asking goto asks
	}
	chain asks {
		udp sport { 53, 67, 547 } return
		update @asked4 { ip daddr . udp dport . udp sport timeout 1m }
		update @asked6 { ip6 daddr . udp dport . udp sport timeout 1m }
	}"""
)

_NAT = """\
	set masquerade4 { type ipv4_addr . ifname; flags interval; }
	set masquerade6 { type ipv6_addr . ifname; flags interval; }
	set private4 { type ipv4_addr . ifname; }
	set private6 { type ipv6_addr . ifname; }
	map snat4 { type ipv4_addr . ifname : ipv4_addr; flags interval; }
	map snat6 { type ipv6_addr . ifname : ipv6_addr; flags interval; }
	set snatted4 { type ipv4_addr . ifname; flags interval; }
	set snatted6 { type ipv6_addr . ifname; flags interval; }
	set natted { type ifname; }
	set translated4 { type ifname . ifname; }
	set translated6 { type ifname . ifname; }
	set admitted { type ifname . ifname; }
	set admitted_groups { type devgroup . ifname; }
	chain nat {
		type nat hook postrouting priority srcnat; policy accept;
		ip daddr { 224.0.0.0/24, 255.255.255.255 } return
		ip6 daddr ff02::/16 return
		meta l4proto { tcp, udp } snat ip to ip saddr . oifname map @snat4 : 1024-65535
		meta l4proto { tcp, udp } snat ip6 to ip6 saddr . oifname map @snat6 : 1024-65535
		snat ip to ip saddr . oifname map @snat4
		snat ip6 to ip6 saddr . oifname map @snat6
		meta l4proto { tcp, udp } ip saddr . oifname @masquerade4 masquerade to :1024-65535
		meta l4proto { tcp, udp } ip6 saddr . oifname @masquerade6 masquerade to :1024-65535
		meta l4proto { tcp, udp } ip saddr . oifname @private4 masquerade to :1024-65535
		meta l4proto { tcp, udp } ip6 saddr . oifname @private6 masquerade to :1024-65535
		ip saddr . oifname @masquerade4 masquerade
		ip6 saddr . oifname @masquerade6 masquerade
		ip saddr . oifname @private4 masquerade
		ip6 saddr . oifname @private6 masquerade
	}
	chain inward {
		type filter hook forward priority filter; policy accept;
		oifname @natted goto behind
		iifname . oifname @translated4 meta nfproto ipv4 goto inside
		iifname . oifname @translated6 meta nfproto ipv6 goto inside
	}
	chain inside {
		ip saddr . oifname @masquerade4 return
		ip6 saddr . oifname @masquerade6 return
		ip saddr . oifname @snatted4 return
		ip6 saddr . oifname @snatted6 return
		counter drop
	}
	chain behind {
		ct state established,related return
		ct status dnat return
		iifname . oifname @admitted return
		iifgroup . oifname @admitted_groups return
		counter drop
	}
	chain invalid {
		type filter hook postrouting priority srcnat - 1; policy accept;
		ct state invalid goto untranslated
	}
	chain untranslated {
		ip daddr { 224.0.0.0/24, 255.255.255.255 } return
		ip6 daddr ff02::/16 return
		ip saddr . oifname @snatted4 counter drop
		ip6 saddr . oifname @snatted6 counter drop
		ip saddr . oifname @masquerade4 counter drop
		ip6 saddr . oifname @masquerade6 counter drop
		ip saddr . oifname @private4 counter drop
		ip6 saddr . oifname @private6 counter drop
	}"""

# What an enclosed guest answers goes to where it was asked from. INET must not track connections by itself: a bit of the packet's
# priority, which routing has cleared before, tells it.
#
# A guest's answer to a neighbour of its own would not come back to the host: such connections seem to be the host's (`hairpins`:
# in by the first link, out by the second). With br_netfilter the kernel bridges what was for a neighbour, and does not tell by
# which link it came in (`bridges`). A redirect, which would lead past the host too, is not sent. Where the gateway of guests is
# elsewhere, their answers have a mark, by which they leave as the host's own packets do (`elsewhere`, see ANSWER_MARK).
_FORWARD = """\
	map forward4 { type ipv4_addr . inet_proto . inet_service : ipv4_addr . inet_service; }
	map forward6 { type ipv6_addr . inet_proto . inet_service : ipv6_addr . inet_service; }
	map ranges4 { type ipv4_addr . inet_proto . inet_service : ipv4_addr; flags interval; }
	map ranges6 { type ipv6_addr . inet_proto . inet_service : ipv6_addr; flags interval; }
	set hairpins { type ifname . ifname; }
	set bridges { type ifname; }
	set elsewhere { type ifname; }
	chain arriving {
		type nat hook prerouting priority dstnat; policy accept;
		fib daddr type local goto forwarded
	}
	chain own {
		type nat hook output priority -100; policy accept;
		fib daddr type local goto forwarded
	}
	chain forwarded {
		meta l4proto { tcp, udp, sctp } dnat ip to ip daddr . meta l4proto . th dport map @forward4
		meta l4proto { tcp, udp, sctp } dnat ip6 to ip6 daddr . meta l4proto . th dport map @forward6
		meta l4proto { tcp, udp, sctp } dnat ip to ip daddr . meta l4proto . th dport map @ranges4
		meta l4proto { tcp, udp, sctp } dnat ip6 to ip6 daddr . meta l4proto . th dport map @ranges6
	}
	chain leaving {
		type nat hook postrouting priority srcnat; policy accept;
		ct status dnat iifname . oifname @hairpins masquerade
		ct status dnat iif 0 oifname @bridges masquerade
	}
	chain marked {
		type filter hook prerouting priority mangle; policy accept;
		iifname @elsewhere ct status dnat ct direction reply meta mark set meta mark | 0x08000000
	}
	chain answers {
		type filter hook forward priority filter - 1; policy accept;
		ct status dnat ct direction reply meta priority set meta priority | 0x01000000
	}
	chain answered {
		type filter hook forward priority filter + 1; policy accept;
		meta priority & 0x01000000 == 0 return
		meta priority set meta priority & 0xfeffffff
		meta mark set meta mark & 0xf7ffffff
	}
	chain own_answers {
		type filter hook input priority filter - 1; policy accept;
		ct status dnat ct direction reply meta priority set meta priority | 0x01000000
	}
	chain redirects {
		type filter hook output priority filter; policy accept;
		icmp type redirect ct status dnat drop
	}"""

_ARP = (
    """\
	set guarded { type ifname; }
	set checked { type ifname; }
	set macs { type ifname . ether_addr; }
	set sources { type ifname . ether_addr . ipv4_addr; }
	set prefixes { type ifname . ether_addr . ipv4_addr; flags interval; }
	set prefixed { type ifname; }
	set blocks4 { type ifname . ipv4_addr; }
	set own { type ifname . ipv4_addr; }
	map arp_source { type ifname : ipv4_addr; }
	chain input {
		type filter hook input priority filter; policy accept;
		iifname . arp daddr ip @own drop
		iifname @guarded goto guest
	}
	chain guest {
		meta priority & 0x10000000 == 0 iifname @checked counter drop
		iifname . ether saddr != @macs counter drop
		iifname . arp saddr ether . arp saddr ip @sources goto approved
		iifname . arp saddr ether . arp saddr ip @prefixes goto approved
		iifname @prefixed iifname . arp saddr ether @macs goto blocks4
		counter drop
	}
	chain blocks4 {
"""
    + blocks.rules(blocks.ARP, "goto approved")
    + """\
		counter drop
	}
	chain approved {
		meta priority set meta priority & 0x8fffffff
	}
	chain output {
		type filter hook output priority filter; policy accept;
		arp operation request arp saddr ip set oifname map @arp_source
	}"""
)

_SENDERS = """\
	map senders { type ifname . ipv4_addr : ipv4_addr; flags interval; }
	chain output {
		type filter hook output priority filter + 1; policy accept;
		arp operation request arp saddr ip set oifname . arp daddr ip map @senders
	}"""


def _table(family: str, body: str, name: str = TABLE) -> NftTable:
    """Return the table with that body. Each line of a chain is a rule, except for the `type` line of a base chain."""
    rules: dict[str, int] = {}
    for line in body.split("\n"):
        if line.startswith("\tchain "):
            rules[chain := line[len("\tchain ") : -len(" {")]] = 0
        elif line.startswith("\t\t") and not line.startswith("\t\ttype "):
            rules[chain] += 1
    return NftTable(family, body, tuple(sorted(rules.items())), name, hashlib.sha256(body.encode()).hexdigest()[:12])


INET = _table("inet", _INET)
NAT = _table("inet", _NAT, NAT_TABLE)
"""A separate table, set up only where addresses are translated: a chain of type nat makes the kernel track every connection of
the host, which slows down each forwarded packet, and nf_conntrack_max limits the connections. What the kernel takes for no part
of a connection, it does not translate: from sources that are translated, it is dropped."""
FORWARD = _table("inet", _FORWARD, FORWARD_TABLE)
"""A separate table, set up only where ports are forwarded: it makes the kernel track every connection, as NAT does. Only what is
for an address that the host has at the time is forwarded, and only the first packet of a connection is looked up: by its port,
then among the ranges of ports, whose look-up costs more."""
ARP = _table("arp", _ARP)
SENDERS = _table("arp", _SENDERS, SENDERS_TABLE)
"""A separate table, set up only where several networks are on one uplink: the sender depends on the subnet that is asked in."""
BRIDGE = _table("bridge", port_rules.BRIDGE)
"""A bridged guest with addresses may send ARP, IPv4 and IPv6 from them, requests for them (DHCP, duplicate address detection),
and the RARP frame of QEMU after a migration. It may not send router advertisements, redirects, advertisements of other
addresses (the target is at @th,64,128: RFC 4861, 4.3 and 4.4), or ICMPv6 whose type is not in the first fragment (RFC 7113,
3)."""
GUESTS = _table("netdev", port_rules.GUESTS)
"""Frames to link-local groups (IEEE 802.1D, 7.12.6; 802.1Q, 8.6.3) end at the port of a guest, as do those of GARP and MRP
applications (01:80:c2:00:00:2x) and Cisco's (CDP, VTP, DTP, PVST+): a bridge handles some of them before any chain of its family
sees them, and floods the others, to a switch that would take the host for one.

The rest is sent to the ifb, on which the kernel finishes the checksum that the guest left to it, and comes back to the port. What
a guest asks for by its virtio-net header is a sum, written wherever it names, when the frame is sent: otherwise that would be
after the filter, over the very addresses that it has judged."""
WIRES = _table("netdev", port_rules.WIRES, WIRES_TABLE)
"""A separate table, set up only where wires are: kernels may lack `dup`."""
TABLES = (INET, NAT, FORWARD, ARP, SENDERS, BRIDGE, GUESTS, WIRES)
"""The tables with guests as elements."""


KEEPER = f"{TABLE}_keeper"
"""The name of the agent's tables. They are owned by its netlink socket (`flags owner`): no other process can flush them, and
the kernel removes them when the agent ends. No table of a link has that name, see port_table."""
KEPT_SETS = {"inet": ("guarded",), "arp": ("guarded",), "bridge": ("guarded", "addressed")}
"""The sets that the agent's tables have as well, by family: of taps by their number there, so that one that gets another name
stays guarded."""
_MARKS = {"guarded": "0x40000000", "addressed": "0x20000000"}
_MARKED = "meta priority & 0x60000000 != 0"


def _mark(name: str) -> str:
    return f"meta priority set meta priority | {_MARKS[name]}"


def _keeper(family: str, hook: str, priority: str) -> str:
    lines = [f"table {family} {KEEPER} {{", "\tflags owner;"]
    lines += [f"\tset {name} {{ type iface_index; }}" for name in KEPT_SETS[family]]
    lines += ["\tchain before {", f"\t\ttype filter hook {hook} priority {priority} - 1; policy accept;"]
    lines += [f"\t\tiif @{name} {_mark(name)}" for name in KEPT_SETS[family]]
    lines += ["\t}", "\tchain after {", f"\t\ttype filter hook {hook} priority {priority} + 1; policy accept;"]
    return "\n".join([*lines, f"\t\t{_MARKED} iif @guarded counter drop", "\t}", "}", ""])


KEEPERS = {
    "inet": _keeper("inet", "prerouting", "raw"),
    "arp": _keeper("arp", "input", "filter"),
    "bridge": _keeper("bridge", "prerouting", "dstnat"),
}
"""A guest's packets are marked right before our filter, and dropped right after it if the marks are still set. So nothing
passes while our filter is flushed. The marks are two bits of the packet's priority, the only field that chains of every family
can set and that other programs do not use here: tc takes these bits as part of a class's major number, which is never that high
in practice; queues and VLANs use the lowest bits; and our filter clears the marks before the packet gets to either."""
KEEP_CLOSED = f"""\
add chain inet {KEEPER} before_forward {{ type filter hook forward priority filter - 1; policy accept; }}
add chain inet {KEEPER} after_forward {{ type filter hook forward priority filter + 1; policy accept; }}
add rule inet {KEEPER} before_forward meta nfproto ipv6 {_mark("guarded")}
add rule inet {KEEPER} after_forward {_MARKED} meta nfproto ipv6 counter drop
"""
"""The same for forwarded IPv6, on a host that did not forward IPv6 before we switched it on."""


CLOSED6 = NftElement("inet", "closed", ("ipv6",))
"""Set on a host that did not forward IPv6 before we switched it on."""


def with_tables(claims: Mapping[str, Resource]) -> dict[str, Resource]:
    """Return recorded claims of an owner with the tables as they are in this version. Records of an older one have others; those
    of before NAT had a table of its own do not claim that."""
    today = {table.key: table for table in TABLES}
    translates = NAT.key not in claims and any(isinstance(r, NftElement) and r.table == NAT.key for r in claims.values())
    found = {key: today.get(key, resource) for key, resource in claims.items()}
    return {NAT.key: NAT, **found} if translates else found


def forwarding(version: int, links: Iterable[str], host: Host) -> Iterator[Resource]:
    """Yield the resources that make the host forward packets of one IP version, 4 or 6, that arrive on `links`.

    A host that did not forward before must not start to forward between its other interfaces. For IPv4, the setting of the device
    is decisive. For IPv6, the kernel uses `all` only, so the nft set `forwarding` is decisive. Links whose default route comes
    from a router advertisement get accept_ra=2 first, or the kernel would purge what they learned.
    """
    if version == 4:
        for dev in links:
            yield Sysctl(f"net/ipv4/conf/{dev}/forwarding", "1")
        return
    yield INET
    for dev in host.ra_links:
        yield Sysctl(f"net/ipv6/conf/{dev}/accept_ra", "2")
    if not host.router6:
        yield CLOSED6
    for dev in links:
        yield NftElement("inet", "forwarding", (f'"{dev}"',))
    yield Sysctl(FORWARDING_GATE, "1")
    for dev in links:
        yield Sysctl(f"net/ipv6/conf/{dev}/forwarding", "1")


def guarded_port(ifname: str, mac: str, shared: Sequence[str]) -> NftTable:
    """Return the table that keeps a gateway with the same MAC and addresses on several nodes local to each: in both directions
    of this port it drops frames from or to its MAC, and ARP and ND about its addresses. The family is netdev, because chains of
    family bridge do not see the frames that the bridge itself sends."""
    ipv4 = ", ".join(address for address in shared if values.version(address) == 4)
    ipv6 = [address for address in shared if values.version(address) == 6]
    rules = [f"ether saddr {mac} counter drop", f"ether daddr {mac} counter drop"]
    if ipv4:
        rules += [f"arp saddr ip {{ {ipv4} }} counter drop", f"arp daddr ip {{ {ipv4} }} counter drop"]
    for address in ipv6:
        rules.append(f"ip6 saddr {address} icmpv6 type {{ nd-neighbor-solicit, nd-neighbor-advert }} counter drop")
        # The target address is at offset 8 (bytes) of the message, RFC 4861, 4.3 and 4.4.
        target = int.from_bytes(IPv6Address(address).packed, "big")
        rules.append(f"icmpv6 type {{ nd-neighbor-solicit, nd-neighbor-advert }} @th,64,128 {target:#x} counter drop")
    lines: list[str] = []
    for hook in ("egress", "ingress"):
        lines.append(f"\tchain {hook} {{")
        lines.append(f'\t\ttype filter hook {hook} device "{ifname}" priority filter; policy accept;')
        lines += [f"\t\t{rule}" for rule in rules]
        lines.append("\t}")
    return _table("netdev", "\n".join(lines), port_table(ifname))


def shares(name: str, most: int, subnets: Sequence[values.Subnet] = (), outside: str = "") -> NftTable:
    """Return the table that limits the tracked connections of each guest of a NAT or a network (see shares_table), wherever they
    lead to: of those in `subnets`, or without any of those at the taps in the table's set.

    A guest is the MAC behind one interface: with IPv6 it has more addresses than can be counted. With `outside`, the link to the
    outside of a router, it is an address: what comes from guests of other nodes has the MAC of their node."""
    sets, rules = ["set guests { type ifname . ether_addr; flags dynamic; }"], []
    matches: list[tuple[int, str]] = [(net.version, f"{_word(net)} saddr {net} ") for net in subnets]
    if not subnets:
        sets.append(f"set {shared_set(name)} {{ type ifname; }}")
        matches = [(0, f"iifname @{shared_set(name)} ")]
    if outside:
        sets = [f"set guests{version} {{ type ipv{version}_addr; flags dynamic; }}" for version in (4, 6)]
    for version, match in matches:
        who, key = ("guests", "iifname . ether saddr")
        if outside:
            who, key = f"guests{version}", f"{'ip' if version == 4 else 'ip6'} saddr"
            match = f'iifname != "{outside}" {match}'
        rules.append(f"ct state new {match}add @{who} {{ {key} ct count over {most} }} counter drop")
    body = "\n".join(
        [
            *(f"\t{line}" for line in sets),
            "\tchain new {",
            "\t\ttype filter hook prerouting priority mangle; policy accept;",
            *(f"\t\t{rule}" for rule in rules),
            "\t}",
        ]
    )
    return _table("inet", body, shares_table(name))


def _word(net: values.Subnet) -> str:
    return "ip" if net.version == 4 else "ip6"
