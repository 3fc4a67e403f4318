"""The lab of the routed mode: an external router, two hypervisors on one segment, two guests each.

    guests a1 a2 -- host-a -- up0 --+                        +-- lo 198.51.100.1, 2001:db8:ffff::1 ("the world")
                                    |== segment == eth0 -- router
    guests b1 b2 -- host-b -- up0 --+                        +-- mg1, mg2 == eth9 of host-a, host-b

The hosts have no address in the guests' subnet: `eth9` gives them their only addresses, and their default route.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass, replace

from .domains import Interface, domain_xml
from .frames import __file__ as FRAMES
from .guest import Nic, wired
from .nodes import CommandFailed, Node, Switch, ran, wire

SUBNET4, GATEWAY4, ARP_SOURCE = "192.0.2.0/24", "192.0.2.1", "192.0.2.254"
SUBNET6, GATEWAY6 = "2001:db8::/64", "2001:db8::1"
WORLD4, WORLD6 = "198.51.100.1", "2001:db8:ffff::1"
ROUTER_MAC, TAP_MAC = "02:00:00:00:00:01", "fe:ff:ff:ff:ff:ff"
PUBLIC = f"""
[networks.public]
mode = "routed"
uplink = "up0"
table = 222
table_name = "snf_routed"
ipv4 = {{ subnet = "{SUBNET4}", gateway = "{GATEWAY4}", arp_source = "{ARP_SOURCE}" }}
ipv6 = {{ subnet = "{SUBNET6}", gateway = "{GATEWAY6}" }}
"""


@dataclass(frozen=True)
class Plugged:
    """A guest, the domain that holds it, and where it is plugged in."""

    name: str
    host: Node
    nic: Interface
    node: Node

    @property
    def domain(self) -> str:
        return f"dom-{self.name}"

    @property
    def ip4(self) -> str:
        return next((ip for ip in self.nic.ips if "." in ip), "")

    @property
    def ip6(self) -> str:
        return next((ip for ip in self.nic.ips if ":" in ip), "")

    def opened(self) -> Plugged:
        """The same guest with the source filter off."""
        return replace(self, nic=replace(self.nic, filter=False))


class RoutedLab:
    """Everything up to, but without, the product's own work. Use as a context manager."""

    def __init__(self, config: str = PUBLIC):
        self.stack = ExitStack()
        try:
            self.build(config)
        except BaseException:
            self.stack.close()
            raise

    def __enter__(self) -> RoutedLab:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.stack.close()

    def add(self, node: Node) -> Node:
        return self.stack.enter_context(node)

    def build(self, config: str) -> None:
        self.segment = self.add(Switch("segment"))
        self.router = self.add(Node("router"))
        self.segment.plug(self.router, "eth0", ROUTER_MAC)
        self.router.sh(f"""
            echo 1 > /proc/sys/net/ipv4/ip_forward; echo 1 > /proc/sys/net/ipv6/conf/all/forwarding
            echo 0 > /proc/sys/net/ipv6/conf/eth0/accept_dad
            ip addr add {GATEWAY4}/24 dev eth0; ip -6 addr add {GATEWAY6}/64 dev eth0 nodad
            ip addr add {WORLD4}/32 dev lo; ip -6 addr add {WORLD6}/128 dev lo nodad
        """)
        self.hosts = []
        self.guests: dict[str, Plugged] = {}
        for number, letter in enumerate("ab", 1):
            host = self.add(Node(f"host-{letter}"))
            self.hosts.append(host)
            self.segment.plug(host, "up0", f"02:00:00:00:00:{letter}{letter}")
            wire(host, "eth9", self.router, f"mg{number}", f"02:00:00:00:09:{number:02x}", f"02:00:00:00:08:{number:02x}")
            self.router.sh(
                f"ip link set mg{number} up; ip addr add 10.0.{number}.254/24 dev mg{number}\n"
                f"ip -6 addr add fd00:{number}::254/64 dev mg{number} nodad"
            )
            # A guest on the other host answers through the router, so the answer comes in at eth9, not where the
            # question left: the admin of such a host keeps rp_filter loose there.
            host.sh(f"""
                echo 2 > /proc/sys/net/ipv4/conf/eth9/rp_filter; echo 0 > /proc/sys/net/ipv6/conf/eth9/accept_dad
                ip link set eth9 up; ip addr add 10.0.{number}.1/24 dev eth9
                ip -6 addr add fd00:{number}::1/64 dev eth9 nodad
                ip route add default via 10.0.{number}.254; ip -6 route add default via fd00:{number}::254
            """)
            host.config(config)
            for index in (1, 2):
                self.guest(f"{letter}{index}", host, number * 10 + index)

    def guest(self, name: str, host: Node, last: int) -> Plugged:
        nic = Interface(f"52:54:00:aa:00:{last:02x}", f"tap-{name}", "public", (f"192.0.2.{last}", f"2001:db8::{last}"))
        node = self.add(wired(host, nic.tap, f"guest-{name}", Nic(nic.mac, nic.ips[0], 24, GATEWAY4, nic.ips[1], GATEWAY6)))
        self.guests[name] = Plugged(name, host, nic, node)
        return self.guests[name]

    @property
    def a(self) -> Node:
        return self.hosts[0]

    @property
    def b(self) -> Node:
        return self.hosts[1]

    def mac_of(self, host: Node) -> str:
        """The MAC of a host's uplink."""
        return "02:00:00:00:00:aa" if host is self.a else "02:00:00:00:00:bb"

    def reconfigure(self, config: str) -> None:
        for host in self.hosts:
            host.config(config)

    def start(self, *guests: Plugged, announce: bool = True) -> None:
        for guest in guests or self.guests.values():
            call(guest.host, guest.domain, "start", guest.nic)
            if announce:
                call(guest.host, guest.domain, "started", guest.nic)

    def stop(self, *guests: Plugged) -> None:
        for guest in guests or self.guests.values():
            call(guest.host, guest.domain, "stopped", guest.nic)
            call(guest.host, guest.domain, "release", guest.nic)

    def forget_neighbours(self) -> None:
        """Drop what every stack has learnt (not what is permanent), so that the next packet needs ARP and ND again."""
        for node in (self.router, *self.hosts, *(guest.node for guest in self.guests.values())):
            node.run("ip neigh flush all", check=False)


SUBOPERATION = {
    "prepare": "begin",
    "start": "begin",
    "started": "begin",
    "stopped": "end",
    "release": "end",
    "reconnect": "begin",
    "migrate": "begin",
    "restore": "begin",
}


def call(host: Node, domain: str, op: str, *nics: Interface, check: bool = True, metadata: bool = True) -> str:
    """Call the libvirt hook for one stage; returns stderr, raises CommandFailed when the hook failed and `check`."""
    done = host.hook(domain, op, SUBOPERATION[op], domain_xml(domain, *nics, stage=op, metadata=metadata))
    if check:
        ran([f"[{host.name}] hook", domain, op], done)
    return done.stderr


def ping(node: Node, target: str, wait: float = 2) -> float | None:
    """One echo request: milliseconds, or None without an answer."""
    done = node.run(["ping", "-n", "-c", "1", "-W", str(wait), target], check=False)
    found = re.search(r"time=([0-9.]+) ms", done.stdout)
    return float(found[1]) if found else None


def reach(pairs: Iterable[tuple[Node, str]], wait: float = 3) -> list[str]:
    """Ping all of them at once; returns those that failed, as text."""
    running = [
        (
            node,
            target,
            node.popen(["ping", "-n", "-c", "3", "-i", "0.3", "-W", str(wait), target], stdout=-1, stderr=-2),
        )
        for node, target in pairs
    ]
    failed = []
    for node, target, process in running:
        output, _ = process.communicate(timeout=30)
        node.children.remove(process)
        received = re.search(r"(\d+) received", output)
        if not received or received[1] == "0":
            failed.append(f"{node.name} -> {target}: {' / '.join(output.split(chr(10))[1:3]).strip() or output}")
    return failed


def send(node: Node, ifname: str, *frames: bytes) -> None:
    """Send raw frames from a node, past its own stack: some at a time, as the kernel drops what its queue of 1,000 can't take."""
    for at in range(0, len(frames), 200):
        node.run(["/usr/bin/python3", "-IS", FRAMES, ifname, *(frame.hex() for frame in frames[at : at + 200])])


def eventually(condition: object, timeout: float = 5, every: float = 0.1) -> bool:
    """Poll until `condition()` is true; whether it became so."""
    end = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(every)
    return True


__all__ = ["CommandFailed", "Interface", "Plugged", "RoutedLab", "call", "eventually", "ping", "reach", "send"]
