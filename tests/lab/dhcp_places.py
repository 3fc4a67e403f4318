"""Where guests ask for their addresses: a guest that knows nothing, at a link of each kind, and what it is to be told.

routed     guest -- tap -- host a -- segment -- router, see lab/routed.py
hostroute  guest -- tap -- host -- eth9 -- peer
bridged    guest -- br5, whose address is the gateway -- host -- eth9 -- peer
anycast    the same, with the gateway's MAC that all nodes share
beside     guest -- br0 -- peer, which is the gateway; another guest without an address
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

from .domains import Interface
from .guest import Nic, wired
from .nodes import Node, ran
from .routed import GATEWAY4, PUBLIC, WORLD4, WORLD6, RoutedLab
from .single import Single

OPTIONS = """
[networks.{network}.dhcp]
dns = ["192.0.2.53", "2001:db8::53"]
domain = "lan.example"
search = ["lan.example", "example"]
ntp = ["192.0.2.123"]
routes = [{{ to = "10.77.0.0/16", via = "{via}" }}]
lease = 600
"""
ROUTED = PUBLIC + OPTIONS.format(network="public", via="192.0.2.7")
HOSTROUTE = '[networks.out]\nmode = "hostroute"\nnetdev = "eth9"\n' + OPTIONS.format(network="out", via="10.0.1.7")
BRIDGED = """
[bridges.br5]
addresses = ["10.7.0.1/24", "fd07::1/64"]
forwarding = true

[networks.inner]
mode = "bridged"
bridge = "br5"
""" + OPTIONS.format(network="inner", via="10.7.0.7")
BESIDE = (
    '[networks.lan]\nmode = "bridged"\nbridge = "br0"\n'
    + OPTIONS.format(network="lan", via="10.8.0.7")
    + 'subnets = ["10.8.0.0/24"]\ngateway = "10.8.0.254"\n'
)
ANYCAST = BRIDGED.replace("forwarding = true", "anycast_gateway = true\nforwarding = true")
MAC = "52:54:00:cc:00:10"


@dataclass
class Place:
    """One guest and its host. `ip6` is "" where the guest has no IPv6 address, `router6` where the host does not advertise
    itself; `world` are addresses that the guest reaches through its gateways."""

    host: Node
    guest: Node
    nic: Interface
    network: str
    ip4: str
    prefix4: int
    gateway4: str
    via: str
    world: tuple[str, ...]
    start: Callable[[], None]
    stop: Callable[[], None]
    ip6: str = ""
    router6: str = ""
    lab: object = None
    others: dict[str, Node] = field(default_factory=dict)

    def router_mac(self) -> str:
        """The MAC of the host's link that has the router's link-local address."""
        shown = json.loads(self.host.run("ip -j -6 addr show").stdout)
        links = [item["ifname"] for item in shown for found in item.get("addr_info", ()) if found.get("local") == self.router6]
        link = self.nic.tap if self.nic.tap in links else links[0]
        return str(json.loads(self.host.run(f"ip -j link show dev {link}").stdout)[0]["address"])


def bare(node: Node) -> Node:
    """Take from a guest what it knows, and what another client has set."""
    node.sh("""
        ip addr flush dev eth0; ip link set eth0 mtu 1500; ip route flush dev eth0 2>/dev/null || true
        echo 0 > /proc/sys/net/ipv6/conf/eth0/addr_gen_mode
    """)
    return node


def link_local(host: Node, link: str) -> str:
    shown = json.loads(host.run(f"ip -j -6 addr show dev {link} scope link").stdout)
    return next(str(address["local"]) for item in shown for address in item.get("addr_info", ()) if "local" in address)


@contextmanager
def routed(config: str = ROUTED) -> Iterator[Place]:
    with RoutedLab(config) as lab:
        guest = lab.guests["a1"]
        lab.start()
        bare(guest.node)
        yield Place(
            *(lab.a, guest.node, guest.nic, "public", guest.ip4, 24, GATEWAY4, "192.0.2.7", (WORLD4, WORLD6)),
            *(lambda: lab.start(guest), lambda: lab.stop(guest)),
            ip6=guest.ip6,
            router6="fe80::fcff:ffff:feff:ffff",
            lab=lab,
            others={"peer": lab.router, "other": lab.guests["a2"].node},
        )


@contextmanager
def single(config: str, tap: str, network: str, subnet: str, bridge: str = "", router6: str = "") -> Iterator[Place]:
    """A guest of a host on its own. `subnet` is the start of its addresses: "10.7.0" for 10.7.0.16 and fd07::16."""
    digit = subnet.split(".")[1 if bridge else 2]
    ip6 = f"fd0{digit}::16" if bridge else f"fd00:{digit}::16"
    with Single(config, foreign=False) as one, ExitStack() as stack:
        one.peer.sh(f"""
            echo 1 > /proc/sys/net/ipv4/ip_forward; echo 0 > /proc/sys/net/ipv6/conf/eth9/accept_dad
            ip addr add 10.0.1.254/24 dev eth9; ip -6 addr add fd00:1::254/64 dev eth9 nodad
            ip addr add 10.8.0.254/24 dev lan0; ip link set lo up; ip addr add {WORLD4}/32 dev lo
            ip -6 addr add {WORLD6}/128 dev lo nodad
            ip route add 10.7.0.0/24 via 10.0.1.1; ip -6 route add fd07::/64 via fd00:1::1
        """)
        nic = Interface(MAC, tap, network, [f"{subnet}.16", ip6], bridge)
        if bridge == "br5":
            # What is behind eth9 answers: the admin of a host that routes for a bridge lets it forward.
            one.host.sh("echo 1 > /proc/sys/net/ipv4/ip_forward; echo 1 > /proc/sys/net/ipv6/conf/all/forwarding")
            ran(["vmnet-hook", "up", "br5"], one.host.cli("up", "br5"))
        guest = stack.enter_context(wired(one.host, tap, "guest", Nic(MAC)))
        if bridge:
            one.host.run(f"ip link set {tap} master {bridge}")
        one.start("dom-one", nic)
        if bridge and router6:
            router6 = link_local(one.host, f"{bridge}-gw" if config == ANYCAST else bridge)
        yield Place(
            *(one.host, guest, nic, network, f"{subnet}.16", 24, f"{subnet}.{254 if bridge == 'br0' else 1}", f"{subnet}.7"),
            (WORLD4, WORLD6) if router6 else (WORLD4,),
            *(lambda: one.start("dom-one", nic), lambda: one.stop("dom-one", nic)),
            ip6=ip6,
            router6=router6,
            lab=one,
            others={"peer": one.peer},
        )


PLACES = {
    "routed": routed,
    "hostroute": lambda: single(HOSTROUTE, "tap-one", "out", "10.0.1", router6="fe80::fcff:ffff:feff:ffff"),
    "bridged": lambda: single(BRIDGED, "tap-one", "inner", "10.7.0", "br5", router6="of the bridge"),
    "anycast": lambda: single(ANYCAST, "tap-one", "inner", "10.7.0", "br5", router6="of the bridge"),
    "beside": lambda: single(BESIDE, "tap-one", "lan", "10.8.0", "br0"),
}
