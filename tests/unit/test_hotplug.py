"""Which NICs hot-plug sets up and takes down, and how bursts become one look; libvirt, the kernel and the records are played."""

from __future__ import annotations

import syslog
import threading
import time
from contextlib import contextmanager
from types import SimpleNamespace

import pytest

from vmnet_hooks.agent import hotplug
from vmnet_hooks.agent.hotplug import Hotplug
from vmnet_hooks.declared import configuration
from vmnet_hooks.errors import InputError, KernelError, StoreError
from vmnet_hooks.frontends import libvirt_events
from vmnet_hooks.frontends.libvirt_connection import LibvirtError
from vmnet_hooks.hook import events
from vmnet_hooks.model import declaration
from vmnet_hooks.model.guest import Action
from vmnet_hooks.model.owner import Nic

UUID = "00000000-0000-0000-0000-000000000001"
TOML = '[networks.lan]\nmode = "bridged"\nbridge = "br0"\n'
LINKS = {"tap1": 11, "tap2": 12, "br0": 3, "tap9": 19}
ONE, TWO = ("52:54:00:00:00:01", "tap1", "br0", "net0"), ("52:54:00:00:00:02", "tap2", "br0", "net1")
FOREIGN = ("52:54:00:00:00:09", "tap9", "br9", "net2")


def xml(*nics: tuple[str, str, str, str]) -> bytes:
    interfaces = "".join(
        f"<interface type='bridge'><mac address='{mac}'/><source bridge='{bridge}'/><target dev='{tap}'/><alias name='{alias}'/>"
        "</interface>"
        for mac, tap, bridge, alias in nics
    )
    return f"<domain type='qemu' id='1'><name>dom1</name><uuid>{UUID}</uuid><devices>{interfaces}</devices></domain>".encode()


def owner(nic: tuple[str, str, str, str], **changes: object) -> Nic:
    mac, tap, _, _ = nic
    return Nic(
        **{
            **dict(id=f"{UUID}/{mac}", domain="dom1", domain_id=UUID, ifname=tap, ifindex=LINKS[tap], mac=mac),
            **dict(network="lan", frontend="libvirt", phase="active"),
            **changes,
        }
    )


class Records:
    def __init__(self) -> None:
        self.rows: list[Nic] = []

    def nics(self, **match: str) -> list[Nic]:
        return [row for row in self.rows if all(getattr(row, key) == value for key, value in match.items())]

    owners = nics


class Agent:
    """What the part sees of the agent; `done` are the events that were acted on, `links` what was done to links."""

    def __init__(self, folder: str) -> None:
        self.stopping = threading.Event()
        self.place = self
        self.store = Records()
        self.kernel = SimpleNamespace(apply=lambda step: self.links.append((step[0].want.ifname, step[0].want.value)))
        self.arrivals = SimpleNamespace(arrived=lambda uuid: self.arrivals.heard.append(uuid), heard=[])
        self.notes: list[tuple[str, str, int]] = []
        self.links: list[tuple[str, str]] = []
        self.done: list[tuple[Action, str]] = []
        self.counts: dict[str, int] = {}
        self.folder = folder
        self.failure: Exception | None = None

    def declared(self) -> declaration.Config:
        return configuration.load(self.folder)

    @contextmanager
    def records(self):
        yield self.store

    @contextmanager
    def session(self, _declared=None):
        yield self

    def explained(self, error: Exception) -> str:
        return str(error)

    def note(self, kind: str, text: str, priority: int = syslog.LOG_INFO) -> None:
        self.notes.append((kind, text, priority))

    def count(self, name: str, amount: int = 1, what: str = "") -> None:
        self.counts[what] = self.counts.get(what, 0) + amount

    def act(self, event, _conclude, _place) -> str:
        self.done.append((event.action, event.ifname))
        if self.failure and event.action is Action.RECONNECT:
            raise self.failure
        if event.action is Action.RECONNECT:
            for vif in event.domain.vifs:
                if vif.bridge == "br0":
                    nic = (vif.mac, vif.ifname, vif.bridge, "")
                    self.store.rows = [row for row in self.store.rows if row.mac != vif.mac] + [owner(nic)]
        else:
            self.store.rows = [row for row in self.store.rows if event.ifname and row.ifname != event.ifname]
        return ""


class Libvirt(libvirt_events.Events):
    """`answers` are what it says of the domain, one after the other; the last one for ever."""

    def __init__(self, *answers: bytes | None | Exception, active: bool = True) -> None:
        self.answers, self.active, self.asked = list(answers), active, 0

    def _xml(self, _uuid: str) -> bytes | None:
        self.asked += 1
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer

    def is_active(self, _uuid: str) -> bool:
        return self.active


@pytest.fixture
def agent(tmp_path, monkeypatch):
    (tmp_path / "vmnet.toml").write_text(TOML)
    found = Agent(str(tmp_path))
    monkeypatch.setattr(events, "act", found.act)
    monkeypatch.setattr(hotplug, "_index", lambda ifname: LINKS.get(ifname, 0))
    monkeypatch.setattr(hotplug, "DIRECTORY", str(tmp_path))
    return found


def look(agent: Agent, *answers: bytes | None | Exception, attached: tuple[str, ...] = (), active: bool = True) -> Hotplug:
    part = Hotplug(agent, "libvirt", libvirt_events.watch)
    part._events = Libvirt(*answers, active=active)
    part._look(UUID, set(attached))
    return part


def test_a_new_nic_is_set_up(agent):
    agent.store.rows = [owner(ONE)]
    look(agent, xml(ONE, TWO, FOREIGN))
    assert agent.done == [(Action.RECONNECT, "")]
    assert agent.notes == [("hotplug", "dom1: tap2 was set up", syslog.LOG_INFO)] and agent.counts == {"set up": 1}


def test_nothing_new_costs_nothing(agent):
    agent.store.rows = [owner(ONE), owner(TWO)]
    look(agent, xml(ONE, TWO, FOREIGN))
    assert agent.done == [] and agent.notes == []


@pytest.mark.parametrize(
    "stale",
    [{"ifindex": 99}, {"network": "other"}, {"phase": "leftover"}, {"domain_id": "name:dom1", "id": "name:dom1/x"}],
    ids=["another tap of that name", "another network", "a leftover", "of <script>"],
)
def test_a_record_that_is_not_of_this_nic(agent, stale):
    agent.store.rows = [owner(ONE, **stale)]
    look(agent, xml(ONE))
    assert agent.done[-1] == (Action.RECONNECT, "")


@pytest.mark.parametrize(("bridge", "moved"), [("br0", False), ("br1", True)], ids=["edited", "moved"])
def test_a_claim_that_was_edited(bridge, moved, agent, tmp_path):
    """A running guest keeps what it was given; but `virsh update-device` has moved its tap already."""
    other = TOML.replace("lan", "dmz").replace("br0", "br1")
    (tmp_path / "vmnet.toml").write_text(TOML + other + '[networks.web]\nmode = "bridged"\nbridge = "br2"\n')
    agent.store.rows = [owner(ONE)]
    claim = f'<interface mac="{ONE[0]}" network="{"dmz" if moved else "web"}"/>'
    metadata = f'<metadata><domain xmlns="urn:vmnet-hooks:domain:1">{claim}</domain></metadata>'.encode()
    look(agent, xml((*ONE[:2], bridge, ONE[3])).replace(b"<devices>", metadata + b"<devices>"))
    assert agent.done == ([(Action.RECONNECT, "")] if moved else [])


def test_a_nic_that_went(agent):
    agent.store.rows = [owner(ONE), owner(TWO)]
    look(agent, xml(ONE))
    assert agent.done == [(Action.UNPLUG, "tap2")] and agent.counts == {"taken down": 1}


def test_one_of_a_script_that_libvirt_does_not_describe_yet(agent):
    """<script> runs before the NIC is in the description: as long as its tap is there, nothing says that it went."""
    agent.store.rows = [owner(ONE), owner(TWO, domain_id="name:dom1", id="name:dom1/tap2")]
    look(agent, xml(ONE))
    assert agent.done == []
    agent.store.rows[1] = owner(TWO, domain_id="name:dom1", id="name:dom1/tap2", ifindex=77)
    look(agent, xml(ONE))
    assert agent.done == [(Action.UNPLUG, "tap2")]


def test_a_domain_that_does_not_run(agent):
    agent.store.rows = [owner(ONE)]
    look(agent, None)
    assert agent.done == [] and agent.notes == []


def test_a_domain_that_ended_meanwhile(agent):
    """Its clean-up may have come first: nothing of it stays."""
    look(agent, xml(ONE), active=False)
    assert agent.done == [(Action.RECONNECT, ""), (Action.UNPLUG, "")]
    assert agent.store.rows == []


def test_an_arrival_that_nobody_saw(agent):
    agent.store.rows = [owner(ONE, phase="incoming")]
    look(agent, xml(ONE))
    assert agent.arrivals.heard == [UUID] and agent.done == []


def test_what_cannot_be_set_up(agent):
    """Said once; the NIC that was attached has no carrier, the other one, which may have run for long, keeps it."""
    agent.failure = InputError("no such thing")
    part = look(agent, xml(ONE, TWO), attached=("net1",))
    assert agent.links == [("tap2", "down")] and agent.counts == {"failed": 1}
    assert agent.notes == [("error", "hotplug: dom1: no such thing; without a carrier until then: tap2", syslog.LOG_ERR)]
    part._look(UUID, set())
    assert len(agent.notes) == 1 and part._failed
    agent.failure = None
    # Another agent's by now.
    part = look(agent, xml(ONE, TWO))
    assert agent.links[-1] == ("tap2", "up") and not part._failed
    part._look(UUID, set())
    assert agent.links.count(("tap2", "up")) == 1


def test_a_tap_that_was_shut_and_is_another_one_now(agent, monkeypatch, tmp_path):
    agent.failure = KernelError("no")
    part = look(agent, xml(TWO), attached=("net1",))
    agent.failure = None
    monkeypatch.setattr(hotplug, "_index", lambda ifname: 99)
    part._look(UUID, set())
    assert agent.links == [("tap2", "down")] and not list(tmp_path.glob("shut-*"))


def test_a_lost_connection_is_no_error(agent):
    part = look(agent, LibvirtError("gone"), xml(TWO), attached=("net1",))
    assert part._failed == {UUID: ""} and {note[0] for note in agent.notes} == {"hotplug"}
    # Whose NIC is new is remembered: it is shut if it can't be set up.
    agent.failure = KernelError("no")
    part._changed(UUID)
    part._next()
    assert agent.links == [("tap2", "down")]


def test_a_description_that_makes_no_sense(agent):
    look(agent, b"<domain><name>x</name><uuid>no</uuid></domain>")
    assert [note[0] for note in agent.notes] == ["error"] and agent.done == []


def test_a_burst_is_one_look_and_nothing_is_lost(agent):
    """While a domain is looked at, more events are one more look, with all aliases; other domains do not wait."""
    looked: list[tuple[str, set[str]]] = []
    go_on = threading.Event()

    def slow(uuid: str, attached: set[str]) -> None:
        looked.append((uuid, attached))
        if uuid == "a":
            go_on.wait(5)

    part = Hotplug(agent, "libvirt", libvirt_events.watch)
    part._look = slow  # type: ignore[method-assign]
    workers = [threading.Thread(target=part._work, daemon=True) for _ in range(2)]
    for worker in workers:
        worker.start()
    part._changed("a", "net0")
    wait_for(lambda: looked == [("a", {"net0"})])
    for number in range(50):
        part._changed("a", f"net{number % 3}")
    part._changed("b")
    wait_for(lambda: ("b", set()) in looked)
    assert len(looked) == 2
    go_on.set()
    wait_for(lambda: len(looked) == 3)
    assert looked[2] == ("a", {"net0", "net1", "net2"})
    part.close()
    for worker in workers:
        worker.join(5)
        assert not worker.is_alive()
    assert len(looked) == 3


@pytest.mark.parametrize("readable", [True, False], ids=["records", "no records"])
def test_a_list_that_waits_delays_no_domain_with_records(agent, monkeypatch, readable):
    """libvirt lists domains after all hooks that run now. It answers nothing about one that still starts, or has no UUID here."""
    agent.store.rows = [
        owner(ONE),
        owner(TWO),
        owner(ONE, domain_id="starts", phase="plugged"),
        owner(ONE, domain_id="name:dom1"),
        owner(ONE, domain_id="another front end's", frontend="qemu"),
    ]

    def broken() -> None:
        raise StoreError("state.db: damaged")

    if not readable:
        monkeypatch.setattr(agent, "records", broken)
    hooks_run = threading.Event()

    class Slow(Libvirt):
        def connect(self) -> None:
            pass

        def domains(self) -> list[str]:
            hooks_run.wait(5)
            return [UUID, "starts"]

        def close(self) -> None:
            pass

    part = Hotplug(agent, "libvirt", libvirt_events.watch)
    part._events = Slow(None)
    looked: list[str] = []
    part._changed = looked.append  # type: ignore[method-assign]
    connected = threading.Thread(target=part._stay_connected, daemon=True)
    connected.start()
    at_once = [UUID] if readable else []
    wait_for(lambda: looked == at_once)
    time.sleep(0.05)
    assert looked == at_once
    hooks_run.set()
    wait_for(lambda: len(looked) == 2)
    part.close()
    connected.join(5)
    assert looked == [UUID, "starts"] and not connected.is_alive()


def test_records_that_were_lost(agent, monkeypatch):
    """Every running domain is looked at again: a file that is there for the first time is no loss."""
    files = [None]
    monkeypatch.setattr(hotplug, "FAILED_SECONDS", 0.01)
    monkeypatch.setattr(hotplug, "identity", lambda: files[0])
    looked: list[str] = []
    part = Hotplug(agent, "libvirt", libvirt_events.watch)
    part._changed = looked.append  # type: ignore[method-assign]
    part._events = SimpleNamespace(connect=lambda: None, domains=lambda: [UUID], close=lambda: None, wake=lambda: None)
    connected = threading.Thread(target=part._connect, daemon=True)
    connected.start()
    wait_for(lambda: looked == [UUID])
    for file, looks in (("first", 1), ("second", 2), (None, 3)):
        files[0] = file
        wait_for(lambda looks=looks: len(looked) == looks)
        time.sleep(0.1)
        assert len(looked) == looks
    part.close()
    connected.join(5)
    assert not connected.is_alive()


def test_a_worker_survives_whatever_happens(agent):
    part = Hotplug(agent, "libvirt", libvirt_events.watch)
    looked = []

    def broken(uuid: str, _attached: set[str]) -> None:
        looked.append(uuid)
        if len(looked) == 1:
            part._changed("a")
            raise RuntimeError("boom")

    part._look = broken  # type: ignore[method-assign]
    threading.Thread(target=part._work, daemon=True).start()
    part._changed("a")
    wait_for(lambda: looked == ["a", "a"])
    part.close()
    assert [note for note in agent.notes if "boom" in note[1]]


def test_without_the_python_module(agent, monkeypatch):
    monkeypatch.setattr(libvirt_events, "available", False)
    before = threading.active_count()
    part = Hotplug(agent, "libvirt", libvirt_events.watch)
    part.start()
    part.close()
    assert len(agent.notes) == 1 and "python3-libvirt" in agent.notes[0][1]
    assert threading.active_count() == before


def test_macs_by_alias():
    assert libvirt_events.macs(xml(ONE, TWO), {"net1", "net7"}) == {TWO[0]}


def wait_for(condition) -> None:
    end = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)
