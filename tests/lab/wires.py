"""Guests at wires: each has a real tap, held by cable.py as QEMU holds it, and is started and stopped by libvirt's hook."""

from __future__ import annotations

import json
import subprocess
from contextlib import closing
from dataclasses import dataclass

from .cable import KINDS
from .cable import __file__ as CABLE
from .domains import Interface
from .nodes import Node
from .routed import call

ALL = len(KINDS)


class Plug:
    """A tap and the process behind it."""

    def __init__(self, host: Node, tap: str, letter: str):
        self.host, self.tap = host, tap
        words = ["/usr/bin/python3", "-IS", CABLE, tap, letter]
        self.process = host.popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self.process.stdout.readline() == "ready\n"

    def ask(self, word: str) -> str:
        self.process.stdin.write(f"{word}\n")
        self.process.stdin.flush()
        return self.process.stdout.readline()

    def hear(self) -> dict:
        return json.loads(self.ask("hear"))

    def close(self) -> None:
        """The process is killed, and the tap goes."""
        self.process.kill()
        with closing(self.process.stdin), closing(self.process.stdout):
            self.process.wait()


@dataclass
class WiredGuest:
    """A libvirt guest `name` whose only NIC has this tap."""

    host: Node
    name: str
    tap: str
    mac: str
    plug: Plug | None = None

    @property
    def nic(self) -> Interface:
        return Interface(self.mac, self.tap)

    def start(self) -> WiredGuest:
        """As libvirt: the tap is up before the hook is called."""
        self.plug = Plug(self.host, self.tap, self.name[-1])
        self.host.run(f"ip link set {self.tap} up")
        call(self.host, self.name, "start", self.nic)
        call(self.host, self.name, "started", self.nic)
        # What the host said before.
        self.plug.hear()
        return self

    def die(self) -> None:
        """Its QEMU is killed, and no hook has come yet."""
        self.plug.close()

    def stop(self) -> None:
        self.die()
        call(self.host, self.name, "stopped", self.nic)
        call(self.host, self.name, "release", self.nic)


def crossed(one: Plug, other: Plug) -> dict[str, object]:
    """What is wrong with the frames that `other` gets from `one`: kinds that did not come, or not once, or changed; echoes;
    frames of the host. Empty if it is as by a cable."""
    assert one.ask("send") == "sent\n"
    there, here = other.hear(), one.hear()
    found: dict[str, object] = {}
    if lost := [name for name, times in there["came"].items() if times != 1]:
        found["lost"] = lost
    for key, value in (("wrong", there["wrong"]), ("echoes", here["echoes"]), ("strange", there["strange"] + here["strange"])):
        if value:
            found[key] = value
    return found


def count(one: Plug, other: Plug) -> int:
    """How many kinds of frames get from one to the other, and back."""
    lost = [set(crossed(*pair).get("lost", ())) for pair in ((one, other), (other, one))]
    return ALL - len(set.union(*lost))


def as_a_cable(one: Plug, other: Plug) -> None:
    """Assert that every kind of frame gets from each to the other, once, unchanged, and nothing else."""
    assert (crossed(one, other), crossed(other, one)) == ({}, {})
