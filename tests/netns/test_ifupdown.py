"""Routed uplinks that are declared in /etc/network/interfaces and brought up by Debian's real ifup: the same kernel state as
from TOML, and nothing left after ifdown."""

from __future__ import annotations

from contextlib import ExitStack

import pytest
from lab.ifupdown import Ifupdown, Ifupdown2
from lab.nodes import Node, settled, wire
from lab.routed import ARP_SOURCE, GATEWAY4, GATEWAY6, PUBLIC, SUBNET4, SUBNET6, eventually, reach
from lab.single import same
from test_roles import OUT4, OUT6, Roles, of_role

FAMILIES = {"inet": ("inet",), "inet6": ("inet6",), "both": ("inet", "inet6")}
PROXY = {"inet": "ip-proxy-arp", "inet6": "ip-proxy-ndp"}
# What an admin, or another program, has in our places. Not on eth1: ifdown takes its link down, and the kernel its routes.
FOREIGN = """
ip rule add from 10.9.0.0/16 lookup 222 pref 22000
ip -6 rule add from fd00:9::/64 lookup 222 pref 22000
ip route add 198.18.0.0/15 dev eth9 table 222
ip -6 route add 2001:db8:aaaa::/48 dev eth9 table 222
nft add table inet filter
nft add chain inet filter input '{ type filter hook input priority 0; policy accept; }'
echo 33 > /proc/sys/net/ipv4/neigh/eth1/proxy_delay
echo '222 snf_public # of the admin' > /etc/iproute2/rt_tables.d/admin.conf
"""
# ifup's own `inet6 static` sets these two, and ifdown leaves them.
STATIC = """
echo 0 > /proc/sys/net/ipv6/conf/eth1/accept_ra
echo 0 > /proc/sys/net/ipv6/conf/eth1/autoconf
"""


def stanza(family: str, role: str, ifname: str = "eth1", **options: str) -> str:
    """What the admin writes. A keyword replaces, or with "" removes, an option."""
    gateway, subnet = (GATEWAY4, SUBNET4) if family == "inet" else (GATEWAY6, SUBNET6)
    lines = {"ip-routing-table": "snf_public", "ip-routes": subnet, "ip-forwarding": "1"}
    if role == "host":
        lines |= {"ip-gateway": gateway, PROXY[family]: "1"}
        if family == "inet":
            lines["arp-ip"] = ARP_SOURCE
    else:
        lines["address"] = f"{gateway}/{subnet.partition('/')[2]}"
        if role == "router+host":
            lines[PROXY[family]] = "1"
    lines |= {key.replace("_", "-"): value for key, value in options.items()}
    method = "static" if "address" in lines else "manual"
    return f"iface {ifname} {family} {method}\n" + "".join(f"    {key} {value}\n" for key, value in lines.items() if value)


def stanzas(families: str, role: str, ifname: str = "eth1") -> str:
    return "\n".join(stanza(family, role, ifname) for family in FAMILIES[families])


def toml(families: str, role: str) -> str:
    lines = PUBLIC.replace('uplink = "up0"', 'uplink = "eth1"').replace('table_name = "snf_routed"\n', "").splitlines()
    dropped = {"inet": "ipv6 =", "inet6": "ipv4 =", "both": "#"}[families]
    return (
        "\n".join(line for line in lines if not line.startswith(dropped))
        + f'\nrole = "{role}"\nreach_host = "all"\nreach = "all"\n'
    )


class Host:
    """A node with eth1, which ifup brings up, and eth9, which is none of its business."""

    def __init__(self, stack: ExitStack):
        self.node, self.peer = stack.enter_context(Node("host")), stack.enter_context(Node("peer"))
        for number, ifname in ((1, "eth1"), (9, "eth9")):
            wire(self.node, ifname, self.peer, ifname, f"02:00:00:00:0{number}:01", f"02:00:00:00:0{number}:02")
            self.peer.sh(f"ip link set {ifname} up")
        self.node.sh(
            "for f in all default eth1 eth9; do echo 0 > /proc/sys/net/ipv6/conf/$f/accept_dad; done\n"
            # The first time that a link comes up leaves its marks (queueing discipline, multicast groups).
            f"ip link set eth1 up; ip link set eth1 down; ip link set eth9 up\n{FOREIGN}{STATIC}"
        )
        self.ifupdown = Ifupdown(self.node)

    def state(self) -> str:
        """The dump of the node, once the kernel has noticed eth1's carrier (linkwatch comes late)."""
        if "LOWER_UP" in self.node.run("ip link show eth1", check=False).stdout:
            assert eventually(lambda: "fe80::" in self.node.run("ip -6 addr show dev eth1").stdout)
        return settled(self.node)

    def cli(self, *argv: str) -> str:
        done = self.node.cli(*argv)
        assert done.returncode == 0, (argv, done.stdout, done.stderr)
        return done.stdout


@pytest.fixture
def host():
    with ExitStack() as stack:
        yield Host(stack)


@pytest.mark.parametrize("families", FAMILIES)
@pytest.mark.parametrize("role", ["host", "router", "router+host"])
def test_the_state_is_that_of_toml(host, role, families):
    node = host.node
    before = host.state()
    node.config(toml(families, role))
    host.cli("up", "public")
    from_toml = host.state()
    host.cli("down", "public")
    # `down` leaves the link up, ifdown does not.
    node.sh("ip link set eth1 down")
    same(before, host.state())
    node.config("")

    host.ifupdown.interfaces(stanzas(families, role))
    host.ifupdown.up("eth1")
    from_stanzas = host.state()
    same(from_toml, from_stanzas)
    assert "ok" in host.cli("check")
    if role == "host":
        # A second `ip addr add` of a static stanza is an error of ifup's own.
        host.ifupdown.up("--force", "eth1")
        same(from_stanzas, host.state())
    host.ifupdown.down("eth1")
    same(before, host.state())


@pytest.mark.parametrize("family", ["inet", "inet6"])
def test_edited_and_run_again(host, family):
    """Only what we made of the old stanza goes; the other family's, and the admin's, stays."""
    other = "inet6" if family == "inet" else "inet"
    before = host.state()
    subnet, gateway, source = (
        ("198.51.100.0/25", "198.51.100.1", "198.51.100.9") if family == "inet" else ("2001:db8:9::/64", "2001:db8:9::1", "")
    )
    edited = stanza(family, "host", ip_routing_table="300", ip_routes=subnet, ip_gateway=gateway, arp_ip=source)
    host.ifupdown.interfaces(stanza(other, "host") + edited)
    host.ifupdown.up("eth1")
    fresh = host.state()
    host.ifupdown.down("eth1")
    same(before, host.state())

    host.ifupdown.interfaces(stanza(other, "host") + stanza(family, "host"))
    host.ifupdown.up("eth1")
    host.ifupdown.interfaces(stanza(other, "host") + edited)
    host.ifupdown.up("--force", "eth1")
    same(fresh, host.state())
    host.ifupdown.down("eth1")
    same(before, host.state())


def test_check_and_repair_go_by_the_record(host):
    """No configuration file knows the network."""
    node = host.node
    before = host.state()
    host.ifupdown.interfaces(stanzas("both", "host"))
    host.ifupdown.up("eth1")
    up = host.state()
    assert "ok" in host.cli("check")
    node.sh(
        f"ip rule del from {SUBNET4} lookup 222; ip -6 route flush table 222 dev eth1\n"
        "echo 0 > /proc/sys/net/ipv4/conf/eth1/proxy_arp"
    )
    done = node.cli("check")
    assert done.returncode == 1 and "proxy_arp" in done.stdout and SUBNET4 in done.stdout, done.stdout + done.stderr
    host.cli("repair")
    same(up, host.state())
    assert "ok" in host.cli("check")
    assert "ifupdown:eth1/inet" in host.cli("status")
    host.ifupdown.down("eth1")
    same(before, host.state())


@pytest.mark.parametrize(
    "options, why",
    [
        ({"ip_forwarding": "0"}, "ip-forwarding"),
        ({"arp_ip": ""}, "arp-ip"),
        ({"ip_routes": "192.0.2.0/24 198.51.100.0/24"}, "ip-routes"),
        ({"ip_gateway": "198.51.100.1"}, "ip-gateway"),
        ({"ip_routing_table": "nosuch"}, "ip-routing-table"),
    ],
)
def test_a_stanza_that_is_refused_changes_nothing(host, options, why):
    node = host.node
    # All that ifup does by itself for a manual stanza.
    node.sh("ip link set eth1 up")
    bare = host.state()
    host.ifupdown.interfaces(stanza("inet", "host", **options))
    done = host.ifupdown.run("ifup", "eth1")
    assert done.returncode != 0
    ours = [line for line in done.stderr.splitlines() if line.startswith("vmnet-hook:")]
    assert len(ours) == 1 and f"/etc/network/interfaces: iface eth1 inet: {why}: " in ours[0], done.stderr
    same(bare, host.state())


def test_a_kernel_that_says_no_changes_nothing(host):
    """The uplink was given away in between, or is in use by another network."""
    host.ifupdown.interfaces(stanza("inet", "host", "eth1") + stanza("inet", "host", "eth9"))
    host.ifupdown.up("eth1")
    up = host.state()
    done = host.ifupdown.run("ifup", "eth9")
    assert done.returncode != 0 and "vmnet-hook:" in done.stderr, done.stderr
    same(up, host.state())


def test_other_stanzas_are_none_of_ours(host):
    before = host.state()
    host.ifupdown.interfaces(
        "auto eth1\niface eth1 inet static\n    address 10.3.0.1/24\n    ip-gateway 10.3.0.254\n"
        "iface eth1 inet6 manual\nmapping eth5\n    script /bin/false\n"
    )
    assert host.ifupdown.up("-a", "-X", "lo") == ""
    assert not host.node.path("/run/vmnet-hooks").exists()
    host.ifupdown.down("-a", "-X", "lo")
    same(before, host.state())


@pytest.mark.parametrize("command", [("ifdown", "eth1"), ("ifup", "--force", "eth1")])
def test_a_stanza_that_is_none_of_ours_any_more(host, command):
    """Edited while it was up: what we made of it goes all the same, and only then is the stanza ignored."""
    host.ifupdown.interfaces("iface eth1 inet manual\n")
    host.ifupdown.up("eth1")
    bare = host.state()
    host.ifupdown.interfaces(stanza("inet", "host"))
    host.ifupdown.up("--force", "eth1")
    host.ifupdown.interfaces("iface eth1 inet manual\n")
    assert host.ifupdown.run(*command).returncode == 0
    host.node.sh("ip link set eth1 up")
    same(bare, host.state())
    assert "nothing is set up" in host.cli("status")
    assert not [path for path in host.node.path("/run/vmnet-hooks").iterdir() if path.name.startswith("ifupdown")]


def test_the_link_is_gone(host):
    """A NIC that was taken out: ifdown cleans up what is left of it."""
    host.node.sh("ip link set eth1 name eth2; ip link set eth2 up; ip link set eth2 down")
    before = host.state()
    host.node.sh("ip link add eth1 type veth peer name peer1; ip link set peer1 up; ip link set eth1 up; ip link set eth1 down")
    host.ifupdown.interfaces(stanzas("both", "host"))
    host.ifupdown.up("eth1")
    host.node.sh("ip link del eth1")
    host.ifupdown.run("ifdown", "--force", "eth1")
    same(before, host.state())
    assert "ok" in host.cli("check")


def test_a_mapped_interface(host):
    before = host.state()
    host.ifupdown.interfaces(stanza("inet", "host", "office"))
    host.ifupdown.up("eth1=office")
    assert "ifupdown:eth1/inet" in host.cli("status")
    host.ifupdown.down("eth1")
    same(before, host.state())


@pytest.mark.parametrize("role", ["router", "router+host"])
def test_packets(role):
    """The lab of test_roles.py, its network brought up by ifup on both nodes: guests reach the gateway, each other, and the
    world that routes to them."""
    with ExitStack() as stack:
        lab = Roles(stack, of_role(role))
        # The way out is the admin's own.
        lab.gate.sh("echo 1 > /proc/sys/net/ipv4/ip_forward; echo 1 > /proc/sys/net/ipv6/conf/all/forwarding")
        lab.world.sh(f"ip route add {SUBNET4} via 203.0.113.1; ip -6 route add {SUBNET6} via 2001:db8:f::1")
        nodes = []
        for node, does in ((lab.gate, role), (lab.host, "host")):
            node.sh("ip link set up0 down; for o in accept_ra autoconf; do echo 0 > /proc/sys/net/ipv6/conf/up0/$o; done")
            node.write("/etc/iproute2/rt_tables.d/admin.conf", "222 snf_public\n")
            nodes.append((Ifupdown(node), settled(node)))
            nodes[-1][0].interfaces(stanzas("both", does, "up0"))
        for ifupdown, _ in nodes:
            ifupdown.up("up0")
        guests = [lab.start(0)] + ([lab.start(1)] if role == "router+host" else [])
        targets = [GATEWAY4, GATEWAY6, OUT4, OUT6] + (["192.0.2.10", "2001:db8::10"] if role == "router+host" else [])
        assert reach([(guest, target) for guest in guests for target in targets]) == []
        assert reach([(lab.world, "192.0.2.10"), (lab.world, "2001:db8::10")]) == []
        for number in range(len(guests)):
            lab.stop(number)
        for ifupdown, before in nodes:
            ifupdown.down("up0")
            same(before, settled(ifupdown.node))


@pytest.mark.parametrize("family", ["inet", "inet6"])
@pytest.mark.parametrize("head", ["iface eth1", "iface eth1 {family} manual", "iface eth1 inet manual\niface eth1 inet6 manual"])
def test_ifupdown2(host, family, head):
    """With a family, without one, and with both: what is set up is what ifupdown's hook sets up, and all of it goes."""
    node = host.node
    # Its policy of routers: it leaves these on.
    node.sh("ip link set eth1 up")
    before = host.state()
    host.ifupdown.interfaces(stanza(family, "host"))
    host.ifupdown.up("eth1")
    expected = rules_and_routes(node)
    host.ifupdown.down("eth1")
    node.sh("ip link set eth1 up")
    same(before, host.state())
    ifupdown2 = Ifupdown2(node, fresh=False)
    options = "".join(stanza(family, "host").splitlines(keepends=True)[1:])
    first, _, second = head.format(family=family).partition("\n")
    ifupdown2.interfaces(f"{first}\n{options}{second}\n")
    ifupdown2.up("eth1")
    assert rules_and_routes(node) == expected and "lookup 222" in expected
    assert "ok" in host.cli("check")
    ifupdown2.down("eth1")
    assert not [owner for owner in host.cli("status").splitlines() if "eth1" in owner]
    node.sh("ip link set eth1 up")
    assert rules_and_routes(node) != expected


def rules_and_routes(node: Node) -> str:
    """What is ours."""
    return node.sh("ip -N rule; ip -N -6 rule; ip route show table 222 proto 86; ip -6 route show table 222 proto 86")
