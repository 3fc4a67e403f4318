"""A dom0 between two wires, for the tests of Xen's scripts:

    br0    a bridge, its port lan0 leads to the peer's lan0 (10.7.0.1)
    eth9   10.0.1.1, the default route by the peer's eth9 (10.0.1.254); behind the peer is WORLD

and, as in lab.single, what an admin may have put there. `plugged` is a vif's whole life, with proof that nothing stays.
"""

from __future__ import annotations

import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager

from .nodes import settled
from .single import Single, same
from .xenstore import Dom0, Vif

LAN_PEER, LAN_PEER6 = "10.7.0.1", "fd00:7::1"
UPSTREAM, UPSTREAM6 = "10.0.1.254", "fd00:1::254"
OWN, OWN6 = "10.0.1.1", "fd00:1::1"
UPSTREAM_MAC, OWN_MAC = "02:00:00:00:08:01", "02:00:00:00:09:01"
WORLD, WORLD6 = "198.51.100.1", "2001:db8:ffff::1"


class XenHost(Single):
    host: Dom0

    def __init__(self, config: str = "", foreign: bool = True):
        super().__init__(config, foreign, "dom0", Dom0)
        self.peer.sh(
            f"ip addr add {LAN_PEER}/24 dev lan0; ip -6 addr add {LAN_PEER6}/64 dev lan0 nodad\n"
            f"ip addr add {UPSTREAM}/24 dev eth9; ip -6 addr add {UPSTREAM6}/64 dev eth9 nodad\n"
            f"ip addr add {WORLD}/32 dev lo; ip -6 addr add {WORLD6}/128 dev lo nodad"
        )

    @property
    def store(self):
        return self.host.store

    def vif(self, domid: int = 1, devid: int = 0, **options: object) -> Vif:
        """A vif that waits for its script; its guest ends with the host."""
        return self.stack.enter_context(Vif(self.host, domid, devid, **options))

    def keys(self) -> dict[str, str]:
        """The store, without what is empty: a folder of which all is gone stays, as in a dom0."""
        return {key: value for key, value in self.store.ls().items() if value}

    def shown(self, ifname: str) -> str:
        """`ip -d -o link show`; empty if there is no such link."""
        return self.host.run(["ip", "-d", "-o", "link", "show", "dev", ifname], check=False).stdout

    def records(self) -> list[tuple]:
        """Whatever is in our records, but for their version."""
        path = self.host.path("/run/vmnet-hooks/state.db")
        if not path.exists():
            return []
        # A copy: sqlite resolves /proc/PID/root, and would open this machine's own file of that name.
        with closing(sqlite3.connect(":memory:")) as opened:
            opened.deserialize(path.read_bytes())
            tables = [name for (name,) in opened.execute("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name")]
            return [(name, *row) for name in tables for row in opened.execute(f"SELECT * FROM {name}")]


def succeeded(done: subprocess.CompletedProcess[str]) -> None:
    assert done.returncode == 0 and done.stderr == "" and done.stdout == "", done


def online(vif: Vif, *argv: str, **options: str) -> None:
    """`online` as libxl wants it: quiet, and netback is told."""
    succeeded(vif.call("online", *argv, **options))
    assert (vif.status, vif.error) == ("connected", None)


def offline(vif: Vif, **options: str) -> None:
    """The guest's end: its device and frontend go, then the script is called, then libxl removes the backend."""
    vif.leave()
    before = vif.dom0.store.ls()
    succeeded(vif.call("offline", **options))
    assert vif.dom0.store.ls() == before
    vif.forget()


def refused(vif: Vif, done: subprocess.CompletedProcess[str], *words: str, status: int | None = None) -> None:
    """The script failed as libxl wants it: a status, one line for the admin, and the same line in the store."""
    lines = done.stderr.splitlines()
    assert done.returncode in ((1, 2) if status is None else (status,)), done
    assert done.stdout == "" and len(lines) == 1 and lines[0].startswith("vmnet-hook: "), done
    for word in words:
        assert word in lines[0], f"{word!r} is not in {lines[0]!r}"
    assert vif.status == "error"
    assert vif.error and vif.error.endswith(lines[0].removeprefix("vmnet-hook: ")), (vif.error, lines)


@contextmanager
def nothing_stays(one: XenHost) -> Iterator[None]:
    """Whatever happens in the block: after it, the host and the store are as before, and there are no records."""
    state, keys, records = settled(one.host), one.keys(), one.records()
    yield
    same(state, settled(one.host))
    assert one.keys() == keys
    assert one.records() == records


@contextmanager
def plugged(one: XenHost, *vifs: Callable[[], Vif] | Vif) -> Iterator[None]:
    """The vifs are online in the block, and gone after it."""
    for vif in vifs:
        online(vif)
    yield
    for vif in vifs:
        offline(vif)
