"""Names that a guest takes by DHCP: it gets none that is another's, or that others' programs ask for by themselves."""

from __future__ import annotations

import pytest
from lab.dhcp import bootp, udp4
from lab.dhcp_clients import Dhclient
from lab.frames import mac_bytes
from lab.routed import eventually, send
from test_leases import DECLARED, FIXED, POOLED, Lan

SERVER = (54, bytes([10, 9, 0, 1]))


@pytest.fixture
def lan():
    with Lan() as found:
        found.up()
        yield found


def test_names_that_a_guest_does_not_get(lan):
    node = lan.guest("pooled", POOLED)
    lan.guest("web", DECLARED)
    taken = ("fixed", "FIXED", "fixed.lan.example", "web", "www", "wpad", "wpad.lan.example", "isatap", "localhost")
    options = [(12, name.encode()) for name in taken] + [(81, b"\1\0\0" + name.encode()) for name in taken]
    for number, option in enumerate((*options, (12, b"mine"))):
        asked = [(50, bytes([10, 9, 0, 110 + number])), SERVER, option]
        send(node, "eth0", udp4(bootp(mac_bytes(POOLED.mac), 3, asked), mac_bytes(POOLED.mac)))
        assert eventually(lambda last=110 + number: f" 10.9.0.{last} " in leases(lan)), option
        if number < len(options):
            for name in taken:
                found = lan.ask(lan.host, f"{name.partition('.')[0]}.lan.example")
                assert f"10.9.0.{110 + number}" not in found, (option, name)
    assert lan.ask(lan.host, "mine.lan.example") == [f"10.9.0.{110 + len(options)}"]
    victim = lan.guest("fixed", FIXED)
    victim.sh("hostname fixed || :")
    with Dhclient(victim, "eth0", families=(4,)) as client:
        assert client.lease(4).address == "10.9.0.12/24"
        assert eventually(lambda: lan.ask(lan.host, "fixed.lan.example") == ["10.9.0.12"])


def leases(lan) -> str:
    return lan.host.run("cat /var/lib/vmnet-hooks/dnsmasq/inner/leases").stdout
