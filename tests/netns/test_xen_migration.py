"""`xl migrate` as the destination's scripts see it: `online` comes while the domain is called NAME--incoming, then libxl renames
it, and calls no script any more. The hook's own child waits for the guest, or the agent. And one guest under two numbers at once.
"""

from __future__ import annotations

import re
import time

import pytest
from lab.agent import Agent
from lab.capture import Capture
from lab.routed import PUBLIC, eventually, ping, reach
from lab.single import same
from lab.xenhost import LAN_PEER, OWN, OWN6, UPSTREAM, UPSTREAM6, XenHost, nothing_stays, offline, online, refused
from lab.xenstore import Vif

GUEST, GUEST6 = "10.0.1.10", "fd00:1::10"
IP = f"{GUEST} {GUEST6}"
ELSEWHERE = "02:00:00:00:00:77"
SECONDS = 2.0
"""From the rename, or the guest's first frame, to the announcement."""


@pytest.fixture(params=["child", "agent"])
def one(request):
    """A dom0 with or without an agent. No process of ours waits when it is over."""
    with XenHost(PUBLIC, foreign=False) as host:
        if request.param == "agent":
            with Agent(host.host) as agent:
                yield host
                assert not agent.errors
        else:
            yield host
            assert eventually(lambda: not waiting(host), 20), "a child waits still"


def waiting(one: XenHost) -> list[int]:
    return [pid for pid in one.host.processes() if "vmnet-vif-" in one.host.command(pid)]


def comes_in(one: XenHost, domid: int = 5, script: str = "vmnet-vif-route", **keys: object) -> Vif:
    """A guest that is set up here and does not run yet: it sends nothing."""
    one.peer.run(f"ip neigh replace {GUEST} lladdr {ELSEWHERE} dev eth9 nud reachable")
    vif = one.vif(domid, script=script, **{"name": "web--incoming", "ip": IP, "gatewaydev": "eth9", **keys})
    vif.guest.run("ip link set eth0 down")
    online(vif)
    assert "incoming" in one.host.cli("status").stdout
    return vif


def is_renamed(one: XenHost, vif: Vif, name: str = "web") -> None:
    one.store.write(f"/local/domain/{vif.domid}/name", name)


def runs(vif: Vif) -> None:
    vif.guest.run("ip link set eth0 up")
    vif.configure(GUEST, 24, OWN, GUEST6, OWN6)


def attracted(one: XenHost) -> list[str]:
    """What draws the guest's traffic."""
    shown = one.host.sh("ip route show table all; ip -6 route show table all; ip neigh show proxy; ip -6 neigh show proxy")
    return [
        line
        for line in dict.fromkeys(shown.splitlines())
        if re.match(rf"({GUEST}|{GUEST6}|192\.0\.2\.10|10\.0\.5\.1)(/\S+)? ", line)
    ]


def announced(seen: Capture) -> list[str]:
    return seen.having(f"who-has {GUEST} .*tell {GUEST}") + seen.having("advertisement", f"tgt is {GUEST6}")


def test_the_rename_is_the_cut_over(one):
    """Also of a guest that says nothing. Whoever had the old host's MAC learns the new one."""
    with nothing_stays(one):
        vif = comes_in(one)
        assert attracted(one) == []
        with Capture(one.peer, "eth9", "arp or icmp6") as seen:
            time.sleep(1)
            assert attracted(one) == []
            is_renamed(one, vif)
            assert eventually(lambda: len(attracted(one)) == 4, SECONDS), attracted(one)
            assert eventually(lambda: ELSEWHERE not in one.peer.sh(f"ip neigh show {GUEST}"), 0.5)
        assert len(announced(seen)) >= 2, seen
        runs(vif)
        assert eventually(
            lambda: reach([(one.peer, GUEST), (one.peer, GUEST6), (vif.guest, UPSTREAM), (vif.guest, UPSTREAM6)]) == []
        )
        assert "active" in one.host.cli("status").stdout
        done = one.host.cli("check")
        assert done.returncode == 0, done.stdout
        offline(vif)


def test_the_first_frame_is_the_cut_over(one):
    """libxl may not have renamed it yet."""
    with nothing_stays(one):
        vif = comes_in(one)
        with Capture(one.peer, "eth9", "arp or icmp6") as seen:
            runs(vif)
            assert eventually(lambda: len(attracted(one)) == 4, SECONDS), attracted(one)
            assert ping(one.peer, GUEST, 2) is not None
        assert announced(seen)
        offline(vif)


NETWORKS = {
    "vif-nat": ("vmnet-vif-nat", {"ip": ""}, 1),
    "a routed network": ("vmnet-vif-route", {"ip": "192.0.2.10"}, 1),
}


@pytest.mark.parametrize("script, keys, expected", NETWORKS.values(), ids=NETWORKS.keys())
def test_other_networks(one, script, keys, expected):
    with nothing_stays(one):
        vif = comes_in(one, script=script, **keys)
        assert attracted(one) == []
        is_renamed(one, vif)
        assert eventually(lambda: len(attracted(one)) == expected, SECONDS), attracted(one)
        offline(vif)


def test_a_bridged_guest_needs_no_cut_over(one):
    vif = one.vif(5, bridge="br0", name="web--incoming")
    online(vif)
    assert "active" in one.host.cli("status").stdout
    offline(vif)


def test_a_migration_that_fails_leaves_nothing(one):
    """libxl destroys the domain, which is still called NAME--incoming."""
    with nothing_stays(one), Capture(one.peer, "eth9", "arp or icmp6") as seen:
        vif = comes_in(one)
        time.sleep(1)
        offline(vif)
        assert eventually(lambda: not waiting(one))
        time.sleep(1)
    assert announced(seen) == []


def test_the_agent_is_restarted_meanwhile():
    """The records have who is awaited, and the name of a network that no file declares."""
    with XenHost(foreign=False) as one:
        with Agent(one.host):
            vif = comes_in(one)
        with Agent(one.host) as agent:
            is_renamed(one, vif)
            assert eventually(lambda: len(attracted(one)) == 4, SECONDS), attracted(one)
            assert not agent.errors
        offline(vif)


# --- one guest, two numbers -------------------------------------------------------------------------------------------


def test_within_this_host(one):
    """`xl migrate web localhost`: the old half is reached until the new one runs, and takes nothing with it."""
    with nothing_stays(one):
        old = one.vif(1, script="vmnet-vif-route", mac="00:16:3e:00:00:77", name="web", ip=IP, gatewaydev="eth9")
        old.configure(GUEST, 24, OWN, GUEST6, OWN6)
        online(old)
        assert eventually(lambda: reach([(one.peer, GUEST), (one.peer, GUEST6)]) == [])
        new = comes_in(one, 2, mac=old.mac)
        assert len(attracted(one)) == 4 and all("vif2.0" not in line for line in attracted(one))
        is_renamed(one, old, "web--migratedaway")
        is_renamed(one, new)
        assert eventually(lambda: sum("vif2.0" in line for line in attracted(one)) == 2, SECONDS), attracted(one)
        runs(new)
        offline(old)
        assert eventually(lambda: reach([(one.peer, GUEST), (one.peer, GUEST6), (new.guest, UPSTREAM)]) == [])
        done = one.host.cli("check")
        assert done.returncode == 0, done.stdout
        offline(new)


def test_within_this_host_in_vain(one):
    """The new half goes; the old one has lost nothing."""
    with nothing_stays(one):
        old = one.vif(1, script="vmnet-vif-route", mac="00:16:3e:00:00:77", name="web", ip=IP, gatewaydev="eth9")
        old.configure(GUEST, 24, OWN, GUEST6, OWN6)
        online(old)
        new = comes_in(one, 2, mac=old.mac)
        offline(new)
        assert eventually(lambda: reach([(one.peer, GUEST), (one.peer, GUEST6), (old.guest, UPSTREAM)]) == [])
        offline(old)


def test_within_this_host_in_vain_after_the_cut_over(one):
    """libxl renames both back if the new half can't be unpaused: the old one goes on, and is reached."""
    with nothing_stays(one):
        old = one.vif(1, script="vmnet-vif-route", mac="00:16:3e:00:00:77", name="web", ip=IP, gatewaydev="eth9")
        old.configure(GUEST, 24, OWN, GUEST6, OWN6)
        online(old)
        new = comes_in(one, 2, mac=old.mac)
        is_renamed(one, old, "web--migratedaway")
        is_renamed(one, new)
        assert eventually(lambda: sum("vif2.0" in line for line in attracted(one)) == 2, SECONDS), attracted(one)
        offline(new)
        is_renamed(one, old)
        assert eventually(lambda: reach([(one.peer, GUEST), (one.peer, GUEST6), (old.guest, UPSTREAM)]) == [])
        done = one.host.cli("check")
        assert done.returncode == 0, done.stdout
        offline(old)


TWO = {"migrates": ("web", "web--incoming", {}), "has a stub domain": ("win-dm", "win", {"vifname": "win0-emu"})}


@pytest.fixture(scope="module")
def plain():
    with XenHost(foreign=False) as host:
        yield host


@pytest.mark.parametrize("name, other, keys", TWO.values(), ids=TWO.keys())
@pytest.mark.parametrize("ip", ["", "10.7.0.10"], ids=["any address", "ip="])
def test_both_on_a_bridge(plain, name, other, keys, ip):
    """Both ports may send from the guest's address, and from no other; its MAC is where it sends from."""
    with nothing_stays(plain):
        first = plain.vif(1, mac="00:16:3e:00:00:77", name=name, bridge="br0", ip=ip, **keys)
        second = plain.vif(2, mac=first.mac, name=other, bridge="br0", ip=ip)
        plain.store.write("/local/domain/1/target", "2")
        online(first)
        # Until it sends, a guest that migrates runs at the other.
        second.guest.run("ip link set eth0 down")
        online(second)
        for vif in (first, second):
            vif.guest.run("ip link set eth0 up")
            vif.configure("10.7.0.10", 24)
            assert eventually(lambda vif=vif: reach([(vif.guest, LAN_PEER)]) == []), vif.name
            if ip:
                vif.configure("10.7.0.11", 24)
                vif.guest.run("ip addr del 10.7.0.10/24 dev eth0")
                assert ping(vif.guest, LAN_PEER, 1) is None
            vif.guest.run("ip link set eth0 down")
        offline(second)
        offline(first)


def test_a_guest_with_a_stub_domain_that_is_routed(plain):
    """Xen's own script fails with "File exists"; a route leads to one of the two."""
    first = plain.vif(1, script="vmnet-vif-route", mac="00:16:3e:00:00:77", name="win-dm", ip=GUEST, gatewaydev="eth9")
    second = plain.vif(2, script="vmnet-vif-route", mac=first.mac, name="win", ip=GUEST, gatewaydev="eth9")
    plain.store.write("/local/domain/1/target", "2")
    online(first)
    before = plain.state()
    refused(second, second.call("online"), "win: address 10.0.1.10", "held by win-dm (vif1.0), which is the same guest", "bridge")
    same(before, plain.state())
    # What the message says: both on a bridge.
    offline(second)
    offline(first)
    pair = [plain.vif(vif.domid, mac=vif.mac, name=vif.name, bridge="br0", ip=GUEST) for vif in (first, second)]
    plain.store.write("/local/domain/1/target", "2")
    for vif in pair:
        online(vif)
    for vif in pair:
        offline(vif)


def test_another_guest_with_the_same_mac(plain):
    """A name proves nothing: xenstore must say that it is the stub domain."""
    first = plain.vif(1, mac="00:16:3e:00:00:77", name="win-dm", bridge="br0")
    second = plain.vif(2, mac=first.mac, name="win", bridge="br0")
    online(first)
    refused(second, second.call("online"), "MAC 00:16:3e:00:00:77", "held by win-dm", "give NIC")
    offline(second)
    offline(first)
