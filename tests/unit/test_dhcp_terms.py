"""What guests are told by DHCP and router advertisements: what a configuration may say, and what follows from it."""

import ipaddress
import re
from ipaddress import ip_address as ip
from ipaddress import ip_network as net

import pytest

from vmnet_hooks.declared import compose
from vmnet_hooks.errors import ConfigError
from vmnet_hooks.model.facts import Host, Link
from vmnet_hooks.model.guest import Claim, Domain, Vif
from vmnet_hooks.model.mode import Around
from vmnet_hooks.services import dhcp

MAC, ROUTER = "52:54:00:aa:00:10", ip("fe80::fcff:ffff:feff:ffff")
EUI = ip("2001:db8::5054:ff:feaa:10")
ROUTED = """
[networks.lan]
mode = "routed"
uplink = "eth1"
table = 222
ipv4 = { subnet = "192.0.2.0/24", gateway = "192.0.2.1", arp_source = "192.0.2.254", prefixes = ["203.0.113.0/24"] }
ipv6 = { subnet = "2001:db8::/64", gateway = "2001:db8::1" }
"""
HOSTROUTE = '[networks.lan]\nmode = "hostroute"\nnetdev = "eth9"\n'
BRIDGED = '[networks.lan]\nmode = "bridged"\nbridge = "br0"\n'
BRIDGE = '[bridges.br0]\naddresses = ["10.7.0.1/24", "fd07::1/64"]\n'
DHCP = "[networks.lan.dhcp]\n"
OWN = {"eth9": ("192.0.2.2/24", "2001:db8:9::2/64"), "br0": ("10.7.0.1/24", "fd07::1/64", "fe80::7/64")}


def told(config, *addresses, own=OWN, mtu=1500, domain="web_1"):
    claim = Claim("lan", MAC, addresses=addresses, source="m")
    [(vif, network)] = compose.bind(Domain(domain, "u", (Vif(MAC, "tap0"),), (claim,)), config, ())

    def addresses_of(link):
        return [ipaddress.ip_interface(text) for text in own.get(link, ())]

    def router_on(link):
        if link == "tap0":
            return ROUTER, b"tap"
        found = next((found.ip for found in addresses_of(link) if found.ip.is_link_local), None)
        return (found, b"bridge") if found else None

    return dhcp.terms(vif, network, Around(config.links, config.nats), addresses_of, mtu, router_on)


def test_nothing_without_the_table_or_without_an_address(load):
    assert told(load(ROUTED), "192.0.2.10") is None
    assert told(load(BRIDGED + "[networks.lan.dhcp]\nsubnets = ['10.7.0.0/24']\n")) is None
    assert told(load(BRIDGED + "[networks.lan.dhcp]\nsubnets = ['10.7.0.0/24']\n"), "10.7.0.16/28") is None


def test_routed(load):
    found = told(load(ROUTED + DHCP), "192.0.2.10", "2001:db8::10", "2001:db8::20")
    assert (found.address4, found.prefix4, found.gateway4) == (ip("192.0.2.10"), 24, ip("192.0.2.1"))
    assert found.server4 == ip("192.0.2.1") and found.mac == bytes.fromhex("525400aa0010")
    assert (found.addresses6, found.router6) == ((ip("2001:db8::10"), ip("2001:db8::20")), ROUTER)
    # The tap is the guest's alone.
    assert found.prefixes6 == (net("2001:db8::/64"),) and not found.on_link6 and not found.slaac
    assert (found.hostname, found.lease, found.mtu) == ("web-1", 86400, 1500)


def test_routed_outside_the_subnet(load):
    """A failover address: its gateway is elsewhere."""
    found = told(load(ROUTED + DHCP), "203.0.113.7")
    assert (found.address4, found.prefix4, found.gateway4) == (ip("203.0.113.7"), 32, ip("192.0.2.1"))
    # Without an IPv6 address of its own, it has that of its MAC.
    assert found.addresses6 == (EUI,)


def test_all_options(load):
    found = told(
        load(
            ROUTED
            + DHCP
            + """
dns = ["192.0.2.53", "2001:db8::53"]
ntp = ["192.0.2.123", "2001:db8::123"]
domain = "lan.example."
search = ["lan.example", "example"]
lease = 600
slaac = true
routes = [{ to = "10.0.0.0/8", via = "192.0.2.7" }, { to = "2001:db8:7::/48" }]
"""
        ),
        "192.0.2.10",
        mtu=1400,
    )
    assert (found.dns4, found.dns6) == ((ip("192.0.2.53"),), (ip("2001:db8::53"),))
    assert (found.ntp4, found.ntp6) == ((ip("192.0.2.123"),), (ip("2001:db8::123"),))
    assert (found.domain, found.search, found.lease, found.mtu) == ("lan.example", ("lan.example", "example"), 600, 1400)
    assert found.routes4 == ((net("10.0.0.0/8"), ip("192.0.2.7")),) and found.routes6 == (net("2001:db8:7::/48"),)
    assert found.slaac


def test_hostroute(load):
    """The gateway is an address of the host's on its link to the outside; where the guest is not of that subnet, it is alone."""
    found = told(load(HOSTROUTE + DHCP), "192.0.2.10", "2001:db8:9::10")
    assert (found.prefix4, found.gateway4) == (24, ip("192.0.2.2"))
    assert found.router6 == ROUTER and found.prefixes6 == (net("2001:db8:9::/64"),)
    assert told(load(HOSTROUTE + DHCP), "198.51.100.7").prefix4 == 32
    found = told(load(HOSTROUTE + 'address = "192.0.2.77"\n' + DHCP), "192.0.2.10")
    assert (found.prefix4, found.gateway4) == (24, ip("192.0.2.77"))
    found = told(load(HOSTROUTE + 'address = "10.0.0.1"\n' + DHCP), "192.0.2.10")
    assert (found.prefix4, found.gateway4) == (32, ip("10.0.0.1"))
    found = told(load(HOSTROUTE + "nat = true\n" + DHCP), "10.9.0.16")
    assert (found.prefix4, found.gateway4) == (24, ip("10.9.0.143"))


def test_hostroute_without_a_gateway(load):
    """Where the host has no address, there is nothing to tell of IPv4."""
    found = told(load(HOSTROUTE + DHCP), "192.0.2.10", "2001:db8:9::10", own={})
    assert found.address4 is None and found.addresses6


def test_bridged(load):
    """The host is the gateway if it routes for the bridge."""
    found = told(load(BRIDGE + "forwarding = true\n" + BRIDGED + DHCP), "10.7.0.16", "fd07::16")
    assert (found.prefix4, found.gateway4, found.server4) == (24, ip("10.7.0.1"), ip("10.7.0.1"))
    assert (found.router6, found.prefixes6, found.on_link6) == (ip("fe80::7"), (net("fd07::/64"),), True)
    assert told(load(BRIDGE + "forwarding = true\n" + BRIDGED + DHCP + "ra = false\n"), "fd07::16").router6 is None
    found = told(load(BRIDGE + BRIDGED + DHCP), "10.7.0.16", "fd07::16")
    assert (found.prefix4, found.gateway4, found.server4, found.router6) == (24, None, ip("10.7.0.1"), None)
    found = told(load(BRIDGE + BRIDGED + DHCP + 'gateway = "10.7.0.254"\n'), "10.7.0.16")
    assert (found.gateway4, found.server4) == (ip("10.7.0.254"),) * 2


def test_bridged_and_not_declared(load):
    config = load(BRIDGED + DHCP + 'subnets = ["10.8.0.0/16", "10.7.0.0/24"]\n')
    found = told(config, "10.7.0.16", own={})
    assert (found.prefix4, found.gateway4, found.server4) == (24, None, ip("10.7.0.1"))
    assert told(config, "10.8.0.1", own={}).server4 == ip("10.8.0.2")
    config = load(BRIDGED + DHCP + 'subnets = ["10.8.0.0/31", "10.7.0.0/32"]\ngateway = "10.8.0.1"\n')
    found = told(config, "10.8.0.1", own={})
    assert (found.gateway4, found.server4) == (None, ip("10.8.0.0")), "a guest is not its own gateway"
    assert told(config, "10.7.0.0", own={}).server4 == ip("10.8.0.1")
    config = load(BRIDGED + DHCP + 'subnets = ["10.8.0.0/31"]\n')
    assert told(config, "10.8.0.1", own={}).server4 == ip("10.8.0.0")
    assert told(load(BRIDGED + DHCP + 'subnets = ["10.7.0.0/24"]\n'), "10.9.0.1", own={}) is None


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (BRIDGED + DHCP, "networks.lan.dhcp: tells no subnet; give subnets, or declare the bridge with an address in the"),
        (BRIDGE + BRIDGED + DHCP + 'gateway = "10.8.0.1"\n', "networks.lan.dhcp.gateway: 10.8.0.1 is in no subnet of the guests"),
        (ROUTED + DHCP + 'gateway = "192.0.2.9"\n', "networks.lan.dhcp.gateway: is for bridged networks"),
        (ROUTED + DHCP + 'subnets = ["192.0.2.0/24"]\n', "networks.lan.dhcp.subnets: is for bridged networks"),
        (ROUTED + DHCP + "dns = 7\n", "networks.lan.dhcp.dns: 7 must be a list of addresses"),
        (ROUTED + DHCP + 'dns = ["a"]\n', "networks.lan.dhcp.dns: ['a']"),
        (ROUTED + DHCP + 'domain = "a..b"\n', "networks.lan.dhcp.domain: 'a..b' is not a domain name"),
        (ROUTED + DHCP + 'domain = "a b"\n', "networks.lan.dhcp.domain: 'a b' is not a domain name"),
        (ROUTED + DHCP + "lease = 5\n", "networks.lan.dhcp.lease: 5 "),
        (ROUTED + DHCP + 'routes = [{ to = "10.0.0.0/8" }]\n', "networks.lan.dhcp.routes[1]: has no via"),
        (ROUTED + DHCP + 'routes = [{ to = "2001:db8::/32", via = "192.0.2.7" }]\n', "networks.lan.dhcp.routes[1]: has a via"),
        (ROUTED + DHCP + 'dsn = ["192.0.2.53"]\n', "networks.lan.dhcp: unknown key 'dsn'; did you mean 'dns'?"),
        (ROUTED + DHCP + f"dns = {[f'2001:db8::{n}' for n in range(60)]}\n", "networks.lan.dhcp: tells more than fits into one"),
        (ROUTED + DHCP + "ra = false\nslaac = true\n", "networks.lan.dhcp.slaac: is told by router advertisements alone"),
        (ROUTED + "dhcp = true\n", "networks.lan.dhcp: must be a table"),
    ],
)
def test_what_can_not_be_told_is_refused(load, config, message):
    with pytest.raises(ConfigError) as refused:
        load(config)
    assert message in str(refused.value)


@pytest.mark.parametrize(("config", "family"), [(ROUTED, "inet"), (HOSTROUTE, "inet"), (BRIDGE + BRIDGED, "bridge")])
def test_others_do_not_see_what_they_ask(load, config, family):
    there = {
        name: Link(n, 1500, f"02:00:00:00:00:{n:02x}", "bridge" if name == "br0" else "tun")
        for n, name in enumerate(("tap0", "eth1", "eth9", "br0"), 2)
    }
    addresses = ("10.7.0.16", "fd07::16") if family == "bridge" else ("192.0.2.10", "2001:db8::10")
    both = [f'nft {family} served{version} "tap0" . {MAC}' for version in (4, 6)]
    six = [] if family == "bridge" else [f'nft inet routed6 "tap0" . {MAC}']
    for more, found in ((DHCP, [*both, *six]), ("", [])):
        declared = load(config + more)
        claim = Claim("lan", MAC, addresses=addresses, source="m")
        [(vif, network)] = compose.bind(Domain("d", "u", (Vif(MAC, "tap0"),), (claim,)), declared, ())
        host = Host(there, parts=declared.links, networks=declared.networks, addresses={"eth9": ("192.0.2.2/24",)})
        assert [key for key in compose.compose(vif, network, host) if re.search(" (served[46]|routed6) ", key)] == found


def test_host_names():
    for domain, name in (("Web_1", "web-1"), ("a.b", "a-b"), ("--x--", "x"), ("é", ""), ("x" * 80, "x" * 63)):
        assert dhcp.host_name(domain) == name


def test_what_is_not_told_may_be_asked_elsewhere(load):
    """A guest without a known subnet, and one whose router is another machine: their questions are not kept from others."""
    there = {
        name: Link(n, 1500, f"02:00:00:00:00:{n:02x}", "bridge" if name == "br0" else "tun")
        for n, name in enumerate(("tap0", "br0"), 2)
    }
    for config, address, names in (
        (BRIDGED + DHCP + 'subnets = ["10.9.0.0/24"]\n', "10.7.0.16", []),
        (BRIDGED + DHCP + 'subnets = ["10.7.0.0/24"]\n', "10.7.0.16", ["served4"]),
        (BRIDGED + DHCP + 'subnets = ["10.7.0.0/24"]\n', "fd07::16", ["served6"]),
        (BRIDGE + BRIDGED + DHCP, "fd07::16", ["served6"]),
        (BRIDGE + "forwarding = true\n" + BRIDGED + DHCP, "fd07::16", ["served6", "routed6"]),
        (BRIDGE + "forwarding = true\n" + BRIDGED + DHCP + "ra = false\n", "fd07::16", ["served6"]),
    ):
        declared = load(config)
        claim = Claim("lan", MAC, addresses=(address,), source="m")
        [(vif, network)] = compose.bind(Domain("d", "u", (Vif(MAC, "tap0"),), (claim,)), declared, ())
        composed = compose.compose(vif, network, Host(there, parts=declared.links, networks=declared.networks))
        assert [key.split()[2] for key in composed if re.search(" (served[46]|routed6) ", key)] == names
