"""vif-bridge: a guest of Xen's joins a bridge. The scripts are called as libxl does, beside a real xenstored."""

from __future__ import annotations

import json
import re
import signal
import time

import pytest
from lab.capture import Capture
from lab.guest import Nic, configure
from lab.nodes import Node, dump
from lab.routed import eventually, ping, reach
from lab.single import same
from lab.tap import __file__ as TAP
from lab.xenhost import LAN_PEER, LAN_PEER6, XenHost, nothing_stays, offline, online, plugged, refused, succeeded
from lab.xenstore import MAC, Vif

LIMIT = 36
"""Seconds: libxl kills a script after 40."""


@pytest.fixture
def one():
    with XenHost() as host:
        yield host


def guest(one: XenHost, domid: int = 1, devid: int = 0, **keys: object) -> Vif:
    """A vif for br0 whose guest has 10.7.0.(10 + 10 * domid + devid)."""
    vif = one.vif(domid, devid, **{"bridge": "br0", **keys})
    last = 10 * domid + devid
    vif.configure(f"10.7.0.{last}", ip6=f"fd00:7::{last}")
    return vif


def talks(vif: Vif) -> None:
    assert eventually(lambda: reach([(vif.guest, LAN_PEER), (vif.guest, LAN_PEER6)], wait=1) == [])


def link(one: XenHost, ifname: str) -> dict:
    return json.loads(one.host.run(["ip", "-d", "-j", "link", "show", "dev", ifname]).stdout)[0]


def test_a_guests_life(one):
    """Frames both ways, with the guest's own MAC; then nothing is left of it."""
    with nothing_stays(one):
        vif = guest(one)
        online(vif)
        port = link(one, "vif1.0")
        assert (port["master"], port["address"]) == ("br0", MAC) and "UP" in port["flags"]
        assert one.host.run("ip addr show dev vif1.0").stdout.count("inet") == 0
        with Capture(one.peer, "lan0", "arp") as seen:
            talks(vif)
        assert seen.having(f"{vif.mac} > ", f"who-has {LAN_PEER} .*tell 10.7.0.10"), str(seen)
        assert "vif1.0" in one.host.cli("status").stdout
        offline(vif)
        assert "vif1.0" not in one.host.cli("status").stdout


def test_offline_before_the_device_is_gone(one):
    """What was set on the device is taken back."""
    vif = guest(one)
    before = one.state()
    online(vif)
    assert dump(one.host) != before
    succeeded(vif.call("offline"))
    same(before, one.state())


def test_offline_by_the_records_alone(one):
    """The domain is gone from the store, and so is vmnet.toml."""
    with nothing_stays(one):
        vif = guest(one)
        online(vif)
        vif.leave()
        vif.forget()
        one.host.path("/etc/vmnet-hooks/vmnet.toml").unlink()
        succeeded(vif.call("offline"))
        one.host.config("")


@pytest.mark.parametrize("again", ["twice", "never online"])
def test_offline_of_nothing(one, again):
    with nothing_stays(one):
        vif = guest(one)
        if again == "twice":
            online(vif)
            vif.leave()
            succeeded(vif.call("offline"))
        else:
            vif.leave()
        succeeded(vif.call("offline"))
        vif.forget()


def test_online_twice_changes_nothing(one):
    vif = guest(one)
    online(vif)
    state = one.state()
    online(vif)
    same(state, one.state())


def test_a_reboot_is_another_domain(one):
    """`offline` and `online` follow each other at once, and the name of the vif is wanted again."""
    with nothing_stays(one):
        for domid in (1, 2, 3):
            vif = guest(one, domid, name="web", vifname="web0")
            online(vif)
            talks(vif)
            offline(vif)


def test_without_a_configuration(one):
    """Nothing has to be declared for a bridge."""
    one.host.path("/etc/vmnet-hooks/vmnet.toml").unlink()
    vif = guest(one)
    with plugged(one, vif):
        talks(vif)


# --- which calls matter ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("words", [["online", "type_if=tap"], ["remove", "type_if=vif"]], ids=" ".join)
def test_a_call_for_the_other_kind(one, words):
    """Nothing is done, not even in the store."""
    vif = guest(one)
    before, keys = one.state(), one.keys()
    succeeded(one.host.script("vmnet-vif-bridge", *words, env=vif.env()))
    same(before, one.state())
    assert one.keys() == keys


def test_arguments_in_any_order(one):
    vif = guest(one)
    succeeded(one.host.script("vmnet-vif-bridge", "bridge=br0", "online", "type_if=vif", env=vif.env()))
    assert vif.status == "connected" and link(one, "vif1.0")["master"] == "br0"


# --- which bridge ----------------------------------------------------------------------------------------------------


def another_bridge(one: XenHost, name: str) -> None:
    """Another bridge, that had a port before and has a MAC of its own: the first port, and the last one, change a new bridge."""
    one.host.sh(f"""
        ip link add {name} address 02:00:00:00:05:05 type bridge
        ip link add v0 type veth peer name v1; ip link set v0 master {name}; ip link del v0
    """)


def joined(one: XenHost, expected: str, *argv: str, **keys: object) -> None:
    with nothing_stays(one):
        vif = one.vif(**keys)
        online(vif, *argv)
        assert link(one, "vif1.0").get("master") == expected
        offline(vif)


def test_the_only_bridge(one):
    joined(one, "br0")


def test_xenbr_is_eth_where_only_that_is_there(one):
    another_bridge(one, "eth5")
    joined(one, "eth5", bridge="xenbr5")
    another_bridge(one, "xenbr5")
    joined(one, "xenbr5", bridge="xenbr5")


# --- MTU -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mtu, expected", [("1400", 1400), ("", 1450)], ids=["the domain's", "the bridge's"])
def test_mtu(one, mtu, expected):
    """The guest learns it from the frontend's tree."""
    one.host.sh("ip link set lan0 mtu 1450; ip link set br0 mtu 1450")
    with nothing_stays(one):
        vif = guest(one, **({"mtu": mtu} if mtu else {}))
        online(vif)
        assert link(one, "vif1.0")["mtu"] == expected
        assert one.store.read(f"{vif.frontend}/mtu") == str(expected)
        offline(vif)


# --- names -----------------------------------------------------------------------------------------------------------


def test_vifname(one):
    """The frontend's tree is the domain's, whatever the vif is called."""
    with nothing_stays(one):
        vif = guest(one, vifname="foo0", mtu=1400)
        online(vif)
        assert one.shown("vif1.0") == "" and link(one, "foo0")["master"] == "br0"
        assert one.store.read(f"{vif.frontend}/mtu") == "1400"
        assert "/local/domain/foo0" not in " ".join(one.keys())
        talks(vif)
        offline(vif)


@pytest.mark.parametrize("whose", ["another guest's", "a device's"])
def test_vifname_in_use(one, whose):
    if whose == "another guest's":
        first = guest(one, 2, vifname="foo0")
        online(first)
    else:
        one.host.run("ip link add foo0 type bridge")
    vif = guest(one, vifname="foo0")
    before = one.state()
    refused(vif, vif.call("online"), "foo0")
    same(before, one.state())
    if whose == "another guest's":
        talks(first)


# --- HVM: the emulated card is a tap ---------------------------------------------------------------------------------


def emulated(one: XenHost, vif: Vif, last: int) -> Node:
    """QEMU has made the tap: down, and with a MAC of its own. Returns the guest behind it."""
    node = one.stack.enter_context(Node("emulated"))
    one.host.run(["ip", "tuntap", "add", vif.tap, "mode", "tap"])
    one.host.popen(["/usr/bin/python3", "-IS", TAP, vif.tap, node.pid])
    node.sh("for i in $(seq 100); do [ -e /sys/class/net/eth0 ] && exit 0; sleep 0.05; done; exit 1")
    node.run(["ip", "link", "set", "eth0", "address", vif.mac])
    configure(node, Nic(vif.mac, f"10.7.0.{last}"))
    return node


@pytest.mark.parametrize("vifname", ["", "foo0"], ids=["default names", "vifname"])
@pytest.mark.parametrize("first", ["vif", "tap"])
def test_hvm(one, first, vifname):
    """The guest talks through its emulated card before its drivers are loaded. The two leave in either order."""
    with nothing_stays(one):
        vif = guest(one, hvm=True, **({"vifname": vifname} if vifname else {}))
        tap = f"{vifname}-emu" if vifname else "vif1.0-emu"
        online(vif)
        node = emulated(one, vif, 99)
        succeeded(vif.call("add"))
        assert vif.status == "connected"
        assert {link(one, name)["master"] for name in (vifname or "vif1.0", tap)} == {"br0"}
        assert re.match("fe:", link(one, tap)["address"])
        assert eventually(lambda: ping(node, LAN_PEER, 1) is not None)
        talks(vif)
        node.close()
        one.host.run(["ip", "link", "del", tap])
        vif.leave()
        for command in ("offline", "remove") if first == "vif" else ("remove", "offline"):
            succeeded(vif.call(command))
        vif.forget()


def test_hvm_tap_leaves_the_vif_alone(one):
    with nothing_stays(one):
        vif = guest(one, hvm=True)
        online(vif)
        alone = one.state()
        one.host.run(["ip", "tuntap", "add", vif.tap, "mode", "tap"])
        succeeded(vif.call("add"))
        one.host.run(["ip", "link", "del", vif.tap])
        succeeded(vif.call("remove"))
        same(alone, one.state())
        talks(vif)
        offline(vif)


def test_hvm_without_a_tap(one):
    vif = guest(one, hvm=True)
    online(vif)
    before = one.state()
    refused(vif, vif.call("add"), "vif1.0-emu")
    same(before, one.state())


# --- vif-setup, and the hooks of others ------------------------------------------------------------------------------


@pytest.mark.parametrize("script", ["", "/etc/xen/scripts/vmnet-vif-bridge", "/etc/xen/scripts/vmnet-vif-setup"])
def test_vif_setup(one, script):
    """What `script` names; where that is nothing, or vif-setup itself (xl.cfg's own script), vif-bridge."""
    with nothing_stays(one):
        vif = guest(one, script="vmnet-vif-setup")
        succeeded(vif.call("online", env={"script": script}))
        assert vif.status == "connected" and link(one, "vif1.0")["master"] == "br0"
        vif.leave()
        succeeded(vif.call("offline", env={"script": script}))
        vif.forget()


def test_vif_setup_runs_another_script(one):
    """With the same arguments and environment, and its exit status."""
    one.host.write("/run/own script", '#!/bin/sh\necho "$0 $* $vif $XENBUS_PATH" >/run/called\nexit 7\n')
    one.host.run(["chmod", "+x", "/run/own script"])
    vif = guest(one, script="vmnet-vif-setup")
    before = one.state()
    done = vif.call("online", env={"script": "/run/own script"})
    assert done.returncode == 7
    assert one.host.path("/run/called").read_text() == "/run/own script online type_if=vif vif1.0 backend/vif/1/0\n"
    same(before, one.state())


def hook(one: XenHost, name: str, text: str, mode: str = "755") -> None:
    one.host.write(f"/etc/xen/scripts/vif-post.d/{name}", text)
    one.host.run(["chmod", mode, f"/etc/xen/scripts/vif-post.d/{name}"])


def test_vif_post_hooks(one):
    """As Xen's vif-bridge calls them: in the order of their names, with its variables and functions."""
    for name in ("20-b.hook", "10-a.hook"):
        text = f'echo "{name} $command $type_if $dev $vif $bridge $ip" $(xenstore_read "$XENBUS_PATH/mac") >>/run/hooks\n'
        hook(one, name, text)
    hook(one, "30-off.hook", "echo never >>/run/hooks\n", "644")
    hook(one, "40-not-a-hook", "echo never >>/run/hooks\n")
    with nothing_stays(one):
        vif = guest(one, ip="10.7.0.10", vifname="foo0")
        online(vif)
        offline(vif)
    expected = [
        f"{name} {command} vif foo0 vif1.0 br0 10.7.0.10 {vif.mac}"
        for command in ("online", "offline")
        for name in ("10-a.hook", "20-b.hook")
    ]
    assert one.host.path("/run/hooks").read_text().splitlines() == expected


def test_vif_post_hook_that_fails(one):
    """As with Xen's vif-bridge: the guest does not start. Everything is put back, a rename included."""
    hook(one, "10-a.hook", "echo of no use >&2\nfalse\n")
    vif = guest(one, vifname="foo0")
    before = one.state()
    refused(vif, vif.call("online"), "10-a.hook")
    same(before, one.state())


# --- the store -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("hidden", ["binding", "programs"])
def test_either_way_into_the_store(one, hidden):
    """Xen's Python binding, or the xenstore-* programs."""
    with nothing_stays(one):
        vif = guest(one, vifname="foo0", mtu=1400, ip="10.7.0.10")
        bad = one.vif(2, 0, bridge="br7")
        unhide = one.host.hide_binding() if hidden == "binding" else one.host.hide_programs()
        done, failed = vif.call("online"), bad.call("online")
        if unhide:
            one.host.sh(unhide)
        succeeded(done)
        assert (vif.status, vif.error) == ("connected", None)
        assert one.store.read(f"{vif.frontend}/mtu") == "1400"
        refused(bad, failed, "br7")
        offline(vif)
        bad.leave()
        succeeded(bad.call("offline"))
        bad.forget()


def test_no_way_into_the_store(one):
    vif = guest(one)
    before = one.state()
    one.host.hide_binding()
    unhide = one.host.hide_programs()
    done = vif.call("online")
    one.host.sh(unhide)
    lines = done.stderr.splitlines()
    assert done.returncode in (1, 2) and len(lines) == 1 and lines[0].startswith("vmnet-hook: "), done
    assert "xenstore" in lines[0]
    same(before, one.state())


@pytest.mark.parametrize("how", ["dead", "hanging"])
@pytest.mark.parametrize("way", ["binding", "programs"])
def test_without_xenstored(one, how, way):
    """`online` fails in time. `offline` does its work all the same."""
    first = guest(one, 2)
    vif = guest(one)
    if way == "programs":
        one.host.hide_binding()
    without = one.state()
    online(first)
    before = one.state()
    pid = int(one.host.path("/run/xenstored/pid").read_text())
    if how == "dead":
        one.host.run(["kill", "-KILL", pid])
        one.host.daemon.wait()
    else:
        one.host.run(["kill", "-STOP", pid])
    began = time.monotonic()
    done = vif.call("online")
    assert time.monotonic() - began < LIMIT
    lines = done.stderr.splitlines()
    assert done.returncode in (1, 2) and len(lines) == 1 and lines[0].startswith("vmnet-hook: "), done
    assert "xenstore" in lines[0], lines
    same(before, one.state())
    began = time.monotonic()
    done = first.call("offline")
    assert time.monotonic() - began < LIMIT
    assert done.returncode == 0, done
    same(without, one.state())
    if how == "hanging":
        one.host.run(["kill", "-CONT", pid])


def test_a_lock_that_somebody_holds(one):
    """The error is in the store before libxl loses its patience."""
    vif = guest(one)
    before = one.state()
    one.host.sh("mkdir -p -m 700 /run/vmnet-hooks")
    holder = one.host.popen(["flock", "/run/vmnet-hooks/lock", "sh", "-c", "echo held; exec sleep 100"], stdout=-1)
    assert holder.stdout.readline() == "held\n"
    began = time.monotonic()
    done = vif.call("online")
    assert time.monotonic() - began < LIMIT
    refused(vif, done, "lock")
    holder.send_signal(signal.SIGTERM)
    holder.kill()
    same(before, one.state())


def test_after_a_failure_it_can_be_tried_again(one):
    """`xl network-attach` with a failing script leaves the vif and its tree, and calls no `offline`."""
    with nothing_stays(one):
        vif = guest(one, bridge="br7")
        refused(vif, vif.call("online"), "br7")
        one.store.write(f"{vif.backend}/bridge", "br0")
        succeeded(vif.call("online"))
        assert vif.status == "connected"
        talks(vif)
        offline(vif)


def test_killed(one):
    """libxl kills a script that takes too long, at whatever it is, and calls `offline`."""
    with nothing_stays(one):
        for domid, delay in enumerate((0.05, 0.15, 0.25, 0.3, 0.35, 0.4, 0.5), 1):
            vif = guest(one, domid, ip=f"10.7.0.{10 * domid}", mtu=1400)
            process = vif.started("online")
            time.sleep(delay)
            process.kill()
            process.wait()
            vif.leave()
            succeeded(vif.call("offline"))
            vif.forget()


# --- many at once ----------------------------------------------------------------------------------------------------


def test_ten_at_once(one):
    """libxl runs the scripts of a domain's vifs, and of domains, in parallel."""
    with nothing_stays(one):
        vifs = [guest(one, domid, devid) for domid in range(1, 6) for devid in (0, 1)]
        for process in [vif.started("online") for vif in vifs]:
            _, error = process.communicate(timeout=60)
            assert (process.returncode, error) == (0, "")
        assert [vif.status for vif in vifs] == ["connected"] * len(vifs)
        assert eventually(lambda: reach([(vif.guest, LAN_PEER) for vif in vifs], wait=1) == [])
        for vif in vifs:
            one.host.run(["ip", "link", "del", vif.ifname])
        for process in [vif.started("offline") for vif in vifs]:
            _, error = process.communicate(timeout=60)
            assert (process.returncode, error) == (0, "")
        for vif in vifs:
            vif.leave()
            vif.forget()


# --- what the admin declared wins ------------------------------------------------------------------------------------


def test_domains_d_wins(one):
    """By the guest's MAC, and over the bridge that the domain's configuration names."""
    another_bridge(one, "br5")
    one.host.config('[networks.lan]\nmode = "bridged"\nbridge = "br0"\nisolated = true\n')
    one.host.domain_toml("web", '[[interfaces]]\nmac = "00:16:3e:00:01:00"\nnetwork = "lan"\n')
    with nothing_stays(one):
        vif = guest(one, name="web", bridge="br5")
        online(vif)
        port = link(one, "vif1.0")
        assert port["master"] == "br0" and port["linkinfo"]["info_slave_data"]["isolated"]
        talks(vif)
        offline(vif)


def test_a_declared_network_of_the_bridge(one):
    """A bridge that a network of vmnet.toml has: that network's options hold."""
    one.host.config('[networks.lan]\nmode = "bridged"\nbridge = "br0"\nisolated = true\n')
    with nothing_stays(one):
        vif = guest(one)
        online(vif)
        assert link(one, "vif1.0")["linkinfo"]["info_slave_data"]["isolated"]
        offline(vif)


def test_a_guest_that_another_script_set_up(one):
    """It is in the list, with why nothing is set up for it; names of guests are those of xenstore."""
    vif = one.vif(1, 0, script="vif-bridge", bridge="br0")
    (row,) = json.loads(one.host.cli("status", "--json").stdout)
    assert (row["domain"], row["ifname"], row["mac"], row["state"]) == ("dom1", "vif1.0", vif.mac, "unclaimed")
    done = one.host.cli("check", "dom1")
    assert (done.returncode, done.stdout) == (0, "nothing is set up for dom1\n"), done
    done = one.host.cli("check", "dom11")
    assert done.returncode == 2 and "did you mean dom1?" in done.stderr, done


def test_an_edit_of_domains_d_while_the_guest_runs(one):
    """`start` knows by the records that the guest is Xen's; `repair` has the NIC as its script had it."""
    vif = guest(one)
    with plugged(one, vif):
        claim = f'[[interfaces]]\nmac = "{vif.mac}"\nnetwork = "lan"\nips = ["10.7.0.{{last}}"]\n'
        try:
            one.host.config('[networks.lan]\nmode = "bridged"\nbridge = "br0"\n')
            for last, words in ((10, ("start", "dom1")), (99, ("repair",)), (10, ("repair", "dom1"))):
                one.host.domain_toml("dom1", claim.format(last=last))
                found = one.host.cli("check")
                assert found.returncode == 1 and f"is to have 10.7.0.{last}" in found.stdout, found
                done = one.host.cli(*words)
                assert done.returncode == 0, done
                found = one.host.cli("check")
                assert (found.returncode, found.stdout) == (0, "ok\n"), found
                assert eventually(lambda is_own=last == 10: (reach([(vif.guest, LAN_PEER)], wait=1) == []) is is_own)
        finally:
            one.host.config("")
            one.host.domain_toml("dom1", None)


# --- by hand ---------------------------------------------------------------------------------------------------------


def test_xens_guests_are_found_by_their_names(one):
    """Where libvirt can't be asked; a name that xenstore does not know gets a hint."""
    vif = guest(one)
    for command in ("plan", "start"):
        done = one.host.cli(command, "nobody")
        assert done.returncode and done.stderr.strip().endswith("if nobody is a guest of Xen's xl, add --xen"), done
        for words in ((vif.name,), (vif.name, "--xen")):
            done = one.host.cli(command, *words)
            assert done.returncode == 0, done
    assert eventually(lambda: reach([(vif.guest, LAN_PEER)]) == [])
    assert one.host.cli("stop", vif.name).returncode == 0


def test_a_plan_is_a_script(one):
    vifs = [guest(one, 1, devid, name="web", ip=f"10.7.0.1{devid}") for devid in (0, 1)]
    before = dump(one.host)
    plan = one.host.cli("plan", "web", "--xen").stdout
    same(before, dump(one.host))
    one.host.sh(plan)
    assert eventually(lambda: reach([(vif.guest, LAN_PEER) for vif in vifs]) == [])
    # An element without a record is added, not looked up.
    again = one.host.cli("plan", "web", "--xen").stdout.splitlines()[1:]
    assert again and all(line.startswith("nft 'add element bridge vmnet ") for line in again), again
    assert one.host.cli("start", "web", "--xen").returncode == 0
    assert one.host.cli("plan", "stop", "web", "--json").returncode == 0
    assert one.host.cli("stop", "web").returncode == 0


def test_a_plan_that_renames(one):
    vif = guest(one, vifname="foo0")
    assert "\nip link set dev vif1.0 name foo0\n" in one.host.cli("plan", vif.name, "--xen").stdout
