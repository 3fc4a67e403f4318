"""Every rule of the sections for the host's own links and NAT, with the message that it gives: file, key, value, remedy."""
# ruff: noqa: E501  (tables of inputs and messages)

import ipaddress

import pytest

from vmnet_hooks.declared import SECTIONS, compose, configuration
from vmnet_hooks.errors import ConfigError, InputError
from vmnet_hooks.links import bridge as bridges
from vmnet_hooks.links import link as links
from vmnet_hooks.model import declaration
from vmnet_hooks.model.declaration import Required


def load(path, *texts: str) -> declaration.Config:
    path.joinpath("conf.d").mkdir(exist_ok=True)
    for number, text in enumerate(texts):
        path.joinpath(*(["vmnet.toml"] if not number else ["conf.d", f"{number}.toml"])).write_text(text)
    return configuration.load(str(path))


def table(section: str, name: str, *lines: str) -> str:
    return "\n".join([f'[{section}."{name}"]', *lines]) + "\n"


def vlan(*lines: str, name: str = "eth1.100", parent: str = "eth1", vid: object = 100) -> str:
    return table("vlans", name, f'parent = "{parent}"', f"id = {vid}", *lines)


def bond(*lines: str, name: str = "bond0", ports: str = '["eth1", "eth2"]') -> str:
    return table("bonds", name, f"ports = {ports}", *lines)


def bridge(*lines: str, name: str = "br0") -> str:
    return table("bridges", name, *lines)


def dummy(*lines: str, name: str = "dummy0") -> str:
    return table("dummies", name, *lines)


def nat(*lines: str, name: str = "guests", subnet: str = "10.5.5.0/24", out: str = "eth9") -> str:
    return table("nat", name, f'subnet = "{subnet}"', f'out = "{out}"', *lines)


def network(*lines: str, name: str = "lan", bridge: str = "br0") -> str:
    return table("networks", name, 'mode = "bridged"', f'bridge = "{bridge}"', *lines)


PORT, AWARE, GATEWAY = 'ports = ["eth1"]', "vlan_filtering = true", 'addresses = ["10.5.5.254/24"]'
ANYCAST = (GATEWAY, "anycast_gateway = true")
LONG = "a" * 16

RULES = [
    # sections, names, unknown keys
    (table("vlan", "x"), "unknown key 'vlan'; did you mean 'vlans'?"),
    (table("bonding", "x"), "unknown key 'bonding'; did you mean 'bonds'?"),
    ("vlans = 3\n", "vlans: must be tables, [vlans.NAME]"),
    ("bridges = []\n", "bridges: must be tables, [bridges.NAME]"),
    ("[bridges]\nbr0 = true\n", "bridges.br0: must be a table, is True"),
    (vlan("idd = 1"), "vlans.eth1.100: unknown key 'idd'; did you mean 'id'?"),
    (bond("slaves = []"), "bonds.bond0: unknown key 'slaves'"),
    (bridge("port = []"), "bridges.br0: unknown key 'port'; did you mean 'ports'?"),
    (bridge("spt = true"), "bridges.br0: unknown key 'spt'; did you mean 'stp'?"),
    (dummy("ports = []"), "dummies.dummy0: unknown key 'ports'"),
    (nat("source = 1"), "nat.guests: unknown key 'source'"),
    (bridge(name="vmnet-ifb"), "bridges.vmnet-ifb: is the link on which checksums are finished; choose another name"),
    (bridge(name="all"), "bridges.all: stands for all interfaces in the kernel's settings; choose another name"),
    (bridge(name=LONG), f"bridges.{LONG}: is longer than an interface's name may be; use at most 15 characters"),
    (bridge(name="br 0"), "bridges.br 0: is not an interface's name"),
    (vlan(name="eth1:100"), "vlans.eth1:100: is not an interface's name"),
    (nat(name="a/b"), "nat.a/b: is not a name; use letters"),
    # what every link has
    (dummy("mtu = 67"), "dummies.dummy0.mtu: 67 must be a whole number from 68 to 65535"),
    (dummy("mtu = 65536"), "dummies.dummy0.mtu: 65536 must be a whole number"),
    (dummy('mac = "02:00:00:00:00"'), "dummies.dummy0.mac: '02:00:00:00:00' is not a MAC address"),
    (dummy('mac = "01:00:00:00:00:01"'), "dummies.dummy0.mac: '01:00:00:00:00:01' is a multicast MAC address"),
    (dummy('addresses = "192.0.2.1/24"'), 'dummies.dummy0.addresses: \'192.0.2.1/24\' must be a list of addresses, ["192.0.2.1/24"]'),
    (dummy('addresses = ["192.0.2.1"]'), "has no prefix length; write 192.0.2.1/24"),
    (dummy('addresses = ["192.0.2.1/33"]'), "is not an address with a prefix length; write 192.0.2.1/24"),
    (dummy('addresses = ["fe80::1%eth0/64"]'), "dummies.dummy0.addresses: ['fe80::1%eth0/64'] holds 'fe80::1%eth0/64', which has a zone"),
    (dummy('addresses = ["224.0.0.1/4"]'), "holds 224.0.0.1/4, which is no address for a link"),
    (dummy('addresses = ["127.0.0.2/8"]'), "holds 127.0.0.2/8, which is no address for a link"),
    (dummy('addresses = ["::/64"]'), "holds ::/64, which is no address for a link"),
    (dummy('addresses = ["192.0.2.1/24", "192.0.2.1/24"]'), "holds 192.0.2.1/24 twice; remove one"),
    (dummy("addresses = [3]"), "dummies.dummy0.addresses: [3] holds '3', which is not an address with a prefix length"),
    (dummy('addresses = ["192.0.2.1/24"]', 'gateway = "192.0.2.254/24"'), "dummies.dummy0.gateway: '192.0.2.254/24' is not an IP address; write 192.0.2.254"),
    (dummy('addresses = ["192.0.2.1/24"]', 'gateway = "198.51.100.1"'), "dummies.dummy0.gateway: 198.51.100.1 is in no subnet of `addresses`; correct one of them"),
    (dummy('addresses = ["192.0.2.1/24"]', 'gateway = "192.0.2.1"'), "dummies.dummy0.gateway: 192.0.2.1 is the link's own address"),
    (dummy('gateway = "192.0.2.1"'), "dummies.dummy0.gateway: 192.0.2.1 is in no subnet"),
    (dummy('addresses = ["192.0.2.1/24"]', 'gateway = ["192.0.2.2", "192.0.2.3"]'), "has two gateways of one family; name one, and list the other in `routes`, with a metric"),
    (dummy('addresses = ["192.0.2.2 peer 2001:db8::1"]'), "192.0.2.2 and its peer 2001:db8::1/128 are of two families; write one of each"),
    (dummy('addresses = ["192.0.2.2 peer"]'), "is not an address with a prefix length"),
    (dummy('addresses = ["192.0.2.2/24 peer 192.0.2.1/32"]'), "holds '192.0.2.2/24 peer 192.0.2.1/32', which is not ADDRESS peer PEER/LENGTH; write it as 192.0.2.2 peer 192.0.2.1/32"),
    (dummy('addresses = ["192.0.2.2 peer 192.0.2.1/24"]'), "is not ADDRESS peer PEER/LENGTH; write it as"),
    (dummy('addresses = ["192.0.2.1/24"]', 'gateway = "198.51.100.1"'), 'or give it a route of its own: routes = [{ to = "198.51.100.1" }]'),
    (dummy("metric = 5"), "dummies.dummy0.metric: is that of the default routes; name the gateway, or remove it"),
    (dummy('routes = { to = "10.0.0.0/8" }'), "dummies.dummy0.routes: {'to': '10.0.0.0/8'} must be a list of tables, as [{ to ="),
    (dummy('routes = ["10.0.0.0/8"]'), "dummies.dummy0.routes[1]: must be a table, is '10.0.0.0/8'"),
    (dummy('routes = [{ via = "192.0.2.1" }]'), "dummies.dummy0.routes[1].to: missing; give where the route leads"),
    (dummy('routes = [{ to = "10.0.0.0/8" }, { to = "10.0.0.1/8" }]'), "dummies.dummy0.routes[2].to: '10.0.0.1/8' is not a subnet (10.0.0.1/8 has host bits set); write 10.0.0.0/8"),
    (dummy('routes = [{ to = "10.0.0.0/8", gw = "192.0.2.1" }]'), "dummies.dummy0.routes[1]: unknown key 'gw'"),
    (dummy('routes = [{ to = "default" }]'), 'dummies.dummy0.routes[1]: to = "default" needs via'),
    (dummy('routes = [{ to = "2001:db8::/32", via = "192.0.2.1" }]'), "an IPv6 route can't have the IPv4 gateway 192.0.2.1"),
    (dummy('routes = [{ to = "10.0.0.0/8", src = "2001:db8::1" }]'), "src 2001:db8::1 is not of the family of 10.0.0.0/8"),
    (dummy('routes = [{ to = "10.0.0.0/8", onlink = true }]'), "onlink is about the gateway; name one with via"),
    (dummy('routes = [{ to = "2001:db8::/32", mtu = 1000 }]'), "mtu 1000 is too small for IPv6, which needs 1280"),
    (dummy('routes = [{ to = "10.0.0.0/8", table = 255 }]'), "is the kernel's table of local addresses; choose another"),
    (dummy('addresses = ["192.0.2.1/24"]', 'routes = [{ to = "10.0.0.0/8", via = "198.51.100.1" }]'), "dummies.dummy0.routes[1].via: 198.51.100.1 is in no subnet of `addresses`; correct one of them, or set onlink = true"),
    (dummy('routes = [{ to = "10.0.0.0/8" }, { to = "10.0.0.0/8" }]'), "dummies.dummy0.routes: 10.0.0.0/8 has another route with the same metric; give one another metric"),
    (dummy('addresses = ["192.0.2.1/24"]', 'gateway = "192.0.2.2"', 'routes = [{ to = "default", via = "192.0.2.3" }]'), "dummies.dummy0.routes: 0.0.0.0/0 has another route with the same metric"),
    (dummy('routes = [{ to = "2001:db8::/32" }, { to = "2001:db8::/32", metric = 1024 }]'), "2001:db8::/32 has another route with the same metric"),
    (dummy('routes = [{ to = "10.0.0.0/8" }]') + dummy('routes = [{ to = "10.0.0.0/8" }]', name="d1"), "dummies.d1.routes: dummies.dummy0 has a route to 10.0.0.0/8 too; give one another metric"),
    (dummy('addresses = ["192.0.2.1/24"]', 'gateway = "192.0.2.2"') + bridge('addresses = ["198.51.100.1/24"]', 'gateway = "198.51.100.2"'), "too; give one another metric"),
    (dummy("gateway = 3"), "dummies.dummy0.gateway: 3 is not an IP address"),
    (dummy("mtu = 1279", 'addresses = ["2001:db8::1/64"]'), "dummies.dummy0.mtu: 1279 is too small for IPv6, which needs 1280"),
    # VLANs
    (table("vlans", "v", "id = 1"), "vlans.v.parent: missing; give the interface whose frames are tagged"),
    (table("vlans", "v", 'parent = "eth1"'), "vlans.v.id: missing; give the VLAN's ID, 1 to 4094"),
    (vlan(vid=0), "vlans.eth1.100.id: 0 must be a whole number from 1 to 4094"),
    (vlan(vid=4095), "vlans.eth1.100.id: 4095 must be a whole number from 1 to 4094"),
    (vlan(vid='"100"'), "vlans.eth1.100.id: '100' must be a whole number"),
    (vlan(vid="true"), "vlans.eth1.100.id: True must be a whole number"),
    (vlan('protocol = "qinq"'), "vlans.eth1.100.protocol: 'qinq' must be one of 802.1Q, 802.1ad"),
    (vlan(parent=LONG), "vlans.eth1.100.parent: 'aaaaaaaaaaaaaaaa' is longer than"),
    (vlan(name="eth1"), "vlans.eth1.parent: eth1 can't be its own parent; name the interface below"),
    (vlan() + vlan(name="v"), "vlans.v.id: 100 on eth1 is already vlans.eth1.100; choose another"),
    # bonds
    (table("bonds", "bond0"), "bonds.bond0.ports: missing; give the NICs"),
    (bond(ports="[]"), "bonds.bond0.ports: is empty; list the NICs"),
    (bond(ports='"eth1"'), 'bonds.bond0.ports: \'eth1\' must be a list of interfaces, ["eth1"]'),
    (bond(ports='["eth1", "eth1"]'), "names an interface twice; remove one"),
    (bond(ports="[1]"), "bonds.bond0.ports: [1] holds '1', which is int, not a string"),
    (bond('mode = "lacp"'), "bonds.bond0.mode: 'lacp' must be one of balance-rr, active-backup"),
    (bond("mode = 4"), "bonds.bond0.mode: 4 must be one of"),
    (bond("miimon = -1"), "bonds.bond0.miimon: -1 must be a whole number from 0"),
    (bond('primary = "eth3"'), "bonds.bond0.primary: eth3 is not one of its ports (eth1, eth2)"),
    (bond('primary = "eth1"', 'mode = "802.3ad"'), "bonds.bond0.primary: is of no use with mode 802.3ad; remove it"),
    (bond('lacp_rate = "fast"'), "bonds.bond0.lacp_rate: is of no use with mode active-backup; remove it, or set mode 802.3ad"),
    (bond('mode = "802.3ad"', 'lacp_rate = "1"'), "bonds.bond0.lacp_rate: '1' must be one of slow, fast"),
    (bond('mode = "802.3ad"', "miimon = 0"), "bonds.bond0.miimon: must not be 0 with mode 802.3ad; set 100"),
    (bond('xmit_hash_policy = "l4"'), "bonds.bond0.xmit_hash_policy: 'l4' must be one of layer2"),
    (bond("updelay = 150"), "bonds.bond0.updelay: 150 is no multiple of miimon (100); the kernel would round it"),
    (bond("miimon = 0", "downdelay = 100"), "bonds.bond0.downdelay: 100 is no multiple of miimon (0)"),
    # bridges
    (bridge('adopt = "eth0"'), "bridges.br0.adopt: eth0 is not one of its ports; add it to `ports`"),
    (bridge(PORT, 'hw_port = "eth0"'), "bridges.br0.hw_port: eth0 is not one of its ports; add it to `ports`"),
    (bridge(PORT, 'adopt = "eth1"', GATEWAY), "bridges.br0.adopt: the bridge takes the addresses of eth1; remove `addresses` and `gateway`, or adopt"),
    (bridge("stp = 1"), "bridges.br0.stp: 1 must be true or false"),
    (bridge("stp = true", "forward_delay = 1"), "bridges.br0.forward_delay: 1 is too short for STP; use 2 to 30"),
    (bridge("forward_delay = 31"), "bridges.br0.forward_delay: 31 must be a whole number from 0 to 30"),
    (bridge("stp = true", "forward_delay = 4", "max_age = 7"), "bridges.br0.max_age: 7 is more than 2 × (forward_delay - 1); IEEE 802.1D"),
    (bridge("stp = true", "max_age = 29"), "bridges.br0.max_age: 29 is more than"),
    (bridge("forward_delay = 15"), "bridges.br0.forward_delay: is of no use without STP; set stp = true, or remove it"),
    (bridge("hello_time = 1"), "bridges.br0.hello_time: is of no use without STP"),
    (bridge("max_age = 20"), "bridges.br0.max_age: is of no use without STP"),
    (bridge("priority = 0"), "bridges.br0.priority: is of no use without STP"),
    (bridge("ageing = -1"), "bridges.br0.ageing: -1 must be a whole number"),
    (bridge("group_fwd_mask = 7"), "bridges.br0.group_fwd_mask: the kernel never forwards groups 0, 1 and 2"),
    (bridge("group_fwd_mask = 65536"), "bridges.br0.group_fwd_mask: 65536 must be a whole number"),
    (bridge("vlans = [10]"), "bridges.br0.vlans: is of no use without vlan_filtering = true"),
    (bridge("pvid = 1"), "bridges.br0.pvid: is of no use without vlan_filtering = true"),
    (bridge(AWARE, "pvid = 0"), "bridges.br0.pvid: 0 must be a whole number from 1 to 4094"),
    (bridge(AWARE, GATEWAY), "bridges.br0.addresses: the bridge is VLAN-aware, and the host is in none of its VLANs; set pvid = 1, or give the address to a VLAN device on br0, in [vlans]"),
    (bridge(AWARE, PORT) + table("networks", "r", 'mode = "hostroute"', 'netdev = "br0"'), "bridges.br0.pvid: networks.r leads through the bridge, and the host is in none of its VLANs; set pvid = 1, or name a VLAN device on br0 there"),
    (bridge(AWARE, PORT, 'adopt = "eth1"'), "bridges.br0.adopt: the bridge is VLAN-aware, and the host is in none"),
    (bridge(AWARE, 'routes = [{ to = "10.0.0.0/8" }]'), "bridges.br0.routes: the bridge is VLAN-aware"),
    (bridge(AWARE, "pvid = 7") + vlan(name="seven", parent="br0", vid=7), "vlans.seven.id: 7 is the pvid of bridges.br0: the host has it untagged; give br0 its addresses"),
    (bridge(AWARE, "vlans = 10"), 'bridges.br0.vlans: 10 must be a list of VLAN IDs, [10, "20-30"]'),
    (bridge(AWARE, "vlans = [0]"), "bridges.br0.vlans: [0] holds '0'; VLAN IDs go from 1 to 4094"),
    (bridge(AWARE, 'vlans = ["20-10"]'), "holds '20-10'; VLAN IDs go from 1 to 4094"),
    (bridge(AWARE, 'vlans = ["10"]'), "holds '10', which is no VLAN ID"),
    (bridge('gateway_mac = "02:00:00:00:00:01"'), "bridges.br0.gateway_mac: is of no use without anycast_gateway = true"),
    (bridge('arp_source = "10.5.5.1"'), "bridges.br0.arp_source: is of no use without anycast_gateway = true"),
    (bridge("anycast_gateway = true"), "bridges.br0.anycast_gateway: needs `addresses`: the guests' gateway"),
    (bridge(*ANYCAST, AWARE), "bridges.br0.anycast_gateway: can't be on a VLAN-aware bridge; declare a bridge per VLAN"),
    (bridge(*ANYCAST, 'gateway = "10.5.5.1"'), "bridges.br0.gateway: the bridge's addresses are the guests' gateway"),
    (bridge(*ANYCAST, 'arp_source = "10.5.6.1"'), "bridges.br0.arp_source: 10.5.6.1 is no unused address of the bridge's subnets"),
    (bridge(*ANYCAST, 'arp_source = "10.5.5.254"'), "bridges.br0.arp_source: 10.5.5.254 is no unused address"),
    (bridge(*ANYCAST, 'arp_source = "2001:db8::1"'), "bridges.br0.arp_source: '2001:db8::1' is not an IPv4 address"),
    (bridge(*ANYCAST, 'gateway_mac = "ff:ff:ff:ff:ff:ff"'), "is a multicast MAC address"),
    (bridge('forwarding = "yes"'), "bridges.br0.forwarding: 'yes' must be true or false"),
    # NAT
    (table("nat", "n", 'out = "eth9"'), "nat.n.subnet: missing; give the guests' subnet"),
    (table("nat", "n", 'subnet = "10.0.0.0/8"'), "nat.n.out: missing; give the interface to the outside"),
    (nat(), "nat.guests.snat: give either snat = ADDRESS or masquerade = true"),
    (nat('snat = "192.0.2.1"', "masquerade = true"), "nat.guests.snat: give either"),
    (nat('snat = "2001:db8::1"'), "nat.guests.snat: 2001:db8::1 is not of the family of 10.5.5.0/24; correct one of them"),
    (nat("masquerade = true", subnet="10.5.5.1/24"), "nat.guests.subnet: '10.5.5.1/24' is not a subnet"),
    (nat("masquerade = true", subnet="0.0.0.0/0"), "nat.guests.subnet: 0.0.0.0/0 is every address there is"),
    (nat("masquerade = true", subnet="::/0"), "nat.guests.subnet: ::/0 is every address there is"),
    (nat("masquerade = 1"), "nat.guests.masquerade: 1 must be true or false"),
    (nat("masquerade = true") + nat("masquerade = true", name="b", subnet="10.5.0.0/16"), "nat.b.subnet: 10.5.0.0/16 overlaps 10.5.5.0/24 of nat.guests on the same interface"),
    # together
    (vlan(name="x") + bridge(name="x"), "bridges.x: x is also declared in vlans; rename one"),
    (dummy(name="x") + bond(name="x"), "x is also declared in"),
    (bridge('ports = ["br0"]'), "bridges.br0.ports: br0 can't be a port of itself; remove it"),
    (bridge(PORT) + bridge(PORT, name="br1"), "bridges.br1.ports: eth1 is also a port of bridges.br0; remove it from one"),
    (bridge(PORT) + bond(), "eth1 is also a port of"),
    (vlan(name="a", parent="b") + vlan(name="b", parent="a"), "stands on itself: a on b on a; break the circle"),
    (vlan(name="v", parent="br0") + bridge('ports = ["v"]'), "stands on itself:"),
    (bond(ports='["br0"]') + bridge('ports = ["bond0"]'), "stands on itself:"),
    (bridge(*ANYCAST) + dummy(name="br0-gw"), "bridges.br0: its gateway's link br0-gw is declared in dummies; rename the bridge"),
    (bridge(*ANYCAST, name="guestbridge0a") + bridge('addresses = ["10.6.6.254/24"]', "anycast_gateway = true", name="guestbridge0b"), "its gateway's link guestbridge0-gw is declared in bridges; rename the bridge"),
    # networks
    (network('uplink = "br0"'), "networks.lan.uplink: br0 is the bridge itself; name the interface below"),
    (network('uplink = "eth1"', "tagged = [3]"), "networks.lan.tagged: is for VLAN-aware bridges; remove it, or uplink"),
    (network("vlan = 3", "tagged = [3]"), "networks.lan.tagged: 3 is the untagged VLAN already; name it once"),
    (network("vlan = 0"), "networks.lan.vlan: 0 must be a whole number from 1 to 4094"),
    (network("tagged = 3"), "networks.lan.tagged: 3 must be a list of VLAN IDs"),
    (network('uplink = "enp129s0f0np0"', "vlan = 300"), "networks.lan.uplink: enp129s0f0np0.300 is too long for a link's name; declare it in [vlans], and the bridge"),
    (network("vlan = 3") + bridge(), "networks.lan.vlan: bridges.br0 is not VLAN-aware; set vlan_filtering = true there, or remove vlan"),
    (network('uplink = "eth1"') + bridge(), "networks.lan.uplink: bridge br0 is declared in"),
    (network() + "[bonds.br0]\nports = [\"eth1\"]\n", "networks.lan.bridge: bonds.br0 is a bond, not a bridge; name a bridge"),
    (network("vlan = 3") + network("vlan = 3", name="b"), "networks.b.bridge: br0 is already the bridge of networks.lan; use one of them"),
    (network('uplink = "eth1"') + network('uplink = "eth2"', name="b"), "br0 is already the bridge of networks.lan"),
    (network('uplink = "eth1"', "vlan = 3") + bridge('ports = ["eth1.3"]', name="br1"), "eth1.3 is also a port of"),
    (table("networks", "r", 'mode = "routed"', 'uplink = "eth1"', "table = 5", 'ipv6 = { subnet = "2001:db8::/64", gateway = "2001:db8::1" }') + bridge(PORT),
     "networks.r.uplink: eth1 is a port of bridges.br0; name br0 instead"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "message"), RULES, ids=[message[:70] for _, message in RULES])
def test_rule(text, message, tmp_path):
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, text)
    line = str(caught.value)
    assert line.startswith(f"{tmp_path}/vmnet.toml: ") and "\n" not in line
    assert message in line.replace('"eth1.100"', "eth1.100")


FITS = {
    "one VID, two protocols": vlan() + vlan('protocol = "802.1ad"', name="outer"),
    "QinQ": vlan('protocol = "802.1ad"', name="outer") + vlan(name="inner", parent="outer"),
    "a link-local gateway": dummy('addresses = ["2001:db8::1/64"]', 'gateway = "fe80::1"'),
    "both families": dummy('addresses = ["192.0.2.1/24", "2001:db8::1/64"]', 'gateway = ["192.0.2.2", "2001:db8::2"]'),
    "a gateway outside of a subnet of one": dummy('addresses = ["192.0.2.1/32"]', 'gateway = "198.51.100.1"'),
    "the same in IPv6": dummy('addresses = ["2001:db8::1/128"]', 'gateway = "2001:db8:1::1"'),
    "a gateway with a route of its own": dummy(
        'addresses = ["192.0.2.1/24"]', 'gateway = "198.51.100.1"', 'routes = [{ to = "198.51.100.1" }]'
    ),
    "a gateway outside that is said to be on the link": dummy(
        'addresses = ["192.0.2.1/24"]', 'routes = [{ to = "default", via = "198.51.100.1", onlink = true }]'
    ),
    "a peer": dummy('addresses = ["192.0.2.1 peer 198.51.100.1/32"]', 'gateway = "198.51.100.1"'),
    "two default routes, two metrics": dummy('addresses = ["192.0.2.1/24"]', 'gateway = "192.0.2.2"', "metric = 5")
    + bridge('addresses = ["198.51.100.1/24"]', 'gateway = "198.51.100.2"'),
    "one destination in two tables": dummy('routes = [{ to = "10.0.0.0/8" }, { to = "10.0.0.0/8", table = 7 }]'),
    "an IPv4 route through IPv6": dummy('routes = [{ to = "0.0.0.0/0", via = "fe80::1" }]'),
    "routes beside adopted ones": bridge(PORT, 'adopt = "eth1"', 'routes = [{ to = "10.0.0.0/8", via = "192.0.2.3" }]'),
    "addresses of a VLAN-aware bridge in its VLAN": bridge(AWARE, GATEWAY, "pvid = 1"),
    "a network through a VLAN-aware bridge": bridge(AWARE, PORT, "pvid = 1")
    + table("networks", "r", 'mode = "hostroute"', 'netdev = "br0"'),
    "a network through a VLAN device on it": bridge(AWARE, PORT)
    + vlan(name="br0.10", parent="br0", vid=10)
    + table("networks", "r", 'mode = "hostroute"', 'netdev = "br0.10"'),
    "a VLAN-aware bridge that adopts": bridge(AWARE, PORT, 'adopt = "eth1"', "pvid = 1"),
    "a bridge with nothing": bridge(),
    "no STP, forward delay 0": bridge("forward_delay = 0"),
    "STP's timers": bridge("stp = true", "forward_delay = 4", "hello_time = 1", "max_age = 6", "priority = 0"),
    "every VLAN": bridge(AWARE, 'vlans = [1, "2-4094"]'),
    "a VLAN-aware bridge without a port": bridge(AWARE),
    "a VLAN of a VLAN-aware bridge": bridge(AWARE) + vlan(name="br0.10", parent="br0", vid=10),
    "NAT of both families": nat("masquerade = true") + nat("masquerade = true", name="six", subnet="2001:db8::/64"),
    "NAT of one subnet, two ways out": nat("masquerade = true") + nat('snat = "192.0.2.1"', name="b", out="eth8"),
    "two networks on one VLAN-aware bridge": bridge(AWARE) + network("vlan = 3") + network("vlan = 4", name="b"),
    "networks on a bridge that the admin made": network("vlan = 3") + network("tagged = [4]", name="b"),
    "two uplink VLANs": network('uplink = "eth1"', "vlan = 3") + network('uplink = "eth1"', "vlan = 4", name="b", bridge="br1"),
    "an uplink VLAN that is declared too": network('uplink = "eth1"', "vlan = 3") + vlan("mtu = 1400", name="eth1.3", vid=3),
    "an uplink without a VLAN": network('uplink = "eth1"'),
}


@pytest.mark.parametrize("text", FITS.values(), ids=FITS.keys())
def test_what_fits(text, tmp_path):
    declared = load(tmp_path, text)
    assert declared.parts or declared.networks


def test_defaults(tmp_path):
    parts = load(tmp_path, vlan() + bond(name="b") + bridge() + dummy() + nat("masquerade = true", out="d")).parts
    assert list(parts) == ["vlan:eth1.100", "bond:b", "bridge:br0", "dummy:dummy0", "nat:guests"]
    assert parts["vlan:eth1.100"]["protocol"] == "802.1Q"
    assert (parts["bond:b"]["mode"], parts["bond:b"]["miimon"], parts["bond:b"]["updelay"]) == ("active-backup", 100, 0)
    br0 = parts["bridge:br0"]
    assert (br0["ports"], br0["stp"], br0["mcast_snooping"], br0["vlan_filtering"], br0["tx_checksum"]) == (
        (),
        False,
        True,
        False,
        True,
    )
    assert br0["forward_delay"] is None and br0["vlans"] is None and br0["anycast_gateway"] is False and br0["forwarding"] is None
    assert dict(bridges._settings(br0))["forward_delay"] == "0", "no STP, no waiting"
    for part in list(parts.values())[:-1]:
        assert (part["mtu"], part["mac"], part["addresses"], part["gateway"]) == (None, "", (), ())
    assert parts["nat:guests"]["snat"] is None and parts["nat:guests"]["subnet"] == ipaddress.ip_network("10.5.5.0/24")


def test_values(tmp_path):
    part = load(
        tmp_path,
        bridge(AWARE, "pvid = 1", 'vlans = ["20-22", 10, 21]', 'addresses = ["192.0.2.1/24"]', 'gateway = "192.0.2.254"'),
    ).parts["bridge:br0"]
    assert part["vlans"] == (10, 20, 21, 22)
    assert [str(a) for a in part["addresses"]] == ["192.0.2.1/24"] and [str(g) for g in part["gateway"]] == ["192.0.2.254"]
    part = load(tmp_path, bridge("stp = true", "group_fwd_mask = 0x4000", "ageing = 0")).parts["bridge:br0"]
    settings = dict(bridges._settings(part))
    assert (settings["stp_state"], settings["forward_delay"], settings["ageing_time"], settings["group_fwd_mask"]) == (
        "1",
        "1500",
        "0",
        "16384",
    )


def test_a_part_twice_names_both_files(tmp_path):
    with pytest.raises(ConfigError, match=r"conf.d/1.toml: bridges.br0: already declared in .*/vmnet.toml; remove one"):
        load(tmp_path, bridge(), bridge())


def test_rules_across_files_name_the_later(tmp_path):
    with pytest.raises(ConfigError, match=r"^.*/conf.d/1.toml: bridges.br1.ports: eth1 is also a port of bridges.br0"):
        load(tmp_path, bridge(PORT), bridge(PORT, name="br1"))


def test_names_with_dots_are_quoted_in_errors(tmp_path):
    with pytest.raises(ConfigError, match=r'vmnet.toml: vlans."eth1.100".parent: eth1.100 can\'t be its own parent'):
        load(tmp_path, vlan(parent="eth1.100"))


# --- names -----------------------------------------------------------------------------------------------------------


def test_find(tmp_path):
    declared = load(tmp_path, vlan() + bridge(name="lan") + network(bridge="lan", name="lan") + nat("masquerade = true"))
    assert [part.id for part in declared.find("lan")] == ["bridge:lan", "network:lan"]
    assert [part.id for part in declared.find("bridge:lan")] == ["bridge:lan"]
    assert [part.id for part in declared.find("eth1.100")] == ["vlan:eth1.100"]
    assert [part.id for part in declared.find("nat:guests")] == ["nat:guests"]
    for word, message in (
        ("bridge:lam", "did you mean 'bridge:lan'?"),
        ("x\ny" * 9000, "is not declared in"),
        ("", "'' is not declared in"),
    ):
        with pytest.raises(InputError, match="is not declared in") as caught:
            declared.find(word)
        assert message in str(caught.value) and "\n" not in str(caught.value)


def test_what_a_part_stands_on(tmp_path):
    text = (
        bridge('ports = ["bond0.100", "eth3"]')
        + vlan(name="bond0.100", parent="bond0")
        + bond()
        + nat("masquerade = true", out="br0")
    )
    declared = load(tmp_path, text + network())
    assert compose.links_below(["br0"], declared) == ("br0", "eth3", "bond0.100", "bond0", "eth2", "eth1")
    needs = {part.id: compose.needs(part, declared) for part in (*declared.parts.values(), *declared.networks.values())}
    assert needs == {
        "bridge:br0": ("vlan:bond0.100",),
        "vlan:bond0.100": ("bond:bond0",),
        "bond:bond0": (),
        "nat:guests": ("bridge:br0",),
        "network:lan": ("bridge:br0",),
    }


def test_implied_parts(tmp_path):
    declared = load(tmp_path, network('uplink = "eth1"', "vlan = 3"))
    assert list(declared.parts) == ["vlan:eth1.3", "bridge:br0"]
    assert all(part.implied_by == "lan" for part in declared.parts.values())
    assert declared.parts["bridge:br0"]["ports"] == ("eth1.3",) and declared.parts["vlan:eth1.3"]["parent"] == "eth1"
    assert compose.needs(declared.networks["lan"], declared) == ("bridge:br0",)
    declared = load(tmp_path, network('uplink = "eth1"', "vlan = 3") + vlan("mtu = 1400", name="eth1.3", vid=3))
    assert declared.parts["vlan:eth1.3"]["mtu"] == 1400 and not declared.parts["vlan:eth1.3"].implied_by


def test_a_shared_gateway_has_one_mac_everywhere(tmp_path):
    one = load(tmp_path, bridge('addresses = ["10.5.5.254/24", "2001:db8::1/64"]', "anycast_gateway = true")).parts["bridge:br0"]
    other = load(tmp_path, bridge('addresses = ["2001:db8::1/64", "10.5.5.254/24"]', "anycast_gateway = true", name="br9")).parts[
        "bridge:br9"
    ]
    assert bridges.gateway_mac(one) == bridges.gateway_mac(other), "whatever the bridge's name and the order"
    assert bridges.gateway_mac(one).startswith("02:")
    given = load(tmp_path, bridge(*ANYCAST, 'gateway_mac = "52:54:00:00:00:01"')).parts["bridge:br0"]
    assert bridges.gateway_mac(given) == "52:54:00:00:00:01"
    assert bridges.gateway_link(one) == "br0-gw"


# --- domains.d -------------------------------------------------------------------------------------------------------


def claim(path, *lines: str):
    (path / "domains.d").mkdir(exist_ok=True)
    head = ["[[interfaces]]", 'mac = "52:54:00:aa:00:10"', 'network = "lan"']
    (path / "domains.d" / "dom1.toml").write_text("\n".join([*head, *lines]))
    [found] = configuration.claims(declaration.Config({}, str(path)), "dom1")
    return found.vlan, found.tagged


def test_vlans_of_a_nic(tmp_path):
    assert claim(tmp_path) == (None, None), "the network's hold"
    assert claim(tmp_path, "vlan = 10") == (10, None)
    assert claim(tmp_path, 'tagged = [20, "30-31"]') == (None, (20, 30, 31))
    assert claim(tmp_path, "vlan = 10", "tagged = []") == (10, ())


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("vlan = 0", "interfaces[1].vlan: 0 must be a whole number from 1 to 4094"),
        ('vlan = "10"', "interfaces[1].vlan: '10' must be a whole number"),
        ("vlan = [10]", "interfaces[1].vlan: [10] must be a whole number"),
        ("tagged = 10", "interfaces[1].tagged: 10 must be a list of VLAN IDs"),
        ("tagged = [4095]", "interfaces[1].tagged: [4095] holds '4095'; VLAN IDs go from 1 to 4094"),
        ('tagged = ["a-b"]', "interfaces[1].tagged: ['a-b'] holds 'a-b', which is no VLAN ID"),
    ],
)
def test_wrong_vlans_of_a_nic(line, message, tmp_path):
    with pytest.raises(ConfigError) as caught:
        claim(tmp_path, line)
    assert message in str(caught.value) and str(caught.value).startswith(f"{tmp_path}/domains.d/dom1.toml: ")


# --- rows ------------------------------------------------------------------------------------------------------------


def test_every_option_has_words():
    for section, kind in SECTIONS.items():
        for row in kind.options:
            assert row.doc and not row.doc.endswith("."), f"{section}.{row.name}"
            assert row.required == (row.default is Required)
    assert {row.name for row in links.OPTIONS} == {"mtu", "mac", "addresses", "gateway", "metric", "routes"}
