"""A guest under QEMU, with a virtio NIC, gets its addresses from the agent: routed and bridged, at its first and second boot."""

from __future__ import annotations

import re
import shlex

import pytest
from guest import Guest, Nic, domain_xml
from lab.agent import Agent
from lab.routed import eventually
from lvhost import OUTSIDE4, OUTSIDE6

pytestmark = pytest.mark.libvirt

MAC = "52:54:00:aa:00:11"
ROUTED = Nic(MAC, "ethernet", dev="tap1", network="public", ips=("192.0.2.11", "2001:db8::11"))
BRIDGED = Nic(MAC, "bridge", dev="tap1", bridge="br0", network="lan", ips=("10.9.0.11",))
DHCP = """
[networks.public.dhcp]
dns = ["192.0.2.53"]
domain = "lan.example"

[networks.lan.dhcp]
subnets = ["10.9.0.0/24"]
gateway = "10.9.0.1"
"""
POOL = """
[networks.lab]
mode = "virtual"
out = "eth1"
domain = "lab.example"
ipv4 = { subnet = "10.66.0.0/24", pool = ["10.66.0.100-10.66.0.199"] }
"""
# In one line, as the guest's console takes it. The script of udhcpc: see busybox's examples/udhcp/simple.script.
SCRIPT = (
    "#!/bin/sh",
    "[ $1 = bound ] || exit 0",
    "ip addr add $ip/$mask dev $interface",
    "ip route add default via $router dev $interface",
    "env | sort >/tmp/told",
)
CLIENT = "; ".join(
    [
        f"printf '%s\\n' {' '.join(map(shlex.quote, SCRIPT))} >/tmp/script",
        "chmod +x /tmp/script",
        "ip addr flush dev eth0",
        "ip link set eth0 up",
        "udhcpc -i eth0 -f -q -n -t 5 -T 1 -s /tmp/script -O mtu && cat /tmp/told",
    ]
)


@pytest.mark.parametrize(("nic", "address", "gateway"), [(ROUTED, "192.0.2.11", "192.0.2.1"), (BRIDGED, "10.9.0.11", "10.9.0.1")])
def test_a_guest_asks(lab, nic, address, gateway):
    host = lab.host
    host.config(host.path("/etc/vmnet-hooks/vmnet.toml").read_text() + DHCP)
    with Agent(host) as agent:
        for _ in range(2):
            host.create(domain_xml("dom1", [nic], ""))
            guest = Guest(host, "dom1").ready()
            told = guest.run(CLIENT, timeout=60)
            assert told.status == 0, told.output
            for line in (f"ip={address}", "mask=24", f"router={gateway}", "mtu=1500", "hostname=dom1", "lease=86400"):
                assert f"\n{line}\n" in told.output, told.output
            guest.ping(gateway)
            if nic is ROUTED:
                assert "\ndns=192.0.2.53\n" in told.output and "\ndomain=lan.example\n" in told.output
                guest.ping(OUTSIDE4)
                # The host is the router of IPv6 at the guest's own link.
                guest.run("echo 2 > /proc/sys/net/ipv6/conf/eth0/accept_ra; ip -6 addr add 2001:db8::11/128 dev eth0")
                guest.run("ip link set eth0 down; ip link set eth0 up; ip -6 addr add 2001:db8::11/128 dev eth0")
                guest.ping(OUTSIDE6)
            host.virsh("destroy", "dom1")
        assert not agent.errors
    lab.assert_clean()


def test_a_guest_gets_a_lease(lab):
    """Of a virtual network, whose bridge is its own; the same one at its second boot, and by the bridge that was made anew."""
    host, nic, told = lab.host, Nic(MAC, "ethernet", dev="tap1", network="lab"), []
    host.config(host.path("/etc/vmnet-hooks/vmnet.toml").read_text() + POOL)
    lab.router.run("ip addr add 198.51.100.1/30 dev public0")
    host.sh("ip addr add 198.51.100.2/30 dev eth1; ip route add default via 198.51.100.1")
    assert host.cli("up", "lab").returncode == 0
    with Agent(host) as agent:
        for _ in range(2):
            host.create(domain_xml("dom1", [nic], ""))
            guest = Guest(host, "dom1").ready()
            for made_anew in (False, True):
                if made_anew:
                    host.run("ip link del lab")
                    assert eventually(lambda: host.cli("check").stdout == "ok\n", 30)
                found = guest.run(CLIENT, timeout=60)
                assert found.status == 0, found.output
                for line in ("mask=24", "router=10.66.0.1", "domain=lab.example", "dns=10.66.0.1"):
                    assert f"\n{line}\n" in found.output, found.output
                told += re.findall(r"^ip=(10\.66\.0\.1\d\d)\r?$", found.output, re.M)
                guest.ping("10.66.0.1")
                guest.ping(OUTSIDE4)
            host.virsh("destroy", "dom1")
        assert not agent.errors
    assert host.cli("down", "lab").returncode == 0
    lab.router.run("ip addr del 198.51.100.1/30 dev public0")
    host.run("ip addr del 198.51.100.2/30 dev eth1")
    assert len(told) == 4 and len(set(told)) == 1, told
    lab.assert_clean()
