"""Guests get the addresses that they are declared with, from the agent: real clients at links of each kind, see
lab/dhcp_places.py."""

from __future__ import annotations

import re
import time
from contextlib import ExitStack

import pytest
from lab.agent import Agent
from lab.capture import Capture
from lab.dhcp import bootp, udp4
from lab.dhcp_clients import Dhclient, Dhcpcd, Lease, Networkd, Udhcpc, addressed, complete
from lab.dhcp_places import PLACES, Place, bare
from lab.frames import mac_bytes, tagged
from lab.routed import eventually, reach, send

CLIENTS = (Udhcpc, Dhclient, Dhcpcd, Networkd)
# Its own probes for its address (RFC 5227) take seconds; it waits for a second before it asks at all.
SETTINGS = {Dhcpcd: {"settings": "noarp"}}


@pytest.fixture(scope="module", params=PLACES)
def place(request):
    with PLACES[request.param]() as found, Agent(found.host) as found.agent:
        yield found


def discover(mac: str, **fields: object) -> bytes:
    """A DISCOVER in a frame from `mac`."""
    return udp4(bootp(mac_bytes(mac), 1, **fields), mac_bytes(mac))


def told(place: Place, lease: Lease) -> None:
    """Assert that a guest has all that its network declares, by DHCPv4."""
    assert (lease.address, lease.gateway) == (f"{place.ip4}/{place.prefix4}", place.gateway4)
    assert ("10.77.0.0/16", place.via) in lease.routes
    assert (lease.dns, lease.domain, lease.search) == (("192.0.2.53",), "lan.example", ("lan.example", "example"))
    assert (lease.ntp, lease.mtu, lease.lifetime) == (("192.0.2.123",), 1500, 600)
    assert lease.hostname == ("dom-a1" if place.network == "public" else "dom-one")


def told6(place: Place, lease: Lease) -> None:
    """The same by DHCPv6, and by router advertisements where the host is the router."""
    assert (lease.address, lease.gateway) == (f"{place.ip6}/128", place.router6)
    assert (lease.dns, lease.search) == (("2001:db8::53",), ("lan.example", "example"))


@pytest.mark.parametrize("client", CLIENTS)
def test_clients(place, client):
    """First boot, renewal, second boot with a known lease; what is told, and how soon."""
    with client(bare(place.guest), "eth0", **SETTINGS.get(client, {})) as running:
        # Most clients wait for a router's word that there is DHCPv6.
        six = 6 in running.families and (place.router6 or client is Dhclient)
        lease = running.lease(4)
        told(place, lease)
        assert lease.seconds <= (3 if client is Dhcpcd else 0.5), lease.seconds
        assert reach([(place.guest, place.world[0])]) == []
        if six:
            lease6 = running.lease(6, where=complete if place.router6 else addressed)
            told6(place, lease6)
            assert lease6.seconds <= 2.5, lease6.seconds
            assert reach([(place.guest, world) for world in place.world[1:]]) == []
            if place.router6:
                # The router's own MAC: what the guest learned from it and what answers are the same.
                assert place.router_mac() in place.guest.run(f"ip -6 neigh show {place.router6}").stdout
        told(place, running.renew(4))
        if six and client is not Networkd:
            told6(place, running.renew(6, where=complete if place.router6 else addressed))
        running.reboot()
        told(place, running.lease(4))
    assert place.host.cli("check").stdout == "ok\n"


def test_the_agent_restarted_meanwhile(place):
    """A lease has no state: a client renews, and boots on what it knows."""
    with Dhclient(bare(place.guest), "eth0", families=(4,)) as running:
        told(place, running.lease(4))
        place.agent.stop()
        # Nothing answers, and check tells.
        checked = place.host.cli("check")
        assert (
            checked.returncode == 1
            and "the agent does not run, or does not answer; it tells guests their addresses" in checked.stdout
        )
        place.agent.start()
        assert place.host.cli("check").stdout == "ok\n"
        told(place, running.renew(4))
        running.reboot()
        told(place, running.lease(4))


def test_edits_while_the_guest_runs(place):
    """What is told follows the file at the next request; whether it is told, the next repair."""
    path = place.host.path("/etc/vmnet-hooks/vmnet.toml")
    before = path.read_text()
    try:
        with Udhcpc(bare(place.guest), "eth0") as running:
            told(place, running.lease(4))
            path.write_text(before.replace('dns = ["192.0.2.53"', 'dns = ["192.0.2.54"'))
            assert eventually(lambda: running.renew(4).dns == ("192.0.2.54",), every=0.5)
        assert place.host.cli("check").stdout == "ok\n"
        # The table goes: so does the answer, and what kept others from hearing the guest.
        path.write_text(re.sub(r"\[networks\.\w+\.dhcp\]\n((?!\[).*\n)*", "", before))
        checked = place.host.cli("check")
        assert checked.returncode == 1 and "served" in checked.stdout, checked.stdout
        assert place.host.cli("repair").returncode == 0
        assert place.host.cli("check").stdout == "ok\n"
        time.sleep(2.5)
        with Udhcpc(bare(place.guest), "eth0") as running, pytest.raises(TimeoutError):
            running.lease(4, timeout=2)
    finally:
        path.write_text(before)
    # And comes back.
    assert place.host.cli("repair").returncode == 0
    with Udhcpc(bare(place.guest), "eth0") as running:
        told(place, running.lease(4, timeout=30))
    assert place.host.cli("check").stdout == "ok\n"


def test_no_other_server_hears_it(place):
    """Not the segment, not the router, not a server of the host's own; a unicast renewal goes nowhere else either."""
    asked = "udp port 67 or udp port 547"
    with ExitStack() as stack:
        heard = [stack.enter_context(Capture(node, "any", asked)) for node in place.others.values()]
        host = stack.enter_context(Capture(place.host, "eth9", asked))
        with Networkd(bare(place.guest), "eth0") as running:
            told(place, running.lease(4))
            if place.router6:
                told6(place, running.lease(6))
            told(place, running.renew(4))
    assert [seen.lines for seen in (*heard, host)] == [[]] * (len(heard) + 1)


def test_forged_requests(place):
    """Another MAC in chaddr or in the frame, a relay, a tag: no answer to anybody, and the guest's own still comes."""
    own, other = place.nic.mac, "52:54:00:dd:00:99"
    bare(place.guest)
    good = discover(own)
    asked = {
        "chaddr": discover(own, chaddr=mac_bytes(other)),
        "source": discover(other, chaddr=mac_bytes(own)),
        "both": discover(other),
        "relay": discover(own, giaddr="192.0.2.99"),
        "tagged": tagged(good, 7),
        "priority": tagged(good, 0),
        "cut": good[:150],
    }
    with ExitStack() as stack:
        heard = [stack.enter_context(Capture(node, "any", "udp port 68")) for node in (place.guest, *place.others.values())]
        for frame in asked.values():
            send(place.guest, "eth0", frame)
        Capture.pause(0.3)
    assert [having.having(r"BOOTP/DHCP, Reply") for having in heard] == [[]] * len(heard)
    with Capture(place.guest, "eth0", "udp port 68") as seen:
        send(place.guest, "eth0", good)
        Capture.pause(0.3)
    assert len(seen.having(r"BOOTP/DHCP, Reply", place.ip4)) == 1, str(seen)
