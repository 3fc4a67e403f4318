"""The agent: hooks that it serves leave what they leave without it; without it, or with one that dies, hangs, or is of another
version, they do their work all the same; hostile clients change nothing for others.

The number of cycles of `test_killed_again_and_again` is VMNET_CYCLES, 60 if not given.
"""

import json
import os
import random
import re
import signal
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from lab.agent import Agent
from lab.domains import domain_xml
from lab.routed import PUBLIC, call, eventually
from lab.single import LAN, Single, bridged, routed, same
from lab.xenhost import XenHost, offline, online, refused

from vmnet_hooks import __version__

CYCLES = int(os.environ.get("VMNET_CYCLES", "60"))
SOCKET = "/run/vmnet-hooks/agent.sock"
HELLO = f"vmnet-hooks {__version__} ".encode()


@pytest.fixture(scope="module")
def one():
    with Single() as lab:
        yield lab


@pytest.fixture
def agent(one):
    with Agent(one.host) as found:
        yield found


def status(one) -> dict:
    """What the agent says of itself."""
    with connected(one) as connection:
        return json.loads(asked(connection, HELLO + b"agent/status 1 0 0 0\n").partition(b"\n")[2])


def connected(one) -> socket.socket:
    found = socket.socket(socket.AF_UNIX)
    found.settimeout(10)
    # The path in the node's /run is too long for an address of its own.
    folder = os.open(one.host.path("/run/vmnet-hooks"), os.O_PATH)
    try:
        found.connect(f"/proc/self/fd/{folder}/agent.sock")
    finally:
        os.close(folder)
    return found


def asked(connection: socket.socket, request: bytes) -> bytes:
    connection.sendall(request)
    answer = b""
    while more := connection.recv(1 << 16):
        answer += more
    return answer


def taps(one, *nics) -> None:
    for nic in nics:
        one.tap(nic.tap, nic.mac, bridge=nic.bridge or "")


def test_the_same_with_and_without(one):
    """Also in turns: what one set up the other takes down."""
    nics = (routed(10), bridged(11))
    taps(one, *nics)
    before = one.state()
    try:
        one.start("dom1", *nics)
        alone = one.state()
        one.stop("dom1", *nics)
        with Agent(one.host) as agent:
            one.start("dom1", *nics)
            same(alone, one.state())
            assert status(one)["served"] >= 2
            assert "dom1" in one.host.cli("status").stdout and "agent: runs since" in one.host.cli("status").stderr
            assert one.host.cli("check").stdout.strip() == "ok"
            one.stop("dom1", *nics)
            same(before, one.state())
            one.start("dom1", *nics)
            agent.stop()
        one.stop("dom1", *nics)
        same(before, one.state())
        one.start("dom1", *nics)
        with Agent(one.host):
            one.stop("dom1", *nics)
        same(before, one.state())
        assert "agent: not running" in one.host.cli("status").stderr
    finally:
        for nic in nics:
            one.untap(nic.tap)


def test_a_refusal_comes_back_as_from_the_hook_itself(one, agent):
    xml = domain_xml("dom1", routed(12), stage="start")
    with_agent = one.host.hook("dom1", "start", "begin", xml)
    agent.stop()
    alone = one.host.hook("dom1", "start", "begin", xml)
    assert (with_agent.returncode, with_agent.stdout, with_agent.stderr) == (alone.returncode, alone.stdout, alone.stderr)
    assert with_agent.returncode == 1 and "tap12" in with_agent.stderr


def test_killed_it_is_not_missed(one):
    nics = (routed(13),)
    taps(one, *nics)
    before = one.state()
    with Agent(one.host) as agent:
        one.start("dom1", *nics)
        agent.stop(signal.SIGKILL)
        assert one.host.path(SOCKET).exists(), "its socket is there still, and nobody listens"
        one.stop("dom1", *nics)
        same(before, one.state())
        # Nor does what it left keep another one from starting.
        agent.start()
        one.start("dom1", *nics)
        assert status(one)["served"] == 2
        one.stop("dom1", *nics)
    same(before, one.state())
    one.untap(nics[0].tap)


def test_one_that_hangs_does_nothing_late(one):
    """The hook gives it up, and whatever it wakes up to has been done, and undone, by others since."""
    nics = (routed(14),)
    taps(one, *nics)
    before = one.state()
    with Agent(one.host) as agent:
        # What it does at its start is done under the lock.
        time.sleep(1)
        agent.process.send_signal(signal.SIGSTOP)
        begin = time.monotonic()
        call(one.host, "dom1", "start", *nics)
        assert 9 < time.monotonic() - begin < 20
        assert "tap14" in one.host.cli("status", "dom1").stdout
        assert "tap14" in one.host.cli("stop", "dom1").stdout
        same(before, one.state())
        agent.process.send_signal(signal.SIGCONT)
        assert eventually(lambda: status(one)["served"] == 1)
        same(before, one.state())
    one.untap(nics[0].tap)


def test_what_happened_while_nobody_looked(one):
    """A guest died, tables were flushed, a rule was deleted: mended when the agent starts, and hooks are served meanwhile."""
    dead, alive = routed(18), routed(19)
    taps(one, alive)
    before = one.state()
    one.start("dom2", alive)
    with_one = one.state()
    taps(one, dead)
    one.start("dom1", dead)
    one.untap(dead.tap)
    one.host.sh("nft flush ruleset; ip rule del to 192.0.2.0/24; ip route flush table 222")
    with Agent(one.host):
        assert eventually(lambda: one.host.cli("check").stdout.strip() == "ok", timeout=10)
        assert "dom1" not in one.host.cli("status").stdout
        # FOREIGN's tables and routes are not ours to put back.
        ours = [line for line in with_one.splitlines() if "proto vmnet" in line or "proto 86" in line]
        now = one.state()
        assert ours and [line for line in ours if line not in now] == []
        one.stop("dom2", alive)
    assert "proto 86" not in one.state() and "table inet vmnet" not in one.state() and before
    one.untap(alive.tap)


def test_a_configuration_that_can_not_be_used(one, agent):
    nics = (routed(15),)
    taps(one, *nics)
    try:
        one.start("dom1", *nics)
        one.stop("dom1", *nics)
        follower = connected(one)
        follower.sendall(HELLO + b"agent/monitor 1 0 0 0\n")
        time.sleep(0.2)
        one.host.config("[networks.public]\nmode = 7\n")
        one.start("dom1", *nics)
        assert "tap15" in one.host.cli("stop", "dom1").stdout
        said = follower.recv(1 << 16).decode()
        assert "the old one stands" in said and "networks.public.mode: 7 is not a mode" in said, said
        shown = one.host.cli("status")
        assert re.search(
            r"by the configuration read at \d\d:\d\d:\d\d; the one on disk can't be used: .*mode: 7", shown.stderr
        ), shown
        assert shown.returncode == 2
        one.host.config("rubbish")
        refused = call(one.host, "dom2", "start", replace(nics[0], network="dmz"), check=False)
        assert re.search(r"no network 'dmz' .*\(by the configuration read at .*vmnet.toml: not TOML", refused), refused
        one.host.config((PUBLIC + LAN).replace("table = 222", "table = 223"))
        one.start("dom1", *nics)
        assert "192.0.2.15" in one.host.run("ip route show table 223").stdout
        one.stop("dom1", *nics)
    finally:
        one.host.config(PUBLIC + LAN)
        one.untap(nics[0].tap)


GARBAGE = {
    "nothing": b"",
    "a line": b"hello\n",
    "http": b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    "no end": b"x" * 300,
    "zeros": bytes(1000),
    "negative": HELLO + b"libvirt/qemu 1 -1 0 0\n",
    "not a number": HELLO + b"libvirt/qemu 1 x 0 0\n",
    "a gigabyte": HELLO + b"libvirt/qemu 1 0 0 1073741824\n",
    "long arguments": HELLO + b"libvirt/qemu 1 99999999 0 0\n",
    "an endless number": HELLO + b"libvirt/qemu 1 0 0 " + b"9" * 200 + b"\n",
    "another version": b"vmnet-hooks 9.9 libvirt/qemu 1 0 0 0\n",
    "another program": HELLO + b"../../x 1 0 0 0\n",
    "what hooks do by themselves": HELLO + b"xen/network-bridge 1 0 0 0\n",
    "an unknown command": HELLO + b"agent/stop 1 0 0 0\n",
    "more than it said": HELLO + b"libvirt/qemu 1 1 1 1\nabcdef",
    "bytes": HELLO + b"\xff\xfe 1 0 0 0\n",
}


def test_hostile_clients(one, agent):
    """Garbage, half messages, a gigabyte, a thousand connections, another user: refused, and hooks are served meanwhile."""
    nics = (routed(16),)
    taps(one, *nics)
    before = one.state()
    for name, text in GARBAGE.items():
        with connected(one) as connection:
            if text:
                assert asked(connection, text) in (b"- 0\n", b""), name
    with connected(one) as connection:
        head = HELLO + b"libvirt/qemu 1 0 0 8388608\n"
        connection.sendall(head)
        with pytest.raises(OSError):
            for _ in range(1024):
                connection.sendall(bytes(1 << 20))
    crowd = []
    for number in range(1000):
        connection = connected(one)
        connection.sendall((b"", b"vmnet-ho", HELLO + b"libvirt/qemu 1 9 9 9\nhalf")[number % 3])
        crowd.append(connection)
    begin = time.monotonic()
    one.start("dom1", *nics)
    one.stop("dom1", *nics)
    # None of the four fell back: that takes 10 s.
    assert time.monotonic() - begin < 9
    assert status(one)["served"] >= 3
    for connection in crowd[:3]:
        connection.settimeout(10)
        assert connection.recv(100) in (b"", b"- 0\n"), "who says nothing is let go"
    for connection in crowd:
        connection.close()
    one.host.sh(f"chmod 711 /run/vmnet-hooks; chmod 666 {SOCKET}")
    try:
        ask = (
            "import socket; s = socket.socket(socket.AF_UNIX); s.settimeout(5); s.connect(%r); "
            "s.sendall(b'vmnet-hooks 0.1.0 agent/status 1 0 0 0\\n'); print(s.recv(1000))"
        )
        other = one.host.run(["setpriv", "--reuid=65534", "--clear-groups", "/usr/bin/python3", "-c", ask % SOCKET], check=False)
        assert "b''" in other.stdout or "ConnectionReset" in other.stderr or "BrokenPipe" in other.stderr, other
    finally:
        one.host.sh(f"chmod 700 /run/vmnet-hooks; chmod 600 {SOCKET}")
    same(before, one.state())
    assert memory(agent.process.pid) < 120 << 20
    one.untap(nics[0].tap)


def memory(pid: int) -> int:
    """Bytes that a process has in memory."""
    line = next(line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) << 10


def test_xens_scripts_through_the_agent():
    """vif-bridge is served, its errors included; and a xenstored that says nothing keeps nobody else waiting."""
    with XenHost(LAN) as one, Agent(one.host):
        before = one.state()
        vif = one.vif(1, 0, bridge="br0")
        online(vif)
        assert vif.status == "connected" and status(one)["served"] == 1
        offline(vif)
        assert status(one)["served"] == 2
        with one.vif(2, 0, bridge="br7") as lost:
            refused(lost, lost.call("online"), "br7")
            lost.forget()
        pid = one.host.path("/run/xenstored/pid").read_text().strip()
        nic = bridged(17)
        taps(one, nic)
        one.host.run(["kill", "-STOP", pid])
        stuck = [vif.started("online") for _ in range(5)]
        time.sleep(0.5)
        begin = time.monotonic()
        one.start("dom1", nic)
        one.stop("dom1", nic)
        took = time.monotonic() - begin
        assert all(process.poll() is None for process in stuck), "they were stuck all the while"
        assert took < 3
        one.host.run(["kill", "-CONT", pid])
        for process in stuck:
            process.kill()
            process.communicate(timeout=40)
        offline(vif)
        one.untap(nic.tap)
        same(before, one.state())
        assert one.records() == []


def test_killed_again_and_again(one):
    """Start and stop in many processes while the agent is killed about once a second, with and without mercy: at the end all
    is as it was."""
    guests = {f"dom{n}": (routed(100 + n, f"t{n}"), bridged(100 + n, f"b{n}")) for n in range(50)}
    for nics in guests.values():
        for nic in nics:
            one.tap(nic.tap, nic.mac, bridge=nic.bridge or "", held=False)
    for name, nics in guests.items():
        # Having been up once is something that the kernel does not forget.
        one.start(name, *nics)
        one.stop(name, *nics)
    before = one.state()
    begin = time.monotonic()
    chance = random.Random(5)
    agent = Agent(one.host).start()
    names = list(guests)
    with ThreadPoolExecutor(4) as pool:
        running = []
        for cycle in range(CYCLES):
            name = names[cycle % len(names)]
            running.append(pool.submit(lambda n=name: (one.start(n, *guests[n]), one.stop(n, *guests[n]))))
        killed = 0
        while not all(done.done() for done in running):
            time.sleep(chance.uniform(0.3, 1.7))
            agent.stop(chance.choice((signal.SIGKILL, signal.SIGKILL, signal.SIGTERM)))
            killed += 1
            time.sleep(chance.choice((0, 0, 0.3)))
            agent.start()
        for done in running:
            done.result()
    assert one.host.cli("check").stdout.strip() == "ok"
    agent.stop()
    same(before, one.state())
    print(f"{CYCLES} cycles, agent killed {killed} times, {time.monotonic() - begin:.0f} s")
    for nics in guests.values():
        for nic in nics:
            one.untap(nic.tap)
