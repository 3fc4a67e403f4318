"""Our nft tables. Guests are elements of sets and maps, never rules: the cost per packet does not depend on their number.

Our base chains have the standard priorities (raw, filter, srcnat). A verdict of ours does not keep the chains of other tables
from dropping the packet.
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from ipaddress import IPv6Address

from .. import values
from .facts import Host
from .objects import FORWARDING_GATE, NftElement, NftTable, Sysctl, port_table, shares_table
from .objects.link import IFB_INDEX
from .resource import NAT_TABLE, SENDERS_TABLE, TABLE, Resource

LONGEST_MTU = 9216
"""Bytes. The checksums of TCP segments that are longer are not finished: filtered guests need links of no larger MTU."""

# Sets are keyed by interface name: an element outlives the tap, and matches a new tap of the same name. Single addresses are in
# hash sets (sources, private): an interval set refuses overlapping elements, and its look-up is slower. The name of a set
# determines its table, see objects.table_of.
#
# `neighbours` limits the next hops that a guest makes the host look for: of what is on-link, that is the destination. An address
# is sought for as long as the kernel looks for it, and known if it sends within this time.
#
# A packet that passes a filter goes to the chain `approved`, which clears the marks that KEEPERS set: two bits of the packet's
# priority (the second one for ports with known addresses). Without a keeper these bits are never set. A third bit says that the
# packet's checksum is finished, see GUESTS: what comes from a port in `checked` without it is dropped, so that nothing passes
# while the port's chain is gone.
#
# A guest is a client unless it has a role. What only a server, a router or a querier sends is dropped from `clients`; a guest
# that runs since an older version is not among them. IPv6 extensions may push a message's type out of its first fragment
# (RFC 7113, 3): what can't be read is dropped. So is a later fragment of IGMP, as the kernel's snooping takes it for a message.
# Kernels read up to 4 bytes at @th of any later fragment as if they were the header: such a match needs frag-off beside it.
# 151 and 153, 0x30 and 0x32: multicast routers (RFC 4286). 0x13, 0x14: DVMRP, PIM version 1. 103: PIM. 112: VRRP, CARP.
_ROLES = """\
	set clients { type ifname; }
	set dhcp_servers { type ifname; }
	set routers { type ifname; }
	set queriers { type ifname; }
	chain roles4 {
		meta l4proto vmap { 6 : return, 17 : goto dhcp4, 1 : goto icmp4, 2 : goto igmp4, 103 : goto router, 112 : goto vrrp4 }
		meta l4proto != 255 return
		goto client
	}
	chain roles6 {
		meta l4proto vmap { 6 : return, 17 : goto dhcp6, 58 : goto icmp6, 103 : goto router, 112 : goto vrrp6 }
		meta l4proto != 255 return
		goto client
	}
	chain dhcp4 {
		@th,0,16 != 67 return
		meta protocol ip ip frag-off & 0x1fff != 0 return
		goto dhcp_server
	}
	chain dhcp6 {
		@th,0,16 != 547 return
		meta protocol ip6 frag frag-off != 0 return
		@th,0,16 547 goto dhcp_server
		goto client
	}
	chain icmp4 {
		@th,0,8 != { 5, 9 } return
		meta protocol ip ip frag-off & 0x1fff != 0 return
		goto router
	}
	chain igmp4 {
		meta protocol ip ip frag-off & 0x1fff != 0 goto client
		@th,0,8 0x11 goto querier
		@th,0,8 { 0x13, 0x14, 0x30, 0x32 } goto router
		@th,0,8 0-255 return
		goto client
	}
	chain icmp6 {
		@th,0,8 != { 130, 134, 137, 151, 153 } return
		meta protocol ip6 frag frag-off != 0 return
		@th,0,8 130 goto querier
		@th,0,8 0-255 goto router
		goto client
	}
	chain dhcp_server {
		iifname != @dhcp_servers goto client
	}
	chain router {
		iifname != @routers goto client
	}
	chain querier {
		iifname != @queriers goto client
	}
	chain client {
		iifname @clients counter drop
	}
"""

_INET = (
    _ROLES
    + """\
	set guarded { type ifname; }
	set checked { type ifname; }
	set macs { type ifname . ether_addr; }
	set sources4 { type ifname . ether_addr . ipv4_addr; }
	set sources6 { type ifname . ether_addr . ipv6_addr; }
	set prefixes4 { type ifname . ether_addr . ipv4_addr; flags interval; }
	set prefixes6 { type ifname . ether_addr . ipv6_addr; flags interval; }
	set closed { type nf_proto; }
	set forwarding { type ifname; }
	set limited { type ifname; }
	set sought4 { type ipv4_addr; flags dynamic,timeout; }
	set sought6 { type ipv6_addr; flags dynamic,timeout; }
	set known4 { type ipv4_addr; flags dynamic,timeout; }
	set known6 { type ipv6_addr; flags dynamic,timeout; }
	set seekers { type ifname; flags dynamic,timeout; }
	chain guard {
		type filter hook prerouting priority raw; policy accept;
		iifname @guarded goto guest
	}
	chain vrrp4 {
		goto router
	}
	chain vrrp6 {
		goto router
	}
	chain guest {
		meta priority & 0x10000000 == 0 iifname @checked counter drop
		meta protocol vmap { ip : jump roles4, ip6 : jump roles6 }
		iifname . ether saddr . ip saddr @sources4 goto approved
		iifname . ether saddr . ip6 saddr @sources6 goto approved
		iifname . ether saddr . ip saddr @prefixes4 goto approved
		iifname . ether saddr . ip6 saddr @prefixes6 goto approved
		ip saddr 0.0.0.0 udp sport 68 udp dport 67 goto unnumbered
		ip6 saddr :: icmpv6 type { nd-neighbor-solicit, mld2-listener-report } goto unnumbered
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
		iifname @limited goto neighbours
		ip saddr @sought4 update @known4 { ip saddr timeout 5m }
		ip6 saddr @sought6 update @known6 { ip6 saddr timeout 5m }
	}
	chain neighbours {
		rt ip nexthop @known4 return
		rt ip6 nexthop @known6 return
		rt ip nexthop @sought4 return
		rt ip6 nexthop @sought6 return
		oifname @limited return
		update @seekers { iifname timeout 1m limit rate over 20/second burst 100 packets } counter drop
		meta nfproto ipv4 limit rate over 100/second burst 100 packets counter drop
		meta nfproto ipv6 limit rate over 100/second burst 100 packets counter drop
		add @sought4 { rt ip nexthop timeout 3s }
		add @sought6 { rt ip6 nexthop timeout 3s }
	}
	chain gate {
		iifname != @forwarding counter drop
		goto approved
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
	chain nat {
		type nat hook postrouting priority srcnat; policy accept;
		ip daddr { 224.0.0.0/24, 255.255.255.255 } return
		ip6 daddr ff02::/16 return
		snat ip to ip saddr . oifname map @snat4
		snat ip6 to ip6 saddr . oifname map @snat6
		ip saddr . oifname @masquerade4 masquerade
		ip6 saddr . oifname @masquerade6 masquerade
		ip saddr . oifname @private4 masquerade
		ip6 saddr . oifname @private6 masquerade
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

_ARP = """\
	set guarded { type ifname; }
	set checked { type ifname; }
	set macs { type ifname . ether_addr; }
	set sources { type ifname . ether_addr . ipv4_addr; }
	set prefixes { type ifname . ether_addr . ipv4_addr; flags interval; }
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
		counter drop
	}
	chain approved {
		meta priority set meta priority & 0x8fffffff
	}
	chain output {
		type filter hook output priority filter; policy accept;
		arp operation request arp saddr ip set oifname map @arp_source
	}"""

_SENDERS = """\
	map senders { type ifname . ipv4_addr : ipv4_addr; flags interval; }
	chain output {
		type filter hook output priority filter + 1; policy accept;
		arp operation request arp saddr ip set oifname . arp daddr ip map @senders
	}"""

# Filters frames from a port before the bridge handles them. The kernel has already removed the (outer) VLAN tag of a frame:
# `meta protocol` and the headers are those behind the tag, while `ether type` is that of the tag. What is behind a second tag is
# not looked into: only a router sends it, and beside a gateway not with VLAN ID 0, which receivers strip like no tag.
#
# The addresses and the MAC of a bridge's own are guarded on each port beside it, whatever the port's filter: `gateways4` and the
# like are keyed by port, as many kernels have no nft_meta_bridge for `meta ibrname`. Fragments of neighbour discovery are no
# neighbour discovery (RFC 6980, 5). A probe for the address would take it from a host that probes for it itself.
_BRIDGE = (
    _ROLES
    + """\
	set guarded { type ifname; }
	set checked { type ifname; }
	set macs { type ifname . ether_addr; }
	set addressed { type ifname; }
	set tagged { type ifname; }
	set sources4 { type ifname . ether_addr . ipv4_addr; }
	set sources6 { type ifname . ether_addr . ipv6_addr; }
	set prefixes4 { type ifname . ether_addr . ipv4_addr; flags interval; }
	set prefixes6 { type ifname . ether_addr . ipv6_addr; flags interval; }
	set targets { typeof iifname . ether saddr . @th,64,128; }
	set target_prefixes { typeof iifname . ether saddr . @th,64,128; flags interval; }
	set vrrp4 { typeof iifname . ether saddr . @th,64,32; }
	set beside_gateway { type ifname; }
	set gateways4 { type ifname . ipv4_addr; }
	set gateways6 { type ifname . ipv6_addr; }
	set gateway_targets { typeof iifname . @th,64,128; }
	set gateway_probes { typeof iifname . @th,64,128; }
	set gateway_macs { type ifname . ether_addr; }
	chain guard {
		type filter hook prerouting priority dstnat; policy accept;
		iifname @beside_gateway jump beside
		iifname @guarded goto guest
	}
	chain beside {
		iifname . ether saddr @gateway_macs counter drop
		meta protocol arp iifname . arp saddr ip @gateways4 counter drop
		meta protocol ip iifname . ip saddr @gateways4 counter drop
		meta protocol ip6 iifname . ip6 saddr @gateways6 counter drop
		meta l4proto ipv6-icmp goto beside_icmp6
		meta protocol { 8021q, 8021ad } @ll,116,12 0 counter drop
		meta protocol { 8021q, 8021ad } @nh,4,12 0 counter drop
	}
	chain beside_icmp6 {
		meta protocol ip6 ip6 saddr :: @th,0,8 135 iifname . @th,64,128 @gateway_probes counter drop
		@th,0,8 != 136 return
		meta protocol ip6 frag frag-off != 0 return
		meta protocol ip6 exthdr frag missing iifname . @th,64,128 != @gateway_targets return
		counter drop
	}
	chain vrrp4 {
		meta protocol ip ip frag-off & 0x3fff != 0 goto client
		iifname . ether saddr . @th,64,32 @vrrp4 return
		iifname @addressed goto client
		goto router
	}
	chain vrrp6 {
		meta protocol ip6 exthdr frag exists goto client
		iifname . ether saddr . @th,64,128 @targets return
		iifname @addressed goto client
		goto router
	}
	chain guest {
		meta priority & 0x10000000 == 0 iifname @checked counter drop
		iifname . ether saddr != @macs counter drop
		meta protocol arp iifname . arp saddr ether != @macs counter drop
		meta protocol vmap { ip : jump roles4, ip6 : jump roles6, 8021q : jump router, 8021ad : jump router }
		iifname @addressed goto addressed
		meta priority set meta priority & 0xafffffff
	}
	chain approved {
		meta priority set meta priority & 0x8fffffff
	}
	chain addressed {
		ether type { 8021q, 8021ad } iifname != @tagged counter drop
		meta protocol vmap { arp : goto from_arp, ip : goto from_ipv4, ip6 : goto from_ipv6 }
		meta protocol 0x8035 @nh,48,16 3 @nh,112,32 0 @nh,192,32 0 goto approved
		counter drop
	}
	chain from_arp {
		meta protocol arp iifname . ether saddr . arp saddr ip @sources4 goto approved
		meta protocol arp iifname . ether saddr . arp saddr ip @prefixes4 goto approved
		meta protocol arp arp operation request arp saddr ip 0.0.0.0 goto approved
		counter drop
	}
	chain from_ipv4 {
		meta protocol ip iifname . ether saddr . ip saddr @sources4 goto approved
		meta protocol ip iifname . ether saddr . ip saddr @prefixes4 goto approved
		meta protocol ip ip saddr 0.0.0.0 meta l4proto udp udp sport 68 udp dport 67 goto approved
		counter drop
	}
	chain from_ipv6 {
		meta l4proto ipv6-icmp goto from_icmpv6
		meta l4proto != 255 goto source6
		counter drop
	}
	chain from_icmpv6 {
		meta protocol ip6 frag frag-off != 0 goto source6
		@th,0,8 { 134, 137 } iifname != @routers counter drop
		@th,0,8 136 goto advert
		meta protocol ip6 ip6 saddr :: @th,0,8 135 iifname . ether saddr . @th,64,128 @targets goto approved
		meta protocol ip6 ip6 saddr :: @th,0,8 135 iifname . ether saddr . @th,64,128 @target_prefixes goto approved
		meta protocol ip6 ip6 saddr :: @th,0,8 143 goto approved
		@th,0,8 0-255 goto source6
		counter drop
	}
	chain advert {
		iifname . ether saddr . @th,64,128 @targets goto source6
		iifname . ether saddr . @th,64,128 @target_prefixes goto source6
		counter drop
	}
	chain source6 {
		meta protocol ip6 iifname . ether saddr . ip6 saddr @sources6 goto approved
		meta protocol ip6 iifname . ether saddr . ip6 saddr @prefixes6 goto approved
		counter drop
	}"""
)

# What guests send, before the bridge or the router sees it. The port of a guest has a base chain that goes to one of the first
# three: see NftChain. The `switch` is of guests with that role.
#
# Large TCP segments stay whole: only the kernel's own segmentation makes frames longer than the MTU, and it refuses those whose
# checksum is not TCP's. A frame that a guest merely makes long is dropped where it leaves, as it may not be fragmented.
_GUESTS = f"""\
	chain ports {{
		ether daddr & 01:00:00:00:00:00 == 01:00:00:00:00:00 goto groups
	}}
	chain guests {{
		ether daddr & 01:00:00:00:00:00 == 01:00:00:00:00:00 jump groups
		goto switch
	}}
	chain switch {{
		meta priority set meta priority | 0x10000000
		meta length > {LONGEST_MTU} ip protocol tcp ip frag-off 0x4000 accept
		meta length > {LONGEST_MTU} ip6 nexthdr tcp accept
		fwd to {IFB_INDEX}
	}}
	chain groups {{
		ether daddr & ff:ff:ff:ff:ff:d0 == 01:80:c2:00:00:00 counter drop
		ether daddr {{ 01:00:0c:cc:cc:cc, 01:00:0c:cc:cc:cd }} counter drop
	}}"""


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
ARP = _table("arp", _ARP)
SENDERS = _table("arp", _SENDERS, SENDERS_TABLE)
"""A separate table, set up only where several networks are on one uplink: the sender depends on the subnet that is asked in."""
BRIDGE = _table("bridge", _BRIDGE)
"""A bridged guest with addresses may send ARP, IPv4 and IPv6 from them, requests for them (DHCP, duplicate address detection),
and the RARP frame of QEMU after a migration. It may not send router advertisements, redirects, advertisements of other
addresses (the target is at @th,64,128: RFC 4861, 4.3 and 4.4), or ICMPv6 whose type is not in the first fragment (RFC 7113,
3)."""
GUESTS = _table("netdev", _GUESTS)
"""Frames to link-local groups (IEEE 802.1D, 7.12.6; 802.1Q, 8.6.3) end at the port of a guest, as do those of GARP and MRP
applications (01:80:c2:00:00:2x) and Cisco's (CDP, VTP, DTP, PVST+): a bridge handles some of them before any chain of its family
sees them, and floods the others, to a switch that would take the host for one.

The rest is sent to the ifb, on which the kernel finishes the checksum that the guest left to it, and comes back to the port. What
a guest asks for by its virtio-net header is a sum, written wherever it names, when the frame is sent: otherwise that would be
after the filter, over the very addresses that it has judged."""
TABLES = (INET, NAT, ARP, SENDERS, BRIDGE, GUESTS)
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


def shares(nat: str, subnet: values.Subnet, most: int) -> NftTable:
    """Return the table that limits the tracked connections of each guest in the subnet of a NAT, wherever they lead to. A guest
    is the MAC behind one interface: with IPv6 it has more addresses than can be counted."""
    word = "ip" if subnet.version == 4 else "ip6"
    body = f"""\
	set guests {{ type ifname . ether_addr; flags dynamic; }}
	chain new {{
		type filter hook prerouting priority mangle; policy accept;
		ct state new {word} saddr {subnet} add @guests {{ iifname . ether saddr ct count over {most} }} counter drop
	}}"""
    return _table("inet", body, shares_table(nat))
