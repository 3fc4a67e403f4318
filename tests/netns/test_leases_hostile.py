"""What a guest that is held to its leases does to send from an address that is not its own."""

from __future__ import annotations

import pytest
from lab.agent import Agent
from lab.capture import Capture
from lab.dhcp import bootp, udp4
from lab.dhcp_clients import Udhcpc
from lab.domains import Interface
from lab.frames import mac_bytes
from lab.routed import eventually, send
from test_leases import HELD, POOLED, Lan, reached, sources

OTHER = Interface("52:54:00:cc:00:13", "tap-other", bridge="br5")
SERVER = (54, bytes([10, 9, 0, 1]))


@pytest.fixture
def held():
    with Lan(HELD) as lan, Agent(lan.host) as agent:
        lan.up()
        yield lan
        assert not agent.errors


def leased(lan, node):
    """Have a guest lease an address, and keep it."""
    with Udhcpc(node, "eth0") as client:
        own = client.lease(4).address.partition("/")[0]
    node.run(f"ip addr replace {own}/24 dev eth0")
    assert eventually(lambda: own in sources(lan))
    return own


def packed(address: str) -> bytes:
    return bytes(map(int, address.split(".")))


def passed(lan, node, source: str, mac: str = POOLED.mac) -> bool:
    """Whether the bridge lets in what a guest sends from an address."""
    datagram = udp4(b"hello", mac_bytes(mac), source=source, to="10.9.0.1", ports=(9, 9))
    with Capture(lan.host, "br5", f"udp port 9 and src {source}") as seen:
        send(node, "eth0", datagram)
        Capture.pause(0.4)
    return bool(seen.having(f"{source}.9 >"))


def test_an_inform_grants_nothing(held):
    """dnsmasq answers it with the yiaddr that the guest wrote."""
    node, other = held.guest("pooled", POOLED), held.guest("other", OTHER)
    own, its = leased(held, node), leased(held, other)
    mac = mac_bytes(POOLED.mac)
    with Capture(node, "eth0", "udp port 68") as seen:
        for yiaddr in ("10.9.0.150", its):
            send(node, "eth0", udp4(bootp(mac, 8, ciaddr=own, yiaddr=yiaddr), mac, source=own))
        Capture.pause(0.5)
    assert seen.having("Reply.* Your-IP 10.9.0.150"), str(seen)
    node.run("ip addr add 10.9.0.150/24 dev eth0")
    assert not reached(node, "10.9.0.150") and reached(node, own)
    assert not passed(held, node, its)


def test_what_was_given_back_is_taken_away(held):
    """Within a second, however the guest gave it back, also in the minute in which the kernel lets it send."""
    node, other = held.guest("pooled", POOLED), held.guest("other", OTHER)
    mac = mac_bytes(POOLED.mac)
    own = leased(held, node)
    assert reached(node, own)
    send(node, "eth0", udp4(bootp(mac, 3, [(50, bytes([10, 9, 0, 160])), SERVER]), mac))
    assert eventually(lambda: own not in sources(held))
    send(other, "eth0", udp4(bootp(mac_bytes(OTHER.mac), 3, [(50, packed(own)), SERVER]), mac_bytes(OTHER.mac)))
    assert eventually(lambda: own in sources(held))
    assert eventually(lambda: not passed(held, node, own), 5), held.host.run("nft list set bridge vmnet granted").stdout
    assert passed(held, other, own, OTHER.mac) and passed(held, node, "10.9.0.160")


def test_a_user_of_the_host_grants_nothing(held):
    """Also where the host lets its users have all ports."""
    node, host = held.guest("pooled", POOLED), held.host
    own = leased(held, node)
    host.run("sysctl -qw net.ipv4.ip_unprivileged_port_start=0")
    ack = bootp(mac_bytes(POOLED.mac), 5, op=2, yiaddr="10.9.0.150")
    script = f"""
import socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
s.bind(("10.9.0.1", 67))
s.sendto({ack!r}, ("{own}", 68))
"""
    with Capture(node, "eth0", "udp port 68") as seen:
        host.run(["setpriv", "--reuid=1000", "--regid=1000", "--clear-groups", "/usr/bin/python3", "-IS", "-c", script])
        Capture.pause(0.4)
    assert seen.having("Reply.* Your-IP 10.9.0.150"), str(seen)
    assert not passed(held, node, "10.9.0.150")
