"""Guests that send forged frames without end, through all that the host goes through with an agent: none of them gets out.

`-s` prints how many got out of what, see lab/forging.py.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from lab import frames
from lab.agent import Agent
from lab.forging import BRIDGED, FORGED, PORT, ROUTED, ROUTED_FORGED, Counter, flooding, forging, keeps
from lab.routed import TAP_MAC, WORLD6, eventually

OF_BRIDGED = (
    FORGED,
    frames.udp4("02:00:00:00:06:01", "52:54:00:bb:00:99", BRIDGED.ips[0], "10.7.0.99", PORT),
    frames.udp6("33:33:00:00:00:01", BRIDGED.mac, "2001:db8:7::1", "ff02::1", PORT),
)
OF_ROUTED = (
    ROUTED_FORGED,
    frames.udp4(TAP_MAC, ROUTED.mac, "192.0.2.99", "198.51.100.9", PORT),
    frames.udp4(TAP_MAC, ROUTED.mac, "198.51.100.7", "198.51.100.9", PORT),
    frames.udp6(TAP_MAC, ROUTED.mac, "2001:db8::99", WORLD6, PORT),
)
FIREWALL = """
flush ruleset
table inet firewall {
    chain input { type filter hook input priority 0; policy accept; }
    chain forward { type filter hook forward priority 0; policy accept; }
}
"""
RECORDS = "/run/vmnet-hooks/state.db"


@dataclass
class Counts:
    """How many forged frames got out of what."""

    counters: list[Counter]
    found: dict[str, int] = field(default_factory=dict)

    def during(self, what: str, act: Callable[[], object], pause: float = 0.5) -> None:
        before = self.total
        act()
        time.sleep(pause)
        self.found[what] = self.total - before

    @property
    def total(self) -> int:
        return sum(counter.seen for counter in self.counters)


def test_nothing_forged_gets_out():
    with forging() as (one, guest, other), Agent(one.host) as agent:
        host = one.host
        # Routers on both links take what is routed.
        for address, link in (("192.0.2.1", "up0"), ("2001:db8::1", "up0"), ("10.0.1.254", "eth9"), ("fd00:1::254", "eth9")):
            host.run(f"ip neigh replace {address} lladdr 02:00:00:00:00:01 dev {link} nud permanent")
        counts = Counts([Counter(one.peer), Counter(one.peer, "eth9"), Counter(one.segment, "p0")])

        def everyone(call: Callable[..., None]) -> None:
            call("dom", BRIDGED)
            call("dom-r", ROUTED)

        def kept() -> bool:
            return eventually(lambda: keeps(host, BRIDGED) and keeps(host, ROUTED), 10)

        def killed() -> None:
            agent.process.kill()
            agent.process.wait()

        def flushed() -> None:
            for _ in range(10):
                host.sh("nft flush ruleset; sleep 0.1")

        def repaired() -> None:
            assert host.cli("repair").returncode == 1

        with flooding(guest, *OF_BRIDGED), flooding(other, *OF_ROUTED):
            counts.during("before the start", lambda: None)
            counts.during("start", lambda: everyone(one.start))
            counts.during("stop", lambda: everyone(one.stop))
            counts.during("start again", lambda: everyone(one.start))
            assert kept(), agent.log
            counts.during("flush", flushed, 2)
            assert eventually(lambda: host.cli("check").stdout == "ok\n"), host.cli("check").stdout
            host.write("/run/firewall.nft", FIREWALL)
            counts.during("a firewall's reload", lambda: [host.run("nft -f /run/firewall.nft") for _ in range(5)], 2)
            counts.during("the agent killed", killed)
            counts.during("the agent started", agent.start, 1)
            assert kept(), agent.log
            counts.during("repair", lambda: host.cli("repair"))
            counts.during("records lost", lambda: host.sh(f"rm {RECORDS}*"), 2)
            counts.during("repair with records lost", repaired, 1)
            counts.during("flush with records lost", flushed, 2)
            counts.during("start with records lost", lambda: everyone(one.start))
            assert kept(), agent.log
            agent.stop()
            counts.during("agent stopped", lambda: None)
            # What shows that the frames would get out: without an agent, what is flushed stays open. See vmnet-hookd(8).
            counts.during("flush without an agent", flushed)
            counts.during("until the new agent has closed", lambda: (agent.start(), kept()), 0)
            documented = {what: counts.found.pop(what) for what in list(counts.found)[-2:]}
            assert kept(), agent.log
            counts.during("the new agent has closed", lambda: None, 1)
        everyone(one.stop)
        print(f"\n{counts.found}\nas documented: {documented}")
        assert documented["flush without an agent"] > 100
        assert counts.found == dict.fromkeys(counts.found, 0)
        assert agent.process.poll() is None and not agent.errors, agent.log
