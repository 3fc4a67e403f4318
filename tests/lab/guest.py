"""Guests without QEMU: a node whose `eth0` ends in a "tap" of the host.

`wired`: the host's end is one half of a veth pair with a tap's name: cheap, and the product only needs the name.
`tapped`: the host's end is a real tap (persistent, as libvirt's managed='no'), and a process (tap.py) plays QEMU.
"""

from __future__ import annotations

from dataclasses import dataclass

from .nodes import Node, wire
from .tap import __file__ as TAP


@dataclass(frozen=True)
class Nic:
    """What the guest believes about its only NIC. IPv4 is on-link; IPv6 is a /128 with an on-link gateway (an RA with
    L=0)."""

    mac: str
    ip4: str = ""
    prefix4: int = 24
    gateway4: str = ""
    ip6: str = ""
    gateway6: str = ""


def configure(guest: Node, nic: Nic) -> None:
    lines = [
        "for f in all default eth0; do echo 0 > /proc/sys/net/ipv6/conf/$f/accept_ra; done",
        # The guest's stack must not wait for duplicate address detection: the probes are sent by the tests.
        "echo 0 > /proc/sys/net/ipv6/conf/eth0/accept_dad",
        "ip link set eth0 up",
    ]
    if nic.ip4:
        lines.append(f"ip addr add {nic.ip4}/{nic.prefix4} dev eth0")
        if nic.gateway4:
            lines.append(f"ip route add default via {nic.gateway4} dev eth0")
    if nic.ip6:
        lines.append(f"ip -6 addr add {nic.ip6}/{128 if nic.gateway6 else 64} dev eth0 nodad")
        if nic.gateway6:
            lines += [
                f"ip -6 route add {nic.gateway6} dev eth0",
                f"ip -6 route add default via {nic.gateway6} dev eth0",
            ]
    guest.sh("\n".join(lines))


def wired(host: Node, tap: str, name: str, nic: Nic) -> Node:
    """A guest on a veth: the host's end is called `tap`, and is up, as libvirt leaves a tap to the hook."""
    guest = Node(name)
    # libvirt's tap has the guest's MAC with a first byte of fe.
    wire(host, tap, guest, "eth0", mac_a=f"fe{nic.mac[2:]}", mac_b=nic.mac)
    host.run(f"ip link set {tap} up")
    configure(guest, nic)
    return guest


def tapped(host: Node, tap: str, name: str, nic: Nic) -> Node:
    """A guest on a real tap, which outlives the guest (`ip link del` ends it)."""
    guest = Node(name)
    host.sh(f"[ -e /sys/class/net/{tap} ] || ip tuntap add {tap} mode tap\nip link set {tap} address fe{nic.mac[2:]} up")
    host.popen(["/usr/bin/python3", "-IS", TAP, tap, guest.pid])
    guest.sh("for i in $(seq 100); do [ -e /sys/class/net/eth0 ] && exit 0; sleep 0.05; done; exit 1")
    guest.run(f"ip link set eth0 address {nic.mac}")
    configure(guest, nic)
    return guest
