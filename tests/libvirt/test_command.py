"""`vmnet-hook` beside a running libvirtd: metadata goes through libvirt, start and stop by hand equal the hook's."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ET

import pytest
from guest import NAMESPACE, Nic, domain_xml
from lab.nodes import HOOK, changes, settled

pytestmark = pytest.mark.libvirt

MAC, LAN_MAC = "52:54:00:aa:00:10", "52:54:00:aa:00:11"
IPS = ("192.0.2.10", "2001:db8::10")
ROUTED = Nic(MAC, dev="tap0", network="public", ips=IPS)
UNCLAIMED = Nic(MAC, dev="tap0")
BRIDGED = Nic(LAN_MAC, "bridge", dev="tap1", bridge="br0")


def claimed(lab, *options: str) -> dict[str, tuple[str, tuple[str, ...]]]:
    """MAC → (network, addresses) in a domain's metadata, as libvirt has it."""
    root = ET.fromstring(lab.host.virsh("dumpxml", "dom1", *options).stdout)
    return {
        each.get("mac"): (each.get("network"), tuple(ip.get("address") for ip in each.iterfind(f"{{{NAMESPACE}}}ip")))
        for each in root.iter(f"{{{NAMESPACE}}}interface")
    }


def command(lab, *argv: str, status: int = 0) -> str:
    done = lab.host.cli(*argv)
    assert done.returncode == status, f"vmnet-hook {' '.join(argv)}: {done.returncode}\n{done.stdout}{done.stderr}"
    return done.stdout + done.stderr


def unnumbered(lab) -> str:
    return re.sub(r"(?m)^\d+: ", "N: ", settled(lab.host))


def test_set_and_unset_on_a_running_domain(lab):
    lab.host.define(domain_xml("dom1", [UNCLAIMED, BRIDGED]))
    lab.host.virsh("start", "dom1", "--paused")
    words = ["--network", "public", *(word for ip in IPS for word in ("--ip", ip))]
    command(lab, "set", "dom1", MAC, *words)
    for options in ((), ("--inactive",)):
        assert claimed(lab, *options) == {MAC: ("public", IPS)}
    # Another NIC's claim stays; setting the first again replaces it.
    command(lab, "set", "dom1", LAN_MAC, "--network", "lan")
    command(lab, "set", "dom1", MAC, "--network", "public", "--ip", "192.0.2.11")
    for options in ((), ("--inactive",)):
        assert claimed(lab, *options) == {MAC: ("public", ("192.0.2.11",)), LAN_MAC: ("lan", ())}
    command(lab, "unset", "dom1", MAC)
    command(lab, "unset", "dom1", LAN_MAC)
    for options in ((), ("--inactive",)):
        assert claimed(lab, *options) == {}


def test_set_on_a_defined_domain_is_what_the_next_start_uses(lab):
    lab.host.define(domain_xml("dom1", [UNCLAIMED]))
    words = ["--network", "public", *(word for ip in IPS for word in ("--ip", ip))]
    command(lab, "set", "dom1", MAC, *words)
    lab.host.virsh("start", "dom1", "--paused")
    assert "192.0.2.10 dev tap0" in lab.host.run("ip -4 route show table 222").stdout
    lab.host.virsh("destroy", "dom1")
    lab.assert_clean()


@pytest.mark.parametrize(
    "words",
    [
        ("set", "dom9", MAC, "--network", "public"),
        ("set", "dom1", "52:54:00:aa:00:99", "--network", "public"),
        ("set", "dom1", MAC, "--network", "nowhere"),
        ("set", "dom1", MAC, "--network", "public", "--ip", "198.51.100.1"),
    ],
)
def test_set_refuses_what_cannot_work(lab, words):
    lab.host.define(domain_xml("dom1", [UNCLAIMED]))
    done = lab.host.cli(*words)
    assert done.returncode in (1, 2)
    lines = done.stderr.strip().splitlines()
    assert lines and lines[-1].startswith("vmnet-hook: "), done
    assert claimed(lab) == {}


def test_start_and_stop_by_hand(lab):
    host = lab.host
    host.remove_hook("vmnet-hooks")
    host.create(domain_xml("dom1", [ROUTED, BRIDGED]), "--paused")
    bare = unnumbered(lab)
    host.link_hook("vmnet-hooks", HOOK)

    plan = command(lab, "plan", "dom1")
    assert "192.0.2.10" in plan and "tap0" in plan
    assert not changes(bare, unnumbered(lab)), "plan changed something"

    command(lab, "start", "dom1")
    started = unnumbered(lab)
    assert "192.0.2.10 dev tap0" in host.run("ip -4 route show table 222").stdout
    command(lab, "start", "dom1")
    assert not changes(started, unnumbered(lab)), "a second start changed something"
    command(lab, "check")
    command(lab, "check", "dom1")
    shown = json.loads(command(lab, "status", "--json"))
    assert "tap0" in json.dumps(shown) and "tap1" in json.dumps(shown)
    for word in ("dom1", "tap0", "public", "192.0.2.10", "2001:db8::10"):
        assert word in command(lab, "status")

    stop = command(lab, "plan", "dom1", "--stop")
    assert "192.0.2.10" in stop
    assert not changes(started, unnumbered(lab)), "plan --stop changed something"
    command(lab, "stop", "dom1")
    # The taps are libvirt's and stay; everything else is as before the first start.
    assert not changes(bare, unnumbered(lab))

    command(lab, "start", "dom1")
    assert not changes(started, unnumbered(lab))
    host.virsh("destroy", "dom1")
    lab.assert_clean()


def test_damage_is_found_and_repaired(lab):
    host = lab.host
    host.create(domain_xml("dom1", [ROUTED, BRIDGED]), "--paused")
    first = unnumbered(lab)
    for damage in (
        "nft flush ruleset",
        "ip rule del from 192.0.2.0/24",
        "ip route flush table 222",
        "ip -6 neigh del proxy 2001:db8::10 dev eth1",
        "echo 0 > /proc/sys/net/ipv4/conf/tap0/proxy_arp",
    ):
        host.sh(damage)
        found = host.cli("check")
        assert found.returncode == 1 and found.stdout.strip(), f"{damage}: not found\n{found.stdout}{found.stderr}"
        command(lab, "repair", "dom1")
        command(lab, "check")
        assert not changes(first, unnumbered(lab)), damage
    host.virsh("destroy", "dom1")
    lab.assert_clean()


def test_an_edit_of_a_running_domain(lab):
    """`check` tells of an edit of the metadata, and of a NIC that nothing claims; each remedy is followed."""
    host = lab.host
    host.create(domain_xml("dom1", [ROUTED, BRIDGED, Nic("52:54:00:aa:00:12", dev="tap2")]), "--paused")
    command(lab, "check")
    rows = {row["ifname"]: row["state"] for row in json.loads(command(lab, "status", "--json"))}
    assert rows["tap2"] == "unclaimed" and rows["tap0"] == "ok"
    command(lab, "set", "dom1", MAC, "--network", "public", "--ip", "192.0.2.11", "--ip", "2001:db8::10")
    assert "tap0: is to have 192.0.2.11, not 192.0.2.10" in command(lab, "check", status=1)
    command(lab, "repair")
    command(lab, "check", "dom1")
    assert "192.0.2.11 dev tap0" in host.run("ip -4 route show table 222").stdout
    command(lab, "set", "dom1", "52:54:00:aa:00:12", "--network", "public", "--ip", "192.0.2.12", "--ip", "2001:db8::12")
    assert "tap2: network public claims it, and it is not set up" in command(lab, "check", status=1)
    command(lab, "start", "dom1")
    command(lab, "check")
    command(lab, "unset", "dom1", MAC)
    assert "tap0: nothing claims it for network public any more" in command(lab, "check", status=1)
    # libvirtd's own restart is no start of the guest.
    host.stop_libvirtd()
    host.start_libvirtd()
    assert "192.0.2.11 dev tap0" in host.run("ip -4 route show table 222").stdout
    command(lab, "repair", "dom1")
    command(lab, "check")
    assert "192.0.2.11 dev tap0" not in host.run("ip -4 route show table 222").stdout
    assert "did you mean dom1?" in command(lab, "check", "dom2", status=2)
    host.virsh("destroy", "dom1")
    lab.assert_clean()
    command(lab, "check", "dom1", status=2)


def test_unknown_domain(lab):
    for words in (("start", "dom9"), ("stop", "dom9"), ("plan", "dom9")):
        done = lab.host.cli(*words)
        lines = done.stderr.strip().splitlines()
        assert done.returncode in (1, 2) and len(lines) == 1 and "dom9" in lines[0], done
