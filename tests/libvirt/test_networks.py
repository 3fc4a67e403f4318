"""libvirt's own networks, run by libvirt and then, from what `import --libvirt` makes of them, by us: each guest gets the same
addresses and names, and reaches the same.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import ip_interface, ip_network

import pytest
from guest import Nic, domain_xml
from lab import tier
from lab.nodes import ran
from networks import DEFINED, GUESTS, NUMBERS, Networks, Seen

pytestmark = pytest.mark.libvirt

TOOLS = {"dnsmasq": "dnsmasq-base", "iptables": "iptables", "dig": "bind9-dnsutils", "dhcpcd": "dhcpcd-base"}
# What other networks and the world reach in libvirt's networks alone.
CLOSED = {
    # libvirt routes the IPv6 of a NAT network that it does not translate, in both directions.
    *((source, to, 6) for source in ("world", "open", "six") for to in ("lab", "web1")),
    # libvirt has no rules for an open network: other networks reach it as they do the world.
    *((source, "open", version) for source in ("lab", "web1", "six") for version in (4, 6)),
}


@dataclass
class Both:
    """The lab, after libvirt's networks have been replaced by ours, and what was seen before and after."""

    lab: Networks
    theirs: Seen
    ours: Seen
    config: str
    refused: str
    """What `up` said while libvirt's networks were there."""


@pytest.fixture(scope="module")
def both(machine: None) -> Iterator[Both]:
    tier.refuse("libvirt", tier.lacks(TOOLS, "check-libvirt"))
    with Networks() as lab:
        host = lab.host
        lab.define()
        for name in NUMBERS:
            host.virsh("net-start", name)
        lab.plug()
        theirs = lab.look()
        config = ran(["import"], host.cli("import", "--libvirt")).stdout
        host.config(config)
        refused = host.cli("up")
        for name in NUMBERS:
            host.virsh("net-destroy", name)
        assert ran(["import"], host.cli("import", "--libvirt")).stdout == config
        for command in ("validate", "up"):
            ran([command], host.cli(command))
        lab.start()
        assert host.cli("check").stdout == "ok\n"
        yield Both(lab, theirs, lab.look(), config, refused.stderr)


def test_all_is_carried_over(both):
    comments = [line for line in both.config.splitlines() if line.startswith("#")]
    # The file's header, the interface that libvirt need not name, and what is closed here.
    assert len([line for line in comments if "out is that of the default route now (ext0)" in line]) == 2
    assert len([line for line in comments if "lets IPv6 in" in line or "other networks reach" in line]) == 2
    assert len(comments) == 8 and "not carried over" not in both.config, both.config


def test_libvirts_network_has_to_go_first(both):
    lines = both.refused.splitlines()
    assert len(lines) == len(NUMBERS), both.refused
    for name, number in NUMBERS.items():
        line = next(line for line in lines if f" networks.{name}.bridge: virbr{number} exists already" in line)
        assert "virsh net-destroy" in line


@pytest.mark.parametrize("name", GUESTS)
def test_leases(both, name):
    number = NUMBERS[GUESTS[name][0]]
    theirs, ours = both.theirs.leases[name], both.ours.leases[name]
    for found in (theirs, ours):
        four, six = ip_interface(found[4].address), ip_interface(found[6].address)
        assert 100 <= int(four.ip) & 255 <= 120 or name == "web1" and str(four.ip) == "10.9.0.10"
        assert str(four.network) == f"10.{number}.0.0/24" and six.ip in ip_network(f"fd00:{number}::/64")
        assert (found[6].gateway == "") == (name == "inner")
    for key in ("gateway", "dns", "domain", "hostname", "server", "lifetime", "routes"):
        assert getattr(theirs[4], key) == getattr(ours[4], key), key
    assert theirs[6].routes == ours[6].routes and theirs[6].address.partition("/")[2] == ours[6].address.partition("/")[2]
    assert ours[6].dns == (f"fd00:{number}::1",)


def test_names(both):
    """They are the same, but that libvirt's server knows names without the domain too."""
    assert both.theirs.names - both.ours.names == {("www.", "A", "10.9.0.50"), ("web1.", "A", "10.9.0.10")}
    assert both.ours.names <= both.theirs.names
    found = {(name, kind): data for name, kind, *data in both.ours.names}
    assert found["10.0.9.10.in-addr.arpa.", "PTR"] == ["web1.lab.example."]
    assert found["_sip._udp.lab.example.", "SRV"] == ["10", "5", "5060", "pbx.lab.example."]
    assert found["note.lab.example.", "TXT"] == ['"a', 'text"'] and found["outside.example.", "A"] == ["203.0.113.2"]
    assert len(found) == 9


def test_reach(both):
    """What libvirt leaves open between networks, and from outside into NAT, is closed; nothing else differs."""
    assert both.theirs.reached - both.ours.reached == CLOSED and both.ours.reached <= both.theirs.reached
    for way in (("lab", "world"), ("six", "world"), ("out", "world"), ("open", "world"), ("world", "out"), ("world", "open")):
        assert {(*way, 4), (*way, 6)} <= both.ours.reached
    assert ("lab", "web1", 4) in both.ours.reached and ("inner", "host", 6) in both.ours.reached


BECOMES = "<network><name>{name}</name><forward mode='bridge'/><bridge name='virbr{number}'/></network>"


def test_a_domain_that_names_the_network(both):
    """What the header of the import says: libvirt's network uses the bridge, and a domain that names it joins ours."""
    host, mac = both.lab.host, "52:54:00:00:09:30"
    header = " ".join(line[2:] for line in both.config.splitlines()[:4])
    told = header[header.index("<network>") : header.index("</network>") + len("</network>")]
    assert told.replace("NAME", "{name}").replace("BRIDGE", "virbr{number}") == BECOMES
    host.virsh("net-undefine", "lab")
    try:
        host.virsh("net-define", "/dev/stdin", input=BECOMES.format(name="lab", number=9))
        host.virsh("net-start", "lab")
        host.create(domain_xml("dom1", [Nic(mac, "network", source="lab")]), "--paused")
        tap = host.virsh("domiflist", "dom1").stdout.split()[0]
        assert f" {tap}: " in host.run("ip -o link show master virbr9").stdout
        shown = next(line for line in host.cli("status").stdout.splitlines() if mac in line)
        assert shown.split() == ["dom1", tap, "lab", mac, "-", "active", "ok"]
        assert host.cli("check").stdout == "ok\n"
        # Its filter is there: it sends from its own MAC.
        assert tap in host.run("nft list table bridge vmnet").stdout
        host.virsh("destroy", "dom1")
        host.wait_gone("dom1")
        assert "dom1" not in host.cli("status").stdout and host.cli("check").stdout == "ok\n"
    finally:
        host.virsh("destroy", "dom1", check=False)
        host.virsh("net-destroy", "lab", check=False)
        host.virsh("net-undefine", "lab", check=False)
        host.virsh("net-define", "/dev/stdin", input=DEFINED["lab"])


def test_reach_opens_what_libvirt_left_open(both):
    """What the import tells of the open network, for one that is translated."""
    host, remedy = both.lab.host, 'reach = ["open"]'
    assert f"those with {remedy} do, both ways" in both.config
    edited = both.config.replace("[networks.lab]\n", f"[networks.lab]\n{remedy}\n")
    host.config(edited)
    for command in ("up", "repair"):
        ran([command], host.cli(command))
    opened = both.lab.reached() - both.ours.reached
    ways = [way for name in ("lab", "web1") for way in ((name, "open"), ("open", name))]
    assert opened == {(*way, version) for way in ways for version in (4, 6)}
    assert host.cli("check").stdout == "ok\n"
