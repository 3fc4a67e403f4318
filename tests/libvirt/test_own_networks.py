"""Guests on libvirt's own networks, which libvirt runs: a bridged network of ours names libvirt's bridge, and the qemu hook does
the rest. No `network` hook is needed.
"""

from __future__ import annotations

import re

import pytest
from guest import Guest, Nic, domain_xml
from lab import tier
from lab.agent import Agent
from lab.asker import __file__ as ASKER
from lab.nodes import ran
from networks import HOST4, WORLD4, Networks
from test_dhcp import CLIENT

pytestmark = pytest.mark.libvirt

CONFIG = f"""
[networks.lab]
mode = "bridged"
bridge = "virbr9"

[forward."{HOST4}:8080/tcp"]
to = "dom1:80"
"""
MAC, ADDRESS, GATEWAY = "52:54:00:00:09:10", "10.9.0.10", "10.9.0.1"
SPOOF = "; ".join(
    [
        "ip addr add 10.9.0.77/24 dev eth0",
        "ping -c 2 -W 1 -I 10.9.0.77 10.9.0.1 >/dev/null && echo address",
        "ip addr del 10.9.0.77/24 dev eth0; ip link set eth0 down; ip link set eth0 address 52:54:00:00:99:99 up",
        "ping -c 2 -W 1 10.9.0.1 >/dev/null && echo mac",
        f"ip link set eth0 down; ip link set eth0 address {MAC} up; ip route replace default via {GATEWAY}",
    ]
)


@pytest.fixture
def lab(machine: None):
    tier.refuse("libvirt", tier.lacks({"dnsmasq": "dnsmasq-base", "iptables": "iptables"}, "check-libvirt"))
    with Networks(()) as lab:
        lab.host.config(CONFIG)
        lab.define()
        lab.host.virsh("net-start", "lab")
        yield lab


def is_port(host) -> bool:
    return "master virbr9" in host.run("ip -o link show type tun").stdout


def works(guest: Guest) -> None:
    """It reaches the world through libvirt's NAT, and forges neither address nor MAC."""
    guest.ping(WORLD4)
    assert guest.run(SPOOF).output.strip() == ""
    guest.ping(WORLD4)


def test_a_guest_on_libvirts_nat(lab):
    host = lab.host
    with Agent(host) as agent:
        host.create(domain_xml("dom1", [Nic(MAC, "network", source="lab", network="lab", ips=(ADDRESS,))], ""))
        guest = Guest(host, "dom1").ready()
        told = guest.run(CLIENT, timeout=60).output
        # By libvirt's dnsmasq.
        for line in (f"ip={ADDRESS}", f"router={GATEWAY}", "hostname=web1", "domain=lab.example", "lease=3600"):
            assert f"\n{line}\n" in told, told
        works(guest)
        assert host.cli("check").returncode == 0

        # What it sends to the host: services alone, and no other program of the host's.
        host.popen(["/usr/bin/python3", "-IS", ASKER, "serve", "2222"], stdout=-1).stdout.readline()
        assert host.run(["/usr/bin/python3", "-IS", ASKER, "ask", f"tcp/{GATEWAY}/2222"]).stdout
        assert guest.run(f"nc -w 2 {GATEWAY} 2222 </dev/null").status
        assert guest.run(f"nslookup web1.lab.example {GATEWAY}").status == 0

        # A forwarded port: libvirt lets nothing new into NAT, until a rule in its chain does. `check` names that.
        guest.run("(while :; do echo dom1 | nc -l -p 80; done) >/dev/null 2>&1 &")
        asked = ["/usr/bin/python3", "-IS", ASKER, "ask", f"tcp/{HOST4}/8080"]
        assert lab.world.run(asked).stdout.split() == []
        told = host.cli("check")
        remedy = re.search(
            r"a rule drops those of virbr9: IPv4 .*?; (nft insert rule ip \S+ \S+) iifname", told.stdout + told.stderr
        )
        host.run(f"{remedy[1]} oifname virbr9 ct status dnat accept")
        assert lab.world.run(asked).stdout.split() == asked[-1:]

        # The bridge is made anew, after a time in which the agent has tried in vain: it pauses longer each time.
        host.virsh("net-destroy", "lab")
        host.wait_for(lambda: agent.log.count("can't be put back") or None, "the agent to try")
        assert not is_port(host) and guest.unreachable(GATEWAY)
        assert "virbr9 does not exist" in (found := host.cli("check").stdout) and "virsh net-start" in found
        guest.run("sleep 6")
        host.virsh("net-start", "lab")
        host.wait_for(lambda: is_port(host), "the tap to be a port", 2)
        works(guest)
        host.wait_for(lambda: host.cli("check").returncode == 0, "all to be as declared")

    # Without the agent: by `repair`, and by libvirtd's restart.
    for remedy in (lambda: ran(["repair"], host.cli("repair")), lambda: (host.stop_libvirtd(), host.start_libvirtd())):
        host.virsh("net-destroy", "lab")
        host.virsh("net-start", "lab")
        found = host.cli("check")
        assert (
            found.returncode == 1 and "master: is none" in found.stdout and "ip link set dev vnet0 master virbr9" in found.stdout
        )
        assert not is_port(host)
        remedy()
        host.wait_for(lambda: is_port(host) and host.cli("check").returncode == 0, "the tap to be a port")
        works(guest)
    host.virsh("destroy", "dom1")
    host.wait_gone("dom1")
    assert host.cli("status").stdout == "nothing is set up\n"
