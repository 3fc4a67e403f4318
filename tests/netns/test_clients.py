"""A host whose interface another program configures: `adopt` names the edit to make there, and the edit works. With the real
programs: ifupdown with dhclient against udhcpd, systemd-networkd, and NetworkManager."""

from __future__ import annotations

import re
import shutil
from contextlib import ExitStack

import pytest
from lab.bus import SystemBus
from lab.hostnet import Uplinks, attribute, exists, ports
from lab.ifupdown import Ifupdown
from lab.nodes import Node
from lab.routed import GATEWAY4, eventually, ping

CONFIG = '[bridges.br0]\nports = ["eth0"]\nadopt = "eth0"\n'
LAN = '[networks.lan]\nmode = "bridged"\nbridge = "br0"\n'
MAC = "02:00:00:00:00:13"


@pytest.fixture
def lab():
    with Uplinks() as uplinks, ExitStack() as stack:
        node = stack.enter_context(Node("host"))
        uplinks.switch.plug(node, "eth0", MAC)
        node.config(CONFIG)
        yield uplinks.router, node


def refused(node: Node, *words: str) -> str:
    done = node.cli("up")
    assert done.returncode == 1 and len(done.stderr.splitlines()) == 1 and not exists(node, "br0"), done
    for word in words:
        assert word in done.stderr, done.stderr
    return done.stderr


def assert_guests_are_served(router: Node, node: Node) -> None:
    """The bridge is another program's now, and networks use it."""
    node.config(LAN)
    assert node.cli("validate").returncode == 0
    node.sh("ip link add tap0 type veth peer name g0; ip link set g0 up")
    node.domain_toml("web1", '[[interfaces]]\nmac = "52:54:00:aa:00:01"\nifname = "tap0"\nnetwork = "lan"\n')
    assert node.ifup("tap0").returncode == 0 and ports(node, "br0") == ["eth0", "tap0"]
    assert node.cli("check").stdout == "ok\n"


def address(node: Node, ifname: str) -> str:
    found = re.search(r"inet (192\.0\.2\.2\d\d)/", node.run(["ip", "addr", "show", "dev", ifname], check=False).stdout)
    return found[1] if found else ""


def test_ifupdown_with_dhclient(lab):
    router, node = lab
    router.write(
        "/run/udhcpd.conf",
        "start 192.0.2.200\nend 192.0.2.209\ninterface eth0\nlease_file /run/leases\n"
        f"option subnet 255.255.255.0\noption router {GATEWAY4}\n",
    )
    router.write("/run/leases", "")
    router.popen(["busybox", "udhcpd", "-f", "/run/udhcpd.conf"], stdout=-3, stderr=-3)
    # dhclient writes there.
    node.sh(
        "mkdir -p /var/lib/dhcp; mount -t tmpfs tmpfs /var/lib/dhcp; touch /run/resolv; mount --bind /run/resolv /etc/resolv.conf"
    )
    debian = Ifupdown(node, ["bridge"])
    debian.interfaces("auto eth0\niface eth0 inet dhcp\n")
    debian.up("eth0")
    leased = address(node, "eth0")
    assert leased and ping(node, GATEWAY4)
    line = refused(node, f"its address {leased} is from DHCP; let ifupdown make the bridge (package bridge-utils): ")
    # The edit, in its words.
    found = re.search(r"copy (\S+) to (\S+), write in the former, .* of eth0, (.*), run, as one command, `([^`]*)`", line)
    assert found
    file, old, stanzas, run = found.groups()
    node.sh(f"cp {file} {old}")
    debian.interfaces("\n".join(re.findall(r"`([^`]*)`", stanzas)) + "\n")
    node.sh(run)
    assert address(node, "br0") == leased, "the same MAC gets the same lease"
    assert ports(node, "br0") == ["eth0"] and ping(node, GATEWAY4)
    assert_guests_are_served(router, node)
    debian.down("br0")


def test_networkd(lab):
    router, node = lab
    with SystemBus(node):
        running = networkd(node, {"10-eth0.network": f"[Match]\nName=eth0\n{NETWORK}"})
        line = refused(node, "systemd-networkd is in charge of it (/run/systemd/network/10-eth0.network); let it make the bridge")
        netdev = re.search(r"br0.netdev with `([^`]*)`", line)
        assert netdev and "leave `[Network] Bridge=br0` in its place; run `networkctl reload`" in line
        node.write("/run/systemd/network/br0.netdev", netdev[1].replace(" ", "\n") + "\n")
        node.write("/run/systemd/network/br0.network", f"[Match]\nName=br0\n{NETWORK}")
        node.write("/run/systemd/network/10-eth0.network", "[Match]\nName=eth0\n[Network]\nBridge=br0\n")
        node.run(["networkctl", "reload"])
        assert_networkd_made_the_bridge(router, node, running)


def test_netplan(lab):
    """It writes the files of systemd-networkd anew at each boot: the edit goes into its own."""
    if shutil.which("netplan") is None:
        pytest.skip("netplan is missing: apt-get install netplan.io")
    router, node = lab
    addresses = "addresses: [192.0.2.213/24]\n      routes: [{to: default, via: 192.0.2.1}]\n"
    with SystemBus(node):
        running = networkd(node, netplan(node, f"  ethernets:\n    eth0:\n      {addresses}"))
        line = refused(node, "systemd-networkd is in charge of it (by netplan); let it make the bridge: add `bridges: ")
        bridges = re.search(r"add `(bridges: .*)}}` beside `ethernets` in /etc/netplan", line)
        assert bridges and "all but `match` and `set-name`; run `netplan apply`" in line
        moved = addresses.strip().replace("\n      ", ", ")
        netplan(node, f"  {bridges[1]}, {moved}}}}}\n  ethernets: {{eth0: {{}}}}\n")
        # What `netplan apply` does then, but for the services of systemd.
        node.run(["networkctl", "reload"])
        assert_networkd_made_the_bridge(router, node, running)


def netplan(node: Node, text: str) -> dict[str, str]:
    """`netplan generate` with this file; returns the files that it wrote for systemd-networkd, which are in their place."""
    node.sh("rm -rf /run/netplan; mkdir -p /run/netplan/etc/netplan /run/systemd/network")
    node.write("/run/netplan/etc/netplan/50-cloud-init.yaml", f"network:\n  version: 2\n{text}")
    node.sh("netplan generate --root-dir /run/netplan; cp /run/netplan/run/systemd/network/* /run/systemd/network/")
    return {path.name: path.read_text() for path in node.path("/run/systemd/network").iterdir()}


NETWORK = "[Network]\nAddress=192.0.2.213/24\nGateway=192.0.2.1\nIPv6AcceptRA=no\n"


def networkd(node: Node, files: dict[str, str]):
    node.sh("mkdir -p /run/systemd/network /run/systemd/netif; chown systemd-network: /run/systemd/netif")
    # No udev will tell it that a link is ready: with a read-only /sys, it does not wait for that.
    node.sh("mount -o remount,ro,bind /sys")
    for name, text in files.items():
        node.write(f"/run/systemd/network/{name}", text)
    running = node.popen(["/lib/systemd/systemd-networkd"], stdout=-3, stderr=-3)
    assert eventually(lambda: ping(node, GATEWAY4, 1), 30), running.poll()
    return running


def assert_networkd_made_the_bridge(router: Node, node: Node, running) -> None:
    assert eventually(lambda: exists(node, "br0") and ports(node, "br0") == ["eth0"] and ping(node, GATEWAY4, 1), 30)
    assert address(node, "br0") == "192.0.2.213" and attribute(node, "br0", "address") == MAC
    assert_guests_are_served(router, node)
    running.terminate()
    running.wait(20)


def test_network_manager(lab):
    router, node = lab
    node.sh("""
        mkdir -p /run/NetworkManager /run/nm/connections /run/nm/lib
        mount --bind /run/nm/connections /etc/NetworkManager/system-connections
        mount --bind /run/nm/lib /var/lib/NetworkManager
        touch /run/resolv; mount --bind /run/resolv /etc/resolv.conf
        mount -o remount,ro,bind /sys
    """)
    main = ("plugins=keyfile", "auth-polkit=false", "dns=none", "hostname-mode=none", "no-auto-default=*")
    node.write("/run/nm/nm.conf", "\n".join(("[main]", *main, "[keyfile]", "unmanaged-devices=none", "")))
    with SystemBus(node):
        take_over_from_network_manager(router, node)


def take_over_from_network_manager(router: Node, node: Node) -> None:
    running = node.popen(
        [
            "NetworkManager",
            "--no-daemon",
            "--config=/run/nm/nm.conf",
            "--config-dir=/run/nm/none",
            "--system-config-dir=/run/nm/none",
        ],
        stdout=-3,
        stderr=-3,
    )
    assert eventually(lambda: node.run(["nmcli", "general"], check=False).returncode == 0, 30), running.poll()
    add = "connection add type ethernet con-name eth0 ifname eth0 ipv4.method manual ipv4.addresses 192.0.2.213/24"
    node.run(["nmcli", *add.split(), "ipv4.gateway", GATEWAY4, "ipv6.method", "disabled"])
    node.run(["nmcli", "connection", "up", "eth0"])
    assert eventually(lambda: ping(node, GATEWAY4, 1), 20)
    line = refused(node, "NetworkManager is in charge of it; let it make the bridge: `nmcli connection add type bridge")
    steps = re.search(r"let it make the bridge: `([^`]*)`", line)
    assert steps
    for command in steps[1].split("; "):
        if "type bridge" in command:
            # The addresses are the admin's to repeat.
            command += f" ipv4.method manual ipv4.addresses 192.0.2.213/24 ipv4.gateway {GATEWAY4} ipv6.method disabled"
        node.run(command.split())
    assert eventually(lambda: exists(node, "br0") and ports(node, "br0") == ["eth0"] and ping(node, GATEWAY4, 1), 30)
    assert address(node, "br0") == "192.0.2.213" and attribute(node, "br0", "address") == MAC
    # After the next boot, too.
    assert "no" == node.run("nmcli -g connection.autoconnect connection show eth0".split()).stdout.strip()
    assert_guests_are_served(router, node)
    running.terminate()
    running.wait(20)
