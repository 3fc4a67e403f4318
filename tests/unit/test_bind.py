"""Which NIC is on which network, and what addresses it gets."""
# ruff: noqa: E501  (tables of inputs and messages)

import re
from dataclasses import replace

import pytest
from scenario import EVERYTHING, PUBLIC, V4

from vmnet_hooks.declared import compose, configuration
from vmnet_hooks.errors import ConfigError, ConflictError, InputError
from vmnet_hooks.model.guest import Claim, Domain, Vif

MAC = "52:54:00:aa:00:10"
TAP = Vif(MAC, "tap0")


@pytest.fixture
def declared(tmp_path):
    (tmp_path / "vmnet.toml").write_text(EVERYTHING)
    return configuration.load(str(tmp_path))


def claim(network="public", *addresses, mac=MAC, source="metadata", **kw) -> Claim:
    return Claim(network, mac, addresses=addresses, source=source, **kw)


def bind(declared, vifs, metadata=(), files=(), **kw):
    return compose.bind(Domain("d", "u", tuple(vifs), tuple(metadata), **kw), declared, files)


def test_metadata_before_domains_d_before_the_bridge(declared):
    vif = replace(TAP, bridge="br0")
    by_metadata, by_file = claim("public", "192.0.2.10"), claim("edge", "198.51.100.10", source="file")
    assert [n.name for _, n in bind(declared, [vif], [by_metadata], [by_file])] == ["public"]
    assert [n.name for _, n in bind(declared, [vif], [], [by_file])] == ["edge"]
    assert [n.name for _, n in bind(declared, [vif])] == ["lan"]


def test_an_unclaimed_nic_is_left_alone(declared):
    assert bind(declared, [TAP, Vif("52:54:00:aa:00:11", "tap1", bridge="virbr0"), Vif("rubbish", 'a"b')]) == []
    other = Vif("52:54:00:aa:00:11", "tap1")
    assert [vif.ifname for vif, _ in bind(declared, [TAP, other], [claim("public", "192.0.2.10")])] == ["tap0"]


def test_a_claim_by_tap(declared):
    by_tap = Claim("public", "", "tap0", ("192.0.2.10",), source="file")
    [(vif, _)] = bind(declared, [TAP], [], [by_tap])
    assert vif.addresses == ("192.0.2.10", "2001:db8::5054:ff:feaa:10")


def test_eui64_where_there_is_no_ipv6_address(declared):
    [(vif, _)] = bind(declared, [TAP], [claim("public")])
    assert vif.addresses == ("2001:db8::5054:ff:feaa:10",)
    [(vif, _)] = bind(declared, [TAP], [claim("public", "192.0.2.10", "2001:db8::10")])
    assert vif.addresses == ("192.0.2.10", "2001:db8::10")


def test_addresses_are_written_the_kernels_way(declared):
    [(vif, _)] = bind(declared, [TAP], [claim("public", "2001:DB8:0:0::10")])
    assert vif.addresses == ("2001:db8::10",)


def test_the_filter_goes_along(declared):
    [(vif, _)] = bind(declared, [TAP], [claim("public", "192.0.2.10", filter=False)])
    assert vif.filter is False


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("192.0.2.0", "is the network address of 192.0.2.0/24"),
        ("192.0.2.255", "is the broadcast address of 192.0.2.0/24"),
        ("192.0.2.1", "is the gateway's"),
        ("192.0.2.254", "is the network's arp_source"),
        ("198.51.100.10", "is not in subnet 192.0.2.0/24"),
        ("224.0.0.1", "is not in subnet"),
        ("2001:db8::", "is the network address of 2001:db8::/64"),
        ("2001:db8::1", "is the gateway's"),
        ("fe80::1", "is not in subnet 2001:db8::/64"),
        ("ff02::1", "is not in subnet"),
        ("rubbish", "is not an IP address"),
    ],
)
def test_addresses_that_no_guest_may_have(address, message, declared):
    with pytest.raises(InputError, match=message) as caught:
        bind(declared, [TAP], [claim("public", address)])
    assert str(caught.value).startswith("metadata: ") and address in str(caught.value)


def test_a_multicast_subnet_gives_no_guest_address(tmp_path):
    with pytest.raises(ConfigError, match="not a unicast address"):
        (tmp_path / "vmnet.toml").write_text(
            PUBLIC + 'ipv4 = { subnet = "224.0.0.0/24", gateway = "224.0.0.1", arp_source = "224.0.0.2" }\n'
        )
        configuration.load(str(tmp_path))


def test_an_address_twice(declared):
    with pytest.raises(InputError, match="192.0.2.10 is given twice"):
        bind(declared, [TAP], [claim("public", "192.0.2.10", "192.0.2.10")])


def test_a_family_that_the_network_lacks(tmp_path):
    (tmp_path / "vmnet.toml").write_text(PUBLIC + V4)
    declared = configuration.load(str(tmp_path))
    with pytest.raises(InputError, match="network public has no ipv6; declare it, or drop the address"):
        bind(declared, [TAP], [claim("public", "2001:db8::10")])
    with pytest.raises(InputError, match=f"NIC {MAC} has no address on routed network public; give it one "):
        bind(declared, [TAP], [claim("public")])


def test_duplicate_claims(declared):
    both = [claim("public", "192.0.2.10"), claim("lan", source="second")]
    with pytest.raises(InputError, match=f"second: NIC {MAC} is already claimed by metadata; remove one"):
        bind(declared, [TAP], both)
    with pytest.raises(InputError, match="is already claimed"):
        bind(declared, [TAP], [], [claim("public", "192.0.2.10"), Claim("lan", "", "tap0", source="b")])


def test_a_nic_without_a_tap_takes_part_in_nothing(declared):
    """<teaming>: one MAC for the NIC that is passed through and the one that stands in for it."""
    passed = Vif(MAC, "", 1, without_tap="hostdev")
    for nics in ([TAP, passed], [passed, TAP]):
        [(vif, _)] = bind(declared, nics, [claim("public", "192.0.2.10")])
        assert vif.ifname == TAP.ifname
    assert bind(declared, [passed], []) == []
    with pytest.raises(InputError) as caught:
        bind(declared, [passed], [claim("public", "192.0.2.10")])
    assert str(caught.value) == (
        f"metadata: NIC {MAC} of d is <interface type='hostdev'>, which has no tap; "
        "unset the claim, or make it <interface type='ethernet'> or 'bridge'"
    )


def test_a_claim_of_a_nic_that_is_not_there(declared):
    other = claim("public", "192.0.2.10", mac="52:54:00:aa:00:99")
    with pytest.raises(
        InputError, match=f"metadata: d has no NIC with MAC 52:54:00:aa:00:99 .it has: {MAC}.; correct or unset it"
    ):
        bind(declared, [TAP], [other])
    # A front end that sees one NIC of several can't tell.
    assert bind(declared, [TAP], [other], partial=True) == []


def test_a_claim_that_another_one_overrules_is_no_error(declared):
    assert len(bind(declared, [TAP], [claim("public", "192.0.2.10")], [claim("lan", source="file")])) == 1


def test_two_nics_of_one_mac(declared):
    with pytest.raises(InputError, match=f"d has 2 NICs with MAC {MAC}; give each its own"):
        bind(declared, [TAP, replace(TAP, ifname="tap1")], [claim("public", "192.0.2.10")])


@pytest.mark.parametrize("mac", ["", "rubbish", "01:00:5e:00:00:01"])
def test_a_claimed_nic_needs_a_mac(mac, declared):
    with pytest.raises(InputError, match="MAC"):
        bind(declared, [Vif(mac, "tap0", bridge="br0")])


def test_an_unknown_network(declared):
    with pytest.raises(ConfigError, match="metadata: no network 'publc' is declared; did you mean 'public'?"):
        bind(declared, [TAP], [claim("publc")])


def test_one_domain_with_one_address_twice(declared):
    other = Vif("52:54:00:aa:00:11", "tap1")
    domain = Domain("d", "", (TAP, other))
    bound = bind(declared, [TAP, other], [claim("public", "192.0.2.10"), claim("public", "192.0.2.10", mac=other.mac)])
    with pytest.raises(ConflictError, match="d: NICs .*:10 and .*:11 both hold 192.0.2.10; change one"):
        compose.check_domain(domain, bound)


def test_a_router_runs_no_guests(tmp_path):
    (tmp_path / "vmnet.toml").write_text(EVERYTHING.replace("router+host", "router"))
    with pytest.raises(InputError, match="network edge has role router on this node, which runs no guests; use router.host"):
        bind(configuration.load(str(tmp_path)), [TAP], [claim("edge", "198.51.100.10")])


@pytest.mark.parametrize("address", ["224.0.0.5", "127.0.0.1", "0.0.0.0/0", "0.0.0.0", "255.255.255.255", "::", "::1", "ff02::1"])
def test_what_is_no_guests_address_anywhere(tmp_path, address):
    """A network without a subnet takes any address but these."""
    (tmp_path / "vmnet.toml").write_text('[networks.out]\nmode = "hostroute"\nnetdev = "eth0"\n')
    declared = configuration.load(str(tmp_path))
    assert bind(declared, [TAP], [claim("out", "203.0.113.5")])
    with pytest.raises(InputError, match=re.escape(address)):
        bind(declared, [TAP], [claim("out", address)])
