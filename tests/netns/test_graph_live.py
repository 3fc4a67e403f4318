"""`vmnet-hook graph` of a real host: two guests, one routed and one bridged, and things of others."""

from __future__ import annotations

import json
import shutil
import subprocess
from xml.etree import ElementTree

import pytest
from lab.nodes import ran
from lab.single import LAN, PUBLIC, Single, bridged, routed

SVG = "{http://www.w3.org/2000/svg}"
WORDS = (
    *("lan0", "br0", "bridge STP", "br0-gw", "macvlan private", "10.7.0.254/32", "empty0"),
    *("lan-tap11", "db", "52:54:00:bb:00:0b"),
    *("up0", "table 222", "22000: to 192.0.2.0/24", "22001: from 192.0.2.0/24", "default via 192.0.2.1 dev up0"),
    *("tap10", "web", "192.0.2.10", "2001:db8::10"),
)


@pytest.fixture(scope="module")
def one():
    with Single(PUBLIC + LAN) as single:
        web, db = routed(10), bridged(11)
        single.tap(web.tap, web.mac)
        single.tap(db.tap, db.mac, bridge="br0")
        single.start("web", web)
        single.start("db", db)
        single.host.sh("""
            ip link add link br0 name br0-gw type macvlan mode private
            ip addr add 10.7.0.254/32 dev br0-gw; ip link set br0-gw up
            ip link set br0 type bridge stp_state 1; ip link add empty0 type bridge
        """)
        yield single


def drawn(one: Single, *argv: str) -> str:
    return ran(["graph", *argv], one.host.cli("graph", *argv)).stdout


def model(one: Single) -> dict:
    return json.loads(drawn(one, "--json"))


def test_text(one):
    picture = drawn(one)
    assert max(map(len, picture.splitlines())) <= 100
    for word in WORDS:
        assert f" {word} " in picture.replace("\n", " "), f"{word}\n{picture}"
    assert " lo " not in picture and "!" not in picture, picture
    assert picture.rstrip().splitlines()[-1].startswith("not drawn: eth9 10.0.1.1/24")
    assert "\x1b" not in picture, "no colour without a terminal"
    assert drawn(one, "--ascii").isascii()


def test_model(one):
    found = model(one)
    edges = {(edge["source"], edge["target"]): edge["state"] for edge in found["edges"]}
    assert edges.keys() == {
        ("lan0", "br0"),
        ("br0", "lan-tap11"),
        ("br0", "br0-gw"),
        ("up0", "table 222"),
        ("table 222", "tap10"),
    }
    assert edges["lan0", "br0"] in ("listening", "learning", "forwarding")
    links = {link["name"]: link for link in found["links"]}
    assert links["br0"]["stp"] and links["br0-gw"]["mode"] == "private" and links["lan-tap11"]["kind"] == "tun"
    assert links["eth9"]["addresses"] == ["10.0.1.1/24", "fd00:1::1/64"]
    assert found["differences"] == []


def test_svg(one):
    picture = ElementTree.fromstring(drawn(one, "--svg", "-"))
    words = {element.text for element in picture.iter(f"{SVG}text")}
    assert {"lan0", "br0", "lan-tap11", "db", "up0", "table 222", "tap10", "web", "192.0.2.10", "br0-gw"} <= words


def test_dot(one):
    source = drawn(one, "--dot", "-")
    assert source.startswith("graph networks {") and '"tap10\\lweb\\l' in source
    if shutil.which("dot"):
        picture = subprocess.run(["dot", "-Tsvg"], input=source, capture_output=True, text=True, check=True).stdout
        assert "tap10" in picture


@pytest.mark.parametrize(
    ("change", "back", "node"),
    [
        ("ip link set lan-tap11 down", "ip link set lan-tap11 up", "lan-tap11"),
        ("ip link set up0 down", "ip link set up0 up", "up0"),
        ("ip link set lan-tap11 nomaster", "ip link set lan-tap11 master br0", "lan-tap11"),
        ("ip route del 192.0.2.10 table 222", "", "table 222"),
        ("ip rule del from 192.0.2.0/24", "", "table 222"),
        ("echo 0 > /proc/sys/net/ipv4/conf/tap10/proxy_arp", "", "tap10"),
        ("nft delete element arp vmnet guarded '{ \"tap10\" }'", "", "tap10"),
    ],
)
def test_what_differs_is_marked(one, change, back, node):
    one.host.sh(change)
    found = model(one)
    assert node in {n["name"] for n in found["nodes"] if n["differs"]}, found["differences"]
    picture = drawn(one)
    assert f"┌ !{node} " in picture and "\n! " in picture, picture
    one.host.sh(back)
    one.host.cli("repair")
    assert "!" not in drawn(one)


def test_a_tap_that_is_gone(one):
    nic = bridged(12)
    one.tap(nic.tap, nic.mac, bridge="br0", held=False)
    one.start("late", nic)
    one.untap(nic.tap)
    assert "┌ !lan-tap12 " in drawn(one) and "tap is gone" in drawn(one)
    one.stop("late", nic)
    assert "lan-tap12" not in drawn(one)


def test_hostile_names(one):
    """The kernel lets a link be called nearly anything."""
    one.host.sh(r"""
        name="$(printf 'x<&"\033')"; ip link add "$name" type bridge; ip link set "$name" alias "$(printf '"<b>&\033\n')"
        name="$(printf 'y\377\\l')"; ip link add "$name" type bridge
    """)
    assert r'x<&"\x1b' in drawn(one) and r"y\udcff\l" in drawn(one)
    ElementTree.fromstring(drawn(one, "--svg", "-"))
    assert r"x<&amp;\"\\x1b" in drawn(one, "--dot", "-")
    json.loads(drawn(one, "--json"))
    one.host.sh(r"""ip link del "$(printf 'x<&"\033')"; ip link del "$(printf 'y\377\\l')" """)
