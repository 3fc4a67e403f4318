"""The registries: a mode, a kind of link, a service, a kernel object is one file and one row. A dummy of each, outside of the
program, goes all the way."""

import json
import subprocess
import sys
import tomllib
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import pytest
from click.testing import CliRunner
from scenario import PUBLIC, V4, Host, guest

from vmnet_hooks.cli import main
from vmnet_hooks.declared import SECTIONS, configuration
from vmnet_hooks.engine import guests, healing, migration
from vmnet_hooks.engine import host as parts
from vmnet_hooks.errors import InputError, KernelError
from vmnet_hooks.graph.build import build
from vmnet_hooks.graph.model import MISSING
from vmnet_hooks.importing.draft import Block, Draft, settle, toml
from vmnet_hooks.importing.live import convert
from vmnet_hooks.kernel.import_facts import LiveHost
from vmnet_hooks.kernel.linux import Kernel
from vmnet_hooks.kernel.objects import edge
from vmnet_hooks.model.declaration import parse_options
from vmnet_hooks.model.kind import Registry, Row
from vmnet_hooks.model.objects import KINDS, Kind
from vmnet_hooks.model.plan import Change
from vmnet_hooks.model.resource import MAIN_TABLE
from vmnet_hooks.model.topology import Facts, LinkDetails
from vmnet_hooks.networks import MODES
from vmnet_hooks.services import SERVICES

PACKAGE = Path(__file__).resolve().parents[2] / "vmnet_hooks"
MODE = '''"""Guests reached by plain routes, through a link of the admin's choice."""

from vmnet_hooks import values
from vmnet_hooks.model.declaration import Option, Required
from vmnet_hooks.model.mode import Mode
from vmnet_hooks.model.objects import LinkAttribute, Route, Sysctl
from vmnet_hooks.model.resource import MAIN_TABLE


class Dummy(Mode):
    options = (Option("through", values.ifname, Required, "name the link", '"wire0"'),)
    routes_plainly = True

    def links(self, network):
        return (network["through"],)

    def network_resources(self, network, host):
        yield Sysctl(f"net/ipv4/conf/{network['through']}/forwarding", "1")

    def vif_resources(self, vif, network, host):
        yield LinkAttribute(vif.ifname, "mtu", "1400")
        for address in vif.addresses:
            yield Route(MAIN_TABLE, values.host(address), vif.ifname)
        yield LinkAttribute(vif.ifname, "state", "up")

    def attracts(self, resource, vif, network):
        return isinstance(resource, Route)
'''
SERVICE = '''"""A mark on what each guest sends."""

from vmnet_hooks import values
from vmnet_hooks.model.declaration import Option
from vmnet_hooks.model.objects import NftElement
from vmnet_hooks.model.ruleset import INET
from vmnet_hooks.model.service import Service


class Mark(Service):
    option = Option("mark", values.integer(1, 9), None, "mark what guests send", "7")

    def check(self, network, declared):
        if network["mark"] == 9:
            raise network.error("mark", "is taken; use another")

    def vif_resources(self, vif, network, host):
        yield INET
        yield NftElement("inet", "served4", (f'"{vif.ifname}"', vif.mac))
'''
KIND = '''"""Links without anything below."""

from vmnet_hooks import values
from vmnet_hooks.links import link
from vmnet_hooks.model.declaration import Option


class Wire(link.LinkKind):
    options = (Option("colour", values.one_of("red", "black"), "red", "of the wire", '"black"'), *link.OPTIONS)

    makes_up_mac = True

    def resources(self, part, host):
        yield link.device(part, "wire", host, fixed=(("colour", part["colour"]),))
        yield from link.attributes(part, host, link.mac_of(part.name, host))
'''
OBJECT = '''"""A file for each guest's tap, which some program that runs beside us reads."""

import os
from dataclasses import dataclass
from functools import cached_property

from dummy_mode import Dummy
from vmnet_hooks.kernel.objects import Edge
from vmnet_hooks.model.resource import Keys, Resource

FOLDER = {folder!r}


@dataclass(frozen=True)
class Beacon(Resource):
    ifname: str
    text: str

    kind = "beacon"
    rank = 47
    marked = True

    @cached_property
    def key(self):
        return self.key_of(self.ifname)

    @staticmethod
    def key_of(ifname):
        return f"beacon {{ifname}}"

    @classmethod
    def keys_on(cls, ifname):
        return Keys(exact=(cls.key_of(ifname),))

    @property
    def drawn_in(self):
        return (self.ifname,)

    @property
    def path(self):
        return f"{{FOLDER}}/{{self.ifname}}"

    def set_command(self, have):
        return f"echo {{self.text}} > {{self.path}}"

    def unset_command(self):
        return f"rm -f {{self.path}}"


class BeaconEdge(Edge):
    def read(self, wanted, view):
        for want in wanted:
            if os.path.exists(want.path):
                with open(want.path) as file:
                    yield Beacon(want.ifname, file.read().strip())

    def set(self, want, have, view):
        with open(want.path, "w") as file:
            file.write(want.text)

    def unset(self, have, view):
        if os.path.exists(have.path):
            os.unlink(have.path)

    def ours(self, view):
        return self.read([Beacon(name, "") for name in os.listdir(FOLDER)], view)


EDGES = {{"beacon": BeaconEdge()}}


class Lit(Dummy):
    def vif_resources(self, vif, network, host):
        yield from super().vif_resources(vif, network, host)
        yield Beacon(vif.ifname, vif.domain)
'''
WIRE = '[cables.wire0]\ncolour = "black"\naddresses = ["10.9.0.1/24"]\n'
BRIDGE = '[cables.wire1]\n[bridges.br7]\nports = ["wire1"]\n'
NETWORK = '[networks.far]\nmode = "dummy"\nthrough = "{}"\n'
GUEST = guest(1, ("far", ["10.9.0.10"]))
ROUTE = f"route {MAIN_TABLE} 10.9.0.10/32"


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """A package outside of the tree, with a mode and a kind of link. Rows are what a test adds."""
    package = tmp_path / "elsewhere"
    package.mkdir()
    (package / "dummy_mode.py").write_text(MODE)
    (package / "dummy_kind.py").write_text(KIND)
    (package / "dummy_service.py").write_text(SERVICE)
    (package / "dummy_object.py").write_text(OBJECT.format(folder=str(tmp_path / "beacons")))
    (tmp_path / "beacons").mkdir()
    monkeypatch.syspath_prepend(str(package))
    yield monkeypatch
    for name in ("dummy_mode", "dummy_kind", "dummy_service", "dummy_object"):
        sys.modules.pop(name, None)
    edge.cache_clear()


@pytest.fixture
def mode(elsewhere):
    elsewhere.setitem(MODES.rows, "dummy", Row("dummy", "dummy_mode", "Dummy"))


@pytest.fixture
def kind(elsewhere):
    elsewhere.setitem(SECTIONS.rows, "cables", Row("cables", "dummy_kind", "Wire", "wire"))


@pytest.fixture
def service(elsewhere):
    elsewhere.setitem(SERVICES.rows, "mark", Row("mark", "dummy_service", "Mark"))


@pytest.fixture
def beacon(mode, elsewhere):
    """The class of a kernel object, which the mode wants for each guest's tap."""
    beacon = import_module("dummy_object").Beacon
    elsewhere.setitem(KINDS, beacon.kind, Kind("beacon", "dummy_object", "Beacon", "dummy_object"))
    elsewhere.setitem(MODES.rows, "dummy", Row("dummy", "dummy_object", "Lit"))
    return beacon


def drawn(host, *differences):
    """The graph of a host with a wire and the guest's tap."""
    there = host.kernel.links.items()
    links = [LinkDetails(name, link.index, link.kind, master=host.kernel.master(name)) for name, link in there]
    found = host.call(lambda session: build(Facts(links), session.records.owners(), session.config, differences))
    return {node.name: node for node in found.nodes}, {(edge.source, edge.target) for edge in found.edges}


def plan_of(host, function, *arguments):
    return "\n".join(map(str, host.call(function, *arguments)))


def guest_comes_and_goes(host, through):
    """Plug with a failure at each step, check, damage, repair, live migration, graph, unplug: all of the guest's mode."""
    host.add_taps(GUEST)
    fresh = host.everything()
    assert "ip route add 10.9.0.10/32 dev t1.0" in plan_of(host, guests.plan_plug, GUEST, "libvirt")
    for step in range(20):
        host.kernel.clear_faults()
        host.kernel.fail_at = step
        try:
            assert [owner.network for owner in host.plug(GUEST)] == ["far"]
            break
        except KernelError:
            assert host.everything() == fresh
    assert step > 0
    host.kernel.clear_faults()
    plugged = host.kernel.snapshot()
    assert host.check() == [] and ROUTE in host.kernel.world
    host.plug(GUEST)
    assert host.kernel.snapshot() == plugged

    del host.kernel.world[ROUTE]
    assert [drift.what for drift in host.check()] == [f"{ROUTE}: missing"]
    assert [drift.what for drift in host.repair()] == [f"{ROUTE}: missing"]
    assert host.check() == [] and host.kernel.snapshot() == plugged

    nodes, edges = drawn(host)
    assert nodes["t1.0"].kind == "guest" and (through, "t1.0") in edges

    host.unplug(GUEST)
    assert host.everything() == fresh
    # What attracts its traffic waits for a guest that migrates here.
    incoming = host.call(guests.plug, GUEST, "libvirt", True)
    assert [owner.phase for owner in incoming] == ["incoming"] and ROUTE not in host.kernel.world
    host.call(migration.arrive, GUEST.id)
    assert ROUTE in host.kernel.world and host.check() == []
    host.unplug(GUEST)
    assert host.everything() == fresh
    host.remove_taps(GUEST)


def validated(path, toml):
    (path / "etc").mkdir(exist_ok=True)
    (path / "etc" / "vmnet.toml").write_text(toml)
    return CliRunner().invoke(main, ["validate", "--config-dir", str(path / "etc")])


def listed():
    return {row["key"] for row in json.loads(CliRunner().invoke(main, ["options", "--json"]).output)}


def test_a_mode(mode, tmp_path):
    toml = NETWORK.format("eth3")
    assert validated(tmp_path, toml).output == "ok: 1 networks, 0 domains\n"
    assert "networks.NAME(dummy).through" in listed()
    wrong = validated(tmp_path, toml.replace("through", "thruogh"))
    assert wrong.exit_code == 2 and "unknown key 'thruogh'; did you mean 'through'?" in wrong.output
    host = Host(tmp_path, toml)
    before = host.everything()[:2]
    guest_comes_and_goes(host, "eth3")
    host.assert_no_records()
    assert host.everything()[:2] == before
    assert [owner.id for owner in host.up("far")] == ["network:far"]
    assert host.check() == [] and [owner.id for owner in host.down("far")] == ["network:far"]
    assert host.everything()[:2] == before


def test_a_kind_of_link(kind, tmp_path):
    assert validated(tmp_path, WIRE).output == "ok: 0 networks, 1 host parts, 0 domains\n"
    assert {"cables.NAME.colour", "cables.NAME.mtu"} <= listed()
    twice = validated(tmp_path, WIRE + "[dummies.wire0]\n")
    assert twice.exit_code == 2 and "wire0 is also declared in cables; rename one" in twice.output
    host = Host(tmp_path, WIRE + BRIDGE)
    before = host.everything()[:2]
    assert "ip link add name wire0 type wire colour black" in plan_of(host, parts.plan_up)
    for step in range(40):
        host.kernel.clear_faults()
        host.kernel.fail_at = step
        try:
            assert {owner.id for owner in host.up()} == {"wire:wire0", "bridge:br7", "wire:wire1"}
            break
        except KernelError:
            assert host.everything()[:2] == before
    assert step > 0
    host.kernel.clear_faults()
    assert host.check() == [] and host.kernel.master("wire1") == "br7"
    assert {part.id for part in host.kept().parts()} == {"wire:wire0", "bridge:br7", "wire:wire1"}
    made = host.kernel.snapshot()
    nodes, edges = drawn(host)
    assert nodes["wire0"].kind == "wire" and nodes["wire0"].lines[0] == "wire up" and ("wire1", "br7") in edges

    host.kernel.remove_link("wire0")
    missing = [drift for drift in host.check() if drift.what == "device wire0: missing"]
    assert [drift.owner for drift in missing] == ["wire wire0"]
    nodes, _ = drawn(host, *missing)
    assert (nodes["wire0"].kind, nodes["wire0"].state, nodes["wire0"].differs) == ("wire", MISSING, True)
    host.repair()
    assert host.check() == [] and host.kernel.snapshot() == made

    with pytest.raises(InputError, match="wire9 is not up"):
        host.down("wire9")
    host.down()
    host.assert_no_records()
    assert host.everything()[:2] == before

    draft = Draft("cables", "wire0", {"colour": "black", "mtu": 1400})
    settle([block := Block(draft)])
    assert tomllib.loads(toml(["imported"], [block])) == {"cables": {"wire0": {"colour": "black", "mtu": 1400}}}
    survey = LiveHost((LinkDetails("wire0", 7, "wire", mac="02:00:00:00:00:01", mtu=1400),), (), (), (), {})
    assert [block.draft.options for block in convert(survey) if block.draft] == [{"mtu": 1400, "mac": "02:00:00:00:00:01"}]


def test_a_mode_on_a_kind_of_link(mode, kind, tmp_path):
    host = Host(tmp_path, WIRE + NETWORK.format("wire0"))
    before = host.everything()[:2]
    guest_comes_and_goes(host, "wire0")
    assert host.everything()[:2] == before, "the link went with its last guest"
    host.assert_no_records()


def test_a_service(mode, service, tmp_path):
    """A key of every network, whatever its mode."""
    toml = NETWORK.format("eth3")
    element = f'nft inet served4 "t1.0" . {GUEST.vifs[0].mac}'
    assert "networks.NAME.mark" in listed()
    assert validated(tmp_path, toml + "mark = 7\n").output == "ok: 1 networks, 0 domains\n"
    wrong = validated(tmp_path, toml + "mark = 9\n")
    assert wrong.exit_code == 2 and "networks.far.mark: is taken; use another" in wrong.output
    assert "unknown key 'mrak'; did you mean 'mark'?" in validated(tmp_path, toml + "mrak = 7\n").output
    host = Host(tmp_path, toml + "mark = 7\n")
    before = host.everything()[:2]
    guest_comes_and_goes(host, "eth3")
    host.assert_no_records()
    assert host.everything()[:2] == before
    # An edit while a guest runs.
    host.add_taps(GUEST)
    host.plug(GUEST)
    assert element in host.kernel.world and host.check() == []
    host.configure(toml)
    assert [drift.kind for drift in host.check()] == ["unwanted"] * 2
    host.repair()
    assert element not in host.kernel.world and host.check() == []


def test_a_kernel_object(beacon, tmp_path):
    toml = NETWORK.format("eth3")
    assert validated(tmp_path, toml).exit_code == 0
    host = Host(tmp_path, toml)
    before = host.everything()[:2]
    guest_comes_and_goes(host, "eth3")

    # Plan, then what the object means for check, repair, the agent and the graph.
    host.add_taps(GUEST)
    plan = plan_of(host, guests.plan_plug, GUEST, "libvirt")
    assert f"echo d1 > {tmp_path}/beacons/t1.0" in plan
    host.plug(GUEST)
    plugged, want = host.kernel.snapshot(), beacon("t1.0", "d1")
    assert host.kernel.world[want.key] == want and host.claimed()[want.key] == want
    for have, what in ((None, "missing"), (beacon("t1.0", "red"), f"is {beacon('t1.0', 'red')}")):
        for mended in (host.repair, lambda: host.call(healing.mend, None)):
            host.kernel.world.pop(want.key)
            host.kernel.put(*filter(None, [have]))
            found = host.check()
            assert [(drift.what, drift.key) for drift in found] == [(f"{want.key}: {what}", want.key)]
            nodes, _ = drawn(host, *found)
            assert nodes["t1.0"].differs
            assert host.call(lambda session: healing.amiss(session, healing.suspected(session.records, (), (), ["t1.0"])))
            mended()
            assert host.check() == [] and host.kernel.snapshot() == plugged

    # Removed from the kernel though its link goes first; found by its mark when the records are lost.
    host.remove_taps(GUEST)
    host.unplug(GUEST)
    assert want.key not in host.kernel.world
    host.assert_no_records()
    host.kernel.put(beacon("t9.0", "lost"))
    assert [(drift.kind, drift.remedy) for drift in host.check()] == [("unrecorded", f"rm -f {tmp_path}/beacons/t9.0")]
    host.repair()
    assert host.check() == [] and host.everything()[:2] == before


def test_the_kernels_side_of_an_object(beacon, tmp_path):
    """What the fake kernel does for the dummy in the test above, the real edge does by the row alone."""
    kernel, want, other = Kernel(), beacon("t1.0", "d1"), beacon("t1.0", "red")
    try:
        assert kernel.read([want]) == {}
        kernel.apply([Change(None, want)])
        assert (tmp_path / "beacons" / "t1.0").read_text() == "d1" and kernel.read([want]) == {want.key: want}
        assert list(edge("beacon").ours(None)) == [want]
        kernel.apply([Change(want, other)])
        assert kernel.read([want]) == {want.key: other} and not want.covers(other)
        for _ in range(2):
            kernel.apply([Change(other, None)])
        assert kernel.read([want]) == {}
    finally:
        kernel.close()


def test_a_kind_that_goes_while_its_parts_are_up(kind, elsewhere, tmp_path):
    """The records alone are enough to take a part down."""
    host = Host(tmp_path, WIRE)
    before = host.everything()[:2]
    host.up()
    host.configure("")
    assert [owner.id for owner in host.down("wire0")] == ["wire:wire0"]
    assert host.everything()[:2] == before


# --- the registry itself ---------------------------------------------------------------------------------------------


def test_names_load_no_file():
    registry = Registry(Row("a", "there.is.no.such.module", "A"), Row("b", "vmnet_hooks.networks.routed", "Routed"))
    assert list(registry) == ["a", "b"] and "a" in registry and "c" not in registry and len(registry) == 2
    assert registry["b"] is registry["b"] and registry["b"].name == "b"
    with pytest.raises(KeyError):
        registry["c"]
    with pytest.raises(ModuleNotFoundError):
        registry["a"]


def test_every_row_can_be_loaded():
    for name, mode in MODES.items():
        assert mode.name == name
    for name, service in SERVICES.items():
        assert service.name == service.option.name == name and service.option.default is None
    for section, kind in SECTIONS.items():
        assert (kind.section, kind.word) == (section, SECTIONS.rows[section].word)
    words = [row.word for row in SECTIONS.rows.values()]
    assert all(words) and len(set(words)) == len(words)


def test_every_file_has_a_row():
    """What is in the folder and in no row could never be declared."""
    rows = (*MODES.rows.values(), *SECTIONS.rows.values(), *SERVICES.rows.values())
    modules = {row.module.removeprefix("vmnet_hooks.") for row in rows}
    files = {f"{wing}.{path.stem}" for wing in ("networks", "links", "services") for path in (PACKAGE / wing).glob("*.py")}
    shared = {"networks.tap", "networks.reach", "links.link", "networks.__init__", "links.__init__", "services.__init__"}
    shared |= {"services.pool", "services.dnsmasq"}
    # What is said to guests, in bytes, and to DNS servers.
    said = ("dhcp4", "dhcp6", "packets", "responder", "router_advertisement", "terms", "nsupdate")
    shared |= {f"services.{name}" for name in said}
    assert files - shared == modules - {"networks"}


def test_a_routed_start_loads_no_other_kind_and_no_other_mode(tmp_path):
    """Engine, kernel and configuration, with one routed network."""
    (tmp_path / "vmnet.toml").write_text(PUBLIC + V4)
    command = (
        "import sys; sys.path.insert(0, sys.argv[1]); import vmnet_hooks.engine\n"
        "from vmnet_hooks.declared import configuration\n"
        "configuration.load(sys.argv[2]); print(*sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-c", command, str(PACKAGE.parent), str(tmp_path)], capture_output=True, text=True, timeout=60
    )
    loaded = {name for name in done.stdout.split() if name.startswith(("vmnet_hooks.links.", "vmnet_hooks.networks."))}
    assert loaded == {f"vmnet_hooks.networks.{name}" for name in ("routed", "tap", "reach")}, done.stderr


def options():
    """Every option that a configuration can have, with where it stands."""

    def rows(where, options):
        for row in options:
            yield pytest.param(row, id=f"{where}.{row.name}")
            yield from rows(f"{where}.{row.name}", row.keys)

    for kind in SECTIONS.values():
        for where, found in kind.listed():
            yield from rows(where, found)
    yield from rows("interfaces", configuration.INTERFACE_OPTIONS)


@pytest.mark.parametrize("row", options())
def test_every_example_is_valid(row):
    value = tomllib.loads(f"example = {row.example}")["example"]
    assert "\n" not in row.example
    found = parse_options((replace(row, name="example"),), {"example": value}, "f")["example"]
    assert row.required or found != row.default, "an example shows something else than the default"
