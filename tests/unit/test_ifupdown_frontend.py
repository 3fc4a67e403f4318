"""The ifupdown front end: a stanza, as ifup puts it into the environment, becomes the network that TOML would declare."""

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from pathlib import Path

import pytest

from vmnet_hooks import hook
from vmnet_hooks.errors import ConfigError, InputError
from vmnet_hooks.frontends import hooks, ifupdown
from vmnet_hooks.hook import events
from vmnet_hooks.model.guest import Action
from vmnet_hooks.records import store

HOST4 = {"IP_ROUTING_TABLE": "222", "IP_ROUTES": "192.0.2.0/24", "IP_GATEWAY": "192.0.2.1", "ARP_IP": "192.0.2.254"}
HOST6 = {"IP_ROUTING_TABLE": "222", "IP_ROUTES": "2001:db8::/64", "IP_GATEWAY": "2001:db8::1"}
ROUTER4 = {"IP_ROUTING_TABLE": "222", "IP_ROUTES": "192.0.2.0/24", "ADDRESS": "192.0.2.1", "NETMASK": "255.255.255.0"}
ROUTER6 = {"IP_ROUTING_TABLE": "222", "IP_ROUTES": "2001:db8::/64", "ADDRESS": "2001:db8::1", "NETMASK": "64"}


def environ(options, family="inet", **more):
    head = {"IFACE": "eth1", "LOGICAL": "eth1", "ADDRFAM": family, "METHOD": "manual", "MODE": "start", "PHASE": "post-up"}
    return {**head, **{f"IF_{key}": value for key, value in options.items()}, **more}


def up(options, family="inet", **more):
    event = ifupdown.event(environ(options, family, **more))
    assert event is not None and event.action is Action.UP
    return event.network


def refused(options, family="inet", **more):
    with pytest.raises(InputError) as caught:
        ifupdown.event(environ(options, family, **more))
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_host():
    network = up(HOST4 | {"IP_FORWARDING": "1", "IP_PROXY_ARP": "1"})
    assert (network.name, network.mode.name) == ("eth1-inet", "routed")
    assert (network["uplink"], network["table"], network["role"], network["ipv6"]) == ("eth1", 222, "host", None)
    assert network["ipv4"] == {
        "subnet": IPv4Network("192.0.2.0/24"),
        "gateway": IPv4Address("192.0.2.1"),
        "arp_source": IPv4Address("192.0.2.254"),
    }
    network = up(HOST6 | {"IP_PROXY_NDP": "1"}, "inet6")
    assert network["ipv4"] is None and network["role"] == "host"
    assert network["ipv6"] == {"subnet": IPv6Network("2001:db8::/64"), "gateway": IPv6Address("2001:db8::1")}


@pytest.mark.parametrize("options, family, proxy", [(ROUTER4, "inet", "IP_PROXY_ARP"), (ROUTER6, "inet6", "IP_PROXY_NDP")])
def test_router(options, family, proxy):
    assert up(options, family)["role"] == "router"
    assert up(options | {"IP_GATEWAY": options["ADDRESS"]}, family)["role"] == "router"
    assert up(options | {proxy: "0"}, family)["role"] == "router"
    assert up(options | {proxy: "1"}, family)["role"] == "router+host"


def test_an_address_that_is_not_the_gateway_makes_no_router():
    network = up(HOST4 | {"ADDRESS": "192.0.2.7", "NETMASK": "255.255.255.0"})
    assert network["role"] == "host" and str(network["ipv4"]["gateway"]) == "192.0.2.1"


def test_stop_goes_by_the_record():
    event = ifupdown.event(environ({"IP_ROUTING_TABLE": "no such", "IP_ROUTES": "rubbish"}, "inet6", MODE="stop"))
    assert (event.action, event.owner, event.network) == (Action.DOWN, "ifupdown:eth1/inet6", None)


def test_a_stanza_that_was_ours():
    event = ifupdown.event(environ({"ADDRESS": "192.0.2.1"}))
    assert (event.action, event.owner) == (Action.DOWN, "ifupdown:eth1/inet")


@pytest.mark.parametrize("families", ["", "inet,inet6", "inet6,inet", "inet,inet"])
@pytest.mark.parametrize("options", [HOST4, HOST6])
def test_ifupdown2(options, families, tmp_path, monkeypatch):
    """Its ADDRFAM has the families of all stanzas of an interface. What is set up is found again by the same value."""
    network = up(options, families)
    assert (network["ipv4"] is None, network["ipv6"] is None) == (options is HOST6, options is HOST4)
    came, went = (ifupdown.event(environ(options, families, MODE=mode)) for mode in ("start", "stop"))
    assert went.action is Action.DOWN and went.owner == came.owner
    monkeypatch.setattr(hook, "RUN", str(tmp_path))
    monkeypatch.setattr(store, "DIRECTORY", str(tmp_path))
    Path(events.mark_of(came)).touch()
    assert hook.has_mark(hooks()["ifupdown/vmnet"], {b"IFACE": b"eth1", b"ADDRFAM": families.encode()})


@pytest.mark.parametrize("family", ["meta", "ipx", "can", "inet,can", "../inet"])
def test_other_families_are_none_of_ours(family):
    assert ifupdown.event(environ(HOST4, family)) is None


@pytest.mark.parametrize(
    "options, family, option, why",
    [
        (HOST4 | {"IP_FORWARDING": "0"}, "inet", "ip-forwarding", "forwards"),
        (HOST4 | {"IP_FORWARDING": "yes"}, "inet", "ip-forwarding", "neither 0 nor 1"),
        (HOST4 | {"IP_PROXY_ARP": "0"}, "inet", "ip-proxy-arp", "write 1"),
        (HOST6 | {"IP_PROXY_NDP": "0"}, "inet6", "ip-proxy-ndp", "write 1"),
        (HOST4 | {"ARP_IP": ""}, "inet", "arp-ip", "missing"),
        (HOST4 | {"ARP_IP": "192.0.2.0.254"}, "inet", "arp-ip", "not an IP address"),
        (HOST4 | {"ARP_IP": "192.0.2.1"}, "inet", "arp-ip", "is the gateway"),
        (HOST4 | {"ARP_IP": "198.51.100.1"}, "inet", "arp-ip", "not in subnet"),
        (HOST4 | {"IP_ROUTES": ""}, "inet", "ip-routes", "missing"),
        (HOST4 | {"IP_ROUTES": "192.0.2.0/24 198.51.100.0/24"}, "inet", "ip-routes", "more than one"),
        (HOST4 | {"IP_ROUTES": "192.0.2.1/24"}, "inet", "ip-routes", "host bits set); write 192.0.2.0/24"),
        (HOST4 | {"IP_ROUTES": "2001:db8::/64"}, "inet", "ip-routes", "not an IPv4 subnet"),
        (HOST4 | {"IP_ROUTES": "0.0.0.0/0"}, "inet", "ip-routes", "every address"),
        (HOST4 | {"IP_GATEWAY": ""}, "inet", "ip-gateway", "missing"),
        (HOST4 | {"IP_GATEWAY": "2001:db8::1"}, "inet", "ip-gateway", "not an IPv4 address"),
        (HOST4 | {"IP_GATEWAY": "198.51.100.1"}, "inet", "ip-gateway", "not in subnet"),
        (HOST6 | {"IP_GATEWAY": "2001:db8::1%eth1"}, "inet6", "ip-gateway", "zone"),
        (ROUTER4 | {"NETMASK": "255.255.255.128"}, "inet", "address", "192.0.2.1/24"),
        (HOST4 | {"IP_ROUTING_TABLE": "main"}, "inet", "ip-routing-table", "kernel's own"),
        (HOST4 | {"IP_ROUTING_TABLE": "0"}, "inet", "ip-routing-table", "whole number"),
        (HOST4 | {"IP_ROUTING_TABLE": "99999999999"}, "inet", "ip-routing-table", "no routing table's name"),
        (HOST4 | {"IP_ROUTING_TABLE": "nosuch"}, "inet", "ip-routing-table", "rt_tables.d"),
    ],
)
def test_refused(options, family, option, why):
    message = refused(options, family)
    assert message.startswith(f"/etc/network/interfaces: iface eth1 {family}: {option}: ") and why in message, message


def test_the_logical_stanza_is_named():
    assert "iface office inet: ip-routes" in refused(HOST4 | {"IP_ROUTES": ""}, LOGICAL="office")


@pytest.mark.parametrize("ifname", ["eth1:0", "", "x" * 16, "a/b", "eth\n1"])
def test_interfaces_that_cannot_be(ifname):
    assert refused(HOST4, IFACE=ifname, LOGICAL="x").startswith("/etc/network/interfaces: iface x inet: ")


def test_called_by_nobody():
    assert "ifup" in refused({}, MODE="")


def test_the_filter_sees_the_mark_of_the_event(tmp_path, monkeypatch):
    """The filter looks for it without an import of the records."""
    monkeypatch.setattr(hook, "RUN", str(tmp_path))
    monkeypatch.setattr(store, "DIRECTORY", str(tmp_path))
    row, environ = hooks()["ifupdown/vmnet"], {b"IFACE": b"eth1", b"ADDRFAM": b"inet6"}
    assert not hook.has_mark(row, environ)
    stopped = ifupdown.event({"IFACE": "eth1", "ADDRFAM": "inet6", "MODE": "stop"})
    (tmp_path / Path(events.mark_of(stopped)).name).touch()
    assert hook.has_mark(row, environ) and not hook.has_mark(row, environ | {b"ADDRFAM": b"inet"})
    assert not hook.has_mark(row, {b"IFACE": b"eth\0", b"ADDRFAM": b"inet"})


def test_hostile_values():
    message = refused(HOST4 | {"IP_GATEWAY": "1" * 100_000 + "\n\x1b[2J"})
    assert len(message) < 400 and "\x1b" not in message


def test_tables_by_name(fs):
    vendor, admin = map(Path, ifupdown.RT_TABLES)
    for folder in (vendor, admin):
        (folder / "rt_tables.d").mkdir(parents=True)
    (vendor / "rt_tables").write_text("254\tmain\n0x10 vendor\n300 both\n")
    (admin / "rt_tables").write_text("# 7 comment\n \t301 both # the admin's\nrubbish\n99 low\n")
    (admin / "rt_tables.d" / "a.conf").write_bytes(b"222 snf_public\n\xff\xfe 1\n0x1F hex\n")
    (admin / "rt_tables.d" / "b.txt").write_text("5 ignored\n")
    for name, number in (("snf_public", 222), ("both", 301), ("vendor", 16), ("hex", 31), ("low", 99)):
        assert up(HOST4 | {"IP_ROUTING_TABLE": name})["table"] == number
    for name in ("comment", "ignored", "rubbish"):
        assert "ip-routing-table" in refused(HOST4 | {"IP_ROUTING_TABLE": name})


def test_errors_are_the_stanzas(monkeypatch):
    """What the mode itself finds wrong is said in the stanza's words too."""
    with pytest.raises(ConfigError, match=r"^/etc/network/interfaces: iface eth1 inet: eth1 does not exist"):
        raise up(HOST4).error("uplink", "eth1 does not exist")
