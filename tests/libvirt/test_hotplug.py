"""NICs that are attached to a running guest, and detached, with the agent on the host: as if they had been there at the start."""

from __future__ import annotations

import json
import re
import time

import pytest
from guest import Guest, Nic, domain_xml, ping_from
from lab.agent import Agent
from lab.nodes import IFUP, changes, settled, without_anycast
from lvhost import CONFIG, OUTSIDE4, OUTSIDE6

pytestmark = pytest.mark.libvirt

FIRST = Nic("52:54:00:aa:00:11", "bridge", dev="tap1", bridge="br0")
BRIDGE = Nic("52:54:00:aa:00:12", "bridge", dev="tap2", bridge="br0")
ETHERNET = Nic("52:54:00:aa:00:10", dev="tap0", network="public", ips=("192.0.2.10", "2001:db8::10"))
NETWORK_MAC = "52:54:00:aa:00:13"
NETWORK_NIC = (
    f"<interface type='network'><mac address='{NETWORK_MAC}'/><source network='lan'/><target dev='tap3'/>"
    "<model type='virtio'/></interface>"
)
NETWORK = "<network><name>lan</name><forward mode='bridge'/><bridge name='br0'/></network>"
ROUTED_TOML = """
[[interfaces]]
mac = "52:54:00:aa:00:10"
network = "public"
ips = ["192.0.2.10", "2001:db8::10"]
"""
CMDLINE = "ip0=10.9.0.11/24"
# What the guest's own init would have done for a NIC that was there at its start.
CONFIGURE = (
    "i=0; while [ ! -e /sys/class/net/eth1 ]; do i=$((i+1)); [ $i -lt 100 ] || exit 9; sleep 0.1; done; "
    "echo 0 > /proc/sys/net/ipv6/conf/eth1/accept_ra; ip link set eth1 up; ip addr add {ip4} dev eth1"
)
ROUTED = (
    f"{CONFIGURE.format(ip4='192.0.2.10/24')}; ip -6 addr add 2001:db8::10/128 dev eth1; "
    "ip route add default via 192.0.2.1 dev eth1; "
    "ip -6 route add 2001:db8::1 dev eth1; ip -6 route add default via 2001:db8::1 dev eth1"
)
ALONE = "ip link set eth0 down; " + CONFIGURE


@pytest.fixture
def agent(lab):
    """The agent of the host; it has nothing to complain about in the end."""
    with Agent(lab.host) as agent:
        yield agent
        assert agent.process.poll() is None, agent.log
        assert not agent.errors


@pytest.fixture
def network(lab):
    """libvirt's network `lan`, on the bridge br0."""
    lab.host.virsh("net-define", "/dev/stdin", input=NETWORK)
    lab.host.virsh("net-start", "lan")
    yield
    for name in lab.host.virsh("list", "--all", "--name").stdout.split():
        lab.host.virsh("destroy", name, check=False)
    lab.host.virsh("net-destroy", "lan")
    lab.host.virsh("net-undefine", "lan")


def booted(lab, *nics: Nic) -> Guest:
    lab.host.create(domain_xml("dom1", nics or [FIRST], CMDLINE))
    guest = Guest(lab.host, "dom1").ready()
    guest.ping("10.9.0.1")
    return guest


def attach(lab, nic: str, domain: str = "dom1") -> None:
    lab.host.virsh("attach-device", domain, "/dev/stdin", "--live", input=nic)


def detach(lab, nic: str, domain: str = "dom1") -> None:
    lab.host.virsh("detach-device", domain, "/dev/stdin", "--live", input=nic)


def records(lab) -> dict[str, dict]:
    """What is set up, by tap."""
    rows = json.loads(lab.host.cli("status", "--json").stdout)
    return {row["ifname"]: row for row in rows if row["domain"] and row["state"] != "unclaimed"}


def set_up(lab, *taps: str, timeout: float = 10) -> float:
    """Wait until exactly these taps have records, without drift; returns how long that took."""
    began = time.monotonic()
    recorded = "SELECT ifname FROM owner WHERE domain != '' AND phase = 'active'"
    lab.host.wait_for(lambda: query(lab, recorded) == sorted(taps), f"records of {taps}", timeout)
    took = time.monotonic() - began
    lab.host.wait_for(lambda: all(row["state"] == "ok" for row in records(lab).values()), "no drift", 5)
    checked = lab.host.cli("check")
    assert (checked.returncode, checked.stdout.strip()) == (0, "ok"), checked.stdout + checked.stderr
    return took


def query(lab, sql: str) -> list[str]:
    """Straight from the records: the command line takes a third of a second."""
    script = "import sqlite3, sys; print(*sorted(r[0] for r in sqlite3.connect(sys.argv[1]).execute(sys.argv[2])))"
    return lab.host.run(["/usr/bin/python3", "-IS", "-c", script, "/run/vmnet-hooks/state.db", sql]).stdout.split()


def running(lab) -> str:
    """The dump without interface numbers, and without the taps' anycast address: it is there, or not, by how long the tap had
    been up before its MAC was changed."""
    text = without_anycast(settled(lab.host))
    return re.sub(r"(?m)^\d+: ", "N: ", re.sub(r"\n+", "\n", text))


def as_before(lab, before: str, timeout: float = 10) -> None:
    """Wait until the host's state is what it was."""
    end = time.monotonic() + timeout
    while (left := changes(before, running(lab))) and time.monotonic() < end:
        time.sleep(0.2)
    assert left == ""


def timeless(rows: dict[str, dict]) -> dict[str, dict]:
    return {name: {key: value for key, value in row.items() if key not in ("since", "ifindex")} for name, row in rows.items()}


def same_as_at_the_start(lab, nics: list[str], config: str | None) -> None:
    """What was set up for NICs that were attached is what a start with them sets up: records and kernel."""
    plugged, dumped = timeless(records(lab)), running(lab)
    lab.host.virsh("destroy", "dom1")
    lab.host.wait_gone("dom1")
    xml = domain_xml("dom1", [FIRST], CMDLINE).replace("<serial type='file'>", "".join(nics) + "<serial type='file'>")
    lab.host.domain_toml("dom1", config)
    lab.host.create(xml)
    Guest(lab.host, "dom1").ready()
    set_up(lab, *plugged)
    assert timeless(records(lab)) == plugged
    assert changes(running(lab), dumped) == ""
    lab.host.virsh("destroy", "dom1")
    lab.host.wait_gone("dom1")


# --- each kind of NIC -----------------------------------------------------------------------------------------------------


def test_ethernet(lab, agent):
    """Routed: the guest reaches the world through it; detached, nothing of it is left."""
    guest = booted(lab)
    set_up(lab, "tap1")
    before = running(lab)
    lab.host.domain_toml("dom1", ROUTED_TOML)
    attach(lab, ETHERNET.xml())
    took = set_up(lab, "tap0", "tap1")
    assert guest.run(ROUTED).status == 0
    for address in ("192.0.2.1", "2001:db8::1", OUTSIDE4, OUTSIDE6, "10.9.0.1"):
        guest.ping(address)
    for address in ETHERNET.ips:
        ping_from(lab.router, address)
    detach(lab, ETHERNET.xml())
    set_up(lab, "tap1")
    as_before(lab, before)
    assert took < 3
    attach(lab, ETHERNET.xml())
    set_up(lab, "tap0", "tap1")
    same_as_at_the_start(lab, [ETHERNET.xml()], ROUTED_TOML)
    # That a tap is gone the agent sees by itself too: either way is right.
    lab.host.wait_for(lambda: agent.counter("hotplugs") >= 2, "the counter")
    assert agent.log.count("hotplug: dom1: tap0 was set up") == 2


def test_bridge(lab, agent):
    guest = booted(lab)
    set_up(lab, "tap1")
    before = running(lab)
    attach(lab, BRIDGE.xml())
    set_up(lab, "tap1", "tap2")
    assert guest.run(ALONE.format(ip4="10.9.0.12/24")).status == 0
    guest.ping("10.9.0.1")
    ping_from(lab.router, "10.9.0.12")
    detach(lab, BRIDGE.xml())
    set_up(lab, "tap1")
    as_before(lab, before)
    attach(lab, BRIDGE.xml())
    set_up(lab, "tap1", "tap2")
    same_as_at_the_start(lab, [BRIDGE.xml()], None)


def test_network(lab, agent, network):
    """Of a network of libvirt's, which is on the bridge: nothing but the live description says so."""
    guest = booted(lab)
    set_up(lab, "tap1")
    before = running(lab)
    attach(lab, NETWORK_NIC)
    set_up(lab, "tap1", "tap3")
    assert guest.run(ALONE.format(ip4="10.9.0.13/24")).status == 0
    guest.ping("10.9.0.1")
    detach(lab, NETWORK_NIC)
    set_up(lab, "tap1")
    as_before(lab, before)
    attach(lab, NETWORK_NIC)
    set_up(lab, "tap1", "tap3")
    same_as_at_the_start(lab, [NETWORK_NIC], None)


def test_a_tap_that_stays(lab, agent):
    """managed='no': detached, the tap is there still, as it was before."""
    lab.host.sh("ip tuntap add tap7 mode tap; ip link set tap7 address fe:54:00:00:00:07; ip link set tap7 up")
    try:
        nic = ETHERNET.xml().replace("<target dev='tap0'/>", "<target dev='tap7' managed='no'/>")
        booted(lab)
        lab.host.domain_toml("dom1", ROUTED_TOML)
        attach(lab, nic)
        set_up(lab, "tap1", "tap7")
        detach(lab, nic)
        set_up(lab, "tap1")
        assert "hotplug: dom1: tap7 was taken down" in agent.log
        assert "fe:54:00:00:00:07" in lab.host.run("ip link show tap7").stdout
        assert lab.host.sysctl("ipv4/conf/tap7/proxy_arp") == "0"
        tables = re.split(r"^(?=table )", lab.host.run("nft list ruleset").stdout, flags=re.MULTILINE)
        assert not [table for table in tables if "tap7" in table and "vmnet_keeper" not in table]
        # The agent's own tables follow the records a moment later, well before all is looked at again.
        lab.host.wait_for(lambda: "tap7" not in lab.host.run("nft list ruleset").stdout, "tap7 is guarded no more", 1.0)
    finally:
        lab.host.virsh("destroy", "dom1")
        lab.host.wait_gone("dom1")
        lab.host.sh("ip link del tap7")


def test_ethernet_with_a_script(lab, agent):
    """<script> is called first, and knows no UUID; in the end it is the domain's NIC like any other. No <downscript>."""
    nic = Nic(ETHERNET.mac, dev="tap0", script=str(IFUP))
    booted(lab)
    lab.host.domain_toml("dom1", ROUTED_TOML + 'ifname = "tap0"\n')
    attach(lab, nic.xml())
    set_up(lab, "tap0", "tap1")
    lab.host.wait_for(lambda: {row["frontend"] for row in records(lab).values()} == {"libvirt"}, "the domain's own records")
    detach(lab, nic.xml())
    set_up(lab, "tap1")


def test_a_claim_that_comes_after_its_nic(lab, agent):
    """`vmnet-hook set` wants the NIC to be there: with the agent, that is all that it takes."""
    guest = booted(lab)
    attach(lab, ETHERNET.xml())
    set_up(lab, "tap1")
    done = lab.host.cli("set", "dom1", ETHERNET.mac, "--network", "public", "--ip", "192.0.2.10")
    assert done.returncode == 0, done.stderr
    set_up(lab, "tap0", "tap1")
    assert guest.run(CONFIGURE.format(ip4="192.0.2.10/24")).status == 0
    guest.ping("192.0.2.1")
    # The claim waits for its NIC to come again.
    detach(lab, ETHERNET.xml())
    set_up(lab, "tap1")
    attach(lab, ETHERNET.xml())
    set_up(lab, "tap0", "tap1")


def test_what_nobody_claims_is_left_alone(lab, agent):
    lab.host.sh("ip link add br9 type bridge; ip link set br9 up")
    try:
        booted(lab)
        attach(lab, Nic("52:54:00:aa:00:19", "bridge", dev="tap9", bridge="br9").xml())
        attach(lab, BRIDGE.xml())
        set_up(lab, "tap1", "tap2")
        assert "master br9" in lab.host.run("ip link show tap9").stdout
        assert agent.log.count("was set up") == 1
    finally:
        lab.host.virsh("destroy", "dom1")
        lab.host.wait_gone("dom1")
        lab.host.sh("ip link del br9")


def test_a_burst(lab, agent):
    """Six NICs at once, and away again."""
    booted(lab)
    nics = [Nic(f"52:54:00:aa:00:2{n}", "bridge", dev=f"burst{n}", bridge="br0") for n in range(6)]
    for nic in nics:
        attach(lab, nic.xml())
    set_up(lab, "tap1", *(nic.dev for nic in nics))
    for nic in nics:
        detach(lab, nic.xml())
    set_up(lab, "tap1", timeout=30)


# --- when it can't be -----------------------------------------------------------------------------------------------------


def test_a_claim_that_cannot_be_met(lab):
    """The guest would not have been started with it: the NIC has no carrier, until the claim is mended."""
    with Agent(lab.host) as agent:
        lab.host.domain_toml("dom2", '[[interfaces]]\nmac = "52:54:00:aa:00:31"\nnetwork = "public"\nips = ["192.0.2.10"]\n')
        lab.host.create(domain_xml("dom2", [Nic("52:54:00:aa:00:31", dev="tap31")]), "--paused")
        guest = booted(lab)
        lab.host.domain_toml("dom1", ROUTED_TOML)
        attach(lab, ETHERNET.xml())
        lab.host.wait_for(lambda: "192.0.2.10" in agent.log and "tap0" in agent.log, "a complaint")
        assert "state DOWN" in lab.host.run("ip link show tap0").stdout
        assert sorted(records(lab)) == ["tap1", "tap31"]
        guest.ping("10.9.0.1")
        time.sleep(11)
        assert len(agent.errors) == 1, "said more than once"
        lab.host.domain_toml("dom1", ROUTED_TOML.replace("192.0.2.10", "192.0.2.11"))
        set_up(lab, "tap0", "tap1", "tap31", timeout=20)
        assert guest.run(CONFIGURE.format(ip4="192.0.2.11/24")).status == 0
        guest.ping("192.0.2.1")
        assert len(agent.errors) == 1 and agent.process.poll() is None, agent.log


def test_a_bridged_nic_with_a_claim_that_cannot_be_met(lab):
    """A bridge does not ask us: the tap is up as soon as it is there, and taken down."""
    with Agent(lab.host) as agent:
        guest = booted(lab)
        lab.host.domain_toml("dom1", f'[[interfaces]]\nmac = "{BRIDGE.mac}"\nnetwork = "nowhere"\n')
        attach(lab, BRIDGE.xml())
        lab.host.wait_for(lambda: "nowhere" in agent.log, "a complaint")
        assert "state DOWN" in lab.host.run("ip link show tap2").stdout
        lab.host.domain_toml("dom1", None)
        set_up(lab, "tap1", "tap2", timeout=20)
        assert guest.run(ALONE.format(ip4="10.9.0.12/24")).status == 0
        guest.ping("10.9.0.1")


# --- daemons that come and go ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("signal", ["TERM", "KILL"])
def test_libvirtd_is_restarted(lab, agent, signal):
    booted(lab)
    lab.host.stop_libvirtd(signal)
    lab.host.start_libvirtd()
    attach(lab, BRIDGE.xml())
    set_up(lab, "tap1", "tap2")
    # By an event of the new connection, not by what is looked at when that is made.
    detach(lab, BRIDGE.xml())
    set_up(lab, "tap1")
    attach(lab, BRIDGE.xml())
    assert set_up(lab, "tap1", "tap2") < 3
    assert agent.process.poll() is None


def test_libvirtd_comes_after_the_agent(lab):
    lab.host.stop_libvirtd()
    try:
        with Agent(lab.host) as agent:
            time.sleep(4)
            lab.host.start_libvirtd()
            booted(lab)
            attach(lab, BRIDGE.xml())
            set_up(lab, "tap1", "tap2")
            assert not agent.errors
    finally:
        if lab.host.virsh("list", check=False).returncode:
            lab.host.start_libvirtd()


def test_what_happened_while_there_was_no_agent(lab):
    """NICs that came are set up, those that went are taken down, as soon as it is there."""
    booted(lab)
    with Agent(lab.host):
        attach(lab, BRIDGE.xml())
        set_up(lab, "tap1", "tap2")
    detach(lab, BRIDGE.xml())
    lab.host.domain_toml("dom1", ROUTED_TOML)
    attach(lab, ETHERNET.xml())
    lab.host.wait_for(lambda: not lab.host.path("/sys/class/net/tap2").exists(), "the tap to be gone")
    assert query(lab, "SELECT ifname FROM owner WHERE domain != ''") == ["tap1", "tap2"]
    with Agent(lab.host) as agent:
        set_up(lab, "tap0", "tap1")
        assert not agent.errors


def test_a_slow_hook_of_somebody_elses_keeps_nobody_waiting(lab, agent):
    """libvirt answers nobody about a domain whose hook runs, and that hook waits for us: other domains' NICs are set up, and
    so are the domains that start meanwhile."""
    booted(lab)
    lab.host.write("/run/slow", "")
    lab.host.add_hook("zz-slow", '[ "$1 $2" != "slow start" ] || timeout 60 sh -c "while [ -e /run/slow ]; do sleep 0.1; done"\n')
    slow = lab.host.popen(["virsh", "-q", "create", "/dev/stdin", "--paused"], stdin=-1)
    slow.stdin.write(domain_xml("slow", [Nic("52:54:00:aa:00:41", "bridge", dev="tap41", bridge="br0")]))
    slow.stdin.close()
    lab.host.wait_for(lambda: "tap41" in query(lab, "SELECT ifname FROM owner"), "the slow domain's tap to be set up")
    # A new agent looks at every domain that runs, this one included.
    agent.stop()
    agent.start()
    attach(lab, BRIDGE.xml())
    lab.host.create(domain_xml("quick", [Nic("52:54:00:aa:00:42", "bridge", dev="tap42", bridge="br0")]), "--paused")
    lab.host.wait_for(lambda: {"tap2", "tap42"} <= set(query(lab, "SELECT ifname FROM owner")), "the others")
    assert slow.poll() is None, "the others waited for the slow hook's deadline"
    lab.host.path("/run/slow").unlink()
    assert slow.wait(30) == 0
    set_up(lab, "tap1", "tap2", "tap41", "tap42")


def test_other_networks(lab, agent):
    """The guards that the mode asks for come with the NIC: a source filter."""
    lab.host.config(CONFIG + "antispoof = true\n")
    guest = booted(lab)
    attach(lab, BRIDGE.xml())
    set_up(lab, "tap1", "tap2")
    spoof = ALONE.format(ip4="10.9.0.12/24")
    assert guest.run(spoof).status == 0
    guest.ping("10.9.0.1")
    guest.run("ip link set eth1 down; ip link set eth1 address 52:54:00:aa:00:99; ip link set eth1 up")
    assert guest.unreachable("10.9.0.1")
