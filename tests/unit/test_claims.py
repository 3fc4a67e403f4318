"""Claims that were edited while their guest runs, guests that were not announced, NICs that nothing claims, names of guests."""

# ruff: noqa: E501  (tables of inputs and messages)

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace

import pytest
from click.testing import CliRunner
from scenario import EVERYTHING, LAN, PUBLIC, V4, V6, Host, guest, mac, uuid

from vmnet_hooks import cli, engine
from vmnet_hooks.declared import configuration
from vmnet_hooks.engine import claims, guests, repair
from vmnet_hooks.engine.drift import Drift
from vmnet_hooks.engine.healing import reconcile
from vmnet_hooks.errors import InputError
from vmnet_hooks.frontends import libvirt_connection, running
from vmnet_hooks.hook import events
from vmnet_hooks.kernel import announcement
from vmnet_hooks.model.guest import Action, Claim, Domain, GuestEvent, Vif
from vmnet_hooks.model.objects import Route, TableName
from vmnet_hooks.records import clock, store

ROUTED = PUBLIC + V4 + V6
QEMU = '[[interfaces]]\nmac = "{mac}"\nifname = "t1.0"\nnetwork = "{network}"\n{more}\n'


@pytest.fixture
def host(tmp_path) -> Host:
    return Host(tmp_path, ROUTED + LAN)


def write(host: Host, text: str, name: str = "d1") -> None:
    (host.path / "etc" / "domains.d").mkdir(exist_ok=True)
    (host.path / "etc" / "domains.d" / f"{name}.toml").write_text(text)


def nic(ips: str = '"192.0.2.10"', network: str = "public", more: str = "", address: str = mac(1)) -> str:
    return QEMU.format(mac=address, network=network, more=f"ips = [{ips}]\n{more}")


def started(host: Host, text: str) -> Domain:
    """A guest of plain QEMU that runs, as its `ifup` has set it up."""
    write(host, text)
    domain = Domain("d1", "", (Vif(mac(1), "t1.0"),), partial=True)
    host.add_taps(domain)
    host.call(guests.plug, domain, "qemu")
    host.call(lambda session: guests.activate(session.config, session.records, lambda _: None, domain))
    return domain


def what(drifts: list[Drift]) -> list[tuple[str, str, str]]:
    return [(drift.kind, drift.what, drift.remedy) for drift in drifts]


EDITS = {
    "an address more": (nic('"192.0.2.10", "192.0.2.11"'), "is to have 192.0.2.11 too"),
    "an address less": (nic('"192.0.2.10", "2001:db8::10"'), "is to have 2001:db8::10, not 2001:db8::5054:ff:feaa:100"),
    "another address": (nic('"192.0.2.11"'), "is to have 192.0.2.11, not 192.0.2.10"),
    "another network": (nic("", "lan"), "is to be on network lan, not public; is not to have 192.0.2.10, 2001:db8::5054:ff:feaa:100 any more"),
    "no filter": (nic(more="filter = false"), "its filter is to be off"),
    "another MAC": (nic('"192.0.2.10", "2001:db8::5054:ff:feaa:100"', address=mac(9)), f"its MAC is to be {mac(9)}"),
}  # fmt: skip


@pytest.mark.parametrize("edit", EDITS)
@pytest.mark.parametrize("by", ["repair", "start"])
def test_an_edit_of_domains_d(edit, by, host):
    started(host, nic())
    assert host.check() == []
    text, change = EDITS[edit]
    write(host, text)
    before = host.everything()
    assert what(host.check()) == [("edited", f"t1.0: {change}", "vmnet-hook start d1")]
    assert host.everything() == before, "check changed something"
    announced: list = []
    if by == "repair":
        host.repair(announce=announced.extend)
    else:
        host.call(by_hand)
    assert host.check() == []
    (after,) = host.kept().nics()
    (claim,) = configuration.claims(host.declared(), "d1")
    assert (after.phase, after.network, after.mac, after.filter) == ("active", claim.network, claim.mac, claim.filter)
    assert {*claim.addresses} <= {*after.addresses}
    if by == "repair" and "an address more" == edit:
        assert {address for _, address, _ in announced} >= {"192.0.2.10", "192.0.2.11"}
    host.unplug(Domain("d1"))
    host.assert_no_records()


def by_hand(session) -> None:
    """What `vmnet-hook start` does."""
    domain, frontend = claims.by_name(session, "d1")
    guests.plug(session, domain, frontend)
    guests.activate(session.config, session.records, lambda _: None, domain)


def test_a_claim_that_is_removed(host):
    before = host.kernel.snapshot()
    started(host, nic())
    write(host, "")
    assert what(host.check()) == [("edited", "t1.0: nothing claims it for network public any more", "vmnet-hook repair d1")]
    host.repair(domain="d1")
    assert host.check() == [] and not host.kept().nics()
    assert {key: r for key, r in host.kernel.snapshot().items() if key in before} == before


def test_a_claim_for_a_nic_that_is_not_set_up(host):
    started(host, nic())
    second = f'[[interfaces]]\nmac = "{mac(1, 1)}"\nifname = "t1.1"\nnetwork = "lan"\n'
    write(host, nic() + second)
    assert host.check() == [], "its tap is not there"
    host.kernel.add_link("t1.1", "tun")
    assert what(host.check()) == [("edited", "t1.1: network lan claims it, and it is not set up", "vmnet-hook start d1")]
    host.repair()
    assert host.check() == [] and {found.network for found in host.kept().nics()} == {"public", "lan"}


@pytest.mark.parametrize(
    "text", ["[[interfaces]\n", nic(network="publik"), nic('"198.51.100.1"')], ids=["toml", "network", "address"]
)
def test_a_claim_that_is_not_valid_changes_nothing(text, host):
    started(host, nic())
    write(host, text)
    before = host.kernel.snapshot()
    ((kind, reason, remedy),) = what(host.check())
    assert kind == "refused" and "d1.toml" in reason and "keeps" in remedy
    host.repair()
    assert host.kernel.snapshot() == before


def domain(*addresses: str, network: str = "public", **changes) -> Domain:
    """What libvirt tells of its guest d1."""
    return replace(guest(1, (network, addresses)), **changes)


def test_an_edit_of_metadata(host):
    host.add_taps(domain("192.0.2.10"))
    host.plug(domain("192.0.2.10"))
    host.call(lambda s: guests.activate(s.config, s.records, lambda _: None, domain("192.0.2.10")))
    assert host.check(running={uuid(1): domain("192.0.2.10")}) == []
    edited = {uuid(1): domain("192.0.2.10", "192.0.2.12")}
    assert host.check() == [], "libvirt can't be asked"
    assert what(host.check(running=edited)) == [("edited", "t1.0: is to have 192.0.2.12 too", "vmnet-hook start d1")]
    host.repair(running=edited)
    assert host.check(running=edited) == []
    gone = {uuid(1): domain(claims=())}
    assert what(host.check(running=gone))[0][1:] == (
        "t1.0: nothing claims it for network public any more",
        "vmnet-hook repair d1",
    )
    broken = {uuid(1): InputError("d1: metadata: network 'x y'")}
    assert what(host.check(running=broken)) == [("refused", "d1: metadata: network 'x y'", claims.KEPT)]
    host.repair(running=gone)
    assert host.check(running=gone) == [] and not host.kept().nics()


def test_domains_d_of_a_libvirt_guest_while_libvirt_cannot_be_asked(host):
    write(host, nic())
    there = domain(claims=())
    host.add_taps(there)
    host.plug(there)
    host.call(lambda s: guests.activate(s.config, s.records, lambda _: None, there))
    write(host, "")
    assert host.check() == [], "metadata may claim it"
    write(host, nic('"192.0.2.10", "192.0.2.13"'))
    assert [drift.what for drift in host.check()] == ["t1.0: is to have 192.0.2.13 too"]
    host.repair()
    assert host.check() == [] and "192.0.2.13" in host.kept().nics()[0].addresses


class Place:
    """Where a hook acts: on the scenario's host. `first` is called when the hook asks for the lock, as a process that has it."""

    def __init__(self, host, first=None):
        self.host, self.first = host, first

    def declared(self):
        return self.host.declared()

    @contextmanager
    def session(self, declared=None):
        records = self.host.kept()
        if self.first:
            of_store = records.lock

            def lock():
                first, self.first = self.first, None
                if first:
                    first()
                return of_store()

            records.lock = lock
        yield engine.Session(declared or self.host.declared(), self.host.kernel, records)

    def records(self):
        return nullcontext(self.host.kept())


@pytest.mark.parametrize("edited", ["address", "network", "claim removed"])
def test_a_reconnect_keeps_what_a_guest_was_given(edited, host):
    """libvirtd was restarted, or a NIC was attached: neither is a start of the guest."""
    given = guest(1, ("public", ["192.0.2.10"]), ("lan", []))
    host.add_taps(given)
    host.plug(given)
    host.call(lambda s: guests.activate(s.config, s.records, lambda _: None, given))
    before = host.kernel.snapshot()
    first, second = given.claims
    now = {
        "address": (replace(first, addresses=("192.0.2.99",)), second),
        "network": (replace(first, network="lan", addresses=()), second),
        "claim removed": (second,),
    }[edited]

    events.act(GuestEvent(Action.RECONNECT, "libvirt", replace(given, claims=now)), None, Place(host))
    assert host.kernel.snapshot() == before
    assert [found.addresses[:1] for found in host.kept().nics(network="public")] == [("192.0.2.10",)]


def test_a_reconnect_undoes_no_edit_that_repair_applies_meanwhile(host):
    given = guest(1, ("public", ["192.0.2.10"]), ("lan", []))
    host.add_taps(given)
    host.plug(given)
    host.call(lambda s: guests.activate(s.config, s.records, lambda _: None, given))
    edited = replace(given, claims=given.claims[1:])
    place = Place(host, lambda: host.repair(running={given.id: edited}))
    events.act(GuestEvent(Action.RECONNECT, "libvirt", edited), None, place)
    assert place.first is None
    assert [found.network for found in host.kept().nics()] == ["lan"] and host.check(running={given.id: edited}) == []


def test_an_edit_is_applied_while_the_guest_changes_its_front_end(host):
    """`start` has set it up; libvirtd is restarted while `repair` is under way."""
    given = guest(1, ("public", ["192.0.2.10"]), ("lan", []))
    host.add_taps(given)
    host.call(guests.plug, given, "cli")
    host.call(lambda s: guests.activate(s.config, s.records, lambda _: None, given))
    edited = replace(given, claims=given.claims[1:])
    asked = host.kept().owners()
    events.act(GuestEvent(Action.RECONNECT, "libvirt", edited), None, Place(host))
    assert {nic.frontend for nic in host.kept().nics()} == {"libvirt"}
    host.repair(running={given.id: edited}, asked=asked)
    assert [found.network for found in host.kept().nics()] == ["lan"] and host.check(running={given.id: edited}) == []


@pytest.mark.parametrize(
    ("known", "age", "sent", "late"),
    [
        (True, 0.0, False, True),
        (False, 0.0, True, False),
        (False, 20.0, False, False),
        (False, 20.0, True, True),
        (False, 200.0, False, True),
    ],
)
def test_a_guest_that_was_not_announced(known, age, sent, late, host, monkeypatch):
    there = domain("192.0.2.10")
    host.add_taps(there)
    host.plug(there)
    now = host.kept().now() + age
    monkeypatch.setattr(host.kernel, "has_sent", lambda _, surely: sent)
    monkeypatch.setattr(clock, "now", lambda _: now)
    running_now = {uuid(1): there} if known else {}
    found = what(host.check(running=running_now))
    assert found == ([("unannounced", "t1.0: the guest runs and was not announced", "vmnet-hook start d1")] if late else [])
    announced: list = []
    host.repair(running=running_now, announce=announced.extend)
    assert bool(announced) is late
    assert host.check(running=running_now) == [] and host.kept().nics()[0].phase == ("active" if late else "plugged")


# --- the command line -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def run(host, monkeypatch):
    """The command line on this host, with a libvirt that has what `run.there` has."""
    monkeypatch.setattr(configuration, "DIRECTORY", str(host.path / "etc"))
    monkeypatch.setattr(store, "DIRECTORY", str(host.path / "run"))
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(engine, "edge", lambda: lambda: host.kernel)
    monkeypatch.setattr(host.kernel, "close", lambda: None, raising=False)
    monkeypatch.setattr(events.store, "DIRECTORY", str(host.path / "run"))
    monkeypatch.setattr(announcement, "announce", lambda _: None)
    monkeypatch.setattr(libvirt_connection, "alive", lambda uuids: uuids)

    def unreachable(_name: str) -> bytes:
        raise libvirt_connection.LibvirtError("libvirt: Failed to connect")

    def call(*argv: str):
        result = CliRunner().invoke(cli.main, list(argv), prog_name="vmnet-hook")
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
        return result

    call.there, call.names = {}, set()
    monkeypatch.setattr(libvirt_connection, "domain_xml", unreachable)
    monkeypatch.setattr(running, "described", lambda: call.there)
    monkeypatch.setattr(running, "names", lambda: call.names)
    return call


def test_start_of_a_plain_qemu_guest_needs_no_libvirtd(run, host):
    started(host, nic())
    write(host, nic('"192.0.2.10", "192.0.2.11"'))
    found = run("check")
    assert found.exit_code == 1 and "192.0.2.11" in found.output and "vmnet-hook start d1" in found.output
    assert "192.0.2.11" in run("plan", "d1").output
    done = run("start", "d1")
    assert done.exit_code == 0 and "192.0.2.11" in done.output, done.output
    assert run("check").output == "ok\n"


def test_start_of_a_guest_that_nothing_claims_any_more(run, host):
    """It keeps its filter until the admin says that it is not to."""
    started(host, nic())
    write(host, "")
    before = host.kernel.snapshot()
    done = run("start", "d1")
    assert done.exit_code == 2 and "`vmnet-hook repair d1` takes down" in done.output and host.kernel.snapshot() == before
    assert run("repair", "d1").exit_code == 0 and not host.kept().nics()
    assert "repair" not in run("start", "d1").output


def test_start_of_a_libvirt_guest_while_libvirtd_is_down(run, host):
    """What its metadata says now is not known: it is what it was given. domains.d is read."""
    there = guest(1, ("public", ["192.0.2.10"]), ("public", ["192.0.2.20"]))
    host.add_taps(there)
    host.plug(replace(there, claims=there.claims[:1]))
    write(host, f'[[interfaces]]\nmac = "{mac(1, 1)}"\nifname = "t1.1"\nnetwork = "public"\nips = ["192.0.2.21"]\n')
    done = run("start", "d1")
    assert done.exit_code == 0 and "taken from the records" in done.output
    assert [(found.phase, found.addresses[0]) for found in host.kept().nics()] == [("active", "192.0.2.10")]
    assert run("check").output == "ok\n"


def test_start_announces_who_was_not_announced(run, host):
    plain = started(host, nic())
    (owner,) = host.kept().nics()
    host.kept().commit([], {replace(owner, phase="plugged", since=0.0): [*host.kept().claimed(owner.id)]}, {}, {})
    found = run("check", plain.name)
    assert found.exit_code == 1 and "t1.0: the guest runs and was not announced" in found.output, found.output
    assert run("start", "d1").exit_code == 0
    assert run("check").output == "ok\n" and host.kept().nics()[0].phase == "active"


def test_the_plan_of_what_can_be_brought_up(run, host):
    """As `up` does it: a NIC that is missing is no reason to hide the rest."""
    host.configure('[bridges.br1]\nports = ["usb0"]\n\n[dummies.d1]\n')
    done = run("plan", "up")
    assert done.exit_code == 1 and "ip link add name d1 type dummy" in done.output, done.output
    assert "bridges.br1.ports: usb0 does not exist" in done.output.splitlines()[-1]
    done = run("plan", "up", "br1")
    assert done.exit_code == 1 and done.output.count("\n") == 1, done.output


def test_start_of_a_guest_that_is_not_there(run, host):
    done = run("start", "d1")
    assert done.exit_code == 1 and done.output == "vmnet-hook: libvirt: Failed to connect\n"


def test_start_of_a_guest_of_plain_qemu_before_its_tap_is_there(run, host):
    write(host, f'[[interfaces]]\nmac = "{mac(1)}"\nifname = "t1.0"\nnetwork = "public"\nips = ["192.0.2.10"]\n')
    done = run("start", "d1")
    assert done.exit_code == 1 and done.output.endswith("names tap t1.0, which does not exist; start the guest first\n"), (
        done.output
    )
    # The remedy.
    host.kernel.add_link("t1.0", "tun")
    assert run("start", "d1").exit_code == 0 and run("check").output == "ok\n"


@pytest.mark.parametrize("command", ["check", "repair", "status"])
def test_a_guest_that_there_is_not(command, run, host):
    started(host, nic())
    done = run(command, "d11")
    assert done.exit_code == 2 and done.output.count("\n") == 1 and "did you mean d1?" in done.output, done.output
    assert run(command, "d1").exit_code == 0
    write(host, "", "web2")
    run.names = {"web3"}
    for name in ("web2", "web3"):
        done = run(command, name)
        assert done.exit_code == 0 and done.output.startswith(f"nothing is set up for {name}\n"), done.output
    done = run(command, "nobody")
    assert done.exit_code == 2 and "virsh list" in done.output


def test_status_lists_what_no_network_claims(run, host):
    host.kernel.add_link("vnet3", "tun")
    there = Domain("web1", uuid(1), (Vif(mac(1), "vnet3", bridge="virbr0"), Vif(mac(2), "")))
    run.there = {uuid(1): there}
    (row,) = json.loads(run("status", "--json").output)
    assert (row["domain"], row["ifname"], row["mac"], row["state"]) == ("web1", "vnet3", mac(1), "unclaimed")
    shown = run("status").output
    assert "web1" in shown and "vnet3" in shown and "see `vmnet-hook set --help`" in shown
    assert run("check").exit_code == 0
    # The remedy.
    run.there = {uuid(1): replace(there, claims=(Claim("public", mac(1), "", ("192.0.2.10",)),))}
    found = run("check")
    assert found.exit_code == 1 and "vnet3: network public claims it, and it is not set up" in found.output
    assert json.loads(run("status", "--json").output) == []


@pytest.mark.parametrize(
    ("text", "filtered"),
    [
        (nic(), True),
        (nic(more="filter = false"), False),
        (nic("", "lan"), False),
        (nic('"10.7.0.10"', "lan"), True),
        (nic('"10.7.0.10"', "lan", "filter = false"), False),
    ],
)
def test_status_tells_whether_there_is_a_filter(run, host, text, filtered):
    """A bridged guest without addresses has none, unless its network has antispoof."""
    started(host, text)
    (row,) = json.loads(run("status", "--json").output)
    assert row["filter"] is filtered
    assert any(" guarded " in key for key in host.kernel.world) is filtered


# --- a broken configuration -----------------------------------------------------------------------------------------------------


BROKEN = ROUTED + LAN.replace("bridge =", "bridg =")


@pytest.mark.parametrize("text", [BROKEN, "this is [not TOML"])
@pytest.mark.parametrize("command", ["status", "check"])
def test_what_there_is_is_shown(text, command, run, host):
    started(host, nic())
    (host.path / "etc" / "vmnet.toml").write_text(text)
    done = run(command)
    assert done.exit_code == 2
    assert ("unknown key 'bridg'" in done.output) == (text == BROKEN) and ("not TOML" in done.output) == (text != BROKEN)
    words = [line.split() for line in done.output.splitlines()]
    assert ["ok"] in words if command == "check" else any("t1.0" in line and line[-1] == "ok" for line in words), done.output
    host.kernel.remove_link("t1.0")
    done = run("check")
    assert done.exit_code == 2 and "t1.0 is gone" in done.output


def test_the_name_of_a_broken_networks_table_is_no_leftover(run, host):
    host.kernel.put(TableName(222, "routed"))
    assert run("check").output == "ok\n"
    (host.path / "etc" / "vmnet.toml").write_text(ROUTED.replace("uplink", "uplnk") + LAN)
    done = run("check")
    assert done.exit_code == 2 and "ok" in done.output.splitlines() and "rt_tables" not in done.output


def test_repair_where_nothing_differs_beside_a_mistake(run, host):
    started(host, nic())
    (host.path / "etc" / "vmnet.toml").write_text(BROKEN)
    before = host.everything()
    done = run("repair")
    assert done.exit_code == 2 and "unknown key 'bridg'" in done.output and done.output.startswith("nothing to repair\n")
    assert host.everything() == before


def test_up_needs_all_of_it_or_what_it_names(run, host):
    dummies = "[dummies.d0]\n[dummies.d1]\nmtuu = 1500\n"
    (host.path / "etc" / "vmnet.toml").write_text(dummies)
    for argv in (["up"], ["plan", "up"], ["up", "d1"]):
        done = run(*argv)
        assert done.exit_code == 2 and "unknown key 'mtuu'; did you mean 'mtu'?" in done.output, done.output
    assert run("up", "d0").exit_code == 0 and "d0" in host.kernel.links


def test_a_guest_that_does_not_need_it_starts(host):
    (host.path / "etc" / "vmnet.toml").write_text(EVERYTHING.replace("table = 333", "tabel = 333"))
    declared = configuration.usable(str(host.path / "etc"))
    session = engine.Session(declared, host.kernel, host.kept())
    good, bad = guest(1, ("public", ["192.0.2.10"])), guest(2, ("edge", ["198.51.100.10"]))
    host.add_taps(good)
    host.add_taps(bad)
    assert guests.plug(session, good, "libvirt")
    with pytest.raises(InputError, match="networks.edge: unknown key 'tabel'"):
        guests.plug(session, bad, "libvirt")


@pytest.mark.parametrize("first", [1, 2])
def test_an_address_that_one_guest_gives_to_another(first, host):
    """Whichever of the two is repaired first."""
    names = {1: "d1", 2: "d2"}

    def claimed(*addresses: Sequence[str]) -> None:
        for number, ips in enumerate(addresses, 1):
            text = nic(", ".join(f'"{ip}"' for ip in ips), address=mac(number)).replace("t1.0", f"t{number}.0")
            write(host, text, names[number])

    claimed(["192.0.2.10", "192.0.2.11"][:first], ["192.0.2.20", "192.0.2.21"][: 3 - first])
    for number, name in names.items():
        there = Domain(name, "", (Vif(mac(number), f"t{number}.0"),), partial=True)
        host.add_taps(there)
        host.call(guests.plug, there, "qemu")
        host.call(lambda session, there=there: guests.activate(session.config, session.records, lambda _: None, there))
    claimed(*((["192.0.2.10", "192.0.2.21"], ["192.0.2.20"]) if first == 1 else (["192.0.2.10"], ["192.0.2.20", "192.0.2.11"])))
    assert len(host.check()) == 2
    host.repair()
    assert host.check() == []


def test_a_guest_that_no_hook_has_set_up(host):
    """Plain QEMU with script=no."""
    write(host, nic())
    host.add_taps(Domain("d1", "", (Vif(mac(1), "t1.0"),)))
    assert host.check() == [], "its hook may come"
    host.kernel.heard.add("t1.0")
    said = "t1.0: network public claims it, and it is not set up"
    assert what(host.check()) == what(host.check(domain="d1")) == [("edited", said, "vmnet-hook start d1")]
    assert host.check(domain="d2") == []
    host.repair()
    assert host.check() == [] and [found.domain for found in host.kept().nics()] == ["d1"]


# --- a guest that starts again meanwhile -----------------------------------------------------------------------------


def restarted(host: Host, now: Domain) -> None:
    """Its hooks, as they are called while a command of ours looks or waits for the lock. The tap is another one."""
    host.unplug(now)
    host.remove_taps(now)
    host.add_taps(now)
    host.plug(now)
    host.call(lambda s: guests.activate(s.config, s.records, lambda _: None, now))


@pytest.mark.parametrize("by", ["repair", "the agent"])
def test_a_guest_that_was_gone_when_libvirt_was_asked(by, host):
    there = domain("192.0.2.10")
    host.add_taps(there)
    host.plug(there)
    asked = host.kept().owners()
    restarted(host, there)
    before, records = host.kernel.snapshot(), host.kept().owners()
    assert records != asked
    if by == "repair":
        assert host.repair(gone=[uuid(1)], asked=asked) == []
    else:
        assert host.call(reconcile, asked, lambda: [uuid(1)]).departed == []
    assert host.kernel.snapshot() == before and host.kept().owners() == records


@pytest.mark.parametrize(
    ("then", "now"),
    [(("192.0.2.12",), ("192.0.2.13",)), (None, ("192.0.2.10",))],
    ids=["another address", "a claim that is back"],
)
def test_a_guest_that_is_restarted_while_repair_looks(then, now, host, monkeypatch):
    """What libvirt said before tells nothing of it."""
    there = domain("192.0.2.10")
    host.add_taps(there)
    host.plug(there)
    host.call(lambda s: guests.activate(s.config, s.records, lambda _: None, there))
    described = {uuid(1): domain(*then) if then else domain(claims=())}
    known = claims.edits

    def edits(*arguments):
        found = known(*arguments)
        restarted(host, domain(*now))
        return found

    monkeypatch.setattr(claims, "edits", edits)
    monkeypatch.setattr(repair, "check", lambda *_: [])
    host.repair(running=described)
    (nic,) = host.kept().nics()
    assert set(now) <= set(nic.addresses) and not set(then or ()) & set(nic.addresses)
    monkeypatch.undo()
    assert host.check(running={uuid(1): domain(*now)}) == []


def test_a_tap_that_is_another_guests_by_now(host, monkeypatch):
    """A NIC that was not set up, and whose guest has ended: libvirt gives the name of its tap to the next one."""
    there = domain("192.0.2.10")
    host.add_taps(there)
    described = {uuid(1): there}
    other = guest(2, ("public", ("192.0.2.20",)))
    other = replace(other, vifs=(replace(other.vifs[0], ifname="t1.0"),))
    known = claims.edits

    def edits(*arguments):
        found = known(*arguments)
        assert found
        host.remove_taps(there)
        host.add_taps(other)
        host.plug(other)
        return found

    monkeypatch.setattr(claims, "edits", edits)
    monkeypatch.setattr(repair, "check", lambda *_: [])
    host.repair(running=described)
    assert [nic.domain for nic in host.kept().nics()] == [other.name]


def test_repair_beside_a_mistake(run, host):
    """A table with a mistake concerns what needs it. What is in no record stays: it may be of that table."""
    started(host, nic())
    host.kernel.world.pop("route 222 192.0.2.10/32")
    orphan = Route(222, "192.0.2.77/32", "t1.0")
    host.kernel.put(orphan)
    host.configure(host.toml + '\n[networks.other]\nmode = "routed"\nuplnk = "eth1"\n')
    done = run("repair", "d1")
    assert done.exit_code == 2 and "uplnk" in done.output and "1 difference repaired" in done.output, done.output
    assert "route 222 192.0.2.10/32" in host.kernel.world
    done = run("repair")
    assert done.exit_code == 2 and orphan.key in host.kernel.world
    host.configure(host.toml.partition("\n[networks.other]")[0])
    done = run("repair")
    assert done.exit_code == 0 and orphan.key not in host.kernel.world, done.output
