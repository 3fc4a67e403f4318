"""Truth lost: the records are removed or damaged while guests run, and forge. No guard of a running guest goes, commands and hooks
say one clear line each, and the next start and stop work."""

from __future__ import annotations

import time
from contextlib import contextmanager, nullcontext

import pytest
from lab import frames
from lab.agent import Agent
from lab.capture import Capture
from lab.domains import Interface, domain_xml
from lab.flood import __file__ as FLOOD
from lab.guest import Nic, wired
from lab.nodes import Node
from lab.routed import SUBOPERATION, eventually
from lab.single import LAN, PUBLIC, Single, routed

DB = "/run/vmnet-hooks/state.db"
DAMAGE = {
    "removed": f"rm -f {DB}*",
    "emptied": f": > {DB}",
    "cut in half": f"truncate -s $(( $(stat -c %s {DB}) / 2 )) {DB}",
    "garbage": f"dd if=/dev/urandom of={DB} bs=4096 count=20 conv=notrunc 2>/dev/null",
    "a page of garbage": f"dd if=/dev/urandom of={DB} bs=4096 seek=2 count=1 conv=notrunc 2>/dev/null",
    "everything removed": "rm -rf /run/vmnet-hooks",
    "journal garbage": "echo nonsense > /run/vmnet-hooks/journal",
    "journal a folder": "mkdir /run/vmnet-hooks/journal",
    "records a folder": f"rm -f {DB}*; mkdir {DB}",
    "lock a folder": "rm -f /run/vmnet-hooks/lock; mkdir /run/vmnet-hooks/lock",
}
PORT = 6666
BRIDGED = Interface("52:54:00:bb:00:10", "lan-tap16", "lan", ("10.7.0.16",), "br0")
ROUTED = routed(11, "tap11")
FORGED = frames.udp4("02:00:00:00:06:01", BRIDGED.mac, "10.7.0.1", "10.7.0.99", PORT)


@contextmanager
def flooding(guest: Node, frame: bytes = FORGED):
    """A guest sends a forged frame a millisecond."""
    flood = guest.popen(["/usr/bin/python3", "-IS", FLOOD, "eth0", "1", *([frame.hex()] * 4)], stdout=-1)
    flood.stdout.readline()
    try:
        yield
        assert flood.poll() is None
    finally:
        flood.kill()


@contextmanager
def lab():
    """A host with a bridged and a routed guest that run."""
    with Single(PUBLIC + LAN, foreign=False) as one:
        one.host.sh("for f in /proc/sys/net/bridge/bridge-nf-call-*; do [ ! -e $f ] || echo 0 > $f; done")
        with (
            wired(one.host, BRIDGED.tap, "liar", Nic(BRIDGED.mac)) as guest,
            wired(one.host, ROUTED.tap, "other", Nic(ROUTED.mac, "192.0.2.11")) as other,
        ):
            yield one, guest, other


def hook(node: Node, op: str, domain: str, nic: Interface):
    return node.hook(domain, op, SUBOPERATION[op], domain_xml(domain, nic, stage=op))


LOST = ("removed", "emptied", "everything removed")


@pytest.mark.parametrize("with_agent", (False, True), ids=("alone", "agent"))
@pytest.mark.parametrize("damage", DAMAGE)
def test_records(damage, with_agent):
    with lab() as (one, guest, _), Agent(one.host) if with_agent else nullcontext() as agent:
        host = one.host
        one.start("dom", BRIDGED)
        one.start("dom-r", ROUTED)
        with Capture(one.peer, "lan0", f"udp port {PORT}") as seen, flooding(guest):
            host.sh(DAMAGE[damage])
            time.sleep(2.5 if agent else 0.1)
            said = [host.cli(word) for word in ("status", "check", "repair", "check")]
            time.sleep(0.3)
            said += [hook(host, op, "dom", BRIDGED) for op in ("start", "started")]
            time.sleep(0.3)
        said.append(hook(host, "stopped", "dom", BRIDGED))
        if damage.startswith(("journal", "lock")):
            assert [done.returncode for done in said[2:4]] == [0, 0], said[2:4]
        else:
            assert [done.returncode for done in said[2:4]] == [1, 1], said[2:4]
            assert f"{BRIDGED.tap}: a guest runs on it" in said[3].stdout and f"{ROUTED.tap}: a guest" in said[3].stdout, said[3]
        text = "\n".join(done.stdout + done.stderr for done in said)
        assert "Traceback" not in text and "internal error" not in text, text
        errors = [line for done in said for line in done.stderr.splitlines() if line.startswith("vmnet-hook: ")]
        assert all("`vmnet-hook repair` moves it away" in line or ".damaged-1" in line for line in errors), errors
        assert [done.returncode for done in said[4:]] == [0, 0, 0], said[4:]
        assert not seen.lines, f"{len(seen.lines)} forged frames passed; {text}"
        assert hook(host, "stopped", "dom-r", ROUTED).returncode == 0
        if agent:
            assert agent.process.poll() is None and "Traceback" not in agent.log, agent.log
