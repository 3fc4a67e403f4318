"""Hosts to draw, as data: what the kernel, the records and the declaration say."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from vmnet_hooks.declared import SECTIONS
from vmnet_hooks.engine.drift import Drift
from vmnet_hooks.graph.build import build
from vmnet_hooks.graph.model import Graph
from vmnet_hooks.model.declaration import Config, Declared, Network, Option
from vmnet_hooks.model.end import End
from vmnet_hooks.model.objects import LinkAttribute, Sysctl
from vmnet_hooks.model.owner import Nic, Owner
from vmnet_hooks.model.resource import Resource
from vmnet_hooks.model.topology import Facts, LinkDetails, Nat, Table
from vmnet_hooks.networks import MODES


def declared(*networks: Network, **sections: dict[str, dict]) -> Config:
    parts = [
        Declared(SECTIONS[section], name, with_defaults(SECTIONS[section].options, options), "vmnet.toml")
        for section, rows in sections.items()
        for name, options in rows.items()
    ]
    return Config({network.name: network for network in networks}, parts={part.id: part for part in parts})


def network(name: str, mode: str, **options: object) -> Network:
    return Network(SECTIONS["networks"], name, with_defaults(MODES[mode].options, options), "vmnet.toml", MODES[mode])


def wire(name: str, *ends: End) -> Network:
    made: Network = SECTIONS["wires"].declare(name, {"ends": ends, "mtu": None}, "vmnet.toml")
    return made


def with_defaults(rows: Sequence[Option], options: Mapping[str, object]) -> dict[str, object]:
    return {**{row.name: row.default for row in rows if not row.required}, **options}


def guest(domain: str, ifname: str, network: str, last: int, *addresses: str) -> Nic:
    mac = f"52:54:00:aa:00:{last:02x}"
    return Nic(
        **dict(id=f"{domain}/{mac}", domain=domain, domain_id=f"name:{domain}", ifname=ifname, ifindex=0, mac=mac),
        **dict(network=network, frontend="libvirt", phase="active", addresses=addresses),
    )


def drift(resource: Resource, what: str = "missing", owner: str = "") -> Drift:
    """What `check` finds of an object; `owner` is the id of one without a domain."""
    kind = "missing" if what == "missing" else "different"
    return Drift(kind, f"{resource.key}: {what}", "", owner.replace(":", " ", 1), owner, resource)


def gone(owner: Owner) -> Drift:
    return Drift("gone", f"{owner.where}: {owner.loss}", "", owner.label, owner.id)


def vlan(parent: str, vid: int, index: int, **more) -> LinkDetails:
    return LinkDetails(f"{parent}.{vid}", index, "vlan", parent=parent, vid=vid, protocol="802.1Q", **more)


def ring() -> tuple[Facts, list[Owner], Config]:
    """A node of a three-node cluster: the perimeter on eth0, the guests' VLAN on two ring links with STP, NAT."""
    links = (
        LinkDetails("lo", 1, addresses=("127.0.0.1/8",)),
        LinkDetails("eth0", 2, master="xenbr0", port_state="forwarding", mac="02:00:00:00:00:01"),
        LinkDetails("eth1", 3),
        LinkDetails("eth2", 4),
        LinkDetails("eth9", 5, up=False),
        LinkDetails("xenbr0", 6, "bridge", addresses=("192.168.122.13/24",)),
        vlan("eth1", 100, 7, master="guestbr0", port_state="forwarding"),
        vlan("eth2", 100, 8, master="guestbr0", port_state="blocking"),
        LinkDetails("guestbr0", 9, "bridge", stp=True),
        LinkDetails("guestbr0-gw", 10, "macvlan", mode="private", parent="guestbr0", addresses=("10.5.5.254/32",)),
        LinkDetails("vif1.0", 11, master="guestbr0", port_state="forwarding"),
        LinkDetails("vif2.0", 12, master="guestbr0", port_state="forwarding"),
    )
    config = declared(
        network("lan", "bridged", bridge="guestbr0"),
        vlans={"eth1.100": {"parent": "eth1"}, "eth2.100": {"parent": "eth2"}},
        bridges={"xenbr0": {"ports": ("eth0",)}, "guestbr0": {"ports": ("eth1.100", "eth2.100")}},
    )
    owners = [guest("web1", "vif1.0", "lan", 11, "10.5.5.11"), guest("db1", "vif2.0", "lan", 12)]
    return Facts(links, (), (Nat("10.5.5.0/24", "xenbr0", "192.168.122.13"),)), owners, config


def bond() -> tuple[Facts, list[Owner], Config]:
    """Two NICs, a bond, a bridge for each of two VLANs."""
    links = (
        LinkDetails("eth0", 2, master="bond0", port_state="active"),
        LinkDetails("eth1", 3, master="bond0", port_state="backup"),
        LinkDetails("bond0", 4, "bond", mode="active-backup"),
        vlan("bond0", 100, 5, master="br100", port_state="forwarding"),
        LinkDetails("br100", 6, "bridge", addresses=("10.1.0.1/24",)),
        vlan("bond0", 200, 7, master="br200", port_state="forwarding"),
        LinkDetails("br200", 8, "bridge"),
        LinkDetails("tap1", 9, "tun", master="br100", port_state="forwarding"),
        LinkDetails("tap2", 10, "tun", master="br100", port_state="forwarding"),
        LinkDetails("tap3", 11, "tun", master="br200", port_state="forwarding"),
    )
    config = declared(network("lan", "bridged", bridge="br100"), network("dmz", "bridged", bridge="br200"))
    owners = [guest("web1", "tap1", "lan", 1, "10.1.0.11"), guest("db1", "tap2", "lan", 2), guest("mx", "tap3", "dmz", 3)]
    return Facts(links), owners, config


def routed() -> tuple[Facts, list[Owner], Config]:
    """A routed network with two guests, and NAT for it; one tap is gone."""
    links = (
        LinkDetails("eth9", 2, addresses=("10.0.1.1/24",)),
        LinkDetails("up0", 3),
        LinkDetails("tap10", 4, "tun"),
        LinkDetails("tap11", 5, "tun", up=False),
    )
    routes = (
        ("0.0.0.0/0", "192.0.2.1", "up0"),
        ("::/0", "2001:db8::1", "up0"),
        ("192.0.2.0/24", "", "up0"),
        ("192.0.2.10/32", "", "tap10"),
        ("192.0.2.11/32", "", "tap11"),
        ("2001:db8::/64", "", "up0"),
        ("2001:db8::10/128", "", "tap10"),
    )
    table = Table(222, ("22000: from/to 192.0.2.0/24", "22000: from/to 2001:db8::/64"), routes)
    config = declared(network("public", "routed", uplink="up0", table=222, role="host"))
    owners = [
        guest("web1", "tap10", "public", 10, "192.0.2.10", "2001:db8::10"),
        guest("web2", "tap11", "public", 11, "192.0.2.11"),
        guest("web3", "tap12", "public", 12, "192.0.2.12"),
    ]
    return Facts(links, (table,), (Nat("192.0.2.0/24", "eth9"),)), owners, config


def aware() -> tuple[Facts, list[Owner], Config]:
    """A VLAN-aware bridge: two guests on VLANs of their own, and a trunk."""
    links = (
        LinkDetails("eth3", 2, master="ebr0", port_state="forwarding", tagged="2-4094"),
        LinkDetails("ebr0", 3, "bridge", vlan_aware=True),
        LinkDetails("tap1", 4, "tun", master="ebr0", port_state="forwarding", untagged=10),
        LinkDetails("tap2", 5, "tun", master="ebr0", port_state="forwarding", untagged=20, isolated=True),
        LinkDetails("tap3", 6, "tun", master="ebr0", port_state="forwarding", tagged="10,20"),
    )
    config = declared(network("trunk", "bridged", bridge="ebr0"), bridges={"ebr0": {"ports": ("eth3",)}})
    owners = [guest("web1", "tap1", "trunk", 1), guest("db1", "tap2", "trunk", 2), guest("fw", "tap3", "trunk", 3)]
    return Facts(links), owners, config


def hostroutes() -> tuple[Facts, list[Owner], Config]:
    """Guests of Xen's behind host routes and NAT, of networks that no file declares and of one that is; a vif is gone."""
    links = (
        LinkDetails("eth0", 2, addresses=("192.0.2.13/24",)),
        LinkDetails("eth1", 3),
        LinkDetails("vif1.0", 4, "vif", addresses=("192.0.2.13/32",)),
        LinkDetails("vif2.0", 5, "vif", addresses=("10.0.2.128/32",)),
        LinkDetails("vif3.0", 6, "vif"),
    )
    config = declared(network("hosting", "hostroute", netdev="eth1", nat=False))
    owners = [
        guest("web1", "vif1.0", "route:eth0", 1, "192.0.2.20", "2001:db8::20"),
        guest("db1", "vif2.0", "nat:eth0", 2, "10.0.2.1"),
        guest("mx", "vif3.0", "hosting", 3, "198.51.100.3"),
        guest("lost", "vif4.0", "route:eth0", 4, "192.0.2.21"),
    ]
    return Facts(links), owners, config


def crossed() -> tuple[Facts, list[Owner], Config]:
    """Two bridges, each with a VLAN of each of two NICs: not every line can be straight."""
    links = (
        LinkDetails("eth1", 1),
        LinkDetails("eth2", 2),
        vlan("eth1", 100, 3, master="br100"),
        vlan("eth2", 100, 4, master="br100"),
        vlan("eth1", 200, 5, master="br200"),
        vlan("eth2", 200, 6, master="br200"),
        LinkDetails("br100", 7, "bridge"),
        LinkDetails("br200", 8, "bridge"),
    )
    return Facts(links), [], declared()


def wires() -> tuple[Facts, list[Owner], Config]:
    """A leaf with two spines, one of which does not run, and a link of the host; a bridged guest beside them."""
    links = (
        LinkDetails("eth0", 1, master="br0", port_state="forwarding"),
        LinkDetails("eth7", 2),
        LinkDetails("br0", 3, "bridge"),
        LinkDetails("vnet0", 4, "tun"),
        LinkDetails("vnet1", 5, "tun"),
        LinkDetails("vnet2", 6, "tun"),
        LinkDetails("vnet3", 7, "tun"),
        LinkDetails("vnet4", 8, "tun", master="br0", port_state="forwarding"),
    )
    config = declared(
        network("lan", "bridged", bridge="br0"),
        wire("leaf-spine1", End("leaf", 0), End("spine1", 0)),
        wire("leaf-spine2", End("leaf", 1), End("spine2", mac="52:54:00:aa:00:09")),
        wire("out", End("leaf", ifname="vnet2"), End(link="eth7")),
        wire("elsewhere", End("spine3", 0), End("spine4", 0)),
        bridges={"br0": {"ports": ("eth0",)}},
    )
    owners = [
        guest("leaf", "vnet0", "leaf-spine1", 1),
        guest("leaf", "vnet1", "leaf-spine2", 2),
        guest("leaf", "vnet2", "out", 3),
        guest("spine1", "vnet3", "leaf-spine1", 4),
        guest("web1", "vnet4", "lan", 5),
    ]
    return Facts(links), owners, config


HOSTS = {host.__name__: host for host in (ring, bond, routed, aware, hostroutes, crossed, wires)}


def _differences(name: str) -> tuple[Drift, ...]:
    guests = {owner.domain: owner for owner in HOSTS[name]()[1]}
    match name:
        case "hostroutes":
            return (gone(guests["lost"]),)
        case "ring":
            disabled = Sysctl("net/ipv6/conf/vif1.0/disable_ipv6", "1")
            return (
                drift(LinkAttribute("eth1.100", "state", "up"), "is down", "bridge:guestbr0"),
                replace(drift(disabled, "is 0"), owner="web1", owner_id=guests["web1"].id),
            )
        case "routed":
            down = drift(LinkAttribute("tap11", "state", "up"), "is down")
            return gone(guests["web3"]), replace(down, owner="web2", owner_id=guests["web2"].id)
    return ()


def graph(name: str) -> Graph:
    return build(*HOSTS[name](), _differences(name))
