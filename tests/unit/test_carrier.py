"""The carrier of a guest's NIC follows the other end of its wire, by the agent's word to the hypervisor."""

import threading
import time
from contextlib import suppress
from types import SimpleNamespace

import pytest

from vmnet_hooks.agent import carrier
from vmnet_hooks.errors import ConfigError
from vmnet_hooks.frontends.watch import Unreachable
from vmnet_hooks.model.owner import Nic

CONFIG = """
[wires.a-b]
ends = ["a:0", "b:0"]
carrier = true
[wires.c-d]
ends = ["c:0", "d:0"]
[wires.out]
ends = ["e:0", "link:eth7"]
carrier = true
"""


def nic(name: str, wire: str, frontend: str = "libvirt", index: int = 7) -> Nic:
    about = dict(domain=name, domain_id=f"uuid-{name}", ifname=f"t-{name}", ifindex=index, mac=f"mac-{name}")
    return Nic(id=f"uuid-{name}/mac", frontend=frontend, network=wire, **about)


class World:
    """An agent with an index, and a hypervisor that is told of carriers."""

    def __init__(self, declared, monkeypatch):
        self.declared, self.told, self.notes, self.broken = declared, [], [], ""
        self.starting = False
        self.owners, self.listeners = {}, []
        index = SimpleNamespace(owners=self.owners, subscribe=self.listeners.append)
        self.agent = SimpleNamespace(
            index=index, place=SimpleNamespace(declared=self.config), stopping=threading.Event(), note=self.note
        )
        front_ends = {"libvirt": SimpleNamespace(carrier=self.set), "qemu": SimpleNamespace(carrier=None)}
        monkeypatch.setattr(carrier, "load", lambda row: front_ends[row.name])
        self.carrier = carrier.Carrier(self.agent)

    def config(self):
        if self.declared is None:
            raise ConfigError("no configuration")
        return self.declared

    def set(self, domain_id: str, mac: str, up: bool) -> bool:
        if self.broken:
            raise Unreachable(self.broken)
        if self.starting:
            return False
        self.told.append((domain_id, mac, up))
        return True

    def note(self, kind: str, text: str, priority: int) -> None:
        self.notes.append(text)

    def change(self, *owners: Nic, gone: bool = False) -> list:
        """Add owners, or remove them; return what the hypervisor is told."""
        self.told.clear()
        for owner in owners:
            self.owners.pop(owner.id, None)
            if not gone:
                self.owners[owner.id] = owner
        return self.follow(*owners)

    def follow(self, *owners: Nic) -> list:
        self.carrier._follow({owner.network for owner in owners})
        return sorted(self.told)


@pytest.fixture
def world(load, monkeypatch):
    return World(load(CONFIG), monkeypatch)


A, B = nic("a", "a-b"), nic("b", "a-b")


def test_it_follows_the_other_end(world):
    assert world.change(A) == [("uuid-a", "mac-a", False)]
    assert world.change(A) == [], "it has been told"
    assert world.change(B) == [("uuid-a", "mac-a", True), ("uuid-b", "mac-b", True)]
    assert world.change(B, gone=True) == [("uuid-a", "mac-a", False)]
    again = nic("a", "a-b", index=9)
    assert world.change(again) == [("uuid-a", "mac-a", False)], "a NIC that was started again has a carrier at first"


def test_a_wire_without_it_and_a_link_of_the_host(world):
    assert world.change(nic("c", "c-d")) == []
    assert world.change(nic("e", "out")) == [("uuid-e", "mac-e", True)]


def test_other_hypervisors(world):
    qemu = nic("b", "a-b", "qemu")
    assert world.change(qemu) == []
    assert world.change(A) == [("uuid-a", "mac-a", True)]


def test_a_hypervisor_that_can_not_be_asked(world):
    world.owners[A.id] = A
    world.broken = "libvirt does not answer"
    assert world.carrier._follow({"a-b"}) == {"a-b"} == world.carrier._follow({"a-b"})
    assert world.notes == ["carrier: wires.a-b: libvirt does not answer"], "said once"
    world.broken = ""
    assert world.carrier._follow({"a-b"}) == set() and world.told == [("uuid-a", "mac-a", False)]


def test_a_guest_that_still_starts(world):
    world.owners[A.id], world.starting = A, True
    assert world.carrier._follow({"a-b"}) == {"a-b"} and world.notes == []
    world.starting = False
    assert world.follow(A) == [("uuid-a", "mac-a", False)]


def test_no_configuration(world):
    world.declared = None
    assert world.carrier._follow({"a-b"}) == {"a-b"}


def test_the_thread(world, monkeypatch):
    """It tries again by itself, and ends with the agent."""
    monkeypatch.setattr(carrier, "RETRY_SECONDS", 0.01)
    world.owners[A.id] = A
    world.broken = "libvirt does not answer"
    world.carrier.start()
    [thread] = [thread for thread in threading.enumerate() if thread.name == "carrier"]
    world.listeners[0]([A], [])
    end = time.monotonic() + 10
    while not world.notes and time.monotonic() < end:
        time.sleep(0.01)
    world.broken = ""
    while not world.told and time.monotonic() < end:
        time.sleep(0.01)
    assert world.told == [("uuid-a", "mac-a", False)]
    world.agent.stopping.set()
    with suppress(RuntimeError):
        world.carrier.close()
    thread.join(10)
    assert not thread.is_alive()
