"""What a guest is besides a client, by its claim and its network, and which addresses the bridge keeps for itself."""

import json

import pytest
from click.testing import CliRunner

from vmnet_hooks.cli import __main__ as cli
from vmnet_hooks.declared import compose, configuration
from vmnet_hooks.errors import ConfigError, InputError
from vmnet_hooks.frontends import libvirt_connection
from vmnet_hooks.model.facts import Host, Link
from vmnet_hooks.model.guest import Claim, Domain, Vif
from vmnet_hooks.model.owner import Nic

MAC = "52:54:00:aa:00:10"
LAN = '[networks.lan]\nmode = "bridged"\nbridge = "br0"\n'
GATEWAY = '[bridges.br0]\naddresses = ["10.7.0.1/24", "2001:db8:7::1/64"]\n'
ANYCAST = GATEWAY + 'anycast_gateway = true\ngateway_mac = "02:00:00:00:00:fe"\narp_source = "10.7.0.254"\n'
AWARE = GATEWAY + "vlan_filtering = true\npvid = 5\n"


def bound(config, *addresses, **more):
    claim = Claim("lan", MAC, addresses=addresses, source="metadata", **more)
    [(vif, network)] = compose.bind(Domain("d", "u", (Vif(MAC, "tap0"),), (claim,)), config, ())
    return vif, network


def elements(vif, network, host):
    found = compose.compose_vif(vif, network, host)
    return {key.removeprefix("nft bridge ").replace('"tap0"', "tap0") for key in found if key.startswith("nft bridge ")}


def host(config, vlan_filtering=False):
    links = {"tap0": Link(2, 1500, "fe:54:00:aa:00:10", "tun"), "br0": Link(3, 1500, "02:00:00:00:00:10", "bridge")}
    return Host(links, parts=config.links)


@pytest.mark.parametrize(
    ("of_network", "of_guest", "roles"),
    [
        ("", None, ()),
        ('roles = ["querier", "router", "querier"]\n', None, ("router", "querier")),
        ('roles = ["querier"]\n', (), ()),
        ('roles = ["querier"]\n', ("dhcp-server",), ("dhcp-server",)),
    ],
)
def test_the_guests_own_come_before_the_networks(load, of_network, of_guest, roles):
    config = load(LAN + of_network)
    vif, network = bound(config, "10.7.0.10", roles=of_guest)
    assert vif.roles == roles
    sets = {"dhcp-server": "dhcp_servers", "router": "routers", "querier": "queriers"}
    found = elements(vif, network, host(config))
    assert {name for name in found if name.split()[0] in (*sets.values(), "clients")} == {
        "clients tap0",
        *(f"{sets[role]} tap0" for role in roles),
    }
    nic = Nic.of(Domain("d", "u"), vif, "lan", "libvirt", 2, 0.0)
    assert Nic.of_columns(nic.columns()) == nic and nic.vif.roles == roles


def test_without_a_filter_there_are_none(load):
    vif, network = bound(config := load(LAN + "antispoof = true\n"), filter=False, roles=("router", "querier"))
    assert vif.roles == ("router",) and elements(vif, network, host(config)) == set()
    nic = Nic.of(Domain("d", "u"), vif, "lan", "libvirt", 2, 0.0)
    assert not nic.columns()["filter"] & 1 and Nic.of_columns(nic.columns()) == nic


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ('"router"', "networks.lan.roles: 'router' must be a list of roles"),
        ('["relay"]', "networks.lan.roles: ['relay'] holds 'relay', which must be one of dhcp-server, router, querier, switch"),
    ],
)
def test_wrong_roles(load, value, message):
    with pytest.raises(ConfigError) as caught:
        load(LAN + f"roles = {value}\n")
    assert message in str(caught.value)


def test_domains_d(tmp_path, load):
    config = load(LAN)
    (tmp_path / "domains.d").mkdir()
    for text, roles in (("", None), ("roles = []", ()), ('roles = ["router"]', ("router",))):
        (tmp_path / "domains.d" / "d.toml").write_text(f'[[interfaces]]\nmac = "{MAC}"\nnetwork = "lan"\n{text}\n')
        assert [claim.roles for claim in configuration.claims(config, "d")] == [roles]


@pytest.mark.parametrize(
    ("text", "address", "whose"),
    [
        (GATEWAY, "10.7.0.1", "bridges.br0's own"),
        (GATEWAY, "2001:db8:7::1", "bridges.br0's own"),
        (ANYCAST, "10.7.0.1", "bridges.br0's own"),
        (ANYCAST, "10.7.0.254", "the arp_source of bridges.br0"),
        (AWARE, "10.7.0.1", "bridges.br0's own"),
    ],
)
def test_what_the_bridge_keeps(load, text, address, whose):
    with pytest.raises(InputError) as caught:
        bound(load(text + LAN), "10.7.0.10", address)
    assert str(caught.value) == f"metadata: {address} is {whose}; choose another address"


def test_another_vlan_has_addresses_of_its_own(load):
    config = load(AWARE + LAN)
    vif, network = bound(config, "10.7.0.1", vlan=6)
    aware = Host(
        {**host(config).links, "br0": Link(3, 1500, "02:00:00:00:00:10", "bridge", vlan_filtering=True)}, parts=config.links
    )
    assert not [name for name in elements(vif, network, aware) if "gateway" in name]
    with pytest.raises(InputError, match=r"10\.7\.0\.1 is bridges\.br0's own"):
        bound(config, "10.7.0.1", vlan=6, tagged=(5, 7))


@pytest.mark.parametrize("filtered", [True, False])
def test_every_port_beside_the_gateway_is_guarded(load, filtered):
    for text, macs in ((GATEWAY, ["02:00:00:00:00:10"]), (ANYCAST, ["02:00:00:00:00:10", "02:00:00:00:00:fe"])):
        vif, network = bound(config := load(text + LAN), filter=filtered)
        found = elements(vif, network, host(config))
        assert {"beside_gateway tap0", "gateways4 tap0 . 10.7.0.1", "gateways6 tap0 . 2001:db8:7::1"} <= found
        assert {name for name in found if name.startswith("gateway_macs")} == {f"gateway_macs tap0 . {mac}" for mac in macs}
        assert len([name for name in found if name.startswith("gateway_targets")]) == 1 + len(macs)
        assert len([name for name in found if name.startswith("gateway_probes")]) == (0 if "anycast" in text else 2)


@pytest.mark.parametrize("mac", ["02:00:00:00:00:10", "02:00:00:00:00:fe"])
def test_the_macs_are_no_guests(load, mac):
    config = load(ANYCAST + LAN)
    network = config.networks["lan"]
    with pytest.raises(InputError, match=f"NIC {mac}: its MAC is that of bridges.br0; give the NIC another"):
        compose.compose_vif(compose.bind_nic(Vif(mac, "tap0"), network, config, "x"), network, host(config))


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.setattr(configuration, "DIRECTORY", str(tmp_path))
    return lambda *argv: CliRunner().invoke(cli.main, list(argv), prog_name="vmnet-hook")


def test_set(run, load, monkeypatch):
    load(GATEWAY + LAN)
    calls = []
    monkeypatch.setattr(libvirt_connection, "claim", lambda domain, vif: calls.append(vif.roles))
    for words, roles in (
        ((), None),
        (("--role", "querier", "--role", "router"), ("router", "querier")),
        (("--role", "client"), ()),
    ):
        assert run("set", "d", MAC, "--network", "lan", *words).exit_code == 0
        assert calls.pop() == roles
    for words, message in (
        (("--role", "client", "--role", "router"), "--role client: a client has no other role; leave one out"),
        (("--ip", "10.7.0.1"), "--ip: 10.7.0.1 is bridges.br0's own; choose another address"),
    ):
        result = run("set", "d", MAC, "--network", "lan", *words)
        assert result.exit_code == 2 and message in result.output and result.output.count("\n") == 1
    assert not calls


def test_validate(run, load, tmp_path):
    load(GATEWAY + LAN)
    (tmp_path / "domains.d").mkdir()
    (tmp_path / "domains.d" / "d.toml").write_text(f'[[interfaces]]\nmac = "{MAC}"\nnetwork = "lan"\nips = ["10.7.0.1"]\n')
    result = run("validate", "--config-dir", str(tmp_path), "--json")
    assert result.exit_code == 2
    [error] = json.loads(result.output)["errors"]
    assert "10.7.0.1 is bridges.br0's own; choose another address" in json.dumps(error)
