"""Truth lost: records that are removed or damaged, and taps that get another name, while guests run and forge. No guard of a
running guest goes, commands and hooks say one clear line each, and the next start and stop work."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext

import pytest
from lab.agent import Agent
from lab.domains import Interface, domain_toml, domain_xml
from lab.forging import BRIDGED, FORGED, ROUTED, ROUTED_FORGED, Counter, flooding, forging, keeps
from lab.nodes import Node, without_anycast
from lab.routed import SUBOPERATION, eventually
from lab.single import same

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


def hook(node: Node, op: str, domain: str, nic: Interface):
    return node.hook(domain, op, SUBOPERATION[op], domain_xml(domain, nic, stage=op))


LOST = ("removed", "emptied", "everything removed")


@pytest.mark.parametrize("with_agent", (False, True), ids=("alone", "agent"))
@pytest.mark.parametrize("damage", DAMAGE)
def test_records(damage, with_agent):
    with forging() as (one, guest, _), Agent(one.host) if with_agent else nullcontext() as agent:
        host = one.host
        one.start("dom", BRIDGED)
        one.start("dom-r", ROUTED)
        counter = Counter(one.peer)
        with flooding(guest):
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
        assert not counter.seen, f"{counter.seen} forged frames passed; {text}"
        assert hook(host, "stopped", "dom-r", ROUTED).returncode == 0
        if agent:
            assert agent.process.poll() is None and "Traceback" not in agent.log, agent.log


@pytest.mark.parametrize("lost", (False, True), ids=("records", "no records"))
def test_the_agents_first_act_is_to_close(lost):
    """It starts while the filter is flushed (or while the records are lost, and then the filter is flushed): nothing passes once
    its tables are there, which is long before it answers."""
    with forging() as (one, guest, _):
        host, agent = one.host, Agent(one.host)
        one.start("dom", BRIDGED)
        host.sh(DAMAGE["removed"] if lost else "nft flush ruleset")
        counter = Counter(one.peer)
        with flooding(guest), ThreadPoolExecutor(1) as pool:
            open_before = counter.seen
            begin = time.monotonic()
            starting = pool.submit(agent.start)
            while not keeps(host, BRIDGED):
                assert time.monotonic() < begin + 10, agent.log
            closed, before = time.monotonic() - begin, counter.seen
            starting.result()
            began = time.monotonic() - begin
            if lost:
                host.sh("nft flush ruleset; sleep 0.3; nft flush ruleset")
            time.sleep(1.5)
            after = counter.seen - before
        print(
            f"closed after {closed:.2f} s, answers after {began:.2f}: {before - open_before} forged frames before, {after} after"
        )
        assert after == 0 and agent.process.poll() is None, agent.log
        assert before == 0 if lost else host.cli("check").stdout == "ok\n"
        agent.stop()


RENAME = "ip link set {0} name other0"
"""Newer kernels rename a link that is up."""


@pytest.mark.parametrize("with_agent", (False, True), ids=("alone", "agent"))
@pytest.mark.parametrize("nic", (BRIDGED, ROUTED), ids=("bridged", "routed"))
def test_a_renamed_tap(nic, with_agent):
    """Filters are by name. Without the agent `check` tells, and `repair` mends; with it nothing passes."""
    with forging() as (one, bridged, other), Agent(one.host) if with_agent else nullcontext() as agent:
        host = one.host
        one.start("dom", BRIDGED)
        one.start("dom-r", ROUTED)
        # A router on the uplink's segment takes what is routed.
        host.sh("ip neigh add 192.0.2.1 lladdr 02:00:00:00:00:01 dev up0 nud permanent")
        counter = Counter(one.peer) if nic is BRIDGED else Counter(one.segment, "p0")
        assert not agent or eventually(lambda: keeps(host, BRIDGED) and keeps(host, ROUTED), 5)
        before = one.state()
        is_bridged = nic is BRIDGED
        with flooding(bridged if is_bridged else other, FORGED if is_bridged else ROUTED_FORGED):
            time.sleep(0.3)
            assert counter.seen == 0
            how = "ip link set {0} down; ip link set {0} name other0; ip link set other0 up || :" if is_bridged else RENAME
            host.sh(how.format(nic.tap))
            time.sleep(0.5)
            passed = counter.seen
            print(f"{passed} forged frames passed; {agent.log if agent else ''}")
            if agent:
                assert passed == 0 and nic.tap in host.sh("ip -br link") and "had another name" in agent.log, agent.log
            else:
                # That the test can fail.
                assert passed > 0
                check = host.cli("check")
                assert check.returncode == 1 and f"{nic.tap}: is called other0 now" in check.stdout, check
                repaired = host.cli("repair")
                assert repaired.returncode == 0, repaired
            assert eventually(lambda: host.cli("check").stdout == "ok\n"), host.cli("check").stdout
            passed = counter.seen
            time.sleep(0.3)
            assert counter.seen == passed
        same(without_anycast(before), without_anycast(one.state()))
        one.stop("dom-r", ROUTED)


def test_a_renamed_tap_whose_name_is_taken():
    """It is shut, and the remedy works."""
    with forging() as (one, bridged, _):
        host = one.host
        one.start("dom", BRIDGED)
        counter = Counter(one.peer)
        host.sh(f"""
            ip link set {BRIDGED.tap} down; ip link set {BRIDGED.tap} name other0; ip link set other0 up
            ip link add {BRIDGED.tap} type bridge
        """)
        repaired = host.cli("repair")
        assert repaired.returncode == 1 and "tap other0 was lan-tap16, and is set down" in repaired.stderr, repaired
        with flooding(bridged):
            time.sleep(0.3)
            assert counter.seen == 0
        host.sh(f"ip link set {BRIDGED.tap} name thief")
        assert host.cli("repair").returncode == 0
        assert host.cli("check").stdout == "ok\n"
        with flooding(bridged):
            time.sleep(0.3)
        assert counter.seen == 0


UNFILTERED = Interface("52:54:00:bb:00:11", "lan-tap17", bridge="br0")


def test_the_remedies():
    """What `check` names for a guest that no record has works, and what is left of one that has ended is cleaned up."""
    with forging() as (one, _, _):
        host = one.host
        one.tap(UNFILTERED.tap, UNFILTERED.mac, bridge="br0")
        guests = {"dom": BRIDGED, "dom-r": ROUTED, "plain": UNFILTERED}
        for domain, nic in guests.items():
            one.start(domain, nic)
        before = one.state()
        host.sh(DAMAGE["removed"])
        repaired = host.cli("repair")
        same(before, one.state())
        assert repaired.returncode == 1, repaired
        for nic in guests.values():
            assert f"{nic.tap}: a guest runs on it, and is in no record; its filter stays" in repaired.stdout, repaired
        # libvirtd, restarted, calls this for each guest that runs.
        assert hook(host, "reconnect", "dom-r", ROUTED).returncode == 0
        host.write("/run/dom.xml", domain_xml("dom", BRIDGED))
        assert host.cli("start", "dom", "--xml", "/run/dom.xml").returncode == 0
        check = host.cli("check")
        assert check.returncode == 1 and UNFILTERED.tap in check.stdout and check.stdout.count("a guest runs") == 1, check
        host.sh(f"ip link del {UNFILTERED.tap}")
        assert host.cli("repair").returncode == 0 and host.cli("check").stdout == "ok\n"
        assert UNFILTERED.tap not in host.sh("nft list ruleset")
        host.sh(DAMAGE["removed"])
        one.stop("dom-r", ROUTED)
        for nic in (BRIDGED, ROUTED):
            host.sh(f"ip link del {nic.tap}")
        assert host.cli("repair").returncode == 0 and host.cli("check").stdout == "ok\n"
        left = host.sh("nft list tables; ip rule show; ip route show table all proto 86")
        assert "vmnet" not in left and "22000" not in left and "dev up0" not in left, left


def test_a_guest_of_domains_d_is_recorded_again():
    """Its taps are named there."""
    with forging() as (one, guest, _):
        host = one.host
        host.domain_toml("dom", domain_toml(BRIDGED))
        one.start("dom", BRIDGED, metadata=False)
        before = one.state()
        counter = Counter(one.peer)
        with flooding(guest):
            host.sh(DAMAGE["everything removed"])
            repaired = host.cli("repair")
            assert repaired.returncode == 0 and host.cli("check").stdout == "ok\n", repaired
        assert counter.seen == 0
        same(before, one.state())
        assert BRIDGED.tap in host.cli("status").stdout
        one.stop("dom", BRIDGED, metadata=False)
