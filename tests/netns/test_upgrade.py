"""The package is upgraded while guests run: the records of an older version are taken over, and nothing of the guests is lost.

`tests/records/VERSION.json` is what that version recorded for the scene below: tables and rows, without the numbers of the links.
`0.1.0-kinds.json` is of the same tables, and has an owner of each kind; `0.3.0-prefixes.json` has guests with prefixes.
`python3 tests/netns/test_upgrade.py [prefixes]`, in a tree of that version, prints the records of another one.
"""

from __future__ import annotations

import json
import os
import sqlite3
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))

from lab.domains import Interface  # noqa: E402
from lab.ifupdown import Ifupdown  # noqa: E402
from lab.nodes import ROOT, Node, settled, wire  # noqa: E402
from lab.routed import call  # noqa: E402
from lab.single import LAN, PUBLIC, bridged, routed, same  # noqa: E402
from lab.xenhost import XenHost, offline, online  # noqa: E402
from test_antispoof import passed  # noqa: E402
from test_prefixes import from_bridged, knows_upstream, routed_on  # noqa: E402

from vmnet_hooks.records import decode  # noqa: E402

RECORDED = {"0.1.0": ROOT / "tests/records/0.1.0.json", "0.1.0-kinds": ROOT / "tests/records/0.1.0-kinds.json"}
PREFIXES = ROOT / "tests/records/0.3.0-prefixes.json"
STATE = "/run/vmnet-hooks/state.db"
CONFIG = PUBLIC + LAN + '\n[bridges.xenbr0]\nports = ["eth9"]\nadopt = "eth9"\n'
LATER = '\n[bridges.br5]\n[networks.five]\nmode = "bridged"\nbridge = "br5"\n'
STANZA = """
iface eth5 inet manual
    ip-routing-table 223
    ip-routes 198.51.100.128/25
    ip-gateway 198.51.100.254
    ip-forwarding 1
    ip-proxy-arp 1
    arp-ip 198.51.100.253
"""
GUESTS = {"dom1": routed(10), "dom2": routed(20), "dom3": bridged(30)}
PREPARED = Interface("52:54:00:bb:00:04", "lan-tap4", bridge="br5")
"""The NIC of dom4, whose start has come as far as `prepare`."""
DAY = 86400.0
OLDER = r"""
for f in -4 -6; do
    ip -N $f rule | sed -n 's/^22001:\tfrom \(.*\) lookup \(.*\) proto 86.*/\1 \2/p' | while read net table; do
        ip $f rule del pref 22001; ip $f rule add from $net lookup $table pref 22000 protocol 86
    done
    while ip $f rule del pref 22002 2>/dev/null; do :; done
done
ip link del vmnet-ifb
for group in /sys/class/net/*/netdev_group; do echo 0 > $group; done
for port in /sys/class/net/*/brport; do bridge link set dev $(basename $(dirname $port)) guard off learning on; done
bridge fdb | grep " sticky " | while read mac dev port rest; do bridge fdb del $mac dev $port master; done
"""
"""Up to 0.2, `from` had the priority of `to`, tables had no floor, no checksum was finished, every port learnt, and taps had no
group."""


class Scene:
    """A takeover that waits to be confirmed; routed, bridged and Xen guests that run. A `full` one has a network that a stanza
    describes too, and a guest whose start was prepared. Xen's are `prefixed` or not."""

    def __init__(self, one: XenHost, full: bool = True, prefixed: bool = False) -> None:
        self.one = one
        self.ifupdown = Ifupdown(one.host) if full else None
        if self.ifupdown:
            wire(one.host, "eth5", one.peer, "eth5", "02:00:00:00:05:01", "02:00:00:00:05:02")
            one.peer.sh("ip link set eth5 up")
            # The first time that a link comes up leaves its marks.
            one.host.sh("ip link set eth5 up; ip link set eth5 down")
            self.ifupdown.interfaces(STANZA)
        for nic in GUESTS.values():
            one.tap(nic.tap, nic.mac, bridge=nic.bridge)
        self.before = settled(one.host)
        self.vifs = [
            one.vif(5, script="vmnet-vif-bridge", bridge="br0", ip="10.7.0.20" + (" 10.7.1.0/28 2001:db8:7::/64" * prefixed)),
            one.vif(6, script="vmnet-vif-route", ip="10.0.1.20 198.18.5.0/28 2001:db8:5::/64")
            if prefixed
            else one.vif(6, script="vmnet-vif-nat"),
        ]
        self.cli("up", "xenbr0", "--confirm-within", f"{DAY:.0f}")
        for name, nic in GUESTS.items():
            one.start(name, nic)
        for vif in self.vifs:
            online(vif)
        if self.ifupdown:
            self.ifupdown.up("eth5")
            call(one.host, "dom4", "prepare", PREPARED)

    def cli(self, *argv: str, status: int = 0) -> str:
        done = self.one.host.cli(*argv)
        assert done.returncode == status, f"{argv}: {done}"
        return done.stdout

    def indexes(self) -> dict[str, int]:
        return {link["ifname"]: link["ifindex"] for link in json.loads(self.one.host.run("ip -j link show").stdout)}

    def replace_records(self, path: Path) -> None:
        """Put the records of the older version in the place of ours, and its policy rules, as an upgrade finds them."""
        recorded, indexes = json.loads(path.read_text()), self.indexes()
        self.one.host.sh(OLDER)
        self.replace_tables([row["want"] for row in recorded["rows"]["resource"] if row["kind"].startswith("nft")])
        with closing(sqlite3.connect(":memory:")) as made:
            for statement in recorded["schema"]:
                made.execute(statement)
            for table, rows in recorded["rows"].items():
                for row in rows:
                    marks = ",".join("?" * len(row))
                    made.execute(f"INSERT INTO {table} ({','.join(row)}) VALUES ({marks})", told(table, row, indexes))
            made.execute(f"PRAGMA application_id = {recorded['serial']}")
            made.execute(f"PRAGMA user_version = {recorded['version']}")
            made.commit()
            self.one.host.path(STATE).write_bytes(made.serialize())

    def replace_tables(self, recorded: list[str]) -> None:
        """Put the nft tables of the older version in the place of ours, with their elements."""
        there = self.one.host.run("nft list tables").stdout.splitlines()
        ours = [f"delete {line}\n" for line in there if line.split()[2].partition("-")[0] == "vmnet"]
        found = sorted(map(decode, recorded), key=lambda resource: resource.order)
        self.one.host.run(["nft", "-f", "-"], input="".join([*ours, *(resource.statement() for resource in found)]))

    def stop(self) -> None:
        """All guests stop, and eth5 goes down."""
        for vif in self.vifs:
            offline(vif)
        for name, nic in GUESTS.items():
            self.one.stop(name, nic)
        if self.ifupdown:
            call(self.one.host, "dom4", "release", PREPARED)
            self.ifupdown.down("eth5")

    def ends(self) -> None:
        """All guests stop, and the takeover goes back: nothing is left."""
        self.stop()
        self.cli("down")
        same(self.before, settled(self.one.host))
        assert self.one.records() == []


def told(table: str, row: dict[str, object], indexes: dict[str, int]) -> list[object]:
    """A row of the older version's, with the numbers of this host's links, a deadline that is ahead, and as if just prepared."""
    values = dict(row)
    if table == "owner" and row["ifname"]:
        values["ifindex"] = indexes[str(row["ifname"])]
    if table == "owner" and row["phase"] == "preparing":
        values["since"] = time.time()
    if table == "pending":
        values["value"] = json.dumps(json.loads(str(row["value"])) | {"deadline": time.monotonic() + DAY})
    return list(values.values())


@pytest.fixture(params=RECORDED)
def recorded(request):
    return request.param


@pytest.fixture
def scene(recorded):
    with XenHost(CONFIG + (LATER if recorded != "0.1.0" else ""), foreign=False) as one:
        yield Scene(one, recorded != "0.1.0")


def test_guests_run_on_and_stop_without_a_trace(scene, recorded):
    # No file declares the network of vmnet-vif-nat: what is new is given to its guests at their next start.
    scene.one.host.sh(
        "nft delete chain netdev vmnet port-vif6.0\nfor f in inet arp; do nft delete element $f vmnet checked '{ vif6.0 }'; done"
    )
    for undeclared in ("clients { vif6.0 }", "limited { vif6.0 }", "known4 { eth5 . 198.51.100.254 }"):
        scene.one.host.run(["nft", f"delete element inet vmnet {undeclared}"], check=False)
    state = settled(scene.one.host)
    scene.replace_records(RECORDED[recorded])
    waiting = json.loads(scene.cli("check", "--json", status=1))
    # What networks and filters are made of has changed: named, and made so by `repair`.
    whats = [drift["what"] for drift in waiting]
    kinds = {what.partition(" ")[0] for what in whats if what != "a takeover waits to be confirmed"}
    assert kinds == {"rule", "nft", "ifb", "link", "port-mac"} and len(whats) > len(kinds)
    assert {drift["remedy"] for drift in waiting} == {"vmnet-hook confirm", "vmnet-hook repair"}
    scene.cli("confirm")
    scene.cli("repair")
    assert scene.cli("check") == "ok\n"
    # Neither that of a stanza: it has its rules until ifdown.
    same(*("".join(line for line in each.splitlines(True) if "/25" not in line) for each in (state, settled(scene.one.host))))
    names = {row["domain"] for row in json.loads(scene.cli("status", "--json"))}
    assert names - {"dom4"} == {"", "dom1", "dom2", "dom3", "dom5", "dom6"}
    scene.ends()


def test_a_guest_that_starts_leaves_the_others_theirs(scene, recorded):
    """Its tables are of this version: they are made anew, with what the records of the older one have of other guests."""
    scene.replace_records(RECORDED[recorded])
    before = elements(scene.one.host)
    scene.cli("confirm")
    vif = scene.one.vif(7, script="vmnet-vif-nat")
    scene.vifs.append(vif)
    online(vif)
    after = elements(scene.one.host)
    assert before - after == set() and any("10.0.7.1" in element for element in after - before)
    scene.cli("repair")
    assert scene.cli("check") == "ok\n"
    scene.ends()


def elements(host: Node) -> set[str]:
    """The elements of all our sets and maps, each behind its table and set."""
    listed = [item.get("set") or item.get("map") for item in json.loads(host.run("nft -j list ruleset").stdout)["nftables"]]
    return {f"{s['family']} {s['table']} {s['name']} {json.dumps(e)}" for s in listed if s for e in s.get("elem", ())}


def test_the_takeover_can_be_put_back(scene, recorded):
    scene.replace_records(RECORDED[recorded])
    scene.stop()
    scene.cli("confirm")
    scene.cli("down")
    same(scene.before, settled(scene.one.host))


@pytest.mark.parametrize("recorded", ["0.1.0-kinds"], indirect=True)
def test_a_start_that_was_prepared_goes_on(scene, recorded):
    scene.replace_records(RECORDED[recorded])
    scene.cli("confirm")
    one, nic = scene.one, PREPARED
    one.tap(nic.tap, nic.mac, bridge=nic.bridge)
    one.start("dom4", nic)
    scene.cli("repair")
    assert scene.cli("check") == "ok\n"
    found = [row["ifname"] for row in json.loads(scene.cli("status", "--json")) if row["domain"] == "dom4"]
    assert found == [nic.tap], "the NIC has taken the place of the preparation"
    one.untap(nic.tap)
    one.stop("dom4", nic)
    scene.ends()


def test_prefixes_stay_with_their_guests(tmp_path):
    """They were in interval sets, and are where no file declares the network, until the guest's next start."""
    with XenHost(CONFIG, foreign=False) as one:
        knows_upstream(one.host, "eth9")
        # Else forwarded IPv6 is what is bridged, too, and the host has not forwarded any before.
        one.host.sh("for f in /proc/sys/net/bridge/bridge-nf-call-*; do [ ! -e $f ] || echo 0 > $f; done")
        scene = Scene(one, full=False, prefixed=True)
        scene.replace_records(PREFIXES)
        assert intervals(one.host) == {"vif5.0", "vif6.0"}
        they_send(scene, tmp_path)
        scene.cli("confirm")
        waiting = json.loads(scene.cli("check", "--json", status=1))
        assert {drift["remedy"] for drift in waiting} == {"vmnet-hook repair"}
        assert {"nft bridge", 'nft bridge prefixed "vif5.0"'} <= {drift["key"] for drift in waiting}
        # The tables are made anew, by this version.
        vif = one.vif(7, script="vmnet-vif-bridge", bridge="br0", ip="10.7.0.21 10.7.2.0/28")
        scene.vifs.append(vif)
        online(vif)
        assert intervals(one.host) == {"vif5.0", "vif6.0"} and "vif7.0" in one.host.sh("nft list set bridge vmnet blocks4")
        they_send(scene, tmp_path)
        checked = json.loads(scene.cli("check", "--json", status=1))
        assert {drift["remedy"] for drift in checked} == {"vmnet-hook repair"}
        scene.cli("repair")
        assert scene.cli("check") == "ok\n"
        assert intervals(one.host) == {"vif6.0"}
        they_send(scene, tmp_path)
        again = scene.vifs[1]
        offline(again)
        again.register()
        again.device()
        online(again)
        assert intervals(one.host) == set() and scene.cli("check") == "ok\n"
        they_send(scene, tmp_path)
        scene.ends()


def intervals(host: Node) -> set[str]:
    """The taps with prefixes in sets of intervals."""
    found = [element for element in elements(host) if "prefixes" in element.split()[2]]
    return {json.loads(element.split(maxsplit=3)[3])["concat"][0] for element in found}


def they_send(scene: Scene, path: Path) -> None:
    """The guests on vif5.0 and vif6.0, from what is theirs and from what is not."""
    one, (bridge, route, *_) = scene.one, scene.vifs
    (path / "seen.pcap").unlink(missing_ok=True)
    four, six = ["10.7.1.0", "10.7.1.15", "10.7.1.16"], ["2001:db8:7::", "2001:db8:7::ffff", "2001:db8:6:ffff::"]
    wanted = from_bridged(bridge.mac, [*four, *six])
    through = {name for name in wanted if not name.endswith((four[-1], six[-1]))}
    assert passed(one, bridge.guest, wanted, path) == through
    inside, outside = ["198.18.5.0", "198.18.5.15", "2001:db8:5::7"], ["198.18.4.255", "198.18.5.16", "2001:db8:5:1::"]
    last = (route.mac, "10.0.1.20")
    assert routed_on(one, route.guest, route.mac, [*inside, *outside], path / "seen.pcap", last) == set(inside)


def record() -> None:
    """Print what the product in this tree records for the scene."""
    prefixed = sys.argv[1:] == ["prefixes"]
    with XenHost(CONFIG + LATER, foreign=False) as one:
        found = Scene(one, not prefixed, prefixed)
        names = {index: name for name, index in found.indexes().items()}
        with closing(sqlite3.connect(":memory:")) as opened:
            opened.deserialize(one.host.path(STATE).read_bytes())
            opened.row_factory = sqlite3.Row
            master = opened.execute("SELECT name, sql FROM sqlite_master WHERE sql NOT NULL ORDER BY type DESC, name").fetchall()
            tables = [name for (name,) in opened.execute("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name")]
            rows = {name: [dict(row) for row in opened.execute(f"SELECT * FROM {name} ORDER BY 1, 2")] for name in tables}
            for row in rows["owner"]:
                assert names.get(row["ifindex"], "") == row["ifname"]
                row["ifindex"] = 0
            version, serial = (opened.execute(f"PRAGMA {name}").fetchone()[0] for name in ("user_version", "application_id"))
        schema = [row["sql"] for row in master]
        json.dump({"version": version, "serial": serial, "schema": schema, "rows": rows}, sys.stdout, indent=0)
        print(settled(one.host), file=sys.stderr)


if __name__ == "__main__":
    if os.geteuid():
        sys.exit("needs root")
    record()
