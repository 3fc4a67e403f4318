"""The netns tier needs root, namespaces and a few tools."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from lab import tier

TOOLS = {
    **tier.TOOLS,
    "ifup": "ifupdown",
    "brctl": "bridge-utils",
    "dhclient": "isc-dhcp-client",
    "dhcpcd": "dhcpcd-base",
    "dnsmasq": "dnsmasq-base",
    "nmcli": "network-manager",
    "dbus-daemon": "dbus",
    "firewalld": "firewalld",
    "iptables": "iptables",
    "gcc": "gcc libc6-dev",
    "keepalived": "keepalived",
    "named": "bind9",
    "nsupdate": "bind9-dnsutils",
    "dig": "bind9-dnsutils",
    "busybox": "busybox-static",
    "ethtool": "ethtool",
}


def missing() -> str:
    """Why this tier cannot run here, and how to mend that; empty if it can."""
    if lacks := tier.lacks(TOOLS, "check"):
        return lacks
    if not os.path.exists("/dev/net/tun"):
        return "needs /dev/net/tun: modprobe tun (in a container: give it the device)"
    test = (
        "mount -t sysfs sysfs /sys && ip link add name va type veth peer name vb && ip link add name vc type bridge"
        " && nft add table arp t && nft add table inet t"
    )
    tried = tier.in_namespaces("-ec", test)
    if tried.returncode:
        return (
            f"needs namespaces with veth, bridge and nftables, but got: {tried.stderr.strip()}; "
            "modprobe veth bridge nf_tables (in a container: run it privileged)"
        )
    return ""


REASON = missing()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.parent == Path(__file__).parent:
            item.add_marker(pytest.mark.netns)


def pytest_runtest_setup(item: pytest.Item) -> None:
    tier.refuse("netns", REASON)
