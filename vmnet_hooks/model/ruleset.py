"""Our nft tables. Guests are elements of their sets and maps, never rules: the cost is the same for ten and for thousands.

Chains sit at the standard priorities (raw, filter, srcnat) of hooks of their own; a verdict of ours does not keep another
table's chain from dropping the packet.
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from ipaddress import IPv6Address

from .. import values
from .facts import Host
from .objects import FORWARDING_GATE, NftElement, NftTable, Sysctl, port_table
from .resource import NAT_TABLE, TABLE, Resource

# Sets are keyed by interface name: an element outlives the tap, and binds again by name. Single addresses are in sets of their
# own (sources, private): a set of intervals refuses one that overlaps another, and a look-up in it costs more. A set's name says
# which table it is in, objects.table_of.
#
# What passes a filter goes to `approved`, and from there on its way: it takes off the marks that KEEPERS put on it, two bits of
# the packet's priority (the second: of a port whose addresses are known). Without a keeper they are not set: nothing changes.
_INET = """\
	set guarded { type ifname; }
	set macs { type ifname . ether_addr; }
	set sources4 { type ifname . ether_addr . ipv4_addr; }
	set sources6 { type ifname . ether_addr . ipv6_addr; }
	set prefixes4 { type ifname . ether_addr . ipv4_addr; flags interval; }
	set prefixes6 { type ifname . ether_addr . ipv6_addr; flags interval; }
	set closed { type nf_proto; }
	set forwarding { type ifname; }
	chain guard {
		type filter hook prerouting priority raw; policy accept;
		iifname @guarded goto guest
	}
	chain guest {
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
		meta priority set meta priority & 0x9fffffff
	}
	chain forward {
		type filter hook forward priority filter; policy accept;
		meta nfproto @closed goto gate
	}
	chain gate {
		iifname != @forwarding counter drop
		goto approved
	}"""
_INET_RULES = (("approved", 1), ("forward", 1), ("gate", 2), ("guard", 1), ("guest", 7), ("unnumbered", 2))

_NAT = """\
	set masquerade4 { type ipv4_addr . ifname; flags interval; }
	set masquerade6 { type ipv6_addr . ifname; flags interval; }
	set private4 { type ipv4_addr . ifname; }
	set private6 { type ipv6_addr . ifname; }
	map snat4 { type ipv4_addr . ifname : ipv4_addr; flags interval; }
	map snat6 { type ipv6_addr . ifname : ipv6_addr; flags interval; }
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
	}"""
_NAT_RULES = (("nat", 8),)

_ARP = """\
	set guarded { type ifname; }
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
		iifname . ether saddr != @macs counter drop
		iifname . arp saddr ether . arp saddr ip @sources goto approved
		iifname . arp saddr ether . arp saddr ip @prefixes goto approved
		counter drop
	}
	chain approved {
		meta priority set meta priority & 0x9fffffff
	}
	chain output {
		type filter hook output priority filter; policy accept;
		arp operation request arp saddr ip set oifname map @arp_source
	}"""
_ARP_RULES = (("approved", 1), ("guest", 4), ("input", 2), ("output", 1))

# Judges what comes from a bridge's port, before the bridge does. A frame's one VLAN tag is taken off by then: `meta protocol`
# and the headers are what is behind it, `ether type` (the tag itself) shows that it was there.
_BRIDGE = """\
	set guarded { type ifname; }
	set macs { type ifname . ether_addr; }
	set addressed { type ifname; }
	set tagged { type ifname; }
	set sources4 { type ifname . ether_addr . ipv4_addr; }
	set sources6 { type ifname . ether_addr . ipv6_addr; }
	set prefixes4 { type ifname . ether_addr . ipv4_addr; flags interval; }
	set prefixes6 { type ifname . ether_addr . ipv6_addr; flags interval; }
	set targets { typeof iifname . ether saddr . @th,64,128; }
	set target_prefixes { typeof iifname . ether saddr . @th,64,128; flags interval; }
	chain guard {
		type filter hook prerouting priority dstnat; policy accept;
		iifname @guarded goto guest
	}
	chain guest {
		iifname . ether saddr != @macs counter drop
		meta protocol arp iifname . arp saddr ether != @macs counter drop
		iifname @addressed goto addressed
		meta priority set meta priority & 0xbfffffff
	}
	chain approved {
		meta priority set meta priority & 0x9fffffff
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
		@th,0,8 { 134, 137 } counter drop
		@th,0,8 136 goto advert
		meta protocol ip6 ip6 saddr :: @th,0,8 135 iifname . ether saddr . @th,64,128 @targets goto approved
		meta protocol ip6 ip6 saddr :: @th,0,8 135 iifname . ether saddr . @th,64,128 @target_prefixes goto approved
		meta protocol ip6 ip6 saddr :: @th,0,8 143 goto approved
		@th,0,8 0-255 goto source6
		meta protocol ip6 frag frag-off != 0 goto source6
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
_BRIDGE_RULES = (
    ("addressed", 4),
    ("advert", 3),
    ("approved", 1),
    ("from_arp", 4),
    ("from_icmpv6", 8),
    ("from_ipv4", 4),
    ("from_ipv6", 3),
    ("guard", 1),
    ("guest", 4),
    ("source6", 3),
)


def _table(family: str, body: str, rules: tuple[tuple[str, int], ...], name: str = TABLE) -> NftTable:
    return NftTable(family, body, rules, name, hashlib.sha256(body.encode()).hexdigest()[:12])


INET = _table("inet", _INET, _INET_RULES)
NAT = _table("inet", _NAT, _NAT_RULES, NAT_TABLE)
"""Apart from INET: a chain of type nat makes the kernel track every connection of the host, which costs each packet that is
forwarded, and is limited by nf_conntrack_max. Only for those who translate."""
ARP = _table("arp", _ARP, _ARP_RULES)
BRIDGE = _table("bridge", _BRIDGE, _BRIDGE_RULES)
"""Of a bridged guest with addresses: ARP, IPv4 and IPv6 from them, what asks for them (DHCP, and probes for its own), QEMU's
RARP after a migration. Not: advertisements of routers, redirects, advertisements of others' addresses (the target stands at
@th,64,128: RFC 4861, 4.3 and 4.4), ICMPv6 whose type is cut off by fragmentation (RFC 7113, 3)."""
TABLES = (INET, NAT, ARP, BRIDGE)
"""Those that hold guests as elements."""


KEEPER = f"{TABLE}_keeper"
"""The agent's own tables. They belong to its socket: nobody else can flush them, and when it ends they are gone with it. No
link has a table of that name, see port_table."""
KEPT_SETS = {"inet": ("guarded",), "arp": ("guarded",), "bridge": ("guarded", "addressed")}
"""What of our own sets they have too, by family."""
_MARKS = {"guarded": "0x40000000", "addressed": "0x20000000"}
_MARKED = "meta priority & 0x60000000 != 0"


def _mark(name: str) -> str:
    return f"meta priority set meta priority | {_MARKS[name]}"


def _keeper(family: str, hook: str, priority: str) -> str:
    lines = [f"table {family} {KEEPER} {{", "\tflags owner;"]
    lines += [f"\tset {name} {{ type ifname; }}" for name in KEPT_SETS[family]]
    lines += ["\tchain before {", f"\t\ttype filter hook {hook} priority {priority} - 1; policy accept;"]
    lines += [f"\t\tiifname @{name} {_mark(name)}" for name in KEPT_SETS[family]]
    lines += ["\t}", "\tchain after {", f"\t\ttype filter hook {hook} priority {priority} + 1; policy accept;"]
    return "\n".join([*lines, f"\t\t{_MARKED} iifname @guarded counter drop", "\t}", "}", ""])


KEEPERS = {
    "inet": _keeper("inet", "prerouting", "raw"),
    "arp": _keeper("arp", "input", "filter"),
    "bridge": _keeper("bridge", "prerouting", "dstnat"),
}
"""What a guest sends is marked right before our filter, and dropped right after it unless the filter has taken the marks off: as
long as somebody has flushed the filter, nothing passes. The marks are bits of the priority because nothing else of a packet can
be set in every family without a meaning for others: classes of tc have them in major numbers that nobody uses, queues and VLANs
look at the lowest bits, and they are off again before any of them sees the packet."""
KEEP_CLOSED = f"""\
add chain inet {KEEPER} before_forward {{ type filter hook forward priority filter - 1; policy accept; }}
add chain inet {KEEPER} after_forward {{ type filter hook forward priority filter + 1; policy accept; }}
add rule inet {KEEPER} before_forward meta nfproto ipv6 {_mark("guarded")}
add rule inet {KEEPER} after_forward {_MARKED} meta nfproto ipv6 counter drop
"""
"""The same for IPv6 on a host that did not forward it before us."""


CLOSED6 = NftElement("inet", "closed", ("ipv6",))
"""There on a host that did not forward IPv6 before us."""


def with_nat(claims: Mapping[str, Resource]) -> dict[str, Resource]:
    """What is recorded for an owner, with the table that its NAT is in: before this table was one of its own, nobody claimed
    it."""
    translates = NAT.key not in claims and any(isinstance(r, NftElement) and r.table == NAT.key for r in claims.values())
    return {NAT.key: NAT, **claims} if translates else dict(claims)


def forwarding(version: int, links: Iterable[str], host: Host) -> Iterator[Resource]:
    """Yield what makes the host forward one family, 4 or 6, for packets that come in by `links`.

    A host that did not forward before does not begin to between its other interfaces. For IPv4 the setting of the device
    decides. For IPv6 the kernel looks at `all` alone, so the set `forwarding` decides. Links whose default route comes from a
    router advertisement get accept_ra=2 first, or the kernel purges what they learned.
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
    """The table that keeps a shared gateway on its node: through this port, neither way, goes a frame from or to its MAC, or
    ARP or ND for or from its addresses. netdev, and not bridge: these chains see what the bridge itself sends."""
    ipv4 = ", ".join(address for address in shared if values.version(address) == 4)
    ipv6 = [address for address in shared if values.version(address) == 6]
    rules = [f"ether saddr {mac} counter drop", f"ether daddr {mac} counter drop"]
    if ipv4:
        rules += [f"arp saddr ip {{ {ipv4} }} counter drop", f"arp daddr ip {{ {ipv4} }} counter drop"]
    for address in ipv6:
        rules.append(f"ip6 saddr {address} icmpv6 type {{ nd-neighbor-solicit, nd-neighbor-advert }} counter drop")
        # The target: eight bytes into the message, RFC 4861, 4.3 and 4.4.
        target = int.from_bytes(IPv6Address(address).packed, "big")
        rules.append(f"icmpv6 type {{ nd-neighbor-solicit, nd-neighbor-advert }} @th,64,128 {target:#x} counter drop")
    lines: list[str] = []
    for hook in ("egress", "ingress"):
        lines.append(f"\tchain {hook} {{")
        lines.append(f'\t\ttype filter hook {hook} device "{ifname}" priority filter; policy accept;')
        lines += [f"\t\t{rule}" for rule in rules]
        lines.append("\t}")
    counts = tuple((hook, len(rules)) for hook in ("egress", "ingress"))
    return _table("netdev", "\n".join(lines), counts, port_table(ifname))
