"""Guests at wires: each has a real tap, held by cable.py as QEMU holds it, and is started and stopped by libvirt's hook."""

from __future__ import annotations

import json
import subprocess
from contextlib import closing

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


def spliced(node: Node, link: str, letter: str) -> Plug:
    """What is behind a link of another node: a tap there, joined to the link by rules of its own."""
    plug = Plug(node, f"{link}-tap", letter)
    chain = 'chain {0} {{ type filter hook ingress device "{0}" priority 0; policy drop; fwd to "{1}"; }}'
    chains = "\n".join(chain.format(*pair) for pair in ((link, plug.tap), (plug.tap, link)))
    node.sh(f"for i in {link} {plug.tap}; do echo 1 > /proc/sys/net/ipv6/conf/$i/disable_ipv6; ip link set $i mtu 9000 up; done")
    table = f"table netdev splice-{link}"
    node.run(["nft", f"add {table}; delete {table}; {table} {{\n{chains}\n}}"])
    return plug


class WiredGuest:
    """A libvirt guest with these taps, each with its MAC."""

    def __init__(self, host: Node, name: str, **taps: str):
        self.host, self.name = host, name
        self.nics = [Interface(mac, tap) for tap, mac in taps.items()]
        self.plugs: list[Plug] = []

    @property
    def plug(self) -> Plug:
        return self.plugs[0]

    def start(self) -> WiredGuest:
        """As libvirt: the taps are up before the hook is called."""
        self.plugs = [Plug(self.host, nic.tap, letter(nic.tap)) for nic in self.nics]
        for nic in self.nics:
            self.host.run(f"ip link set {nic.tap} up")
        call(self.host, self.name, "start", *self.nics)
        call(self.host, self.name, "started", *self.nics)
        for plug in self.plugs:
            # What the host said before.
            plug.hear()
        return self

    def die(self) -> None:
        """Its QEMU is killed, and no hook has come yet."""
        for plug in self.plugs:
            plug.close()

    def stop(self) -> None:
        self.die()
        call(self.host, self.name, "stopped", *self.nics)
        call(self.host, self.name, "release", *self.nics)


def letter(tap: str) -> str:
    """What marks the frames of a tap: its number among all that there were."""
    return chr(ord("A") + LETTERS.setdefault(tap, len(LETTERS)) % 58)


LETTERS: dict[str, int] = {}


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
    found = crossed(one, other), crossed(other, one)
    assert found == ({}, {}), found
