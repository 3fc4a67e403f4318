"""Nothing left: a hook without file descriptors, or with a full disk, leaves everything as it was, and says why in one line. An
agent without descriptors hands its calls back, and one that hooks do not find makes its socket again."""

from __future__ import annotations

import os
import time

import pytest
from lab.agent import Agent
from lab.domains import domain_xml
from lab.nodes import HOOK, dump
from lab.routed import SUBOPERATION, eventually
from lab.single import LAN, PUBLIC, Single, bridged, routed, same

NICS = {"routed": (routed(10),), "bridged": (bridged(11),), "both": (routed(10), bridged(11))}


def limited(one: Single, number: int, op: str, *nics) -> object:
    """Call the hook with that many descriptors, at most."""
    argv = ["prlimit", f"--nofile={number}:{number}", *one.host.program(HOOK, "dom", op, SUBOPERATION[op], "-")]
    return one.host.run(argv, input=domain_xml("dom", *nics, stage=op), check=False)


def one_line(done) -> None:
    assert done.stderr.startswith("vmnet-hook: ") and done.stderr.count("\n") == 1, done
    assert "internal error" not in done.stderr, done


@pytest.mark.parametrize("which", NICS)
@pytest.mark.parametrize("there", (False, True), ids=("first", "second"))
def test_descriptors(which, there):
    """From as few as Python starts with, to as many as suffice."""
    nics = NICS[which]
    with Single(PUBLIC + LAN + "antispoof = true\n") as one:
        others = (routed(20), bridged(21)) if there else ()
        for nic in (*nics, *others):
            one.tap(nic.tap, nic.mac, bridge=nic.bridge or "")
        if there:
            one.start("other", *others)
        # Having been up, or a router, once is something that the kernel does not forget.
        one.start("dom", *nics)
        one.stop("dom", *nics)
        before, said = one.state(), {}
        for number in range(4, 40):
            done = limited(one, number, "start", *nics)
            if done.returncode == 0:
                break
            if number > 6:
                one_line(done)
            said[number] = done.stderr.strip()[-160:]
            same(before, dump(one.host))
        print("\n".join(f"{number}: {text}" for number, text in said.items()))
        assert 8 in said and done.returncode == 0, done
        assert one.host.cli("check").stdout == "ok\n"
        for number in range(4, 40):
            if (done := limited(one, number, "stopped", *nics)).returncode == 0 and not done.stderr:
                break
        one.stop("dom", *nics)
        same(before, one.state())


@pytest.mark.parametrize("pages", (0, 1, 2, 4, 8, 12, 16, 24))
def test_a_full_disk(pages):
    """With so many pages of 4 KiB left: it is refused, and nothing is changed, or it is done."""
    with Single(PUBLIC + LAN) as one:
        host, nics = one.host, NICS["both"]
        for nic in nics:
            one.tap(nic.tap, nic.mac, bridge=nic.bridge or "")
        host.sh("mkdir -p /run/vmnet-hooks; mount -t tmpfs -o mode=700,size=1m tmpfs /run/vmnet-hooks")
        one.start("dom", *nics)
        one.stop("dom", *nics)
        before = one.state()
        host.sh(f"cd /run/vmnet-hooks; dd if=/dev/zero of=full bs=4096 2>/dev/null || :; truncate -s -{4096 * pages} full")
        done = limited(one, 1024, "start", *nics)
        print(f"{pages} pages left: {done.stderr}")
        if done.returncode:
            one_line(done)
            same(before, one.state())
        assert pages or done.returncode
        # Nor does a full disk keep a guest from being taken down.
        done = limited(one, 1024, "stopped", *nics)
        same(before, one.state())
        host.sh("rm /run/vmnet-hooks/full")
        assert host.cli("repair").returncode == 0
        one.start("dom", *nics)
        assert host.cli("check").stdout == "ok\n"
        one.stop("dom", *nics)
        same(before, one.state())


def files(agent: Agent) -> int:
    return len(os.listdir(f"/proc/{agent.process.pid}/fd"))


@pytest.mark.parametrize("left", (0, 1, 5, 20))
def test_an_agent_without_descriptors_hands_back(left):
    """What the agent can't do the hook does."""
    with Single(PUBLIC + LAN) as one, Agent(one.host) as agent:
        nic = routed(10)
        one.tap(nic.tap, nic.mac)
        one.start("dom", nic)
        one.stop("dom", nic)
        before = one.state()
        time.sleep(0.5)
        limit = files(agent) + left
        one.host.run(["prlimit", f"--pid={agent.process.pid}", f"--nofile={limit}:"])
        for _ in range(3):
            one.start("dom", nic)
            assert "tap10" in one.host.cli("status").stdout
            one.stop("dom", nic)
            same(before, one.state())
        one.host.run(["prlimit", f"--pid={agent.process.pid}", "--nofile=1024:"])
        assert eventually(lambda: files(agent) > limit - left - 3)
        said = agent.log
        one.start("dom", nic)
        assert eventually(lambda: "call: libvirt/qemu start: status 0" in agent.log[len(said) :]), agent.log
        one.stop("dom", nic)
        assert agent.process.poll() is None and "Traceback" not in agent.log, agent.log
        assert "calls are handed back to the hooks: Too many open files" in agent.log, agent.log


SOCKET = "/run/vmnet-hooks/agent.sock"


@pytest.mark.parametrize("how", (f"rm {SOCKET}", f"rm {SOCKET}; echo > {SOCKET}", "rm -rf /run/vmnet-hooks"))
def test_the_agents_socket_is_gone(how):
    """It is made again, and calls are served."""
    with Single(PUBLIC + LAN) as one, Agent(one.host) as agent:
        nic = routed(10)
        one.tap(nic.tap, nic.mac)
        one.host.sh(how)
        assert eventually(lambda: one.host.path(SOCKET).is_socket(), 5), agent.log
        one.start("dom", nic)
        assert "agent: runs since" in one.host.cli("status").stderr
        assert "was removed or replaced" in agent.log and agent.log.count("call: libvirt/qemu") == 2, agent.log
        one.stop("dom", nic)


def test_two_agents():
    """The second one takes the place of the first, whose socket was removed, or finds it made again: one of them ends."""
    with Single(PUBLIC + LAN) as one, Agent(one.host) as first, Agent(one.host) as second:
        running = (first.process, second.process)
        assert eventually(lambda: [process.poll() is None for process in running].count(True) == 1, 15), first.log + second.log
        time.sleep(2.5)
        assert [process.poll() is None for process in running].count(True) == 1, first.log + second.log
        assert "agent: runs since" in one.host.cli("status").stderr
