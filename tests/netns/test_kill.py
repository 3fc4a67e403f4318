"""SIGKILL at every step of a hook, then `repair`: clean. And many hooks at once: no leak, no error."""

from __future__ import annotations

import signal
import time

import pytest
from lab.domains import Interface, domain_xml
from lab.forkserver import ForkServer, hook_call, points
from lab.nodes import dump, settled
from lab.routed import SUBOPERATION, eventually
from lab.single import LAN, PUBLIC, Single, bridged, routed, same

MOST = 200  # no plan has this many steps
WIRED = Interface("52:54:00:cc:00:0a", "w.a")
CASES = {
    "routed": (PUBLIC, [routed(10)], []),
    "routed, second guest": (PUBLIC, [routed(10)], [routed(20)]),
    "bridged": (LAN + "isolated = true\n", [bridged(10)], []),
    "wire": ('[wires.w]\nends = ["dom:0", "other:0"]\n', [WIRED], [Interface("52:54:00:cc:00:0b", "w.b")]),
}


class Scene:
    """A host with a domain's taps, the product loaded in it, and the dumps to compare with."""

    def __init__(self, one: Single, nics, others):
        self.one, self.nics, self.others = one, nics, others
        self.server = ForkServer(one.host)
        for nic in others:
            one.tap(nic.tap, nic.mac)
        if others:
            self.call("other", "start", others)
        self.without = settled(one.host)
        self.add_taps()
        self.before = settled(one.host)
        self.start()
        self.after = settled(one.host)
        assert self.after != self.before
        self.stop()
        self.comes_to(self.before)

    def add_taps(self) -> None:
        for nic in self.nics:
            self.one.tap(nic.tap, nic.mac)

    def call(self, domain: str, op: str, nics, kill: int = 0):
        result = self.server.hook(domain, op, SUBOPERATION[op], domain_xml(domain, *nics, stage=op), kill)
        assert kill or result.returncode == 0, f"{op}: {result}"
        assert result.killed or result.returncode == 0, f"{op}: {result}"
        return result

    def start(self, kill: int = 0):
        return self.call("dom", "start", self.nics, kill)

    def stop(self, kill: int = 0):
        return self.call("dom", "stopped", self.nics, kill)

    def cli(self, *argv: str):
        result = self.server.cli(*argv)
        assert result.returncode == 0, f"{argv}: {result}"

    def state(self) -> str:
        return dump(self.one.host)

    def comes_to(self, *expected: str) -> None:
        """The state is one of these, once the kernel has done what it does by itself (link-local addresses, their routes)."""
        if not eventually(lambda: self.state() in expected):
            same(expected[-1], self.state())


# The second guest of a network has a plan of its own; it is enough to see that once for each of start and stop.
EVERY = pytest.mark.parametrize("scene", CASES, indirect=True)
FIRST = pytest.mark.parametrize("scene", ["routed", "bridged"], indirect=True)


@pytest.fixture
def scene(request):
    config, nics, others = CASES[request.param]
    with Single(config) as one:
        yield Scene(one, nics, others)


@FIRST
def test_start_killed_then_repaired(scene):
    """All of it or nothing of it is there after `repair`, and then the domain starts and stops as ever."""

    def attempt(point: int) -> bool:
        killed = scene.start(kill=point).killed
        scene.cli("repair")
        scene.cli("check")
        scene.comes_to(scene.after, scene.before)
        scene.stop()
        scene.comes_to(scene.before)
        return killed

    assert points(attempt, MOST) > 3


@EVERY
def test_start_killed_then_started_again(scene):
    """Nobody repairs anything: the next hook does."""

    def attempt(point: int) -> bool:
        killed = scene.start(kill=point).killed
        scene.start()
        scene.comes_to(scene.after)
        scene.stop()
        scene.comes_to(scene.before)
        return killed

    assert points(attempt, MOST) > 3


@EVERY
def test_stop_killed_then_stopped_again(scene):
    """libvirt calls twice (`stopped`, `release`): the second finishes what the first began."""

    def attempt(point: int) -> bool:
        scene.start()
        killed = scene.stop(kill=point).killed
        scene.call("dom", "release", scene.nics)
        scene.cli("repair")
        scene.cli("check")
        scene.comes_to(scene.before)
        return killed

    assert points(attempt, MOST) > 3


@FIRST
def test_stop_killed_then_repaired(scene):
    """The tap went with the guest, and the hook died: `repair` finds a domain that is gone."""

    def attempt(point: int) -> bool:
        scene.start()
        for nic in scene.nics:
            scene.one.untap(nic.tap)
        killed = scene.stop(kill=point).killed
        scene.cli("repair")
        scene.cli("check")
        scene.comes_to(scene.without)
        scene.add_taps()
        return killed

    # A bridged tap that is gone took everything with it: there is only the record to forget.
    assert points(attempt, MOST) >= 1


def test_repair_killed_then_repaired():
    with Single(PUBLIC) as one:
        scene = Scene(one, [routed(10)], [])
        scene.start()

        def attempt(point: int) -> bool:
            one.host.sh(
                "nft delete table inet vmnet; ip route flush table 222 proto 86; ip rule del pref 22000\n"
                "echo 0 > /proc/sys/net/ipv4/conf/up0/proxy_arp; ip -6 neigh del proxy 2001:db8::10 dev up0"
            )
            killed = scene.server.cli("repair", kill=point).killed
            scene.cli("repair")
            scene.cli("check")
            scene.comes_to(scene.after)
            return killed

        assert points(attempt, MOST) > 3


def test_real_hooks_killed_at_any_time():
    """The same with whole processes and a clock, which also hits what the points above do not know of."""
    with Single(PUBLIC) as one:
        scene = Scene(one, [routed(10)], [])
        xml = domain_xml("dom", *scene.nics)
        began = time.monotonic()
        scene.one.start("dom", *scene.nics)
        took = (time.monotonic() - began) / 2
        scene.stop()
        for step in range(16):
            process = one.host.popen(
                one.host.program(hook_call("", "", "", "")["argv"][0], "dom", "start", "begin", "-"),
                stdin=-1,
                stdout=-3,
                stderr=-3,
            )
            process.stdin.write(xml)
            process.stdin.close()
            time.sleep(took * (0.3 + step * 0.06))
            process.send_signal(signal.SIGKILL)
            process.wait()
            scene.cli("repair")
            scene.cli("check")
            scene.comes_to(scene.after, scene.before)
            scene.stop()
            scene.comes_to(scene.before)


@pytest.mark.parametrize("how", ["processes", "forks"])
def test_twenty_domains_at_once(how):
    """20 domains, each with a routed and a bridged NIC, start and stop at once. One round with whole hook processes,
    nine with forks of a loaded one (the same code, without 20 interpreter starts in each other's way)."""
    with Single(PUBLIC + LAN) as one:
        server = ForkServer(one.host)
        domains = {f"dom{number}": [routed(10 + number), bridged(10 + number)] for number in range(20)}
        for nics in domains.values():
            for nic in nics:
                one.tap(nic.tap, nic.mac, bridge=nic.bridge, held=False)
        before = one.state()
        rounds = 1 if how == "processes" else 9
        for round_ in range(rounds):
            for op in ("start", "started", "stopped", "release"):
                calls = [(name, op, SUBOPERATION[op], domain_xml(name, *nics, stage=op)) for name, nics in domains.items()]
                if how == "forks":
                    failed = [result for result in server.calls([hook_call(*call) for call in calls]) if result.returncode]
                else:
                    failed = at_once(one, calls)
                assert not failed, failed
                if op == "started":
                    assert one.host.cli("check").returncode == 0
                    routes = one.host.run("ip route show table 222").stdout
                    assert all(f"192.0.2.{10 + number} dev tap{10 + number} " in routes for number in range(20)), routes
            assert one.host.cli("check").returncode == 0
            if round_ in (0, rounds - 1):
                unchanged(before, one.state())
        assert one.host.cli("check").returncode == 0


def test_starting_and_stopping_in_each_others_way():
    """Half of the domains start while the other half stops: the network's own part comes and goes under them."""
    with Single(PUBLIC) as one:
        server = ForkServer(one.host)
        nics = {f"dom{number}": routed(10 + number) for number in range(20)}
        for nic in nics.values():
            one.tap(nic.tap, nic.mac, held=False)
        before = one.state()

        def calls(op: str, parity: int) -> list:
            return [
                hook_call(name, op, SUBOPERATION[op], domain_xml(name, nic, stage=op))
                for number, (name, nic) in enumerate(nics.items())
                if number % 2 == parity
            ]

        for round_ in range(6):
            mixed = [
                call for pair in zip(calls("start", round_ % 2), calls("stopped", 1 - round_ % 2), strict=True) for call in pair
            ]
            failed = [result for result in server.calls(mixed) if result.returncode]
            assert not failed, failed
        assert [result for result in server.calls(calls("stopped", 1)) if result.returncode] == []
        unchanged(before, one.state())
        assert one.host.cli("check").returncode == 0


def unchanged(before: str, after: str) -> None:
    """`same`, but for a route that the kernel adds to links without a carrier: see test_identity."""
    same(*("\n".join(line for line in state.splitlines() if "ff00::/8 dev tap" not in line) for state in (before, after)))


def at_once(one: Single, calls) -> list[str]:
    running = []
    for call in calls:
        *words, xml = call
        process = one.host.popen(one.host.program(hook_call(*call)["argv"][0], *words, "-"), stdin=-1, stdout=-1, stderr=-2)
        process.stdin.write(xml)
        process.stdin.close()
        process.stdin = None
        running.append((words, process))
    failed = []
    for words, process in running:
        output, _ = process.communicate(timeout=120)
        one.host.children.remove(process)
        if process.returncode:
            failed.append(f"{words}: {process.returncode} {output}")
    return failed
