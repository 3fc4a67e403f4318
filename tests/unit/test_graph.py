"""Drawings: text, SVG and DOT of hosts as data, compared with the files in graphs/.

After a change of how they look, look at `git diff` of

    UPDATE_GRAPHS=1 /usr/bin/python3 -m pytest tests/unit/test_graph.py
"""

import json
import os
import re
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from click.testing import CliRunner
from graph_hosts import HOSTS, declared, drift, graph, guest, network, ring
from lxml import etree

from vmnet_hooks.cli import graph as command
from vmnet_hooks.engine.drift import Drift
from vmnet_hooks.errors import VmnetError
from vmnet_hooks.graph.build import build
from vmnet_hooks.graph.dot import dot
from vmnet_hooks.graph.layout import Style, layout
from vmnet_hooks.graph.model import Edge, Graph, Node
from vmnet_hooks.graph.placement import cells
from vmnet_hooks.graph.svg import svg
from vmnet_hooks.graph.text import STYLES, text
from vmnet_hooks.model import ruleset
from vmnet_hooks.model.declaration import Config
from vmnet_hooks.model.objects import (
    Address,
    Device,
    HostName,
    LinkAttribute,
    Neighbour,
    NftElement,
    ProxyNeighbour,
    Route,
    Rule,
    Sysctl,
    TableName,
)
from vmnet_hooks.model.objects.bridge import Adoption, FdbEntry, PortVlans
from vmnet_hooks.model.resource import MAIN_TABLE, Resource
from vmnet_hooks.model.ruleset import guarded_port
from vmnet_hooks.model.topology import Facts, LinkDetails, Nat, Table

GRAPHS = Path(__file__).with_name("graphs")
SVG = "{http://www.w3.org/2000/svg}"
HOSTILE = (
    "<b>&\"'",
    "]]>",
    "a\nb",
    "\x1b[31mred\x07",
    "\x00",
    "\\l\\N",
    "%s{}",
    "-->",
    "\u202egnp",
    "x" * 500,
    "界" * 30,
    "e\u0301\u0302",
    "\udcff\ufffe",
    "no\xa0break",
    "\u0663",
    "7",
    "",
)
NAT = {"subnet": "10.5.5.0/24", "out": "xenbr0"}
each_host = pytest.mark.parametrize("name", HOSTS)


def words(markup: str) -> str:
    """Everything that a picture says."""
    return "\n".join("".join(element.itertext()) for element in etree.fromstring(markup.encode()).iter(f"{SVG}text"))


@each_host
@pytest.mark.parametrize(
    ("suffix", "draw"),
    [("100.txt", lambda g: text(g, 100)), ("80.txt", lambda g: text(g, 80)), ("ascii.txt", lambda g: text(g, 80, unicode=False)),
     ("60.txt", lambda g: text(g, 60)), ("svg", lambda g: svg(g, "node1")), ("dot", lambda g: dot(g, "node1"))],
)  # fmt: skip
def test_golden(name, suffix, draw):
    path = GRAPHS / f"{name}.{suffix}"
    drawn = draw(graph(name))
    if "UPDATE_GRAPHS" in os.environ:
        path.parent.mkdir(exist_ok=True)
        path.write_text(drawn)
    assert drawn == path.read_text()


@each_host
def test_every_link_is_in_every_drawing(name):
    facts, owners, _ = HOSTS[name]()
    drawn = graph(name)
    for link in facts.links:
        for what in (text(drawn, 100), text(drawn, 60), words(svg(drawn)), dot(drawn)):
            assert (re.search(rf"\b{re.escape(link.name)}\b", what) is not None) == (link.name != "lo")
    for owner in owners:
        for what in (text(drawn, 100), words(svg(drawn)), dot(drawn)):
            assert {owner.domain, owner.ifname, owner.mac, *owner.addresses} <= set(re.split(r"[\s\"!]+|\\l", what))


@each_host
@pytest.mark.parametrize("width", [30, 40, 60, 72, 80, 81, 100, 120, 200])
def test_no_line_is_too_wide(name, width):
    longest = max(len(word) for line in text(graph(name), 1).splitlines() for word in line.split())
    for unicode in (True, False):
        lines = text(graph(name), width, unicode).splitlines()
        assert max(map(cells, lines)) <= max(width, longest + 18)
        assert unicode or "".join(lines).isascii()
        assert all(line == line.rstrip() for line in lines)


@each_host
def test_the_picture_holds_together(name):
    """Boxes lie within the page and on no other; each line ends at its boxes."""
    drawn = graph(name)
    root = etree.fromstring(svg(drawn).encode())
    width, height = int(root.get("width")), int(root.get("height"))
    frames = [rect for rect in root.iter(f"{SVG}rect") if rect.get("class") == "body"]
    boxes = [tuple(int(rect.get(key)) for key in ("x", "y", "width", "height")) for rect in frames]
    assert len(boxes) == len(drawn.nodes)
    for x, y, w, h in boxes:
        assert 0 < x and 0 < y and x + w < width and y + h < height
        assert sum(x < a + c and a < x + w and y < b + d and b < y + h for a, b, c, d in boxes) == 1
    paths = [path.find(f"{SVG}title").text for path in root.iter(f"{SVG}path") if path.get("class", "").startswith("line")]
    for edge in drawn.edges:
        assert any(title.startswith(f"{edge.source} – {edge.target}") for title in paths), edge


@each_host
@pytest.mark.parametrize("style", STYLES)
def test_boxes_and_lines_do_not_touch(name, style):
    placed = layout(graph(name), style)
    for box in placed.boxes:
        for other in placed.boxes:
            if box is not other and box.column == other.column:
                assert box.bottom < other.y or other.bottom < box.y
        for line in placed.lines:
            if box.node.name not in (line.edge.source, line.edge.target):
                for y, low, high in ((line.y1, line.x1, line.x), (line.y2, line.x, line.x2)):
                    assert not (box.y <= y <= box.bottom and low < box.x + box.width - 1 and box.x < high), (box, line)


def test_nothing():
    empty = build(Facts((LinkDetails("lo", 1),)), [], declared())
    assert empty == Graph((), ()) and text(empty) == "" and words(svg(empty)) == "" and dot(empty).startswith("graph ")


def test_colours_only_for_what_differs():
    drawn = text(graph("ring"), 100, paint=lambda part: f"<{part}>")
    marked = re.findall("<(.*?)>", drawn)
    assert any("!eth1.100" in part for part in marked) and any("!vif1.0" in part for part in marked)
    assert not any(name in part for part in marked if not part.startswith("! ") for name in ("guestbr0", "vif2.0", "eth2", "NAT"))
    assert re.sub("[<>]", "", drawn) == text(graph("ring"), 100)
    assert text(build(*ring()), 100, paint=lambda part: f"<{part}>") == text(build(*ring()), 100)


@pytest.mark.parametrize(
    ("resource", "what", "marked"),
    [
        (LinkAttribute("eth1", "state", "up"), "is down", {"eth1"}),
        (Device("guestbr0", "bridge"), "stp_state is 0", {"guestbr0"}),
        (Device("gone0", "bridge"), "missing", {"gone0"}),
        (Address("xenbr0", "192.168.122.13/24"), "missing", {"xenbr0"}),
        (Adoption("eth0", "xenbr0"), "is in no bridge, not in xenbr0", {"eth0"}),
        (PortVlans("vif2.0", 7, ""), "has untagged none, tagged none", {"vif2.0"}),
        (FdbEntry("guestbr0", "02:00:00:00:00:01"), "missing", {"guestbr0"}),
        (Neighbour("vif2.0", "10.5.5.2", "02:00:00:00:00:01"), "missing", {"vif2.0"}),
        (ProxyNeighbour("eth2", "10.5.5.2"), "missing", {"eth2"}),
        (HostName("vif2.0", "db1", ()), "missing", {"vif2.0"}),
        (Route(MAIN_TABLE, "10.5.5.2/32", "vif2.0"), "missing", {"vif2.0"}),
        (Sysctl("net/ipv6/conf/eth2.100/disable_ipv6", "1"), "is 0", {"eth2.100"}),
        (guarded_port("eth1.100", "02:00:00:00:00:01", ("10.5.5.1",)), "missing", {"eth1.100"}),
        (NftElement("arp", "arp_source", ('"guestbr0"',), "10.5.5.1"), "is 0.0.0.0", {"guestbr0"}),
        (ruleset.NAT, "missing", {"nat 10.5.5.0/24 xenbr0"}),
        (NftElement("inet", "snat4", ("10.5.5.0/24", '"xenbr0"'), "192.0.2.1"), "missing", {"nat 10.5.5.0/24 xenbr0"}),
    ],
    ids=lambda value: value.key if isinstance(value, Resource) else None,
)
def test_what_an_object_marks(resource, what, marked):
    facts, owners, config = ring()
    config = declared(*config.networks.values(), bridges={"gone0": {"ports": ("eth9",)}})
    drawn = build(facts, owners, config, [drift(resource, what)])
    assert {node.name for node in drawn.nodes if node.differs} == marked
    assert drawn.differences == (f"{resource.key}: {what}",)


@pytest.mark.parametrize(
    ("kind", "what", "owner", "marked"),
    [
        ("refused", "lan: the uplink was edited", "db1/52:54:00:aa:00:0c", {"vif2.0"}),
        ("refused", "vmnet.toml: nonsense", "network:lan", {"guestbr0"}),
        ("not-up", "needs bridge guestbr0, which is not up", "nat:guests", {"nat 10.5.5.0/24 xenbr0"}),
        ("not-up", "needs bridge guestbr0, which is not up", "vlan:eth1.100", {"eth1.100"}),
        ("interrupted", "interrupted: up, 3 changes", "", set()),
    ],
)
def test_what_an_owner_marks(kind, what, owner, marked):
    facts, owners, config = ring()
    assert not owner.startswith("db1/") or owner in {guest.id for guest in owners}
    config = declared(*config.networks.values(), nat={"guests": NAT})
    drawn = build(facts, owners, config, [Drift(kind, what, "", owner, owner)])
    assert {node.name for node in drawn.nodes if node.differs} == marked
    assert len(drawn.differences) == 1 and what in drawn.differences[0]


@pytest.mark.parametrize(
    "resource",
    [Route(222, "192.0.2.10/32", "tap10"), Rule(22000, "from", "192.0.2.0/24", 222), TableName(222, "routed")],
    ids=lambda resource: resource.key,
)
def test_a_table_is_marked(resource):
    drawn = build(*HOSTS["routed"](), [drift(resource)])
    assert "table 222" in {node.name for node in drawn.nodes if node.differs}


def test_what_is_missing_is_drawn_where_it_belongs():
    config = declared(bridges={"br7": {"ports": ("eth1",)}}, vlans={"eth1.7": {"parent": "eth1"}})
    missing = [drift(Device("br7", "bridge")), drift(Device("eth1.7", "vlan", "eth1"))]
    drawn = build(Facts((LinkDetails("eth1", 2),)), [], config, missing)
    assert {(node.name, node.kind, node.state) for node in drawn.nodes} >= {
        ("br7", "bridge", "missing"),
        ("eth1.7", "vlan", "missing"),
    }
    assert set(drawn.edges) == {Edge("eth1", "br7", "missing"), Edge("eth1", "eth1.7", "missing")}


def test_a_link_of_ours_that_is_gone():
    """What only follows from it is not told."""
    facts, owners, config = ring()
    links = tuple(link for link in facts.links if link.name != "guestbr0-gw")
    facts = Facts(links, absent=(LinkDetails("guestbr0-gw", kind="macvlan", parent="guestbr0"),))
    told = [Device("guestbr0-gw", "macvlan", "guestbr0"), Address("guestbr0", "10.5.5.1/24")]
    follows = [
        Address("guestbr0-gw", "10.5.5.254/32"),
        Sysctl("net/ipv4/conf/guestbr0-gw/forwarding", "1"),
        NftElement("inet", "forwarding", ('"guestbr0-gw"',)),
        Route(MAIN_TABLE, "10.5.5.0/24", "guestbr0-gw"),
    ]
    drawn = build(facts, owners, config, [drift(resource, "missing", "bridge:guestbr0") for resource in (*told, *follows)])
    assert drawn.differences == tuple(f"bridge guestbr0: {resource.key}: missing" for resource in told)
    assert Edge("guestbr0", "guestbr0-gw", "missing") in drawn.edges
    assert {node.name: node.kind for node in drawn.nodes if node.state == "missing"} == {"guestbr0-gw": "macvlan"}


def test_ports_that_were_taken_out():
    facts, owners, config = ring()
    out = ("eth2.100", "vif1.0")
    links = tuple(replace(link, master="") if link.name in out else link for link in facts.links)
    drawn = build(Facts(links), owners, config, [drift(LinkAttribute(name, "master", "guestbr0"), "is none") for name in out])
    assert {Edge("eth2.100", "guestbr0", "missing"), Edge("guestbr0", "vif1.0", "missing")} <= set(drawn.edges)


def test_a_long_list_of_differences_is_cut():
    drawn = build(*ring(), [drift(LinkAttribute("eth1", f"a{n}", "c"), "is b") for n in range(100)])
    assert len(drawn.differences) == 100
    for what in (text(drawn), words(svg(drawn)), dot(drawn)):
        assert "a19:" in what and "a20:" not in what and "and 80 more; see `vmnet-hook check`" in what


def test_who_is_on_which_side():
    """A link with the name of a guest's is one, unless the declaration says otherwise."""
    links = (
        LinkDetails("br0", 1, "bridge"),
        LinkDetails("veth0", 2, "veth", master="br0"),
        LinkDetails("veth1", 3, "veth", master="br0"),
        LinkDetails("wlan0", 4, master="br0"),
    )
    drawn = build(Facts(links), [], declared(bridges={"br0": {"ports": ("veth1",)}}))
    assert {(edge.source, edge.target) for edge in drawn.edges} == {("br0", "veth0"), ("veth1", "br0"), ("wlan0", "br0")}


def test_what_is_of_no_concern():
    links = (
        LinkDetails("lo", 1),
        LinkDetails("eth0", 2, addresses=("192.0.2.7/24",)),
        LinkDetails("tun0", 3, "tun", up=False),
        LinkDetails("br0", 4, "bridge"),
    )
    drawn = build(Facts(links), [], declared())
    assert [node.name for node in drawn.nodes] == ["br0"]
    assert drawn.unrelated == ("eth0 192.0.2.7/24", "tun0 down")
    assert text(drawn).endswith("\nnot drawn: eth0 192.0.2.7/24, tun0 down\n")


def test_a_circle_is_drawn():
    """Two macvlans can't stand on each other, but whoever races with the kernel may read that they do."""
    macvlans = LinkDetails("a", 1, "macvlan", parent="b"), LinkDetails("b", 2, "macvlan", parent="a")
    links = (*macvlans, LinkDetails("c", 3, "bridge", master="c"))
    drawn = build(Facts(links), [], declared())
    assert all(name in text(drawn, 80) and name in text(drawn, 10) for name in "abc")
    etree.fromstring(svg(drawn).encode())


@pytest.mark.parametrize("evil", HOSTILE, ids=lambda evil: ascii(evil)[:12])
def test_hostile_names(evil):
    links = (
        LinkDetails(evil, 1, "bridge", alias=evil, mode=evil, addresses=(evil,)),
        LinkDetails("tap0", 2, "tun", master=evil, port_state=evil),
        LinkDetails("eth0", 3, evil, parent=evil, mac=evil),
    )
    facts = Facts(links, (Table(7, (evil,), ((evil, evil, evil), ("192.0.2.1/32", "", "tap0"))),), (Nat(evil, evil, evil),))
    owners = [guest(evil, "tap0", evil, 1, evil), guest("d", evil, "net", 2), guest(evil, "gone", "net", 3)]
    config = declared(network("net", "routed", uplink="eth0", table=7, role=evil))
    drawn = build(facts, owners, config, [replace(drift(LinkAttribute("tap0", evil, "c"), evil), owner=evil, owner_id=evil)])
    for width in (40, 80, 100):
        for unicode in (True, False):
            plain = text(drawn, width, unicode)
            assert all(line.isprintable() for line in plain.split("\n"))
            assert unicode or plain.isascii()
            frames = [line for line in plain.splitlines() if line.startswith("│")]
            assert len({cells(line) for line in frames if line.endswith("│") and line.count("│") == 2} or {0}) <= 4
    root = etree.fromstring(svg(drawn, evil).encode())
    assert not {element.tag for element in root.iter()} - {f"{SVG}{tag}" for tag in "svg title style rect g text path".split()}
    unquoted = re.sub(r'"(?:[^"\\]|\\.)*"', "", dot(drawn, evil))
    assert set(unquoted) <= set("graph networks{}[];=,-.0123456789\n abcdefghijklmnopqrstuvwxyzLR") and unquoted.count("\n") < 60
    json.dumps({**asdict(facts), **asdict(drawn)})


def test_wide_and_combining_letters_keep_the_frame():
    node = Node("br0", "bridge", ("界界", "e\u0301e\u0301", "ab"))
    lines = text(Graph((node,), ())).splitlines()
    assert {cells(line) for line in lines} == {8} and all(line.endswith(("┐", "│", "┘")) for line in lines)


def test_a_thousand_guests():
    links = (
        LinkDetails("eth0", 1, master="br0"),
        LinkDetails("br0", 2, "bridge"),
        *(LinkDetails(f"tap{n}", n, "tun", master="br0") for n in range(3, 1003)),
    )
    drawn = build(Facts(links), [], declared())
    assert text(drawn, 80).count("tap up") == 1000


# --- the command --------------------------------------------------------------------------------------------------------


@pytest.fixture
def run(monkeypatch):
    monkeypatch.setattr(command, "look", lambda _: (ring()[0], graph("ring")))
    for name in ("LC_ALL", "LC_CTYPE", "TERM"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("LANG", "en_GB.UTF-8")
    monkeypatch.setenv("COLUMNS", "90")

    def call(*argv: str):
        result = CliRunner().invoke(command.graph, list(argv), catch_exceptions=False)
        assert result.exit_code == 0, result.output
        return result.output

    return call


def test_the_command_draws(run, monkeypatch):
    assert run() == text(graph("ring"), 90)
    assert run("--ascii") == text(graph("ring"), 90, unicode=False)
    monkeypatch.setenv("LC_ALL", "C")
    assert run() == text(graph("ring"), 90, unicode=False)


def test_the_command_writes_files(run, tmp_path):
    assert run("--svg", str(tmp_path / "a.svg"), "--dot", str(tmp_path / "a.dot")) == ""
    name = os.uname().nodename
    assert (tmp_path / "a.svg").read_text() == svg(graph("ring"), name) == run("--svg", "-")
    assert (tmp_path / "a.dot").read_text() == dot(graph("ring"), name) == run("--dot", "-")


def test_the_command_prints_json(run):
    found = json.loads(run("--json"))
    assert {link["name"] for link in found["links"]} >= {"eth0", "guestbr0", "vif1.0"}
    assert {node["name"] for node in found["nodes"] if node["differs"]} == {"eth1.100", "vif1.0"}
    assert found["differences"] and found["edges"] and found["nats"]


def test_the_command_says_what_it_cannot_write(tmp_path):
    result = CliRunner().invoke(command.graph, ["--svg", str(tmp_path / "no" / "a.svg")])
    assert result.exit_code != 0


def test_who_is_not_root_is_told(monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(VmnetError, match="use sudo"):
        command.look(Config({}))


def test_the_styles_are_from_roomy_to_tight():
    sizes = [layout(graph("ring"), style).width for style in STYLES]
    assert sizes == sorted(sizes, reverse=True) and Style() in STYLES
