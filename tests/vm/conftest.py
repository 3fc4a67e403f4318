"""The vm tier needs a kernel with 8021q, bonding, dummy and VLAN-aware bridges: `make check-vm` boots Debian's under QEMU."""

from __future__ import annotations

import platform
from collections.abc import Iterator

import pytest
from lab import tier
from lab.vm import Product

# What to try in a new network namespace, and what the kernel lacks if it fails.
FEATURES = {
    "ip link add d0 type dummy": "dummy",
    "ip link add v0 type veth peer name v1": "veth",
    "ip link add link v0 name v0.2 type vlan id 2": "8021q",
    "ip link add b0 type bond": "bonding",
    "ip link add m0 link v0 type macvlan mode private": "macvlan",
    "ip link add r0 type vrf table 10": "vrf",
    "ip link add b1 type bridge vlan_filtering 1": "VLAN filtering of bridges",
    "nft add table netdev t; nft 'add chain netdev t c { type filter hook egress device v0 priority 0; }'": "nft netdev egress",
}


def missing() -> str:
    """Why this tier cannot run here, and how to mend that; empty if it can."""
    if lacks := tier.lacks(tier.TOOLS, "check-vm"):
        return lacks
    script = "\n".join(f"{{ {command}; }} >/dev/null 2>&1 || echo '{feature}'" for command, feature in FEATURES.items())
    tried = tier.in_namespaces("-c", script)
    if tried.returncode:
        return f"needs namespaces, but got: {tried.stderr.strip()} (in a container: run it privileged)"
    features = ", ".join(tried.stdout.splitlines())
    if features:
        return f"needs a kernel with {features}, which {platform.release()} lacks: `make check-vm` boots Debian's under QEMU"
    return ""


REASON = missing()


def pytest_runtest_setup(item: pytest.Item) -> None:
    tier.refuse("vm", REASON)


@pytest.fixture(scope="session")
def product() -> Iterator[Product]:
    """The process that runs the product in every host of this tier."""
    with Product() as started:
        yield started
