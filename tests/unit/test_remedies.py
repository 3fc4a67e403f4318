"""A message names a remedy. Each is followed here, to the letter: then the file is valid, or `check` finds nothing."""
# ruff: noqa: E501  (tables of inputs and messages)

from __future__ import annotations

from pathlib import Path

import pytest
from fake_kernel import Killed
from scenario import PUBLIC, V4, Host, guest

from vmnet_hooks.declared import configuration
from vmnet_hooks.engine.check import hazards
from vmnet_hooks.errors import ConfigError, ConflictError, StoreError
from vmnet_hooks.model.objects import Address, LinkAttribute, NftElement, NftTable, Route
from vmnet_hooks.records import damage

ROUTED = '[networks.a]\nmode = "routed"\nuplink = "eth1"\ntable = 222\nipv4 = { subnet = "192.0.2.0/24", gateway = "192.0.2.1", arp_source = "192.0.2.254" }\n'
SECOND = '[networks.b]\nmode = "routed"\nuplink = "eth2"\ntable = 223\nipv4 = { subnet = "198.51.100.0/24", gateway = "198.51.100.1", arp_source = "198.51.100.254" }\n'
ROUTER = '[networks.r]\nmode = "routed"\nuplink = "eth1"\ntable = 222\nrole = "router"\nipv4 = { subnet = "192.0.2.0/24", gateway = "192.0.2.1" }\n'
BRIDGED = '[networks.lan]\nmode = "bridged"\nbridge = "br0"\n'
HOSTROUTE = '[networks.h]\nmode = "hostroute"\nnetdev = "eth0"\n'
BRIDGE = '[bridges.br0]\nports = ["eth1"]\n'
AWARE = BRIDGE + "vlan_filtering = true\n"
BOND = '[bonds.bond0]\nports = ["eth1", "eth2"]\n'
VLAN = '[vlans."eth1.100"]\nparent = "eth1"\nid = 100\n'
NAT = '[nat.n]\nsubnet = "10.5.5.0/24"\nout = "eth9"\nmasquerade = true\n'
ADDRESS = 'addresses = ["192.0.2.2/24"]\n'
GATEWAY = 'gateway = "192.0.2.1"\n'
ANYCAST = '[bridges.g]\naddresses = ["10.5.5.254/24"]\nanycast_gateway = true\n'

# The file, what the message says, and the edits that it names, each of which suffices: what to replace, and by what.
CASES: list[tuple[str, str, list[tuple[str, str]]]] = [
    # keys and values
    (BRIDGE.replace("bridges", "bridge"), "did you mean 'bridges'?", [("[bridge.", "[bridges.")]),
    (BRIDGE.replace("ports", "port"), "did you mean 'ports'?", [("port ", "ports ")]),
    (BRIDGE.replace('["eth1"]', '"eth1"'), 'must be a list of interfaces, ["eth1"]', [('"eth1"', '["eth1"]')]),
    (BRIDGE + 'stp = "yes"\n', "must be true or false", [('"yes"', "true")]),
    (BRIDGE + "mtu = 9\n", "whole number from 68 to 65535", [("= 9", "= 68")]),
    (BOND + "mode = 1\n", "must be one of balance-rr, active-backup", [("= 1", '= "active-backup"')]),
    (BRIDGE.replace("br0", '"br 0"'), "use letters, digits", [('"br 0"', "br0")]),
    (BRIDGE.replace("br0", "a" * 16), "use at most 15 characters", [("a" * 16, "a" * 15)]),
    (
        BRIDGE + 'addresses = ["192.0.2.9"]\n',
        "holds '192.0.2.9', which has no prefix length; write 192.0.2.9/24",
        [("192.0.2.9", "192.0.2.9/24")],
    ),
    (BRIDGE + 'addresses = ["192.0.2.9/24", "2001:db8::9"]\n', "write 2001:db8::9/64", [("2001:db8::9", "2001:db8::9/64")]),
    (BRIDGE + 'addresses = ["192.0.2.9/24", "192.0.2.9/24"]\n', "twice; remove one", [(', "192.0.2.9/24"', "")]),
    (
        BRIDGE + 'addresses = ["192.0.2.2/24 peer 192.0.2.1"]\n',
        "write it as 192.0.2.2 peer 192.0.2.1/32",
        [("192.0.2.2/24 peer 192.0.2.1", "192.0.2.2 peer 192.0.2.1/32")],
    ),
    (BRIDGE + ADDRESS + 'gateway = "192.0.2.1/24"\n', "write 192.0.2.1", [("192.0.2.1/24", "192.0.2.1")]),
    (BRIDGE + 'mac = "x"\n', "write it as 52:54:00:12:34:56", [('"x"', '"52:54:00:12:34:56"')]),
    (AWARE + 'vlans = ["x"]\n', 'write [10, "20-30"]', [('["x"]', '[10, "20-30"]')]),
    (NAT.replace("5.0/24", "5.7/24"), "write 10.5.5.0/24", [("10.5.5.7/24", "10.5.5.0/24")]),
    (ROUTED.replace('2.0/24"', '2.7/24"'), "write 192.0.2.0/24", [("192.0.2.7/24", "192.0.2.0/24")]),
    # what is required
    (VLAN.replace("id = 100\n", ""), "id: missing; give the VLAN's ID, 1 to 4094", [("parent", "id = 4094\nparent")]),
    (BRIDGED.replace('bridge = "br0"\n', ""), "missing; give the bridge that guests join", [("mode", 'bridge = "br0"\nmode')]),
    (
        BRIDGED.replace('mode = "bridged"\n', ""),
        "missing; use one of routed, bridged, hostroute",
        [("bridge =", 'mode = "bridged"\nbridge =')],
    ),
    # links
    (BRIDGE + 'adopt = "eth2"\n', "eth2 is not one of its ports; add it to `ports`", [('["eth1"]', '["eth1", "eth2"]')]),
    (BRIDGE + 'hw_port = "eth2"\n', "eth2 is not one of its ports; add it to `ports`", [('["eth1"]', '["eth1", "eth2"]')]),
    (
        BRIDGE + 'adopt = "eth1"\n' + ADDRESS,
        "remove `addresses` and `gateway`, or adopt",
        [(ADDRESS, ""), ('adopt = "eth1"\n', "")],
    ),
    (
        BRIDGE + ADDRESS + 'gateway = "192.0.2.2"\n',
        "the link's own address; correct one of them",
        [('= "192.0.2.2"', '= "192.0.2.1"')],
    ),
    (
        BRIDGE + ADDRESS + 'gateway = "203.0.113.1"\n',
        'correct one of them, or give it a route of its own: routes = [{ to = "203.0.113.1" }]',
        [("203.0.113.1", "192.0.2.1"), ("gateway", 'routes = [{ to = "203.0.113.1" }]\ngateway')],
    ),
    (
        BRIDGE + ADDRESS + 'routes = [{ to = "10.0.0.0/8", via = "203.0.113.1" }]\n',
        "or set onlink = true",
        [(" }", ", onlink = true }"), ("203.0.113.1", "192.0.2.1")],
    ),
    (
        BRIDGE + 'routes = [{ to = "default" }]\n',
        'write to = "0.0.0.0/0" or "::/0"',
        [('"default"', '"0.0.0.0/0"'), ('"default"', '"::/0"')],
    ),
    (
        BRIDGE + 'routes = [{ to = "10.0.0.0/8", onlink = true }]\n',
        "name one with via, or remove it",
        [(", onlink = true", ""), ("onlink", 'via = "192.0.2.1", onlink')],
    ),
    (BRIDGE + "metric = 5\n", "name the gateway, or remove it", [("metric = 5\n", ""), ("metric", ADDRESS + GATEWAY + "metric")]),
    (
        BRIDGE + ADDRESS + 'gateway = ["192.0.2.1", "192.0.2.3"]\n',
        "list the other in `routes`, with a metric",
        [('["192.0.2.1", "192.0.2.3"]', '"192.0.2.1"\nroutes = [{ to = "default", via = "192.0.2.3", metric = 5 }]')],
    ),
    (
        BRIDGE + 'routes = [{ to = "10.0.0.0/8" }, { to = "10.0.0.0/8" }]\n',
        "give one another metric",
        [('8" }]', '8", metric = 5 }]')],
    ),
    (
        BRIDGE + ADDRESS + GATEWAY + VLAN.replace("eth1", "eth2") + 'addresses = ["198.51.100.2/24"]\ngateway = "198.51.100.1"\n',
        "give one another metric",
        [("parent", "metric = 5\nparent")],
    ),
    (
        BRIDGE + BRIDGE.replace("br0", "br1"),
        "eth1 is also a port of bridges.br0; remove it from one",
        [('[bridges.br0]\nports = ["eth1"]', "[bridges.br0]")],
    ),
    (VLAN.replace("eth1.100", "br0") + BRIDGE.replace("eth1", "eth2"), "is also declared in", [('[vlans."br0"]', "[vlans.x]")]),
    (
        VLAN + VLAN.replace("eth1.100", "other"),
        "is already vlans.eth1.100; choose another",
        [('"other"]\nparent = "eth1"\nid = 100', '"other"]\nparent = "eth1"\nid = 101')],
    ),
    # bonds
    (BOND.replace('["eth1", "eth2"]', "[]"), "is empty; list the NICs", [("[]", '["eth1"]')]),
    (BOND + 'primary = "eth3"\n', "is not one of its ports", [("eth3", "eth1")]),
    (BOND + 'mode = "802.3ad"\nprimary = "eth1"\n', "is of no use with mode 802.3ad; remove it", [('primary = "eth1"\n', "")]),
    (
        BOND + 'lacp_rate = "fast"\n',
        "remove it, or set mode 802.3ad",
        [('lacp_rate = "fast"\n', ""), ("lacp_rate", 'mode = "802.3ad"\nlacp_rate')],
    ),
    (BOND + 'mode = "802.3ad"\nmiimon = 0\n', "set 100", [("miimon = 0", "miimon = 100")]),
    # bridges
    (BRIDGE + "max_age = 10\n", "set stp = true, or remove it", [("max_age = 10\n", ""), ("max_age", "stp = true\nmax_age")]),
    (BRIDGE + "stp = true\nforward_delay = 1\n", "use 2 to 30", [("= 1\n", "= 4\nmax_age = 6\n"), ("= 1\n", "= 30\n")]),
    (BRIDGE + "pvid = 1\n", "is of no use without vlan_filtering = true", [("pvid", "vlan_filtering = true\npvid")]),
    (
        AWARE + ADDRESS,
        "set pvid = 1, or give the address to a VLAN device on br0, in [vlans]",
        [("addresses", "pvid = 1\naddresses"), ("addresses", '[vlans."br0.10"]\nparent = "br0"\nid = 10\naddresses')],
    ),
    (BRIDGE + "group_fwd_mask = 7\n", "clear bits 0 to 2", [("= 7", "= 0x4000")]),
    (BRIDGE + "anycast_gateway = true\n", "needs `addresses`", [("anycast", 'addresses = ["10.5.5.254/24"]\nanycast')]),
    (
        ANYCAST + 'arp_source = "10.5.5.254"\n',
        "is no unused address of the bridge's subnets; choose another",
        [('"10.5.5.254"\n', '"10.5.5.253"\n')],
    ),
    # NAT
    (
        NAT.replace("masquerade = true\n", ""),
        "give either snat = ADDRESS or masquerade = true",
        [("out", 'snat = "192.0.2.2"\nout'), ("out", "masquerade = true\nout")],
    ),
    (
        NAT.replace("masquerade = true", 'snat = "2001:db8::1"'),
        "correct one of them",
        [("2001:db8::1", "192.0.2.2"), ("10.5.5.0/24", "2001:db8:5::/64")],
    ),
    # networks
    (
        ROUTED.replace(', arp_source = "192.0.2.254"', ""),
        "role host needs an unused address of the subnet",
        [(" }", ', arp_source = "192.0.2.254" }')],
    ),
    (
        ROUTED.replace("2.254", "2.1"),
        "is the gateway; choose an unused address of the subnet",
        [('arp_source = "192.0.2.1"', 'arp_source = "192.0.2.7"')],
    ),
    (ROUTED.replace('"192.0.2.1"', '"198.51.100.1"'), "choose a host address of the subnet", [("198.51.100.1", "192.0.2.1")]),
    (ROUTED.replace("= 222", "= 254"), "choose another", [("= 254", "= 222")]),
    (ROUTED + 'table_name = "main"\n', "choose another name", [('"main"', '"guests"')]),
    (
        ROUTED + SECOND.replace("223", "222"),
        "is already the table of networks.a; choose another",
        [('"eth2"\ntable = 222', '"eth2"\ntable = 223')],
    ),
    (
        ROUTED + SECOND.replace("198.51.100.0/24", "192.0.0.0/16").replace("198.51.100", "192.0.7"),
        "overlaps 192.0.2.0/24 of networks.a; separate them",
        [("192.0.0.0/16", "192.0.7.0/24")],
    ),
    (ROUTED.replace("ipv4", "# ipv4"), "add ipv4 = { subnet", [("# ipv4", "ipv4")]),
    (
        ROUTED + 'external = "eth9"\n',
        "set role to router or router+host",
        [("external", 'role = "router"\nexternal'), ("external", 'role = "router+host"\nexternal')],
    ),
    (ROUTER + 'external = "eth1"\n', "name the interface to the outside", [('external = "eth1"', 'external = "eth9"')]),
    (BRIDGE + ROUTED, "eth1 is a port of bridges.br0; name br0 instead", [('uplink = "eth1"', 'uplink = "br0"')]),
    (
        BRIDGED + 'vlan = 10\ntagged = [20]\nuplink = "eth1"\n',
        "remove it, or uplink",
        [("tagged = [20]\n", ""), ('uplink = "eth1"\n', "")],
    ),
    (BRIDGED + 'uplink = "br0"\n', "name the interface below", [('uplink = "br0"', 'uplink = "eth1"')]),
    (AWARE + BRIDGED + "vlan = 10\ntagged = [10]\n", "name it once", [("tagged = [10]\n", ""), ("vlan = 10\n", "")]),
    (BRIDGE + BRIDGED + 'uplink = "eth1"\n', "list the uplink in its ports instead", [('uplink = "eth1"\n', "")]),
    (
        BRIDGE + BRIDGED + "vlan = 10\n",
        "set vlan_filtering = true there, or remove vlan",
        [("ports", "vlan_filtering = true\nports"), ("vlan = 10\n", "")],
    ),
    (BOND.replace("bond0", "br0") + BRIDGED, "not a bridge; name a bridge", [('bridge = "br0"', 'bridge = "br1"')]),
    (
        HOSTROUTE + 'nat = true\naddress = "192.0.2.2"\n',
        "is of no use with nat = true",
        [('address = "192.0.2.2"\n', ""), ("nat = true\n", "")],
    ),
]


@pytest.mark.parametrize(("text", "says", "edits"), CASES, ids=[says[:48] for _, says, _ in CASES])
def test_a_mistake_in_the_file(text: str, says: str, edits: list[tuple[str, str]], tmp_path: Path) -> None:
    file = tmp_path / "vmnet.toml"
    file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        configuration.load(str(tmp_path))
    assert says in str(caught.value)
    for old, new in edits:
        assert old in text
        file.write_text(text.replace(old, new, 1))
        configuration.load(str(tmp_path))


def test_every_item_of_a_list_of_tables_is_checked(tmp_path: Path) -> None:
    (tmp_path / "vmnet.toml").write_text(
        BRIDGE + 'routes = [{ to = "10.0.0.1/8", metrc = 3 }, { via = "192.0.2.1" }, { to = "default" }]\n'
    )
    with pytest.raises(ConfigError) as caught:
        configuration.load(str(tmp_path))
    said = [str(error) for error in (caught.value, *caught.value.more)]
    assert [line.partition("bridges.br0.")[2].partition(":")[0] for line in said] == [
        "routes[1]",
        "routes[1].to",
        "routes[2].to",
        "routes[3]",
    ]


# --- check ---------------------------------------------------------------------------------------------------------------

WEB = guest(1, ("public", ["192.0.2.10"]))
UP = '[bridges.br1]\nports = ["eth2"]\naddresses = ["10.5.5.1/24"]\n'


def follow(host: Host, remedy: str) -> None:
    """Do what the column REMEDY says."""
    match remedy.split():
        case ["vmnet-hook", "repair"]:
            host.repair()
        case ["vmnet-hook", "up", name]:
            host.up(name)
        case ["vmnet-hook", "down", name]:
            host.down(name)
        case ["ip", "addr", "del", address, "dev", name]:
            host.kernel.world.pop(Address(name, address).key)
        case _:
            raise AssertionError(remedy)


def follow_all(host: Host) -> list[str]:
    """Follow what `check` says; returns the remedies, each once."""
    said = list(dict.fromkeys(drift.remedy for drift in host.check()))
    for remedy in said:
        follow(host, remedy)
    assert host.check() == []
    return said


def web(tmp_path: Path, toml: str = PUBLIC + V4) -> Host:
    host = Host(tmp_path, toml)
    host.add_taps(WEB)
    host.plug(WEB)
    assert host.check() == []
    return host


@pytest.mark.parametrize(
    ("edit", "says"),
    [
        (UP.replace("5.1/", "5.2/"), "vmnet-hook up bridge:br1"),
        (UP + "mtu = 1400\nstp = true\n", "vmnet-hook up bridge:br1"),
        (UP.replace('"eth2"', '"eth2", "eth3"'), "vmnet-hook up bridge:br1"),
        (UP.replace('"eth2"', ""), "vmnet-hook up bridge:br1"),
        ("", "vmnet-hook down bridge:br1"),
    ],
)
def test_an_edit_of_a_declared_link(edit: str, says: str, tmp_path: Path) -> None:
    host = Host(tmp_path, UP)
    host.up()
    host.configure(edit)
    assert follow_all(host) == [says]


@pytest.mark.parametrize("edit", [("222", "224"), ("192.0.2.254", "192.0.2.253"), ("table_name", "probe = true # ")])
def test_an_edit_of_a_network_with_guests(edit: tuple[str, str], tmp_path: Path) -> None:
    host = web(tmp_path)
    host.configure((PUBLIC + V4).replace(*edit))
    assert follow_all(host) == ["vmnet-hook repair"]


def test_a_guest_that_is_gone(tmp_path: Path) -> None:
    host = web(tmp_path)
    host.remove_taps(WEB)
    assert follow_all(host) == ["vmnet-hook repair"]


def test_flushed_tables(tmp_path: Path) -> None:
    """The elements are named with their commands, which work only after the table is there again: its own remedy comes first."""
    host = web(tmp_path)
    for key, resource in list(host.kernel.world.items()):
        if isinstance(resource, NftTable | NftElement):
            del host.kernel.world[key]
    remedies = {drift.key: drift.remedy for drift in host.check()}
    assert remedies["nft inet"] == remedies["nft arp"] == "vmnet-hook repair"
    host.repair()
    assert host.check() == []


def test_a_command_that_was_killed(tmp_path: Path) -> None:
    host = Host(tmp_path, PUBLIC + V4 + UP)
    host.kernel.kill_at = 5
    with pytest.raises(Killed):
        host.up("br1")
    host.kernel.clear_faults()
    [(kind, remedy)] = [(drift.kind, drift.remedy) for drift in host.check() if drift.kind == "interrupted"]
    follow(host, remedy)
    assert not [drift for drift in host.check() if drift.kind == kind]


# --- up ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("remedy", ["adopt", "ip addr del"])
def test_a_port_with_an_address(remedy: str, tmp_path: Path) -> None:
    host = Host(tmp_path, UP)
    host.kernel.put(Address("eth2", "198.51.100.2/24"))
    with pytest.raises(
        ConfigError, match=r'set adopt = "eth2" in place of `addresses` and `gateway`, or remove it first: ip addr del'
    ) as caught:
        host.up()
    if remedy == "adopt":
        host.configure(UP.replace('addresses = ["10.5.5.1/24"]', 'adopt = "eth2"'))
    else:
        follow(host, str(caught.value).partition("first: ")[2])
    host.up()
    assert host.check() == []


def test_a_declared_port_with_an_address(tmp_path: Path) -> None:
    toml = '[vlans."eth3.7"]\nparent = "eth3"\nid = 7\naddresses = ["10.7.0.1/24"]\n' + UP.replace("eth2", "eth3.7")
    host = Host(tmp_path, toml)
    with pytest.raises(ConfigError, match="remove it from vlans.eth3.7.addresses"):
        host.up()
    host.configure(toml.replace('addresses = ["10.7.0.1/24"]\n', ""))
    host.up()
    assert host.check() == []


def test_a_port_of_a_foreign_bridge(tmp_path: Path) -> None:
    host = Host(tmp_path, UP.replace("eth2", "lan0"))
    with pytest.raises(ConfigError, match="lan0 is a port of br0 already; take it out: ip link set dev lan0 nomaster"):
        host.up()
    host.kernel._set_link(LinkAttribute("lan0", "master", ""))
    host.up()
    assert host.check() == []


def test_a_bridge_with_ports_of_another_program(tmp_path: Path) -> None:
    host = Host(tmp_path, UP)
    host.up()
    host.kernel._set_link(LinkAttribute("eth3", "master", "br1"))
    with pytest.raises(ConflictError, match="bridge br1 still has ports: eth3; .* or take it out: ip link set dev eth3 nomaster"):
        host.down()
    host.kernel._set_link(LinkAttribute("eth3", "master", ""))
    host.down()
    assert "br1" not in host.kernel.links


@pytest.mark.parametrize("remedy", ["removed", "renamed"])
def test_a_foreign_link_of_the_name(remedy: str, tmp_path: Path) -> None:
    host = Host(tmp_path, UP)
    host.kernel.add_link("br1", "bridge", up=True)
    with pytest.raises(ConflictError, match=r"br1 exists already and is not ours \(bridge\); remove it, or choose another name"):
        host.up()
    if remedy == "removed":
        host.kernel.remove_link("br1")
    else:
        host.configure(UP.replace("br1", "br2"))
    host.up()
    assert host.check() == []


def test_a_vlan_that_another_device_has(tmp_path: Path) -> None:
    host = Host(tmp_path, '[vlans."eth3.7"]\nparent = "eth3"\nid = 7\n')
    host.kernel.add_link("other", "vlan", parent="eth3", id="7")
    with pytest.raises(ConfigError, match=r"VLAN 7 of eth3 is taken by other; remove it \(ip link del other\)"):
        host.up()
    host.kernel.remove_link("other")
    host.up()
    assert host.check() == []


@pytest.mark.parametrize("remedy", ["removed", "declared otherwise"])
def test_a_route_of_another_program(remedy: str, tmp_path: Path) -> None:
    toml = UP + 'routes = [{ to = "10.9.0.0/16", via = "10.5.5.2" }]\n'
    host = Host(tmp_path, toml)
    theirs = Route(254, "10.9.0.0/16", "eth0", "203.0.113.9", 3)
    host.kernel.put(theirs)
    with pytest.raises(
        ConflictError, match=r"in the way: .*; remove it \(ip route del 10.9.0.0/16 .*\), or declare another"
    ) as caught:
        host.up()
    assert str(caught.value).count("\n") == 0
    if remedy == "removed":
        del host.kernel.world[theirs.key]
    else:
        host.configure(toml.replace("10.9.0.0/16", "10.8.0.0/16"))
    host.up()
    assert host.check() == []


# --- guests --------------------------------------------------------------------------------------------------------------


def test_a_network_that_was_edited_while_guests_use_it(tmp_path: Path) -> None:
    host = web(tmp_path)
    host.configure((PUBLIC + V4).replace("222", "224"))
    other = guest(2, ("public", ["192.0.2.20"]))
    host.add_taps(other)
    with pytest.raises(ConflictError, match="edited while d1 uses it; move its guests with `vmnet-hook repair`, then try again"):
        host.plug(other)
    host.repair()
    host.plug(other)
    assert host.check() == []


@pytest.mark.parametrize("remedy", ["another", "stopped"])
def test_an_address_that_another_guest_has(remedy: str, tmp_path: Path) -> None:
    host = web(tmp_path)
    other = guest(2, ("public", ["192.0.2.10"]))
    host.add_taps(other)
    with pytest.raises(ConflictError, match="is held by d1 .*; give NIC .* another, or stop d1"):
        host.plug(other)
    if remedy == "another":
        other = guest(2, ("public", ["192.0.2.11"]))
    else:
        host.unplug(WEB)
    host.plug(other)
    assert host.check() == []


def test_a_bridge_that_guests_are_on_is_renamed(tmp_path: Path) -> None:
    toml = UP + '[networks.lan]\nmode = "bridged"\nbridge = "br1"\n'
    host = Host(tmp_path, toml)
    one = guest(1, ("lan", []))
    host.add_taps(one)
    host.up()
    host.plug(one)
    host.configure(toml.replace("br1", "br2"))
    with pytest.raises(ConflictError, match="stop them first, or declare br1 again"):
        host.up()
    for first in (lambda: host.configure(toml), lambda: (host.unplug(one), host.configure(toml.replace("br1", "br2")))):
        first()
        host.up()
    assert host.check() == []


# --- records -------------------------------------------------------------------------------------------------------------


def test_a_damaged_journal(tmp_path: Path) -> None:
    host = web(tmp_path)
    journal = tmp_path / "run" / "journal"
    journal.write_text("rubbish\n")
    with pytest.raises(StoreError, match=f"{journal}: damaged; `vmnet-hook repair` moves it away"):
        host.unplug(WEB)
    assert damage.set_aside(str(journal.parent)) == [f"{journal}.damaged-1"]
    host.repair()
    assert host.check() == []
    host.unplug(WEB)
    host.assert_no_records()


def test_a_kernel_without_ifb(tmp_path):
    """The filter stays, and `check` says what it is not worth; the remedy is followed."""
    toml = PUBLIC + V4
    host = Host(tmp_path, toml)
    host.kernel.ifb = False
    domain = guest(1, ("public", ["192.0.2.10"]))
    host.add_taps(domain)
    host.plug(domain)
    assert not any(key.startswith("ifb") or " checked " in key for key in host.kernel.world)
    assert 'nft inet guarded "t1.0"' in host.kernel.world
    (line,) = host.call(hazards)
    assert line.startswith("this kernel has no ifb") and line.endswith('networks.public.checksums = "trusted"')
    host.configure(toml.replace("table = 222\n", 'table = 222\nchecksums = "trusted"\n'))
    assert host.call(hazards) == []


def test_a_kernel_that_does_not_limit_what_a_bridge_learns(tmp_path):
    """The bridge comes up without the limit, which `check` tells; the remedy is followed."""
    toml = "[bridges.br7]\nfdb_max_learned = 100\n"
    host = Host(tmp_path, toml)
    host.kernel.fdb_limit = False
    assert host.up() and host.kernel.world["link br7 fdb_max_learned"].value == "0"
    (line,) = host.call(hazards)
    assert line.startswith("this kernel does not limit") and line.endswith("or remove bridges.br7.fdb_max_learned")
    host.configure("[bridges.br7]\n")
    assert host.call(hazards) == []
