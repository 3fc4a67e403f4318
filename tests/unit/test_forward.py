"""Forwarded ports: what is declared, what is refused, and that they come and go with their guest."""

import re
from dataclasses import replace

import pytest
from scenario import Host, difference, guest

from vmnet_hooks.declared import configuration
from vmnet_hooks.engine import guests
from vmnet_hooks.errors import ConfigError
from vmnet_hooks.links import forward
from vmnet_hooks.model import ruleset
from vmnet_hooks.model.facts import Listener
from vmnet_hooks.model.objects import Address, LinkAttribute, NftElement, Rule
from vmnet_hooks.model.ruleset import FORWARD

BASE = """
[networks.public]
mode = "routed"
uplink = "eth1"
table = 222
ipv4 = { subnet = "192.0.2.0/24", gateway = "192.0.2.1", arp_source = "192.0.2.254" }
ipv6 = { subnet = "2001:db8::/64", gateway = "2001:db8::1" }
[bridges.br1]
addresses = ["10.7.0.1/24"]
forwarding = true
[networks.lan]
mode = "bridged"
bridge = "br1"
[bridges.br2]
[networks.closed]
mode = "bridged"
bridge = "br2"
"""
WEB = '[forward."198.51.100.2:8080/tcp"]\nto = "d1:80"\n'
ONE = guest(1, ("public", ["192.0.2.10", "2001:db8::10"]))
TWO = guest(2, ("lan", ["10.7.0.10"]))


def host_with(tmp_path, more: str = WEB) -> Host:
    host = Host(tmp_path, toml=BASE + more)
    host.kernel.put(Address("eth0", "198.51.100.2/24"), Address("eth0", "2001:db8:ff::2/64"))
    for domain in (ONE, TWO):
        host.add_taps(domain)
    host.up()
    return host


def forwarded(host: Host) -> dict[str, str]:
    """The elements of the maps in the kernel: their values by set and key."""
    found = [
        r for r in host.kernel.world.values() if isinstance(r, NftElement) and r.set.startswith(("forward4", "forward6", "range"))
    ]
    return {f"{r.set} {' . '.join(r.parts)}": r.value for r in found}


ENDPOINTS = {
    "198.51.100.2:8080/tcp": ("198.51.100.2", "tcp", 8080, 8080),
    "198.51.100.2:9000-9010/udp": ("198.51.100.2", "udp", 9000, 9010),
    "198.51.100.2:1-65535/sctp": ("198.51.100.2", "sctp", 1, 65535),
    "[2001:DB8::2]:80/tcp": ("2001:db8::2", "tcp", 80, 80),
}


@pytest.mark.parametrize("name", ENDPOINTS)
def test_what_is_forwarded(name):
    found = forward.endpoint(name)
    assert (str(found.address), *found[1:]) == ENDPOINTS[name]


@pytest.mark.parametrize(
    "name, told",
    {
        "198.51.100.2:8080": "is no port to forward",
        "198.51.100.2/tcp": "is no port to forward",
        "198.51.100.2:http/tcp": "is no port to forward",
        "198.51.100.2:80/icmp": "is no port to forward",
        "198.51.100.2:80/TCP": "is no port to forward",
        "198.51.100.2:80/tcp ": "is no port to forward",
        "2001:db8::2:80/tcp": "is no port to forward",
        "198.51.100.2:0/tcp": "0 is no port",
        "198.51.100.2:65536/tcp": "65536 is no port",
        "198.51.100.2:20-10/tcp": "ends before it begins",
        "198.51.100:80/tcp": "is not an IP address",
        "[198.51.100.2]:80/tcp": "is not an IPv6 address",
        "0.0.0.0:80/tcp": "no address that others reach",
        "127.0.0.1:80/tcp": "no address that others reach",
        "[fe80::1]:80/tcp": "no address that others reach",
        "224.0.0.1:80/udp": "no address that others reach",
        ":80/udp": "is not an IP address",
    }.items(),
)
def test_names_that_are_refused(name, told):
    with pytest.raises(ValueError, match=re.escape(told)):
        forward.endpoint(name)


REFUSED = {
    "no guest": (WEB.replace("d1:80", ":80"), "names no guest"),
    "no to": (WEB.partition("to")[0], "to: missing"),
    "an address for a guest": (WEB.replace("d1:80", "10.7.0.10:80"), "10.7.0.10 is an address; name the guest that has it"),
    "port 0": (WEB.replace("d1:80", "d1:0"), "0 is no port"),
    "no address": (WEB.replace("d1:80", "d1[x]:80"), "is not an IP address"),
    "family": (WEB.replace("d1:80", "d1[2001:db8::10]:80"), "is not of the family of 198.51.100.2"),
    "a range and a port": (WEB.replace("8080", "8080-8090"), "a range keeps its ports"),
    "unknown key": (WEB + "port = 80\n", "unknown key 'port'"),
    "in": (WEB + 'in = "eth0"\n', "must be a list of interfaces"),
    "twice": (WEB + WEB.replace("8080", "08080"), "is forwarded by forward.198.51.100.2:8080/tcp already"),
    "in a range": (WEB + '[forward."198.51.100.2:8000-8080/tcp"]\nto = "d2"\n', "one of the ports 8000-8080 is forwarded by"),
    "two ranges": (
        '[forward."198.51.100.2:1-10/udp"]\nto = "d1"\n[forward."198.51.100.2:10-20/udp"]\nto = "d1"\n',
        "one of the ports 10-20 is forwarded by",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_declarations_that_are_refused(case, tmp_path):
    text, told = REFUSED[case]
    (tmp_path / "vmnet.toml").write_text(BASE + text)
    with pytest.raises(ConfigError, match=re.escape(told)):
        configuration.load(str(tmp_path))
    # The rest serves.
    found = configuration.survey(str(tmp_path))
    assert set(found.networks) == {"public", "lan", "closed"} and len(found.errors) == 1


def test_others_beside_it(tmp_path):
    more = WEB + WEB.replace("/tcp", "/udp") + WEB.replace("8080", "8081-8090").replace("d1:80", "d1") + WEB.replace(".2:", ".3:")
    (tmp_path / "vmnet.toml").write_text(BASE + more)
    assert len(configuration.load(str(tmp_path)).forwards) == 4


def test_names_of_guests(tmp_path):
    for text, found in {
        "web1:80": ("web1", None, 80),
        "web1": ("web1", None, None),
        "web 1[10.0.0.1]": ("web 1", "10.0.0.1", None),
        "a:b:80": ("a:b", None, 80),
        "web1[2001:db8::1]:443": ("web1", "2001:db8::1", 443),
    }.items():
        (tmp_path / "vmnet.toml").write_text(
            f'[forward."{"[2001:db8::2]" if "db8" in text else "198.51.100.2"}:1/tcp"]\nto = "{text}"\n'
        )
        (part,) = configuration.load(str(tmp_path)).forwards.values()
        to = part["to"]
        assert (to.guest, str(to.address) if to.address else None, to.port) == found and str(to) == text


EVERY = (
    WEB
    + """
[forward."[2001:db8:ff::2]:8080/tcp"]
to = "d1:80"
[forward."198.51.100.2:9000-9010/udp"]
to = "d1"
[forward."198.51.100.2:8081/sctp"]
to = "d2"
"""
)


def test_with_the_guest(tmp_path):
    host = host_with(tmp_path, EVERY)
    before = host.everything()
    assert host.check() == [] and FORWARD.key not in host.kernel.world
    host.plug(ONE)
    assert forwarded(host) == {
        "forward4 198.51.100.2 . tcp . 8080": "192.0.2.10 . 80",
        "forward6 2001:db8:ff::2 . tcp . 8080": "2001:db8::10 . 80",
        "ranges4 198.51.100.2 . udp . 9000-9010": "192.0.2.10",
    }
    assert host.check() == [] and host.kernel.world[FORWARD.key] == FORWARD
    assert Rule.key_of(22000, "from", "192.0.2.0/24", 254) + " fwmark 0x8000000/0x8000000" in host.kernel.world
    host.plug(TWO)
    assert forwarded(host)["forward4 198.51.100.2 . sctp . 8081"] == "10.7.0.10 . 8081" and host.check() == []
    host.unplug(ONE)
    assert set(forwarded(host)) == {"forward4 198.51.100.2 . sctp . 8081"} and host.check() == []
    host.unplug(TWO)
    assert host.everything() == before, difference(host.everything()[0], before[0])


def test_without_any(tmp_path):
    """A host that forwards no port has no table that tracks connections."""
    host = host_with(tmp_path, "")
    host.plug(ONE)
    assert not [key for key in host.kernel.world if "forward4" in key or FORWARD.key == key]
    for table in ruleset.TABLES:
        assert table in (ruleset.NAT, ruleset.FORWARD) or not re.search(r"(?<!in)\bct (state|status|direction)", table.body), (
            table.key
        )


def test_an_edit_is_for_repair(tmp_path):
    host = host_with(tmp_path, "")
    host.plug(ONE)
    plain = host.kernel.snapshot()
    host.configure(BASE + WEB)
    assert {drift.kind for drift in host.check()} == {"edited"} and not forwarded(host)
    host.repair()
    assert forwarded(host) == {"forward4 198.51.100.2 . tcp . 8080": "192.0.2.10 . 80"} and host.check() == []
    host.configure(BASE + WEB.replace("d1:80", "d1:81"))
    assert [drift.kind for drift in host.check()] == ["edited"]
    host.repair()
    assert forwarded(host) == {"forward4 198.51.100.2 . tcp . 8080": "192.0.2.10 . 81"} and host.check() == []
    host.configure(BASE)
    assert {drift.kind for drift in host.check()} == {"unwanted"}
    host.repair()
    assert host.kernel.snapshot() == plain and host.check() == []


def test_a_guest_that_comes_in(tmp_path):
    """What attracts traffic waits until it is here."""
    host = host_with(tmp_path)
    host.call(guests.plug, ONE, "libvirt", incoming=True)
    assert not forwarded(host) and host.check() == []
    host.plug(ONE)
    assert forwarded(host)


@pytest.mark.parametrize("address", ["", "198.51.100.2"])
def test_a_listener_of_the_hosts(address, tmp_path):
    host = host_with(tmp_path)
    before = host.everything()
    host.kernel.listening = {Listener("tcp", 4, address, 8080)}
    with pytest.raises(ConfigError, match="the host itself listens there"):
        host.plug(ONE)
    assert host.everything() == before
    for other in (Listener("udp", 4, "", 8080), Listener("tcp", 6, "", 8080), Listener("tcp", 4, "198.51.100.3", 8080)):
        host.kernel.listening = {other, Listener("tcp", 4, "", 8081)}
        host.plug(ONE)
        host.unplug(ONE)
    host.kernel.listening = set()
    host.plug(ONE)
    host.kernel.listening = {Listener("tcp", 4, address, 8080)}
    # What was set up stays.
    assert [drift.kind for drift in host.check()] == ["refused"]
    host.repair()
    assert forwarded(host)


def test_what_hinders(tmp_path):
    more = WEB.replace("198.51.100.2", "198.51.100.3") + '[forward."198.51.100.2:81/tcp"]\nto = "d1:80"\nin = ["wg0"]\n'
    more += '[forward."[2001:db8:ff::2]:80/tcp"]\nto = "d2"\n[forward."198.51.100.2:82/tcp"]\nto = "d2[10.7.0.11]"\n'
    host = host_with(tmp_path, more)
    assert host.check() == []
    host.plug(ONE)
    host.plug(TWO)
    assert {(drift.kind, drift.what.partition(": ")[2]) for drift in host.check()} == {
        ("hindered", "198.51.100.3 is no address of the host"),
        ("hindered", "wg0 does not exist"),
        ("hindered", "d2 has no IPv6 address declared, and ports are not forwarded to leased ones"),
        ("hindered", "d2 has not the address 10.7.0.11 declared, and ports are not forwarded to leased ones"),
    }


def test_a_bridge_that_the_host_does_not_route_for(tmp_path):
    host = host_with(tmp_path)
    guest_of_closed = guest(1, ("closed", ["10.8.0.10"]))
    host.plug(guest_of_closed)
    (drift,) = host.check()
    assert drift.kind == "hindered" and "does not route for bridges.br2" in drift.what and "forwarding = true" in drift.remedy
    assert not forwarded(host)


def test_with_br_netfilter(tmp_path):
    host = host_with(tmp_path, WEB.replace("d1", "d2"))
    host.kernel.bridged = True
    host.plug(TWO)
    assert LinkAttribute("t2.0", "hairpin", "on") in host.kernel.world.values() and host.check() == []
    host.kernel.bridged = False
    assert [drift.kind for drift in host.check()] == ["unwanted"]
    host.repair()
    assert LinkAttribute("t2.0", "hairpin", "off") in host.kernel.world.values() and host.check() == []


def test_which_address(tmp_path):
    """The first of the family, of the NICs in the order of their links, or the one that is named."""
    host = host_with(tmp_path)
    domain = guest(1, ("lan", ["10.7.0.20"]), ("public", ["192.0.2.30", "192.0.2.31"]))
    names = {"t1.0": "vnet10", "t1.1": "vnet9"}
    domain = replace(domain, vifs=tuple(replace(vif, ifname=names[vif.ifname]) for vif in domain.vifs))
    host.add_taps(domain)
    host.plug(domain)
    assert list(forwarded(host).values()) == ["192.0.2.30 . 80"] and host.check() == []
    for to, found in (("d1[192.0.2.31]:80", "192.0.2.31 . 80"), ("d1[10.7.0.20]:81", "10.7.0.20 . 81")):
        host.configure(BASE + WEB.replace("d1:80", to))
        assert host.check()
        host.repair()
        assert list(forwarded(host).values()) == [found] and host.check() == []
    host.unplug(domain)
    assert not forwarded(host)


def test_as_text():
    for element, text in {
        NftElement("inet", "forward4", ("198.51.100.2", "tcp", "80"), "10.0.0.1 . 81"): "198.51.100.2:80/tcp -> 10.0.0.1:81",
        NftElement("inet", "ranges4", ("198.51.100.2", "udp", "1-9"), "10.0.0.1"): "198.51.100.2:1-9/udp -> 10.0.0.1",
        NftElement("inet", "forward6", ("2001:db8::2", "tcp", "80"), "fd00::1 . 81"): "[2001:db8::2]:80/tcp -> [fd00::1]:81",
        NftElement("inet", "ranges6", ("2001:db8::2", "tcp", "1-9"), "fd00::1"): "[2001:db8::2]:1-9/tcp -> [fd00::1]",
    }.items():
        assert forward.shown(element) == text
