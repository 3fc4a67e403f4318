"""A cluster of three hypervisors whose guest VLAN runs over a ring of cables, with STP.

         "internet" 198.51.100.1                    guest1      guest2      guest3
                  |                                    |           |           |
    router (192.168.122.1; no route to 10.5.5.0/24)  node1 ===== node2 ===== node3      eth1 of a node is wired to
                  |                                    ||                      ||        eth2 of the next
          == outside == eth0 of each node              ==========================

On each node: `guestbr0` over eth1.100 and eth2.100 with the gateway 10.5.5.254 of the guests, the same on all, and
`xenbr0` over eth0 with 192.168.122.1N. Node 3 translates the guests' addresses; the others' default route is node 3.
"""

from __future__ import annotations

from contextlib import ExitStack

from .capture import Capture
from .guest import Nic
from .nodes import Switch, wire
from .vm import Guest, Host, Product, guest

SUBNET4, GATEWAY4 = "10.5.5.0/24", "10.5.5.254"
GATEWAY6 = "fd00:5:5::fe"
INTERNET, ROUTER, NAT = "198.51.100.1", "192.168.122.1", "192.168.122.13"
# The shortest timers that IEEE 802.1D allows with each other: 2 * (forward_delay - 1) >= max_age >= 2 * (hello_time + 1).
FORWARD_DELAY, HELLO_TIME, MAX_AGE = 4, 1, 6
# What a change of the topology takes at most: the old root's word expires, then listening and learning.
CONVERGENCE = MAX_AGE + 2 * FORWARD_DELAY
RING_PORTS = ("eth1.100", "eth2.100")


def config(number: int) -> str:
    """vmnet.toml of node `number`."""
    text = f"""
[vlans."eth1.100"]
parent = "eth1"
id = 100

[vlans."eth2.100"]
parent = "eth2"
id = 100

[bridges.guestbr0]
ports = ["eth1.100", "eth2.100"]
stp = true
forward_delay = {FORWARD_DELAY}
hello_time = {HELLO_TIME}
max_age = {MAX_AGE}
addresses = ["{GATEWAY4}/24", "{GATEWAY6}/64"]
anycast_gateway = true

[bridges.xenbr0]
ports = ["eth0"]
addresses = ["192.168.122.1{number}/24"]
gateway = "{ROUTER if number == 3 else NAT}"
forwarding = true

[networks.guests]
mode = "bridged"
bridge = "guestbr0"
"""
    if number == 3:
        text += f"""
[nat.internet]
subnet = "{SUBNET4}"
out = "xenbr0"
snat = "{NAT}"
"""
    return text


class Ring:
    """Everything but the product's own work. Use as a context manager."""

    def __init__(self, product: Product):
        self.stack = ExitStack()
        try:
            self.build(product)
        except BaseException:
            self.stack.close()
            raise

    def __enter__(self) -> Ring:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.stack.close()

    def build(self, product: Product) -> None:
        self.outside = self.stack.enter_context(Switch("outside"))
        self.router = self.stack.enter_context(Host("router", product))
        self.nodes = [self.stack.enter_context(Host(f"node{number}", product)) for number in (1, 2, 3)]
        self.outside.plug(self.router, "eth0", "02:00:00:00:01:fe")
        self.router.sh(f"""
            ip addr add {ROUTER}/24 dev eth0; ip addr add {INTERNET}/32 dev lo
            echo 1 > /proc/sys/net/ipv4/ip_forward
        """)
        for number, node in enumerate(self.nodes, 1):
            self.outside.plug(node, "eth0", f"02:00:00:00:00:0{number}")
            wire(
                node,
                "eth1",
                self.nodes[number % 3],
                "eth2",
                f"02:00:00:00:01:0{number}",
                f"02:00:00:00:02:0{number % 3 + 1}",
            )
            node.config(config(number))
        for node in self.nodes:
            node.sh("ip link set eth1 up; ip link set eth2 up")
        self.guests: list[Guest] = []

    def add_guests(self) -> None:
        """A guest on each node: 10.5.5.N and fd00:5:5::N, the gateway is the way to everywhere."""
        for number, node in enumerate(self.nodes, 1):
            nic = Nic(f"52:54:00:05:05:0{number}", f"10.5.5.{number}", 24, GATEWAY4, f"fd00:5:5::{number}")
            self.guests.append(self.stack.enter_context(guest(node, f"guest{number}", "guests", nic)))
            self.guests[-1].node.run(f"ip -6 route add default via {GATEWAY6}")

    def port_states(self) -> dict[str, str]:
        """What STP makes of each ring port: {"node1 eth1.100": "forwarding", …}."""
        return {
            f"{node.name} {port}": STATES[node.sh(f"cat /sys/class/net/{port}/brport/state").strip()]
            for node in self.nodes
            for port in RING_PORTS
        }

    def converged(self) -> bool:
        """Whether exactly one ring port blocks and all the others forward."""
        states = sorted(self.port_states().values())
        return states == ["blocking"] + ["forwarding"] * 5

    def captures(self) -> list[Capture]:
        """One for each cable of the ring. What egress filters drop is not on the cable, and tcpdump does not see it."""
        return [Capture(node, "eth1") for node in self.nodes]


STATES = {"0": "disabled", "1": "listening", "2": "learning", "3": "forwarding", "4": "blocking"}
