"""A routed guest that comes in by `xl migrate`. Sender and receiver are real; both run in the one dom0 that there is.

The guest is a PVH guest: Debian's Xen has no shadow paging, without which it can't migrate a PV guest ("Failed to enable
logdirty").
"""

from __future__ import annotations

import os
import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from lab.xen import FAR4, FAR6, MAC, Dom0, Guest, World, eventually

SECONDS = 2.0
"""From the guest's resume, when netfront is connected to netback, to the first answer to a ping."""

ADDRESSES = ("192.0.2.50", "2001:db8::50")
HERE = f"mac={MAC.format(0x61)},script=vmnet-vif-route,ip={' '.join(ADDRESSES)}"
ELSEWHERE = f"mac={MAC.format(0x61)},bridge=lan,script=vif-bridge"
"""A NIC that we do not know: as if the guest ran on another host."""

OTHER_HOST = "02:00:00:00:00:77"
"""The MAC to which the outside sends what is for a guest that runs elsewhere."""

RECEIVER = "xl migrate-receive | {{ head -n 1; read -r go <{0}; head -c 34; read -r go <{0}; cat; }}"
"""A slow line from the receiver to the sender: "ready to unpause" and the receiver's report wait for a line in a FIFO. Meanwhile
the guest is paused, and then no sender is busy here with its own half of the guest."""


class Migration:
    """`xl migrate` of a guest that gets other NICs by it. Use as a context manager: in the block, the guest has been received
    and is paused; `go` lets it run; at the end, the sender destroys its half."""

    def __init__(self, guest: Guest, *vifs: str):
        guest.configure(*vifs)
        self.fifo = Path("/tmp/line")
        os.mkfifo(self.fifo)
        self.line = os.open(self.fifo, os.O_RDWR)
        argv = ["xl", "migrate", "-C", guest.config, "-s", "", guest.name, RECEIVER.format(self.fifo)]
        self.process = guest.dom0.popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        self.said = ""
        self.guest = guest

    def __enter__(self) -> Migration:
        try:
            self._until("requesting permission to start domain")
            self.domid = self.guest.dom0.run(["xl", "domid", f"{self.guest.name}--incoming"]).stdout.strip()
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(self, failed: object, *_exc: object) -> None:
        status = self._end()
        assert failed or not status, self.said

    def _until(self, words: str) -> None:
        for line in self.process.stderr:
            self.said += line
            if words in line:
                return
        raise AssertionError(f"xl migrate did not say {words!r}, but:\n{self.said}")

    def _end(self) -> int:
        os.close(self.line)
        self.fifo.unlink()
        self.said += self.process.communicate(timeout=120)[1]
        return self.process.returncode

    def go(self) -> float:
        """Let the guest run. Return the time when its NIC is connected."""
        os.write(self.line, b"\n")
        self._until("Got permission")
        permitted = time.time()
        carrier = Path(f"/sys/class/net/vif{self.domid}.0/carrier")
        while carrier.read_text() != "1\n":
            assert time.time() < permitted + 60, f"it does not resume\n{self.said}"
            time.sleep(0.02)
        connected = time.time()
        print(f"the guest's NIC was connected {connected - permitted:.2f} s after libxl got its permission")
        return connected


@pytest.fixture(scope="module")
def guest(world: World) -> Iterator[Guest]:
    """It runs elsewhere until a test moves it, and has said nothing to a gateway. Nothing of it stays."""
    before = world.dom0.state()
    with Guest(world.dom0, "moves", ELSEWHERE, type="pvh") as guest:
        guest.routed(*ADDRESSES)
        yield guest
    world.dom0.assert_restored(before)


def replies(ping: subprocess.Popen[str]) -> list[float]:
    """End a ping with -D. Return the times of the answers."""
    ping.send_signal(2)
    return [float(found) for found in re.findall(r"^\[([0-9.]+)\] \d+ bytes from ", ping.communicate(timeout=20)[0], re.M)]


def attracted(dom0: Dom0) -> str:
    """What draws the guest's traffic."""
    asked = "ip -{0} neigh show proxy dev eth0; ip -{0} route show {1}; "
    return dom0.sh("".join(asked.format(family, address) for family, address in zip((4, 6), ADDRESSES, strict=True)))


def comes_in(world: World, guest: Guest) -> None:
    """The guest migrates to this host, and is reached as soon as it runs here, and not before."""
    dom0, outside = world.dom0, world.outside
    before = attracted(dom0)
    with world.heard("eth0", "arp or icmp6") as heard, Migration(guest, HERE) as migration:
        assert "incoming" in dom0.run("vmnet-hook status").stdout
        assert attracted(dom0) == before
        for address in ADDRESSES:
            outside.run(f"ip neigh replace {address} lladdr {OTHER_HOST} dev eth0 nud reachable")
        pings = [outside.popen(["ping", "-D", "-n", "-i", "0.2", address], stdout=subprocess.PIPE) for address in ADDRESSES]
        time.sleep(1)
        released = time.time()
        connected = migration.go()
        time.sleep(SECONDS + 1)
        for address, answered in zip(ADDRESSES, map(replies, pings), strict=True):
            assert answered, f"{address} was not reached"
            print(f"{address} was reached {answered[0] - connected:.2f} s after that")
            assert released < answered[0] < connected + SECONDS
    asked, advertised = f"who-has {ADDRESSES[0]} tell {ADDRESSES[0]}", f"neighbor advertisement, tgt is {ADDRESSES[1]}"
    assert any(asked in line for line in heard) and any(advertised in line for line in heard), heard
    status = dom0.run("vmnet-hook status").stdout
    assert re.search(rf"vif{guest.domid}\.0 .* active +ok$", status, re.M) and "incoming" not in status, status
    dom0.run("vmnet-hook check")
    guest.attach()
    assert guest.pings(FAR4) and guest.pings(FAR6)


def test_from_another_host(world: World, guest: Guest):
    comes_in(world, guest)


def test_within_this_host(world: World, guest: Guest):
    """With the agent. What draws the guest's traffic goes from one of its halves to the other."""
    with world.dom0.agent():
        comes_in(world, guest)
        asked = ["grep", "-x", "vmnet_arrivals_total 1", "/run/vmnet-hookd/metrics.prom"]
        assert eventually(lambda: not world.dom0.run(asked, check=False).returncode), "the agent counts no arrival"
