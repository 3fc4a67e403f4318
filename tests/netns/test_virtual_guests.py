"""Guests of all kinds on virtual networks: the example, with leases, names and a forwarded port; Xen's and libvirt's together;
a shared physical interface beside a virtual network.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from lab.agent import Agent
from lab.dhcp_clients import Udhcpc
from lab.dhcp_places import bare
from lab.domains import Interface
from lab.echo import __file__ as ECHO
from lab.guest import Nic, wired
from lab.nodes import Node, wire
from lab.routed import call, eventually, ping, reach
from lab.xenhost import WORLD, WORLD6, XenHost, offline, online

EXAMPLE = (Path(__file__).parents[2] / "etc/examples/virtual.toml").read_text()
OUTSIDE, HOST = "203.0.113.2", "203.0.113.1"


def asked(node: Node, name: str, *words: str) -> list[str]:
    found = node.run(["dig", "+short", "+time=1", "+tries=1", "@10.9.0.1", *words, name], check=False).stdout
    return [line for line in found.splitlines() if not line.startswith(";")]


def test_the_example():
    """Two guests on NAT, one with a declared address and one with a lease, an isolated one, and one beside a desk."""
    with (
        Node("host") as host,
        Node("world") as world,
        Node("desk") as desk,
    ):
        wire(host, "eth0", world, "eth0", "02:00:00:00:00:01", "02:00:00:00:00:02")
        wire(host, "eth1", desk, "eth0", "02:00:00:00:01:01", "02:00:00:00:01:02")
        for node, address in ((host, HOST), (world, OUTSIDE)):
            node.sh(f"ip link set eth0 up; ip addr add {address}/24 dev eth0")
        host.sh(f"ip link set eth1 up; ip route add default via {OUTSIDE}")
        world.sh(f"ip route add 198.51.100.0/25 via {HOST}; ip route add 10.0.0.0/8 via {HOST}")
        desk.sh("ip link set eth0 up; ip addr add 198.51.100.77/25 dev eth0; ip route add default via 198.51.100.1")
        host.config(EXAMPLE)
        nics = {
            "web1": Interface("52:54:00:09:00:10", "tap-web1", "lab", ["10.9.0.10"]),
            "pooled": Interface("52:54:00:09:00:11", "tap-pooled", "lab"),
            "closed": Interface("52:54:00:10:00:05", "tap-closed", "inner", ["10.10.0.5"]),
            "sales": Interface("52:54:00:11:00:05", "tap-sales", "office", ["198.51.100.5"]),
        }
        with Agent(host) as agent:
            done = host.cli("up")
            assert done.returncode == 0, done.stderr
            guests: dict[str, Node] = {}
            for name, nic in nics.items():
                node = guests[name] = wired(host, nic.tap, name, Nic(nic.mac)).__enter__()
                call(host, name, "start", nic)
                call(host, name, "started", nic)
                bare(node)
            guests["closed"].sh("ip addr add 10.10.0.5/24 dev eth0; ip route add default via 10.10.0.1")
            guests["sales"].sh("ip addr add 198.51.100.5/25 dev eth0; ip route add default via 198.51.100.1")
            with Udhcpc(guests["web1"], "eth0") as one, Udhcpc(guests["pooled"], "eth0") as two:
                found = one.lease(4), two.lease(4)
                assert found[0].address == "10.9.0.10/24" and found[1].address.startswith("10.9.0.1")
                assert all(
                    (lease.gateway, lease.dns, lease.domain) == ("10.9.0.1", ("10.9.0.1",), "lab.example") for lease in found
                )
                leased = found[1].address.partition("/")[0]
                shown = host.cli("leases").stdout
                assert "10.9.0.10" in shown and leased in shown, shown
                # Names, the world, one another.
                assert eventually(lambda: asked(guests["pooled"], "web1.lab.example") == ["10.9.0.10"])
                assert asked(guests["web1"], "10.9.0.10", "-x") == ["web1.lab.example."]
                pairs = [(guests["web1"], to) for to in (OUTSIDE, leased, "10.9.0.1")] + [(guests["pooled"], "10.9.0.10")]
                pairs += [(guests["sales"], to) for to in (OUTSIDE, "198.51.100.77")] + [(guests["closed"], "10.10.0.1")]
                pairs += [(world, "198.51.100.5"), (world, "198.51.100.77"), (desk, OUTSIDE)]
                assert reach(pairs) == []
                apart = [(world, "10.9.0.10"), (world, "10.10.0.5"), (guests["closed"], OUTSIDE), (guests["closed"], "10.9.0.10")]
                apart += [(guests["sales"], "10.9.0.10"), (desk, leased)]
                assert len(reach(apart, 1)) == len(apart)
                # The forwarded port, from outside.
                guests["web1"].popen(["/usr/bin/python3", "-IS", ECHO, "serve", "web1", "80"], stdout=-1).stdout.readline()
                said = world.run(["/usr/bin/python3", "-IS", ECHO, "ask", f"tcp/{HOST}/8080"]).stdout
                assert said.split()[1:3] == ["web1", "80"], said
                # DNS is the guests' alone.
                assert asked(world, "web1.lab.example") == []
                assert eventually(lambda: host.cli("check").stdout == "ok\n"), host.cli("check").stdout
            assert not agent.errors
            for name, node in guests.items():
                node.close()
                assert eventually(lambda name=name: nics[name].tap not in host.run("ip link").stdout)
                call(host, name, "stopped", nics[name])
                call(host, name, "release", nics[name])
            done = host.cli("down")
            assert done.returncode == 0, done.stderr
        assert "dnsmasq" not in " ".join(host.command(pid) for pid in host.processes())
        assert "lab" not in host.run("ip -br link").stdout and "vmnet" not in host.run("nft list tables").stdout


VIRTUAL = """
[networks.lab]
mode = "virtual"
ipv4 = { subnet = "10.9.0.0/24" }
ipv6 = { subnet = "fd00:9::/64", nat = true }
out = "eth9"
autostart = false
"""


@pytest.mark.parametrize("first", ["Xen", "libvirt"])
def test_guests_of_xen_and_of_libvirt(first):
    """Two of each on one network, which the first brings: they reach one another and the world."""
    with XenHost(VIRTUAL, foreign=False) as one:
        before = one.state()
        vifs = [one.vif(domid, 0, bridge="lab") for domid in (1, 2)]
        for vif in vifs:
            vif.configure(f"10.9.0.{vif.domid}0", 24, "10.9.0.1", f"fd00:9::{vif.domid}0", "fd00:9::1")
        nics = [
            Interface(f"52:54:00:09:00:{last}", f"tap-{last}", "lab", [f"10.9.0.{last}", f"fd00:9::{last}"]) for last in (30, 40)
        ]
        nodes: list[Node] = []

        def xen() -> None:
            for vif in vifs:
                online(vif)

        def qemu() -> None:
            for nic, last in zip(nics, (30, 40), strict=True):
                stack = Nic(nic.mac, f"10.9.0.{last}", 24, "10.9.0.1", f"fd00:9::{last}")
                node = one.stack.enter_context(wired(one.host, nic.tap, f"guest{last}", stack))
                node.run("ip -6 route add default via fd00:9::1")
                one.start(f"guest{last}", nic)
                nodes.append(node)

        for start in (xen, qemu) if first == "Xen" else (qemu, xen):
            start()
        everyone = [*((vif.guest, vif.domid * 10) for vif in vifs), *zip(nodes, (30, 40), strict=True)]
        pairs = [
            (node, f"{net}{last}")
            for node, own in everyone
            for _, last in everyone
            if last != own
            for net in ("10.9.0.", "fd00:9::")
        ]
        pairs += [(node, to) for node, _ in everyone for to in (WORLD, WORLD6)]
        assert eventually(lambda: reach(pairs, wait=2) == [], 15)
        assert ping(one.peer, "10.9.0.10", 1) is None
        assert one.host.cli("check").stdout == "ok\n"
        for vif in vifs:
            offline(vif)
        for node, nic, last in zip(nodes, nics, (30, 40), strict=True):
            node.close()
            assert eventually(lambda nic=nic: nic.tap not in one.host.run("ip link").stdout)
            one.stop(f"guest{last}", nic)
        assert "lab" not in one.host.run("ip -br link").stdout and one.state() == before


def test_a_vif_of_xen_gets_a_lease():
    """The same one after the guest's second start, by which its vif has another name."""
    with XenHost(VIRTUAL.replace('0.0/24"', '0.0/24", pool = ["10.9.0.100-10.9.0.199"]'), foreign=False) as one:
        before, addresses = one.state(), []
        for domid in (1, 2):
            vif = one.vif(domid, 0, bridge="lab", mac="00:16:3e:09:00:01")
            online(vif)
            with Udhcpc(bare(vif.guest), "eth0") as running:
                lease = running.lease(4, timeout=20)
                addresses.append(lease.address)
                assert lease.gateway == "10.9.0.1" and ping(vif.guest, WORLD)
                assert one.host.cli("check").stdout == "ok\n"
            offline(vif)
        assert addresses[0] == addresses[1] and addresses[0].startswith("10.9.0.1")
        assert one.state() == before


SHARED = """
[bridges.xenbr0]
ports = ["eth9"]
adopt = "eth9"
[networks.provider]
mode = "bridged"
bridge = "xenbr0"
"""


def test_a_shared_interface_beside_a_virtual_network():
    """One network is the provider's, shared with the host's own interface, one the host's own; guests of both kinds on each."""
    with XenHost(SHARED + VIRTUAL.replace("eth9", "xenbr0"), foreign=False) as one:
        # With it, the kernel takes a translation back while it bridges what answers, and that no longer looks as if for the host.
        for family in ("iptables", "ip6tables"):
            one.host.run(f"sysctl -qw net.bridge.bridge-nf-call-{family}=0")
        done = one.host.cli("up")
        assert done.returncode == 0, done.stderr
        outer, inner = one.vif(1, 0, bridge="xenbr0"), one.vif(2, 0, bridge="lab")
        outer.configure("10.0.1.10", 24, "10.0.1.254", "fd00:1::10", "fd00:1::254")
        inner.configure("10.9.0.20", 24, "10.9.0.1", "fd00:9::20", "fd00:9::1")
        online(outer)
        online(inner)
        nics = {
            "provider": (
                Interface("52:54:00:09:00:30", "tap-30", "provider"),
                "10.0.1.30",
                "10.0.1.254",
                "fd00:1::30",
                "fd00:1::254",
            ),
            "lab": (
                Interface("52:54:00:09:00:40", "tap-40", "lab", ["10.9.0.40", "fd00:9::40"]),
                "10.9.0.40",
                "10.9.0.1",
                "fd00:9::40",
                "fd00:9::1",
            ),
        }
        nodes = {}
        for name, (nic, four, gate4, six, gate6) in nics.items():
            node = nodes[name] = one.stack.enter_context(wired(one.host, nic.tap, name, Nic(nic.mac, four, 24, gate4, six)))
            node.run(f"ip -6 route add default via {gate6}")
            one.start(name, nic)
        everyone = [outer.guest, inner.guest, *nodes.values()]
        assert eventually(lambda: reach([(node, to) for node in everyone for to in (WORLD, WORLD6)], wait=2) == [], 15)
        assert (
            reach([(outer.guest, "10.0.1.30"), (inner.guest, "10.9.0.40"), (inner.guest, "10.0.1.30"), (one.peer, "10.0.1.10")])
            == []
        )
        assert ping(outer.guest, "10.9.0.40", 1) is None and ping(one.peer, "10.9.0.20", 1) is None
        assert one.host.cli("check").stdout.startswith("ok\n"), one.host.cli("check").stdout
