"""A network with a server: guests without declared addresses lease theirs from dnsmasq, and names are answered for."""

from __future__ import annotations

import json
import re
import time

import pytest
from lab.agent import Agent
from lab.capture import Capture
from lab.dhcp import bootp, ia_na, message6, option6, udp4, udp6
from lab.dhcp_clients import Dhclient, Dhcpcd, Udhcpc
from lab.dhcp_places import bare
from lab.domains import Interface
from lab.frames import mac_bytes, tagged
from lab.guest import Nic, wired
from lab.nodes import Node, ran
from lab.routed import call, eventually, send
from lab.single import Single

CONFIG = """
[bridges.br5]
addresses = ["10.9.0.1/24", "fd09::1/64"]
forwarding = true

[networks.inner]
mode = "bridged"
bridge = "br5"

[networks.inner.dhcp]
pool = ["10.9.0.100-10.9.0.199", "fd09::1:0-fd09::1:ffff"]
hosts = [{ mac = "52:54:00:cc:00:12", ips = ["10.9.0.12", "fd09::12"], name = "fixed" }]
domain = "lan.example"
lease = 3600

[networks.inner.dns]
records = ["www A 10.9.0.5", "www AAAA fd09::5", "@ TXT hello", "_sip._udp SRV 10 5 5060 web", "alias CNAME www"]
forwarders = []
"""
POOLED = Interface("52:54:00:cc:00:11", "tap-pool", bridge="br5")
FIXED = Interface("52:54:00:cc:00:12", "tap-fixed", bridge="br5")
DECLARED = Interface("52:54:00:cc:00:10", "tap-web", "inner", ["10.9.0.10", "fd09::10"], "br5")


class Lan(Single):
    """A host with a network that has a server, and guests on it."""

    def __init__(self, config: str = CONFIG) -> None:
        super().__init__(config, foreign=False)
        self.guests: list[Node] = []

    def up(self) -> None:
        ran(["vmnet-hook", "up"], self.host.cli("up"))

    def guest(self, name: str, nic: Interface) -> Node:
        node = self.stack.enter_context(wired(self.host, nic.tap, name, Nic(nic.mac)))
        self.host.run(f"ip link set {nic.tap} master br5")
        self.start(name, nic)
        return bare(node)

    def ok(self) -> bool:
        return self.host.cli("check").stdout == "ok\n"

    def server(self) -> str:
        """Its process; "" while it is started again."""
        return self.host.sh("cat /var/lib/vmnet-hooks/dnsmasq/inner/pid 2>/dev/null || :").strip()

    def ask(self, node: Node, name: str, kind: str = "A", server: str = "10.9.0.1") -> list[str]:
        found = node.run(["dig", "+short", "+time=1", "+tries=1", f"@{server}", name, kind], check=False)
        return [line for line in found.stdout.splitlines() if not line.startswith(";")]


@pytest.fixture
def lan():
    with Lan() as found:
        found.up()
        yield found


def test_leases(lan):
    node = lan.guest("pooled", POOLED)
    with Dhclient(node, "eth0") as client:
        four = client.lease(4)
        assert four.address.startswith("10.9.0.1") and four.gateway == "10.9.0.1" and four.dns == ("10.9.0.1",)
        assert four.domain == "lan.example"
        assert client.lease(6).address.startswith("fd09::1:")
        client.reboot()
        assert client.lease(4).address == four.address
        assert client.renew(4).address == four.address
    assert lan.ok(), lan.host.cli("check").stdout


def test_too_many_for_names(lan):
    """Beyond some hundred, names make each lease slow: check warns, and is no less ok."""
    now = int(time.time()) + 3600
    lines = [f"{now} 52:54:01:00:{n >> 8:02x}:{n & 255:02x} 10.9.{n >> 8}.{n & 255} * *\n" for n in range(501)]
    lan.host.path("/var/lib/vmnet-hooks/dnsmasq/inner/leases").write_text("".join(lines))
    done = lan.host.cli("check")
    assert done.stdout == "ok\n" and done.returncode == 0
    assert "warning: network inner has 501 leases: with names" in done.stderr, done.stderr
    lan.host.path("/var/lib/vmnet-hooks/dnsmasq/inner/leases").write_text("".join(lines[1:]))
    assert "501 leases" not in lan.host.cli("check").stderr


def test_a_second_client(lan):
    """The same MAC has the same address, whatever it calls itself; a static lease is its MAC's."""
    node = lan.guest("pooled", POOLED)
    with Udhcpc(node, "eth0") as client:
        first = client.lease(4).address
    with Dhcpcd(bare(node), "eth0") as client:
        assert client.lease(4).address == first
        assert client.lease(6).address.startswith("fd09::1:")
    node = lan.guest("fixed", FIXED)
    with Dhclient(node, "eth0") as client:
        assert client.lease(4).address == "10.9.0.12/24"
        assert client.lease(6).address == "fd09::12/128"
        assert eventually(lambda: lan.ask(node, "fixed.lan.example") == ["10.9.0.12"])
        assert lan.ask(node, "fixed.lan.example", "AAAA") == ["fd09::12"]


def test_guests_with_addresses_are_the_agents(lan):
    """The agent tells them, also who their name server is; dnsmasq hears nothing of them."""
    with Agent(lan.host) as agent:
        node = lan.guest("web", DECLARED)
        with Dhclient(node, "eth0") as client:
            lease = client.lease(4)
            assert (lease.address, lease.dns, lease.hostname) == ("10.9.0.10/24", ("10.9.0.1",), "web")
            assert client.lease(6).address == "fd09::10/128" and client.lease(6).dns == ("fd09::1",)
        assert "10.9.0.10" not in lan.host.run("cat /var/lib/vmnet-hooks/dnsmasq/inner/leases").stdout
        assert not agent.errors


def test_names(lan):
    asking = lan.guest("pooled", POOLED)
    asking.sh("ip addr add 10.9.0.150/24 dev eth0; ip -6 addr add fd09::150/64 dev eth0 nodad")
    assert lan.ask(asking, "web.lan.example") == []
    lan.guest("web", DECLARED)
    for server in ("10.9.0.1", "fd09::1"):
        assert eventually(lambda server=server: lan.ask(asking, "web.lan.example", server=server) == ["10.9.0.10"])
        assert lan.ask(asking, "web.lan.example", "AAAA", server) == ["fd09::10"]
    found = asking.run(["dig", "+short", "@10.9.0.1", "-x", "10.9.0.10"]).stdout.split()
    assert found == ["web.lan.example."]
    assert asking.run(["dig", "+short", "@10.9.0.1", "-x", "fd09::10"]).stdout.split() == ["web.lan.example."]
    assert lan.ask(asking, "www.lan.example") == ["10.9.0.5"] and lan.ask(asking, "www.lan.example", "AAAA") == ["fd09::5"]
    assert lan.ask(asking, "lan.example", "TXT") == ['"hello"']
    assert lan.ask(asking, "_sip._udp.lan.example", "SRV") == ["10 5 5060 web.lan.example."]
    assert lan.ask(asking, "alias.lan.example") == ["www.lan.example.", "10.9.0.5"]
    # Nothing is forwarded.
    assert "NXDOMAIN" in asking.run(["dig", "@10.9.0.1", "none.lan.example"]).stdout
    assert "REFUSED" in asking.run(["dig", "@10.9.0.1", "example.org"]).stdout
    # The host itself asks there too.
    assert lan.ask(lan.host, "web.lan.example") == ["10.9.0.10"]
    lan.stop("web", DECLARED)
    assert eventually(lambda: lan.ask(asking, "web.lan.example") == [])


def test_the_outside_gets_no_answer(lan):
    """Neither at the host's address there nor, routed in, at the bridge's."""
    lan.guest("web", DECLARED)
    lan.host.sh("echo 1 > /proc/sys/net/ipv4/ip_forward")
    lan.peer.sh("ip addr add 10.0.1.254/24 dev eth9; ip route add 10.9.0.0/24 via 10.0.1.1")
    assert eventually(lambda: lan.ask(lan.host, "web.lan.example") == ["10.9.0.10"])
    for server in ("10.0.1.1", "10.9.0.1"):
        done = lan.peer.run(["dig", "+time=1", "+tries=1", f"@{server}", "web.lan.example"], check=False)
        assert done.returncode != 0 and "ANSWER" not in done.stdout, done.stdout


def test_damage(lan):
    """What others do to a server is told, and taken back; leases stay."""
    node = lan.guest("pooled", POOLED)
    with Udhcpc(node, "eth0") as client:
        address = client.lease(4).address
    damages = {
        "kill -9 $(cat /var/lib/vmnet-hooks/dnsmasq/inner/pid)": "does not run",
        "kill $(cat /var/lib/vmnet-hooks/dnsmasq/inner/pid)": "does not run",
        "echo port=5353 >> /run/vmnet-dnsmasq/inner.conf": "/run/vmnet-dnsmasq/inner.conf was changed",
        "touch /run/vmnet-dnsmasq/inner.conf": "does not run with this configuration",
        "rm /run/vmnet-dnsmasq/inner.conf": "/run/vmnet-dnsmasq/inner.conf was changed",
        "echo 52:54:00:cc:00:11,10.9.0.77 >> /run/vmnet-dnsmasq/inner.hosts": "/run/vmnet-dnsmasq/inner.hosts was changed",
        "rm /var/lib/vmnet-hooks/dnsmasq/inner/pid": "does not run",
    }
    for script, what in damages.items():
        lan.host.sh(script)
        assert eventually(lambda what=what: what in lan.host.cli("check").stdout), (script, lan.host.cli("check").stdout)
        ran(["repair", script], lan.host.cli("repair"))
        assert lan.ok(), (script, lan.host.cli("check").stdout)
        assert len(servers(lan)) == 1, script
        with Udhcpc(bare(node), "eth0") as client:
            assert client.lease(4).address == address, script


def servers(lan):
    return [pid for pid in lan.host.processes() if "/run/vmnet-dnsmasq/" in lan.host.command(pid)]


def test_the_agent_mends(lan):
    with Agent(lan.host) as agent:
        for script in (
            "kill -9 $(cat /var/lib/vmnet-hooks/dnsmasq/inner/pid)",
            "echo port=5353 >> /run/vmnet-dnsmasq/inner.conf",
        ):
            before = lan.server()
            lan.host.sh(script)
            assert eventually(lambda before=before: lan.server() not in ("", before) and lan.ok(), 60), lan.host.cli(
                "check"
            ).stdout
        assert "put back" in agent.log and not agent.errors


def test_a_bridge_made_anew(lan):
    node = lan.guest("pooled", POOLED)
    with Udhcpc(node, "eth0") as client:
        address = client.lease(4).address
        before = lan.server()
        lan.host.run("ip link del br5")
        assert eventually(lambda: lan.host.cli("repair").returncode == 0 and lan.ok(), 20), lan.host.cli("check").stdout
        assert lan.server() == before
        client.reboot()
        assert client.lease(4).address == address


def test_a_guest_from_another_host(lan):
    """What it was leased there is its own here: it goes on with it (migration), and gets it again (its next boot)."""
    address = "10.9.0.177"
    node = lan.guest("pooled", POOLED)
    node.run(f"ip addr add {address}/24 dev eth0")
    going_on = udp4(bootp(mac_bytes(POOLED.mac), 3, ciaddr=address), mac_bytes(POOLED.mac), source=address, to="10.9.0.1")
    rebooted = udp4(bootp(mac_bytes(POOLED.mac), 3, [(50, bytes([10, 9, 0, 177]))]), mac_bytes(POOLED.mac))
    other = udp4(bootp(mac_bytes(POOLED.mac), 3, [(50, bytes([192, 0, 2, 7]))]), mac_bytes(POOLED.mac))
    for frame, answer in ((going_on, "ACK"), (rebooted, "ACK"), (other, "NACK")):
        with Capture(node, "eth0", "udp port 68") as seen:
            send(node, "eth0", frame)
            Capture.pause(0.4)
        assert seen.having(f"DHCP-Message.*: {answer}"), (answer, str(seen))
    assert f" {address} " in lan.host.run("cat /var/lib/vmnet-hooks/dnsmasq/inner/leases").stdout


def test_edits(lan):
    """Static leases without a restart, anything else with one; leases stay."""
    node = lan.guest("pooled", POOLED)
    with Udhcpc(node, "eth0") as client:
        address, before = client.lease(4).address, lan.server()
    fixed = "hosts = [{ mac = '52:54:00:cc:00:11', ips = ['10.9.0.77'] }, "
    lan.host.config(CONFIG.replace("hosts = [", fixed))
    assert "configuration has changed" in lan.host.cli("check").stdout
    ran(["up"], lan.host.cli("up"))
    assert lan.ok() and lan.server() == before
    with Udhcpc(bare(node), "eth0") as client:
        assert client.lease(4).address == "10.9.0.77/24"
    lan.host.config(CONFIG.replace("lease = 3600", "lease = 1800"))
    ran(["up"], lan.host.cli("up"))
    assert lan.ok() and lan.server() != before
    with Udhcpc(bare(node), "eth0") as client:
        lease = client.lease(4)
        assert lease.lifetime == 1800 and lease.address != "10.9.0.77/24"
    # The network has no server any more.
    lan.host.config(CONFIG.partition("[networks.inner.dhcp]")[0])
    ran(["up"], lan.host.cli("up"))
    ran(["repair"], lan.host.cli("repair"))
    assert lan.ok() and servers(lan) == [], lan.host.cli("check").stdout
    assert address


def test_down_leaves_nothing():
    with Lan(CONFIG + "") as lan:
        before = lan.state()
        lan.up()
        ran(["down"], lan.host.cli("down"))
        assert lan.state() == before and servers(lan) == []
        assert lan.host.sh("find /run/vmnet-dnsmasq -type f") == ""
        assert lan.host.sh("ls /var/lib/vmnet-hooks/dnsmasq/inner").split() == ["leases"]
        lan.host.config(CONFIG.replace("lease = 3600", "keep_leases = false"))
        lan.up()
        ran(["down"], lan.host.cli("down"))
        assert lan.host.sh("ls /var/lib/vmnet-hooks/dnsmasq") == ""


def test_another_server_has_the_port(lan):
    """It is named, and only what needs the port is not up."""
    ran(["down"], lan.host.cli("down"))
    foreign = lan.host.popen(["dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--no-resolv", "--pid-file="])
    assert eventually(lambda: lan.host.run("ss -Hlun sport = 53").stdout)
    done = lan.host.cli("up")
    assert done.returncode != 0 and "networks.inner" in done.stderr, done.stderr
    assert "port 53 of all addresses is taken by dnsmasq (pid" in done.stderr and "bind-interfaces" in done.stderr
    assert lan.host.run("ip link show br5").returncode == 0 and servers(lan) == []
    foreign.kill()
    foreign.wait()
    lan.up()
    assert lan.ok()


def asked(lan: Lan, node: Node, *frames: bytes) -> list[str]:
    """What the server answers."""
    with Capture(node, "eth0", "udp port 68 or udp port 67") as seen:
        send(node, "eth0", *frames)
        Capture.pause(0.5)
    return seen.having("BOOTP/DHCP, Reply")


def discover(chaddr: str, mac: str = POOLED.mac, **fields: object) -> bytes:
    return udp4(bootp(mac_bytes(chaddr), 1, **fields), mac_bytes(mac))


def test_forged_requests(lan):
    """A guest asks for itself alone."""
    node, victim = lan.guest("pooled", POOLED), lan.guest("fixed", FIXED)
    with Dhclient(victim, "eth0") as client:
        assert client.lease(4).address == "10.9.0.12/24"
    leases = lan.host.run("cat /var/lib/vmnet-hooks/dnsmasq/inner/leases").stdout
    assert asked(lan, node, discover(POOLED.mac))
    forged = {
        "another's chaddr": discover(FIXED.mac),
        "another's MAC": discover(FIXED.mac, FIXED.mac),
        "a relay's": discover(POOLED.mac, giaddr="10.9.0.1"),
        "a longer chaddr": discover(POOLED.mac, hlen=16),
        "no Ethernet": discover(POOLED.mac, htype=6),
        "another's, tagged": tagged(discover(FIXED.mac), 0),
        "by another port": udp4(bootp(mac_bytes(FIXED.mac), 1), mac_bytes(POOLED.mac), ports=(1068, 67)),
    }
    for what, frame in forged.items():
        assert not asked(lan, node, frame), what
    clid = (61, b"\1" + mac_bytes(FIXED.mac))
    found = asked(lan, node, udp4(bootp(mac_bytes(POOLED.mac), 1, [clid]), mac_bytes(POOLED.mac)))
    assert found and not any("10.9.0.12" in line for line in found), "another's client identifier"
    release = bootp(mac_bytes(FIXED.mac), 7, [(54, bytes([10, 9, 0, 1])), clid], ciaddr="10.9.0.12")
    send(node, "eth0", udp4(release, mac_bytes(POOLED.mac)))
    own = bootp(mac_bytes(POOLED.mac), 7, [(54, bytes([10, 9, 0, 1])), clid], ciaddr="10.9.0.12")
    send(node, "eth0", udp4(own, mac_bytes(POOLED.mac)))
    assert lan.host.run("cat /var/lib/vmnet-hooks/dnsmasq/inner/leases").stdout == leases


def test_exhaustion(lan):
    """However many MACs and identifiers one guest makes up, others get their leases."""
    node = lan.guest("pooled", POOLED)
    macs = [f"52:54:01:00:{number >> 8:02x}:{number & 255:02x}" for number in range(2000)]
    for begin in range(0, len(macs), 200):
        some = macs[begin : begin + 200]
        send(node, "eth0", *[discover(mac, mac) for mac in some], *[discover(mac) for mac in some])
    options = [message6(1, option6(1, b"\0\3\0\1" + mac_bytes(mac)), option6(14), ia_na(7)) for mac in macs[:400]]
    send(node, "eth0", *[udp6(option, mac_bytes(POOLED.mac)) for option in options])
    held = lan.host.run("cat /var/lib/vmnet-hooks/dnsmasq/inner/leases").stdout
    assert len(held.splitlines()) <= 25, held
    other = lan.guest("fixed", Interface("52:54:00:cc:00:13", "tap-other", bridge="br5"))
    with Dhclient(other, "eth0") as client:
        assert client.lease(4).address.startswith("10.9.0.1")
        assert client.lease(6).address.startswith("fd09::1:")


def test_a_guest_with_leases_keeps_its_mac(lan):
    node = lan.guest("pooled", POOLED)
    node.sh("ip addr add 10.9.0.150/24 dev eth0")
    assert node.run("ping -c 1 -W 1 10.9.0.1").returncode == 0
    node.sh("ip link set eth0 address 52:54:00:cc:00:99")
    assert node.run("ping -c 1 -W 1 10.9.0.1", check=False).returncode != 0


def test_what_is_shown(lan):
    node = lan.guest("pooled", POOLED)
    lan.guest("web", DECLARED)
    with Dhclient(node, "eth0") as client:
        four, six = client.lease(4).address.partition("/")[0], client.lease(6).address.partition("/")[0]
    rows = json.loads(lan.host.cli("leases", "--json").stdout)
    told = {(row["address"], row["domain"], row["ifname"], row["leased"]) for row in rows}
    assert told == {
        *((address, "web", "tap-web", False) for address in ("10.9.0.10", "fd09::10")),
        *((address, "pooled", "tap-pool", True) for address in (four, six)),
    }
    shown = lan.host.cli("leases", "inner").stdout
    assert re.search(rf"^inner +{four} +{POOLED.mac} +\S+ +pooled +20\d\d-", shown, re.M), shown
    assert re.search(rf"^inner +10.9.0.10 +{DECLARED.mac} +web +web +declared$", shown, re.M), shown
    assert lan.host.cli("leases", "nowhere").returncode == 2
    assert f" {four}*" in lan.host.cli("status").stdout
    assert "DHCP, DNS for inner" in lan.host.cli("graph").stdout.replace("\N{NO-BREAK SPACE}", " ")


HELD = CONFIG.replace('bridge = "br5"\n', 'bridge = "br5"\nantispoof = "leased"\n')


@pytest.fixture
def held():
    with Lan(HELD) as lan, Agent(lan.host) as agent:
        lan.up()
        yield lan
        assert not agent.errors


def sources(lan: Lan) -> str:
    """What the guest may send from, but by the server's last word alone."""
    return lan.host.run("nft list set bridge vmnet sources4", check=False).stdout


def reached(node: Node, source: str, to: str = "10.9.0.1") -> bool:
    return node.run(["ping", "-c", 1, "-W", 1, "-I", source, to], check=False).returncode == 0


def test_a_guest_is_held_to_its_lease(held):
    """From the first packet on; to no other address of the pool, not to what another has, and not to what it gave back."""
    node, host = held.guest("pooled", POOLED), held.host
    node.run("ip addr add 10.9.0.150/24 dev eth0")
    assert not reached(node, "10.9.0.150")
    other = held.guest("other", Interface("52:54:00:cc:00:13", "tap-other", bridge="br5"))
    with Dhclient(other, "eth0", families=(4,)) as neighbour, Dhclient(node, "eth0", families=(4,)) as client:
        taken, own = (running.lease(4).address.partition("/")[0] for running in (neighbour, client))
        # At once: the agent may not have seen it yet.
        assert reached(node, own) and reached(node, own, taken)
        assert eventually(lambda: all(address in sources(held) for address in (own, taken))) and held.ok()
        node.sh(f"ip addr add 10.9.0.151/24 dev eth0; ip addr add {taken}/24 dev eth0")
        assert not reached(node, "10.9.0.151") and not reached(node, taken)
        node.run(f"ip addr del {taken}/24 dev eth0")
        assert reached(other, taken, own)
        # Lost and put back; without the kernel's minute.
        host.run("nft flush ruleset")
        assert eventually(held.ok, 20), host.cli("check").stdout
        assert reached(node, own) and "expires" not in host.run("nft list set bridge vmnet granted").stdout
        client.release()
    assert eventually(lambda: own not in sources(held)) and held.ok()
    node.run(f"ip addr replace {own}/24 dev eth0")
    assert not reached(node, own)


def test_a_guest_that_is_held_to_leases_boots_again(held):
    """It may send from what it has leased before it asks again, and after an edit."""
    node = held.guest("pooled", POOLED)
    with Udhcpc(node, "eth0") as client:
        own = client.lease(4).address.partition("/")[0]
        assert eventually(lambda: own in sources(held))
        for text in (CONFIG, HELD):
            held.host.config(text)
            ran(["repair"], held.host.cli("repair"))
            # The agent keeps the port closed until it has seen that the guest has no addresses any more.
            assert held.ok() and eventually(lambda: reached(node, own), 10), held.host.cli("check").stdout
        for operation in ("stopped", "release"):
            call(held.host, "pooled", operation, POOLED)
        assert own not in sources(held)
        held.start("pooled", POOLED)
        assert own in sources(held) and reached(node, own)


def test_ipv6_of_a_guest_that_is_held_to_leases(held):
    """It forms its addresses by itself: of the network's prefixes, and link-local."""
    node = held.guest("pooled", POOLED)
    node.sh(
        "ip -6 addr add fd09::1:77/64 dev eth0 nodad; ip -6 addr add fd0a::77/64 dev eth0 nodad; ip -6 route add fd09::1 dev eth0"
    )
    assert eventually(lambda: reached(node, "fd09::1:77", "fd09::1"))
    assert not reached(node, "fd0a::77", "fd09::1")


def test_only_the_hosts_own_server_grants(held):
    """An acknowledgement from outside, which the host forwards, or from another guest gives nothing."""
    node, host = held.guest("pooled", POOLED), held.host
    other = held.guest("other", Interface("52:54:00:cc:00:13", "tap-other", bridge="br5"))
    with Udhcpc(node, "eth0") as client, Udhcpc(other, "eth0") as second:
        own, its = client.lease(4).address.partition("/")[0], second.lease(4).address.partition("/")[0]
        ack = bootp(mac_bytes(POOLED.mac), 5, op=2, yiaddr="10.9.0.150")
        words = {"source": "10.0.1.254", "to": own, "ports": (67, 68)}
        held.peer.run("ip addr add 10.0.1.254/24 dev eth9")
        host.run("sysctl -qw net.ipv4.conf.eth9.forwarding=1")
        held.peer.run(f"ip route add {own} via 10.0.1.1")
        assert reached(held.peer, "10.0.1.254", own)
        with Capture(node, "eth0", "udp port 68") as seen:
            send(held.peer, "eth9", udp4(ack, mac_bytes("02:00:00:00:08:01"), to_mac=mac_bytes("02:00:00:00:09:01"), **words))
            send(other, "eth0", udp4(ack, mac_bytes("52:54:00:cc:00:13"), **{**words, "source": its}))
            Capture.pause(0.4)
        assert seen.having("10.0.1.254.67 > .*Reply"), str(seen)
        assert not seen.having(f"{its}.67"), str(seen)
        assert f"{0x0A090096:#x}" not in host.run("nft list set bridge vmnet granted").stdout
        node.run("ip addr add 10.9.0.150/24 dev eth0")
        assert not reached(node, "10.9.0.150")
