"""Xen's vif scripts: argv, environment and the store's tree become an event. The trees are those of a real libxl (4.17)."""
# ruff: noqa: E501  (tables of inputs and messages)

import re

import pytest
from fake_store import FakeStore
from scenario import EVERYTHING, request

from vmnet_hooks.declared import configuration
from vmnet_hooks.errors import InputError, VmnetError
from vmnet_hooks.frontends import xen, xen_call, xen_claim
from vmnet_hooks.frontends.xen import METRIC, METRIC_EMULATED, PORT_MAC
from vmnet_hooks.kernel import linux, sysfs
from vmnet_hooks.model import declaration, facts
from vmnet_hooks.model.guest import Action, Domain

SCRIPT = "/x/hooks/xen/vif-bridge"
COMMON = {"XENBUS_BASE_PATH": "backend", "XENBUS_TYPE": "vif", "netdev": "", "script": "/etc/xen/scripts/vmnet-vif-bridge"}
PV = {**COMMON, "XENBUS_PATH": "backend/vif/1/0", "vif": "vif1.0"}
HVM = {**COMMON, "XENBUS_PATH": "backend/vif/2/0", "vif": "vif2.0", "INTERFACE": "vif2.0-emu"}
PV_TREE = {
    "frontend": "/local/domain/1/device/vif/0",
    "frontend-id": "1",
    "handle": "0",
    "hotplug-status": "",
    "mac": "00:16:3e:00:00:07",
    "online": "1",
    "script": "/etc/xen/scripts/vmnet-vif-bridge",
    "state": "2",
    "type": "vif",
}
CONFIGURED = {
    **PV_TREE,
    "bridge": "xenbr0",
    "gatewaydev": "gw9",
    "ip": "10.99.0.2 10.99.0.0/24",
    "mtu": "1400",
    "rate": "200000,20000",
    "vifname": "foo0",
}
HVM_TREE = {
    **PV_TREE,
    "frontend": "/local/domain/2/device/vif/0",
    "frontend-id": "2",
    "mac": "00:16:3e:00:00:11",
    "type": "vif_ioemu",
    "bridge": "xenbr0",
}


@pytest.fixture
def host(tmp_path, monkeypatch):
    """A host with bridges xenbr0 and br0, and the interface eth9; and a configuration."""
    for bridge in ("xenbr0", "br0"):
        (tmp_path / "sys" / bridge / "bridge").mkdir(parents=True)
        (tmp_path / "sys" / bridge / "brif").mkdir()
        (tmp_path / "sys" / bridge / "bridge" / "vlan_filtering").write_text("0\n")
    for name in ("eth9", "vif1.0", "vif2.0", "vif2.0-emu"):
        (tmp_path / "sys" / name).mkdir()
    monkeypatch.setattr(sysfs, "ROOT", str(tmp_path / "sys"))
    monkeypatch.setattr(xen_claim, "default_netdev", lambda where: "eth9")
    (tmp_path / "etc").mkdir()
    monkeypatch.setattr(configuration, "DIRECTORY", str(tmp_path / "etc"))
    return tmp_path


def configured(host, text: str = "", **files: str) -> declaration.Config:
    (host / "etc" / "domains.d").mkdir(exist_ok=True)
    (host / "etc" / "vmnet.toml").write_text(text)
    for name, claims in files.items():
        (host / "etc" / "domains.d" / f"{name}.toml").write_text(claims)
    return configuration.load(str(host / "etc"))


def event(host, words: str, environ: dict[str, str], tree: dict[str, str], declared=None, name: str = "web", script="vif-bridge"):
    call = xen_call.read_call(script, words.split(), environ)
    store = FakeStore({f"/local/domain/0/backend/vif/{call.domid}/{call.devid}": tree}, **{f"d{call.domid}": name})
    return xen.event(call, store, declared or configured(host))


# --- calls -----------------------------------------------------------------------------------------------------------

CALLS = {
    "online type_if=vif": (PV, ("online", 1, 0, "vif1.0", "xen:1/0", False)),
    "offline type_if=vif": (PV, ("offline", 1, 0, "vif1.0", "xen:1/0", False)),
    "online": (PV, ("online", 1, 0, "vif1.0", "xen:1/0", False)),
    "type_if=vif offline bridge=br0": (PV, ("offline", 1, 0, "vif1.0", "xen:1/0", False)),
    "online type_if=vif ": (HVM, ("online", 2, 0, "vif2.0", "xen:2/0", False)),
    "add type_if=tap": (HVM, ("add", 2, 0, "vif2.0-emu", "xen:2/0-emu", True)),
    "remove type_if=tap": (HVM, ("remove", 2, 0, "vif2.0-emu", "xen:2/0-emu", True)),
    "online type_if=vif x=$(id)": (PV, ("online", 1, 0, "vif1.0", "xen:1/0", False)),
}


@pytest.mark.parametrize("words", CALLS)
def test_recorded_calls(words):
    environ, expected = CALLS[words]
    call = xen_call.read_call("vif-bridge", words.split(), environ)
    assert (call.command, call.domid, call.devid, call.ifname, call.owner, call.emulated) == expected


@pytest.mark.parametrize(
    "words", ["online type_if=tap", "offline type_if=tap", "add type_if=vif", "remove type_if=vif", "add", "remove"]
)
def test_calls_for_the_other_kind(words):
    assert xen_call.read_call("vif-bridge", words.split(), HVM) is None


@pytest.mark.parametrize(
    "path",
    ["backend/vif/7/3", "/local/domain/0/backend/vif/7/3", "local/domain/0/backend/vif/7/3", "/local/domain/5/backend/vif/7/3"],
)
def test_both_kinds_of_path(path):
    call = xen_call.read_call("vif-bridge", ["online"], {"XENBUS_PATH": path, "vif": "vif7.3"})
    assert (call.domid, call.devid) == (7, 3)


WRONG_CALLS = {
    "no words": ([], PV, "is no command"),
    "only a variable": (["type_if=vif"], PV, "is no command"),
    "hostile command": (["$(id)", "type_if=vif"], PV, "is no command"),
    "hostile kind": (["online", "type_if=$(id)"], PV, "type_if=$(id) is neither"),
    "empty path": (["online"], {**PV, "XENBUS_PATH": ""}, "XENBUS_PATH is ''"),
    "another command": (["start"], PV, "'start' is no command"),
    "kind": (["online", "type_if=vlan"], PV, "type_if=vlan is neither"),
    "no path": (["online"], {"vif": "vif1.0"}, "XENBUS_PATH is ''"),
    "path of a disk": (["online"], {**PV, "XENBUS_PATH": "backend/vbd/1/0"}, "XENBUS_PATH is"),
    "path goes up": (["online"], {**PV, "XENBUS_PATH": "backend/vif/1/0/../2"}, "XENBUS_PATH is"),
    "path with lines": (["online"], {**PV, "XENBUS_PATH": "backend/vif/1/0\n"}, "XENBUS_PATH is"),
    "path in other digits": (["online"], {**PV, "XENBUS_PATH": "backend/vif/١/0"}, "XENBUS_PATH is"),
    "domain number too long": (["online"], {**PV, "XENBUS_PATH": "backend/vif/123456/0"}, "XENBUS_PATH is"),
    "no tap": (["add", "type_if=tap"], PV, "INTERFACE is ''"),
    "hostile tap": (["add", "type_if=tap"], {**HVM, "INTERFACE": "$(id)"}, "INTERFACE is"),
    "tap with lines": (["remove", "type_if=tap"], {**HVM, "INTERFACE": "vif2.0-emu\n"}, "INTERFACE is"),
}


@pytest.mark.parametrize("words, environ, message", WRONG_CALLS.values(), ids=WRONG_CALLS.keys())
def test_wrong_calls(words, environ, message):
    with pytest.raises(InputError, match=re.escape(message)) as caught:
        xen_call.read_call("vif-bridge", words, environ)
    assert "\n" not in str(caught.value)


# --- events ----------------------------------------------------------------------------------------------------------


def test_plain(host):
    """A paravirtual guest with nothing but a bridge."""
    found = event(host, "online type_if=vif", PV, {**PV_TREE, "bridge": "xenbr0"})
    assert (found.action, found.frontend, found.owner, found.ifname, found.rename) == (
        Action.PLUG,
        "xen",
        "xen:1/0",
        "vif1.0",
        "",
    )
    assert found.announce, "nobody tells us when the guest runs"
    assert (found.domain.name, found.domain.uuid, found.domain.partial) == ("web", "xen:1", True)
    [vif] = found.domain.vifs
    assert (vif.mac, vif.ifname, vif.index, vif.id, vif.twin) == ("00:16:3e:00:00:07", "vif1.0", 0, "0", "")
    assert (vif.mtu, vif.metric, vif.port_mac) == (None, METRIC, PORT_MAC)
    [claim] = found.domain.claims
    assert (claim.mac, claim.network, claim.addresses) == (vif.mac, found.network.name, ())
    assert (found.network.mode.name, found.network["bridge"]) == ("bridged", "xenbr0")


def test_configured(host):
    found = event(host, "online type_if=vif", {**PV, "netdev": "gw9"}, CONFIGURED)
    assert (found.ifname, found.rename) == ("foo0", "vif1.0")
    assert found.domain.vifs[0].mtu == 1400
    assert found.domain.claims[0].addresses == ("10.99.0.2", "10.99.0.0/24")


def test_both_halves_of_an_hvm_guest(host):
    vif = event(host, "online type_if=vif", HVM, HVM_TREE)
    tap = event(host, "add type_if=tap", HVM, {**HVM_TREE, "hotplug-status": "connected"})
    assert (vif.owner, tap.owner) == ("xen:2/0", "xen:2/0-emu")
    assert (vif.ifname, tap.ifname) == ("vif2.0", "vif2.0-emu")
    (one,), (other,) = vif.domain.vifs, tap.domain.vifs
    assert (one.id, one.twin, other.id, other.twin) == ("0", "0-emu", "0-emu", "0")
    assert (one.metric, other.metric) == (METRIC, METRIC_EMULATED) == (2, 1)
    assert one.mac == other.mac == "00:16:3e:00:00:11"


def test_a_taps_name_follows_vifname(host):
    found = event(host, "add type_if=tap", HVM, {**HVM_TREE, "vifname": "foo0"})
    assert (found.ifname, found.rename) == ("foo0-emu", "vif2.0-emu")


def test_called_for_a_second_time_it_has_its_name(host):
    (host / "sys" / "vif1.0").rename(host / "sys" / "foo0")
    # netback's link says whose it is; another one of that name is somebody else's.
    assert event(host, "online", PV, CONFIGURED).rename == "vif1.0"
    (host / "sys" / "foo0" / "device").symlink_to("../../devices/vif-1-0")
    found = event(host, "online", PV, CONFIGURED)
    assert (found.ifname, found.rename) == ("foo0", "")
    (host / "sys" / "foo0" / "device").unlink()
    (host / "sys" / "foo0" / "device").symlink_to("../../devices/vif-2-0")
    assert event(host, "online", PV, CONFIGURED).rename == "vif1.0"


def test_a_guest_that_comes_in_by_migration(host):
    """It is known by its name; who reaches it by its address is told once it runs here."""
    for name in ("web", "web--incoming"):
        found = event(host, "online", PV, PV_TREE | {"bridge": "br0"}, name=name)
        assert found.domain.name == "web" and found.announce and found.incoming is (name != "web")


def test_the_arrival_is_the_rename(monkeypatch):
    store = FakeStore(d1="web--incoming", d2="mail", d3="db--incoming")
    monkeypatch.setattr(xen, "XenStore", lambda _seconds: store)
    assert xen.arrived({"xen:1", "xen:2", "xen:4"}) == {"xen:2"}


def test_networks_that_were_described(host):
    """By their names in the records, as they were."""
    for script in ("vif-route", "vif-nat"):
        found = event(host, "online", PV, {**PV_TREE, "ip": "10.0.0.1"}, script=script).network
        again = xen_claim.network_of(found.name)
        assert (again.mode.name, again.options) == (found.mode.name, found.options)
    again = xen_claim.network_of("bridge:xenbr0")
    assert (again.mode.name, again["bridge"], again["uplink"]) == ("bridged", "xenbr0", "")
    for name in ("public", "bridge:", "route:", ""):
        assert xen_claim.network_of(name) is None


SAME = {
    "the half that comes in": ({"d1": "web", "d2": "web--incoming"}, {}, True),
    "the half that leaves": ({"d1": "web--incoming", "d2": "web"}, {}, True),
    "its stub domain": ({"d1": "win-dm", "d2": "win"}, {"/local/domain/1": {"target": "2"}}, True),
    "its guest": ({"d1": "win", "d2": "win-dm"}, {"/local/domain/2": {"target": "1"}}, True),
    "the stub domain of another": ({"d1": "win-dm", "d2": "win"}, {"/local/domain/1": {"target": "3"}}, False),
    "one of that name": ({"d1": "web", "d2": "web"}, {}, False),
    "one without a name": ({"d2": "web--incoming"}, {}, False),
}


@pytest.mark.parametrize("names, trees, expected", SAME.values(), ids=SAME.keys())
def test_one_guest_under_two_numbers(host, names, trees, expected):
    call = xen_call.read_call("vif-bridge", ["online"], {**PV, "XENBUS_PATH": "backend/vif/2/0", "vif": "vif2.0"})
    store = FakeStore({"/local/domain/0/backend/vif/2/0": {**PV_TREE, "bridge": "br0"}, **trees}, **names)
    found = xen.event(call, store, configured(host))
    assert found.is_same("xen:1") is expected
    assert not found.is_same("xen:2") and not found.is_same("name:web")


def test_a_domain_without_a_name(host):
    call = xen_call.read_call("vif-bridge", ["online"], PV)
    found = xen.event(call, FakeStore({"/local/domain/0/backend/vif/1/0": CONFIGURED}), configured(host))
    assert found.domain.name == "xen-1"


def test_leaving_needs_no_store(monkeypatch):
    """Nor a configuration: the records know."""
    monkeypatch.setattr(xen, "XenStore", None)
    for words, owner in ((["offline", "type_if=vif"], "xen:2/0"), (["remove", "type_if=tap"], "xen:2/0-emu")):
        found = xen.parse(request([SCRIPT, *words], environ=HVM))
        assert (found.action, found.owner, found.domain) == (Action.UNPLUG, owner, Domain("", "xen:2"))


def test_no_tree(host):
    with pytest.raises(InputError, match="backend/vif/1/0"):
        xen.event(xen_call.read_call("vif-bridge", ["online"], PV), FakeStore(), configured(host))


def test_domains_d_wins(host):
    """By MAC, or by the name of the vif; then the domain's own settings do not matter."""
    for who in ('mac = "00:16:3e:00:00:07"', 'ifname = "foo0"'):
        declared = configured(host, EVERYTHING, web=f'[[interfaces]]\n{who}\nnetwork = "public"\nips = ["192.0.2.10"]\n')
        found = event(host, "online", PV, CONFIGURED, declared)
        assert found.network is None and found.domain.claims == ()


# --- which network ---------------------------------------------------------------------------------------------------


def test_the_bridges_own_network(host):
    declared = configured(host, EVERYTHING)
    found = event(host, "online", PV, {**PV_TREE, "bridge": "br0"}, declared)
    assert found.network is None and found.domain.claims[0].network == "lan"


def test_the_argument_names_a_bridge_where_the_store_does_not(host):
    assert event(host, "online bridge=br0", PV, PV_TREE).network["bridge"] == "br0"
    assert event(host, "online bridge=br0", PV, {**PV_TREE, "bridge": "xenbr0"}).network["bridge"] == "xenbr0"


def test_the_only_bridge(host):
    with pytest.raises(InputError, match="br0, xenbr0; write bridge=NAME"):
        event(host, "online", PV, PV_TREE)
    for bridge in ("br0/bridge", "br0/brif"):
        (host / "sys" / bridge).rename(host / bridge.replace("/", "-"))
    assert event(host, "online", PV, PV_TREE).network["bridge"] == "xenbr0"


def test_xenbr_is_eth_where_only_that_is_there(host):
    (host / "sys" / "eth5" / "bridge").mkdir(parents=True)
    assert event(host, "online", PV, {**PV_TREE, "bridge": "xenbr5"}).network["bridge"] == "eth5"
    (host / "sys" / "xenbr5" / "bridge").mkdir(parents=True)
    assert event(host, "online", PV, {**PV_TREE, "bridge": "xenbr5"}).network["bridge"] == "xenbr5"


ROUTED = {
    "named": ({"ip": "10.0.0.1", "network": "public"}, "", "public"),
    "by bridge": ({"ip": "10.0.0.1", "bridge": "public"}, "", "public"),
    "by argument": ({"ip": "10.0.0.1"}, "network=public", "public"),
    "by the first address": ({"ip": "192.0.2.10 10.0.0.1"}, "", "public"),
    "by the first address, IPv6": ({"ip": "2001:db8:1::7"}, "", "edge"),
    "by none": ({"ip": "10.0.0.1 192.0.2.10"}, "", "route:eth9"),
    "another netdev": ({"ip": "10.0.0.1"}, "netdev=eth1", "route:eth1"),
}


@pytest.mark.parametrize("keys, words, network", ROUTED.values(), ids=ROUTED.keys())
def test_vif_route(host, keys, words, network):
    declared = configured(host, EVERYTHING)
    found = event(host, f"online {words}", PV, {**PV_TREE, **keys}, declared, script="vif-route")
    assert found.domain.claims[0].network == network
    if ":" in network:
        assert (found.network.mode.name, found.network["netdev"], found.network["nat"]) == ("hostroute", network[6:], False)
    else:
        assert found.network is None


def test_vif_route_by_the_gateway_device(host):
    found = event(host, "online", {**PV, "netdev": "eth3"}, {**PV_TREE, "ip": "10.0.0.1"}, script="vif-route")
    assert found.network["netdev"] == "eth3"


def test_vif_nat(host):
    found = event(host, "online", PV, PV_TREE, script="vif-nat")
    assert (found.network.mode.name, found.network["netdev"], found.network["nat"]) == ("hostroute", "eth9", True)
    assert found.domain.claims[0].addresses == ("10.0.1.1",)
    found = event(host, "online", PV, {**PV_TREE, "ip": "172.31.5.9/16"}, script="vif-nat")
    assert found.domain.claims[0].addresses == ("172.31.5.9",)


@pytest.mark.parametrize(
    "domid, devid, address", [(1, 0, "10.0.1.1"), (255, 2, "10.0.255.3"), (256, 0, "10.1.0.1"), (700, 1, "10.2.188.2")]
)
def test_private_addresses(domid, devid, address):
    assert xen_claim.private_address(domid, devid) == address


ZERO6 = "0" * 32
DEFAULTS = {
    "IPv4": (["eth9 00000000 FE01000A 0003 0 0 0 00000000 0 0 0"], [], "eth9"),
    "the one of the least metric": (
        ["eth8 00000000 FE01000A 0003 0 0 9 00000000 0 0 0", "eth9 00000000 FE01000A 0003 0 0 5 00000000 0 0 0"],
        [],
        "eth9",
    ),
    "another beside one that leads nowhere": (
        ["* 00000000 00000000 0200 0 0 0 00000000 0 0 0", "eth9 00000000 FE01000A 0003 0 0 5 00000000 0 0 0"],
        [],
        "eth9",
    ),
    "half of the world": (["eth9 00000000 FE01000A 0003 0 0 0 00000080 0 0 0"], [], ""),
    "IPv6": ([], [f"{ZERO6} 00 {ZERO6} 00 {ZERO6} 00000400 1 0 3 eth9"], "eth9"),
    "IPv4 leads nowhere, IPv6 out": (
        ["* 00000000 00000000 0200 0 0 0 00000000 0 0 0"],
        [f"{ZERO6} 00 {ZERO6} 00 {ZERO6} 00000400 1 0 3 eth9"],
        "eth9",
    ),
    "nowhere": (
        ["* 00000000 00000000 0200 0 0 0 00000000 0 0 0"],
        [f"{ZERO6} 00 {ZERO6} 00 {ZERO6} ffffffff 1 0 200200 lo"],
        "",
    ),
    "none": ([], [], ""),
}


@pytest.mark.parametrize("rows4, rows6, expected", DEFAULTS.values(), ids=DEFAULTS.keys())
def test_the_default_routes_interface(monkeypatch, rows4, rows6, expected):
    """As the kernel lists routes: one that is unreachable has no interface, or lo."""
    files = {"/proc/net/route": ["Iface Destination", *rows4], "/proc/net/ipv6_route": rows6}
    monkeypatch.setattr(xen_claim, "lines", files.__getitem__)
    if expected:
        assert xen_claim.default_netdev("web") == expected
    else:
        with pytest.raises(InputError, match="web: the host has no default route"):
            xen_claim.default_netdev("web")


@pytest.mark.parametrize(
    "environ, runs",
    [
        ({}, False),
        ({"script": "/etc/xen/scripts/vif-setup"}, False),
        ({"script": "/etc/xen/scripts/vmnet-vif-setup"}, False),
        ({"script": "/etc/xen/scripts/of-mine", "VMNET_VIF_SETUP": "1"}, False),
        ({"script": "/etc/xen/scripts/of-mine"}, True),
    ],
    ids=["none", "itself", "itself, by our name", "called by itself", "another"],
)
def test_vif_setup_hands_over_once(monkeypatch, environ, runs):
    handed = []
    monkeypatch.setattr(xen.os, "execve", lambda *words: handed.append(words))
    xen._set_up(request(["/x/vif-setup", "online", "a=b"], environ=environ))
    path = environ.get("script")
    assert handed == ([(path, [path, "online", "a=b"], {**environ, "VMNET_VIF_SETUP": "1"})] if runs else [])


# --- values ----------------------------------------------------------------------------------------------------------

SOURCES = {
    "10.0.0.1": "10.0.0.1",
    "10.0.0.1/32": "10.0.0.1",
    "10.0.0.1/24": "10.0.0.1",
    "10.0.0.0/24": "10.0.0.0/24",
    "10.0.0.8/29": "10.0.0.8/29",
    "10.0.0.9/29": "10.0.0.9",
    "2001:DB8::1": "2001:db8::1",
    "2001:db8::1/64": "2001:db8::1",
    "2001:db8::/64": "2001:db8::/64",
    "2001:db8::1/128": "2001:db8::1",
}


@pytest.mark.parametrize("text, expected", SOURCES.items())
def test_addresses(host, text, expected):
    found = event(host, "online", PV, {**PV_TREE, "bridge": "br0", "ip": f"  {text}  {text} "})
    assert found.domain.claims[0].addresses == (expected,), "each once"


WRONG_ADDRESSES = [
    *("10.7.0.300", "10.0.1", "fe80::1%eth0", "10.7.0.0/33", "10.0.0.1 10.0.0"),
    *("10.0.0.1,10.0.0.2", "10.0.0.1/", "/24", "nothing"),
]


@pytest.mark.parametrize("text", WRONG_ADDRESSES)
def test_wrong_addresses(host, text):
    with pytest.raises(InputError, match=re.escape(text.split()[-1])):
        event(host, "online", PV, {**PV_TREE, "bridge": "br0", "ip": text})


@pytest.mark.parametrize("value", ["99999", "20", "0", "-1", "1500.0", "1e3", "١٥٠٠"])
def test_wrong_mtus(host, value):
    with pytest.raises(InputError, match=f"mtu: '{value}'"):
        event(host, "online", PV, {**PV_TREE, "bridge": "br0", "mtu": value})


@pytest.mark.parametrize("name", ["a-name-of-sixteen", "twelve-chars"])
def test_names_that_are_too_long(host, name):
    """The tap of an HVM guest has four characters more."""
    words, environ = ("online", PV) if len(name) > 15 else ("add type_if=tap", HVM)
    with pytest.raises(InputError, match=f"vifname: '{name}"):
        event(host, words, environ, {**PV_TREE, "bridge": "br0", "vifname": name})


VLANS = {
    "10": (10, ()),
    "10p": (10, ()),
    "4094": (4094, ()),
    "10p/20": (10, (20,)),
    "20/10p": (10, (20,)),
    "100-103": (None, (100, 101, 102, 103)),
    "10p/100-102/200": (10, (100, 101, 102, 200)),
    "10p/100+10x4": (10, (100, 110, 120, 130, 140)),
    "100/100/101": (None, (100, 101)),
}
WRONG_VLANS = [
    *(
        "",
        "0",
        "4095",
        "10p/0",
        "1-4095",
        "103-100",
        "10p/20p",
        "10p/10",
        "10/",
        "/10",
        "10//20",
        "-10",
        "10-",
        "+",
        "10+5",
        "10x5",
    ),
    *("10 /20", " 10", "10\n", "ten", "1e1", "0x10", "١٠", "10pp", "10p-20", "4000+100x4", "10u u", "99999999", "$(id)"),
]


@pytest.mark.parametrize("text, expected", VLANS.items())
def test_vlans(text, expected):
    assert xen_claim.vlans(text) == expected


@pytest.mark.parametrize("text", WRONG_VLANS, ids=repr)
def test_wrong_vlans(text):
    with pytest.raises(ValueError, match="VLAN|goes from"):
        xen_claim.vlans(text)


def test_every_vlan_and_every_pair():
    """What goes in comes out, for each ID alone, untagged beside another, as a range and as a row."""
    for vid in range(1, 4095):
        assert xen_claim.vlans(str(vid)) == xen_claim.vlans(f"{vid}p") == (vid, ())
    for first, last in ((1, 4094), (7, 7), (4000, 4094)):
        assert xen_claim.vlans(f"{first}-{last}") == (None, tuple(range(first, last + 1)))
    for step in (1, 7, 100):
        for count in (1, 5, 40):
            assert xen_claim.vlans(f"1p/2+{step}x{count}") == (1, tuple(2 + number * step for number in range(count + 1)))


def test_vlans_of_a_bridge_that_knows_them(host):
    (host / "sys" / "xenbr0" / "bridge" / "vlan_filtering").write_text("1\n")
    claim = event(host, "online", PV, {**PV_TREE, "bridge": "xenbr0", "vlan": "10p/20"}).domain.claims[0]
    assert (claim.vlan, claim.tagged) == (10, (20,))


def test_a_vlan_of_a_bridge_that_knows_none(host):
    """A bridge of the VLAN's own, over a VLAN device on the one port that leads out of the host."""
    tree = {**PV_TREE, "bridge": "xenbr0", "vlan": "10"}
    with pytest.raises(InputError, match="xenbr0 is not VLAN-aware and has no port that leads outside; xenbr0.10 is made over"):
        event(host, "online", PV, tree)
    for port in ("eth3", "vif7.0"):
        (host / "sys" / "xenbr0" / "brif" / port).mkdir()
    found = event(host, "online", PV, tree)
    assert {key: found.network[key] for key in ("bridge", "uplink", "vlan")} == {
        "bridge": "xenbr0.10",
        "uplink": "eth3",
        "vlan": 10,
    }
    assert found.domain.claims[0].vlan is None and not found.domain.claims[0].tagged
    (host / "sys" / "xenbr0" / "brif" / "eth4").mkdir()
    with pytest.raises(InputError, match=r"2 ports that lead outside \(eth3, eth4\)"):
        event(host, "online", PV, tree)
    with pytest.raises(InputError, match="one VLAN, untagged"):
        event(host, "online", PV, {**tree, "vlan": "10p/20"})


def test_a_vlan_of_a_bridge_whose_guests_are_filtered(host):
    """The bridge for the VLAN is another, and its guests are filtered, too."""
    (host / "sys" / "xenbr0" / "brif" / "eth3").mkdir()
    tree = {**PV_TREE, "bridge": "xenbr0", "vlan": "10"}
    for setting, expected in ((True, True), (False, None)):
        text = f'[networks.xenbr0]\nmode = "bridged"\nbridge = "xenbr0"\nantispoof = {str(setting).lower()}\n'
        found = event(host, "online", PV, tree, configured(host, text))
        assert (found.network["bridge"], found.network["uplink"]) == ("xenbr0.10", "eth3")
        assert found.network["antispoof"] is expected


NOTED = {
    "xenbr0.10": (10, ()),
    "xenbr0.10:20": (10, (20,)),
    "xenbr0:20": (None, (20,)),
    "xenbr0:30:20": (None, (20, 30)),
    "xenbr0.4094:1:2:3": (4094, (1, 2, 3)),
}


@pytest.mark.parametrize("text", NOTED)
def test_vlans_in_the_name_of_the_bridge(host, text):
    """The notation of vif-openvswitch, and of Ganeti: xl 4.17 drops vlan=."""
    (host / "sys" / "xenbr0" / "bridge" / "vlan_filtering").write_text("1\n")
    found = event(host, "online", PV, {**PV_TREE, "bridge": text})
    assert found.network["bridge"] == "xenbr0"
    assert (found.domain.claims[0].vlan, found.domain.claims[0].tagged) == NOTED[text]


def test_a_vlan_in_the_name_of_a_bridge_that_knows_none(host):
    """The same as with vlan=, also when the bridge for the VLAN is there by now."""
    (host / "sys" / "xenbr0" / "brif" / "eth3").mkdir()
    expected = event(host, "online", PV, {**PV_TREE, "bridge": "xenbr0", "vlan": "10"}).network
    assert event(host, "online", PV, {**PV_TREE, "bridge": "xenbr0.10"}).network == expected
    (host / "sys" / "xenbr0.10" / "bridge").mkdir(parents=True)
    (host / "sys" / "xenbr0.10" / "ifalias").write_text("vmnet-hooks\n")
    assert event(host, "online", PV, {**PV_TREE, "bridge": "xenbr0.10"}).network == expected
    with pytest.raises(InputError, match="one VLAN, untagged"):
        event(host, "online", PV, {**PV_TREE, "bridge": "xenbr0.10:20"})


DOTTED = {
    "one that is there": "",
    "declared": '[bridges."xenbr0.10"]\nports = ["eth3"]\n',
    "a network's": '[networks.web]\nmode = "bridged"\nbridge = "xenbr0.10"\nuplink = "eth3"\n',
}


@pytest.mark.parametrize("text", DOTTED.values(), ids=DOTTED.keys())
def test_a_bridge_that_has_a_dot_in_its_name(host, text):
    """It comes first, and the guest has no VLAN."""
    if not text:
        (host / "sys" / "xenbr0.10" / "bridge").mkdir(parents=True)
    found = event(host, "online", PV, {**PV_TREE, "bridge": "xenbr0.10"}, configured(host, text))
    assert not found.domain.claims[0].vlan
    assert (found.network["bridge"] if found.network else found.domain.claims[0].network) in ("xenbr0.10", "web")


def test_a_vlan_device_is_no_bridge(host):
    (host / "sys" / "xenbr0" / "bridge" / "vlan_filtering").write_text("1\n")
    (host / "sys" / "xenbr0.5").mkdir()
    declared = configured(host, '[vlans."xenbr0.5"]\nparent = "xenbr0"\nid = 5\n')
    found = event(host, "online", PV, {**PV_TREE, "bridge": "xenbr0.5"}, declared)
    assert (found.network["bridge"], found.domain.claims[0].vlan) == ("xenbr0", 5)


BAD_NOTES = {
    "xenbr0.0": "VLAN 0",
    "xenbr0.4095": "VLAN 4095",
    "xenbr0.10:10": "both untagged and tagged",
    "xenbr7.10": "bridge",
    "xenbr7:10": "bridge",
    "xenbr0.10.20": "bridge",
    "xenbr0:": "bridge",
}


@pytest.mark.parametrize("text", BAD_NOTES)
def test_vlans_in_the_name_of_the_bridge_that_are_none(host, text):
    """The setting is named, here or where the bridge is looked for."""
    (host / "sys" / "xenbr0" / "bridge" / "vlan_filtering").write_text("1\n")
    try:
        found = event(host, "online", PV, {**PV_TREE, "bridge": text})
    except InputError as error:
        assert BAD_NOTES[text] in str(error)
    else:
        assert found.network["bridge"] in ("xenbr7", "xenbr7.10", "xenbr0.10.20")


def test_vlans_in_both_settings(host):
    with pytest.raises(InputError, match="vlan: 20, but bridge=xenbr0.10 names VLANs, too; write one of them"):
        event(host, "online", PV, {**PV_TREE, "bridge": "xenbr0.10", "vlan": "20"})


def test_a_bridge_of_open_vswitch(host, monkeypatch):
    """It is Xen's own script's."""
    monkeypatch.setattr(linux.Kernel, "link", lambda self, name: facts.Link(7, 1500, "02:00:00:00:00:01", "openvswitch", True))
    (host / "sys" / "ovsbr0").mkdir()
    for text in ("ovsbr0", "ovsbr0.10", "ovsbr0:10:20"):
        with pytest.raises(InputError, match="ovsbr0 is a bridge of Open vSwitch; write script=vif-openvswitch"):
            event(host, "online", PV, {**PV_TREE, "bridge": text})


HOSTILE = ["$(id)", "`id`", "a b", "a\nb", "\x1b[31m", "../x", "-x", "x" * 5000, "é", "\0", "a;b", "%s%n", "'\""]


@pytest.mark.parametrize("value", HOSTILE, ids=lambda value: repr(value)[:20])
@pytest.mark.parametrize("key", ["bridge", "vifname", "mac", "ip", "mtu", "vlan", "network"])
def test_hostile_values(host, key, value):
    """One line that names the setting, and no more of the value than fits."""
    with pytest.raises(VmnetError) as caught:
        event(host, "online", PV, {**CONFIGURED, key: value})
    message = str(caught.value)
    assert message.isprintable() and key in message, message


@pytest.mark.parametrize("name", HOSTILE, ids=lambda value: repr(value)[:20])
def test_a_hostile_domain_name(host, name):
    """It reads no file outside of domains.d, and an error shows it on one line."""
    (host / "etc" / "x.toml").write_text('[[interfaces]]\nmac = "00:16:3e:00:00:07"\nnetwork = "nowhere"\n')
    assert event(host, "online", PV, CONFIGURED, name=name).network["bridge"] == "xenbr0"
    with pytest.raises(VmnetError) as caught:
        event(host, "online", PV, {**CONFIGURED, "ip": "nothing"}, name=name)
    assert str(caught.value).isprintable()
