"""The rules at the ports of guests, of the families bridge and netdev; and those of roles, which the family inet has too. See
ruleset.py."""

from . import blocks
from .objects.link import IFB_INDEX

LONGEST_MTU = 9216
"""Bytes. The checksums of TCP segments that are longer are not finished: filtered guests need links of no larger MTU."""

# A guest is a client unless it has a role. What only a server, a router or a querier sends is dropped from `clients`; a guest
# that runs since an older version is not among them. IPv6 extensions may push a message's type out of its first fragment
# (RFC 7113, 3): what can't be read is dropped. So is a later fragment of IGMP, as the kernel's snooping takes it for a message.
# Kernels read up to 4 bytes at @th of any later fragment as if they were the header: such a match needs frag-off beside it.
# 151 and 153, 0x30 and 0x32: multicast routers (RFC 4286). 0x13, 0x14: DVMRP, PIM version 1. 103: PIM. 112: VRRP, CARP.
ROLES = """\
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

SOURCES = """\
	set sources4 { type ifname . ether_addr . ipv4_addr; }
	set sources6 { type ifname . ether_addr . ipv6_addr; }
	set prefixes4 { type ifname . ether_addr . ipv4_addr; flags interval; }
	set prefixes6 { type ifname . ether_addr . ipv6_addr; flags interval; }
	set prefixed { type ifname; }
	set blocks4 { type ifname . ipv4_addr; }
	set blocks6 { typeof iifname . @nh,64,128; }
"""
"""The sets of what guests may send from."""

# Filters frames from a port before the bridge handles them. The kernel has already removed the (outer) VLAN tag of a frame:
# `meta protocol` and the headers are those behind the tag, while `ether type` is that of the tag. What is behind a second tag is
# not looked into: only a router sends it, and beside a gateway not with VLAN ID 0, which receivers strip like no tag.
#
# The link-layer address in neighbour discovery, as that in ARP, is the guest's own MAC. It is the first option of the message;
# behind it, or alone, there may be a nonce (RFC 3971, RFC 7527), and nothing else.
#
# On a network with a server, a port in `leasing` asks for leases by its own MAC: a request is of Ethernet, from no relay, whole,
# and its chaddr (RFC 2131, 2) is the MAC, so that one guest has one lease, and releases no other's. DHCPv6 knows clients by
# identifiers that they choose: what a port asks for is limited in time, and Release, Decline and what relays send are dropped.
#
# A guest that is held to its leases (`lessees`, by the port and chaddr) may send from an address once the host's own server has
# acknowledged it: the message type is the first option of dnsmasq's answers, yiaddr is at @th,192,32. It is `granted` for a
# minute, in which the agent makes it one of the guest's sources. What the host forwards has no socket of the host's (skuid);
# the host's users may have the port too (net.ipv4.ip_unprivileged_port_start), but not the numbers of the system and of services
# (DynamicUser=, nobody).
# ciaddr (@th,160,32) is zero in what gives a lease: dnsmasq answers DHCPINFORM, which has one, with the client's own yiaddr. The
# MAC is in two parts, as nft can't read its own listing of the whole, `ether saddr`.
#
# The addresses and the MAC of a bridge's own are guarded on each port beside it, whatever the port's filter: `gateways4` and the
# like are keyed by port, as many kernels have no nft_meta_bridge for `meta ibrname`. Fragments of neighbour discovery are no
# neighbour discovery (RFC 6980, 5). A probe for the address would take it from a host that probes for it itself.
BRIDGE = (
    ROLES
    + """\
	set guarded { type ifname; }
	set checked { type ifname; }
	set macs { type ifname . ether_addr; }
	set addressed { type ifname; }
	set tagged { type ifname; }
"""
    + SOURCES
    + """\
	set targets { typeof iifname . ether saddr . @th,64,128; }
	set target_prefixes { typeof iifname . ether saddr . @th,64,128; flags interval; }
	set lladdrs { typeof iifname . @th,208,48; }
	set vrrp4 { typeof iifname . ether saddr . @th,64,32; }
	set beside_gateway { type ifname; }
	set gateways4 { type ifname . ipv4_addr; }
	set gateways6 { type ifname . ipv6_addr; }
	set gateway_targets { typeof iifname . @th,64,128; }
	set gateway_probes { typeof iifname . @th,64,128; }
	set gateway_macs { type ifname . ether_addr; }
	set served4 { type ifname . ether_addr; }
	set served6 { type ifname . ether_addr; }
	set routed6 { type ifname . ether_addr; }
	set leasing { type ifname; }
	set chaddrs { typeof iifname . ether saddr . @th,288,48; }
	set holders { type ifname . ether_addr; }
	set askers { type ifname; flags dynamic,timeout; }
	set lessees { typeof iifname . @th,288,48; }
	set granted { typeof iifname . @th,288,32 . @th,304,32 . @th,192,32; flags dynamic,timeout; }
	set outsiders { type ifname; }
	set unrouted { type ifname; }
	set repliers { type ifname; }
	set mutes { type ifname; }
	chain input {
		type filter hook input priority filter; policy accept;
		iifname @unrouted meta priority set meta priority | 0x02000000
		iifname @outsiders goto outsider
	}
	chain outsider {
		iifname @mutes meta priority set meta priority & 0xf3ffffff | 0x04000000 return
		iifname @repliers meta priority set meta priority & 0xf3ffffff | 0x08000000 return
		meta priority set meta priority | 0x0c000000
	}
	chain output {
		type filter hook output priority filter; policy accept;
		meta protocol ip meta l4proto udp @th,0,32 0x00430044 meta skuid { 0-999, 61184-65519, 65534 } goto grant
	}
	chain grant {
		@th,1984,24 != 0x350105 return
		@th,160,32 != 0 return
		oifname . @th,288,48 @lessees update @granted { oifname . @th,288,32 . @th,304,32 . @th,192,32 timeout 1m }
	}
	chain guard {
		type filter hook prerouting priority dstnat; policy accept;
		meta l4proto udp @th,16,16 { 67, 547 } jump to_servers
		meta l4proto ipv6-icmp @th,0,8 133 ether type != { 8021q, 8021ad } iifname . ether saddr @routed6 jump asked6
		iifname @beside_gateway jump beside
		iifname @guarded goto guest
	}
	chain to_servers {
		@th,0,32 0x00440043 ether type != { 8021q, 8021ad } iifname . ether saddr @served4 jump asked4
		@th,0,32 0x02220223 ether type != { 8021q, 8021ad } iifname . ether saddr @served6 jump asked6
		iifname @leasing meta protocol vmap { ip : goto leasing4, ip6 : goto leasing6 }
	}
	chain asked4 {
		meta protocol ip ip frag-off & 0x1fff == 0 drop
	}
	chain asked6 {
		meta protocol ip6 exthdr frag missing drop
	}
	chain leasing4 {
		meta protocol ip ip frag-off & 0x1fff != 0 return
		meta protocol ip ip frag-off & 0x2000 != 0 counter drop
		@th,64,24 0x010106 @th,256,32 0 iifname . ether saddr . @th,288,48 @chaddrs return
		counter drop
	}
	chain leasing6 {
		meta protocol ip6 frag frag-off != 0 return
		meta protocol ip6 exthdr frag exists counter drop
		@th,64,8 { 8, 9, 12 } counter drop
		iifname . ether saddr != @holders counter drop
		update @askers { iifname timeout 1m limit rate over 10/minute burst 20 packets } counter drop
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
		meta protocol vmap { ip : jump roles4, ip6 : jump guest6, 8021q : jump router, 8021ad : jump router }
		iifname @addressed goto addressed
		meta priority set meta priority & 0xafffffff
	}
	chain guest6 {
		iifname @clients meta l4proto ipv6-icmp jump options6
		goto roles6
	}
	chain options6 {
		@th,0,8 != { 133, 135, 136 } return
		meta protocol ip6 frag frag-off != 0 return
		@th,0,8 133 goto options_of_solicitation
		@th,192,8 14 @th,200,8 1 goto nonce
		@th,192,16 { 0x0101, 0x0201 } iifname . @th,208,48 @lladdrs goto lladdr
		@th,192,8 0-255 counter drop
	}
	chain options_of_solicitation {
		@th,64,16 0x0101 iifname . @th,80,48 @lladdrs goto lladdr_alone
		@th,64,8 0-255 counter drop
	}
	chain lladdr_alone {
		@th,128,8 0-255 counter drop
	}
	chain lladdr {
		@th,256,16 0x0e01 goto nonce_behind
		@th,256,8 0-255 counter drop
	}
	chain nonce {
		@th,256,8 0-255 counter drop
	}
	chain nonce_behind {
		@th,320,8 0-255 counter drop
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
		iifname . @ll,48,32 . @ll,64,32 . @nh,112,32 @granted goto approved
		meta protocol arp arp operation request arp saddr ip 0.0.0.0 goto approved
		iifname @prefixed goto arp_blocks
		counter drop
	}
	chain from_ipv4 {
		meta protocol ip iifname . ether saddr . ip saddr @sources4 goto approved
		meta protocol ip iifname . ether saddr . ip saddr @prefixes4 goto approved
		iifname . @ll,48,32 . @ll,64,32 . @nh,96,32 @granted goto approved
		meta protocol ip ip saddr 0.0.0.0 meta l4proto udp udp sport 68 udp dport 67 goto approved
		iifname @prefixed goto blocks4
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
		meta protocol ip6 ip6 saddr :: @th,0,8 135 iifname @prefixed goto probe
		meta protocol ip6 ip6 saddr :: @th,0,8 143 goto approved
		@th,0,8 0-255 goto source6
		counter drop
	}
	chain advert {
		iifname . ether saddr . @th,64,128 @targets goto source6
		iifname . ether saddr . @th,64,128 @target_prefixes goto source6
		iifname != @prefixed counter drop
		jump target_blocks
		goto source6
	}
	chain probe {
		jump target_blocks
		goto approved
	}
	chain source6 {
		meta protocol ip6 iifname . ether saddr . ip6 saddr @sources6 goto approved
		meta protocol ip6 iifname . ether saddr . ip6 saddr @prefixes6 goto approved
		iifname @prefixed goto blocks6
		counter drop
	}
	chain arp_blocks {
"""
    + blocks.rules(blocks.ARP, "goto approved", "meta protocol arp ")
    + """\
		counter drop
	}
	chain blocks4 {
"""
    + blocks.rules(blocks.IPV4, "goto approved", "meta protocol ip ")
    + """\
		counter drop
	}
	chain blocks6 {
"""
    + blocks.rules(blocks.IPV6, "goto approved")
    + """\
		counter drop
	}
	chain target_blocks {
"""
    + blocks.rules(blocks.TARGET, "return")
    + """\
		counter drop
	}"""
)

# What guests send, before the bridge or the router sees it. The port of a guest has a base chain, see NftChain, that goes to
# `ports`, or to `guests` if the guest has a filter. Those of guests with the role switch go to `switch_ports` and `switches`: the
# bridge hands up what they send to link-local groups as if it had come in at the port itself, so that there is no IP in it.
#
# Large TCP segments stay whole: only the kernel's own segmentation makes frames longer than the MTU, and it refuses those whose
# checksum is not TCP's. A frame that a guest merely makes long is dropped where it leaves, as it may not be fragmented.
#
# A declared bridge that the host does not route for has a base chain that goes to `unrouted`: it sees what comes up from a port,
# before any DNAT and whatever br_netfilter has done.
GUESTS = f"""\
	chain ports {{
		ether daddr & 01:00:00:00:00:00 == 01:00:00:00:00:00 goto groups
	}}
	chain guests {{
		ether daddr & 01:00:00:00:00:00 == 01:00:00:00:00:00 jump groups
		goto checked
	}}
	chain switch_ports {{
		ether daddr & ff:ff:ff:ff:ff:d0 == 01:80:c2:00:00:00 meta protocol {{ ip, ip6, arp, 8021q, 8021ad }} counter drop
	}}
	chain switches {{
		jump switch_ports
		goto checked
	}}
	chain checked {{
		meta priority set meta priority | 0x10000000
		meta length > {LONGEST_MTU} ip protocol tcp ip frag-off 0x4000 accept
		meta length > {LONGEST_MTU} ip6 nexthdr tcp accept
		fwd to {IFB_INDEX}
	}}
	chain unrouted {{
		meta priority & 0x02000000 == 0 accept
		fib daddr type unicast counter drop
		meta priority & 0x0c000000 != 0 tcp flags & (syn | ack) == syn tcp dport != 53 counter drop
	}}
	chain groups {{
		ether daddr & ff:ff:ff:ff:ff:d0 == 01:80:c2:00:00:00 counter drop
		ether daddr {{ 01:00:0c:cc:cc:cc, 01:00:0c:cc:cc:cd }} counter drop
	}}"""

# What comes in at an end of a wire leaves by the other one, whatever it is: no bridge, no routing, no MTU, and large segments
# stay whole. The other end is known by its number, so that a new link of its name is not taken for it. A guest of Xen has an
# emulated link too, and may listen to either. While the other end is away, all ends here.
WIRES = """\
	map wires { type ifname : iface_index; }
	map copies { type ifname : iface_index; }
	chain wired {
		dup to iifname map @copies
		fwd to iifname map @wires
		counter drop
	}
	chain wired_link {
		goto wired
	}"""
