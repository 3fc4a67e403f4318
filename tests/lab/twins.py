"""Nodes with the same NICs, of which one is set up by ifupdown and the others by us: `state` is what they must have in common.

What is left out, or made the same, is said where it is done.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

from .ifupdown import Ifupdown
from .nodes import Node, wire

SCRIPTS = ("bridge", "vlan", "ifenslave")
BRIDGE = ("stp_state", "hello_time", "max_age", "ageing_time", "priority", "vlan_filtering", "group_fwd_mask", "mcast_snooping")
BOND = ("mode", "miimon", "updelay", "downdelay", "xmit_hash_policy", "ad_lacp_rate", "primary")
VLAN = ("id", "protocol")
# All of IPv4's, but of IPv6 what routing needs: whether IPv6 is on at all on a link without an IPv6 address, and what the
# kernel then does about router advertisements, is another matter. We turn it off there, ifupdown leaves it as it is.
SYSCTLS = (
    "ipv4/conf/*/*",
    "ipv4/neigh/*/proxy_delay",
    "ipv6/conf/*/forwarding",
    "ipv6/conf/*/proxy_ndp",
    "ipv6/neigh/*/proxy_delay",
)


class Twins:
    """As many nodes as there are `names`, each with the NICs of that many, wired to a peer that keeps their carrier up."""

    def __init__(self, stack: ExitStack, make: Callable[[str], Node], names: Sequence[str], nics: Sequence[str]):
        self.peer = stack.enter_context(Node("peer"))
        self.nodes = [stack.enter_context(make(name)) for name in names]
        for number, node in enumerate(self.nodes):
            node.sh("for f in all default; do echo 0 > /proc/sys/net/ipv6/conf/$f/accept_dad; done")
            for index, nic in enumerate(nics):
                wire(node, nic, self.peer, f"p{number}-{index}", f"02:00:00:00:00:{index + 1:02x}")
                self.peer.sh(f"ip link set p{number}-{index} up")

    @staticmethod
    def by_ifupdown(node: Node, interfaces: str) -> None:
        ifupdown = Ifupdown(node, SCRIPTS)
        ifupdown.interfaces(interfaces)
        ifupdown.up("-a", "-X", "lo")

    @staticmethod
    def imported(node: Node, *argv: str) -> str:
        """What `vmnet-hook import` prints on a node: valid, without a word on stderr. While a bridge's topology changes, which a
        busy machine may come to, not all can be read: the import tells, and is done again."""
        end = time.monotonic() + 60
        while True:
            done = node.cli("import", *argv)
            assert (done.returncode, done.stderr) == (0, ""), (argv, done.stdout, done.stderr)
            if "an STP topology change hides" not in done.stdout or time.monotonic() > end:
                return done.stdout
            time.sleep(1)

    @staticmethod
    def by_us(node: Node, toml: str) -> None:
        node.config(toml)
        for argv in (("validate",), ("up",), ("check",)):
            done = node.cli(*argv)
            assert done.returncode == 0, (argv, toml, done.stdout, done.stderr)


def state(node: Node) -> str:
    """Links, addresses, routes, rules and sysctls, as text to compare."""
    sysctls = node.sh(f"cd /proc/sys/net; grep -s . {' '.join(SYSCTLS)} || :").splitlines()
    return json.dumps(
        {
            "links": _links(node),
            "addresses": _addresses(node),
            "routes": sorted(map(str, [*_routes(node, "-4"), *_routes(node, "-6")])),
            "rules": [_without(rule, "protocol") for f in ("-4", "-6") for rule in _json(node, f"ip -N {f} rule show")],
            "sysctls": sorted(sysctls),
        },
        indent=1,
        sort_keys=True,
    )


def _json(node: Node, command: str) -> list[dict[str, Any]]:
    return [row for row in json.loads(node.run(command.replace("ip ", "ip -j ", 1)).stdout or "[]") if row]


def _without(row: dict[str, Any], *keys: str) -> dict[str, Any]:
    return {key: value for key, value in row.items() if key not in keys}


def _links(node: Node) -> dict[str, Any]:
    found = {}
    end = time.monotonic() + 60
    # The kernel shows a shorter ageing time meanwhile.
    while '"topology_change":1' in (shown := node.run("ip -d -j link show").stdout) and time.monotonic() < end:
        time.sleep(0.5)
    for link in filter(None, json.loads(shown)):
        info = link.get("linkinfo", {})
        kind, data = info.get("info_kind", ""), info.get("info_data", {})
        row = {
            "kind": kind,
            "up": "UP" in link["flags"],
            "mtu": link["mtu"],
            "mac": link.get("address"),
            "master": link.get("master"),
            "parent": link.get("link") if kind == "vlan" else None,
        }
        row |= {key: data.get(key) for key in {"bridge": BRIDGE, "bond": BOND, "vlan": VLAN}.get(kind, ())}
        if kind == "bridge" and data.get("stp_state"):
            # Without STP the kernel forwards at once, whatever the delay: bridge-utils leaves 15 s, we set 0.
            row["forward_delay"] = data["forward_delay"]
        found[link["ifname"]] = row
    return found


def _addresses(node: Node) -> dict[str, list[str]]:
    """Without link-local ones: see SYSCTLS."""
    return {
        link["ifname"]: sorted(_address(found) for found in link["addr_info"] if found["scope"] != "link")
        for link in _json(node, "ip addr show")
    }


def _address(found: dict[str, Any]) -> str:
    # ifup gives a subnet of one address a broadcast address: itself.
    broadcast = found.get("broadcast", "") if found.get("broadcast") != found["local"] else ""
    peer = f"peer {found['address']}" if "address" in found else ""
    return " ".join(filter(None, (f"{found['local']}/{found['prefixlen']}", broadcast, peer)))


def _routes(node: Node, family: str) -> list[dict[str, Any]]:
    """Without those that the kernel makes for local, link-local and multicast addresses."""
    found = []
    for route in _json(node, f"ip -N {family} route show table all"):
        if route.get("table") == "255" or route["dst"].startswith(("fe80::", "ff00::")):
            continue
        # A route of ours says so; and whether a gateway was said to be on the link is no matter where it is.
        found.append(dict(sorted(_without(route, "protocol", "flags").items())))
    return found
