"""`vmnet-hook plan` prints a shell script that does what the hook does: in a twin namespace it gives the same dump."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from lab.domains import Interface, domain_xml
from lab.nodes import wire
from lab.routed import eventually
from lab.single import LAN, PUBLIC, V4, V6, Single, bridged, routed, same

CASES = {
    "routed-46": (PUBLIC, [routed(10)]),
    "routed-4": (V4, [routed(10, v6=False)]),
    "routed-6": (V6, [routed(10, v4=False)]),
    "routed-open": (PUBLIC, [routed(10, filter=False)]),
    "routed-dynamic": (PUBLIC + "permanent_neighbours = false\n", [routed(10)]),
    "routed-mtu": (PUBLIC + "mtu = 1400\n", [routed(10)]),
    "bridged-isolated": (LAN + "isolated = true\n", [bridged(10)]),
    "bridged-prefixes": (LAN, [replace(bridged(10), ips=("10.7.0.10", "10.99.0.0/27", "2001:db8:7:8::/61"), network="lan")]),
    "wire": ('[wires.w]\nends = ["dom:0", "link:eth7"]\n', [Interface("52:54:00:cc:00:0a", "tap7")]),
    "routed+bridged": (PUBLIC + LAN, [routed(10), bridged(10)]),
}


def prepared(one: Single, nics) -> None:
    for nic in nics:
        one.tap(nic.tap, nic.mac)
    one.host.write("/run/dom.xml", domain_xml("dom", *nics))


def plan(one: Single, *options: str) -> str:
    done = one.host.cli("plan", "dom", "--xml", "/run/dom.xml", *options)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def same_by_script(hooks: str, script: str) -> None:
    """Assert that the hooks' dump is the script's, but for the mark of who made the taps' link-local addresses: the `ip` of
    Debian 12 cannot set it, so a script does not."""
    same(*(re.sub(r"( tap\S* +inet6 fe80:\S+ scope 253) proto 0x3 ", r"\1 ", state) for state in (hooks, script)))


@pytest.mark.parametrize("case", CASES)
def test_plan_is_a_script(case):
    config, nics = CASES[case]
    with Single(config) as one, Single(config) as twin:
        for node in (one, twin):
            prepared(node, nics)
            if case == "wire":
                wire(node.host, "eth7", node.peer, "eth7", "02:00:00:00:77:01", "02:00:00:00:77:02")
                node.host.sh("ip link set eth7 up")
                assert eventually(lambda n=node: "fe80::" not in n.host.run("ip -6 addr show dev eth7 tentative").stdout)
        before = one.state()
        same(before, twin.state())

        script = plan(one)
        same(before, one.state())  # a plan changes nothing
        one.start("dom", *nics)
        after = one.state()
        assert after != before
        twin.host.sh(script)
        same_by_script(after, twin.state())

        script = plan(one, "--stop")
        same(after, one.state())
        twin.host.sh(script)
        one.stop("dom", *nics)
        same(before, one.state())
        same_by_script(before, twin.state())


def test_plan_of_the_second_guest_holds_only_what_is_missing():
    with Single(PUBLIC) as one, Single(PUBLIC) as twin:
        for node in (one, twin):
            node.tap("tap20", routed(20).mac)
            node.start("other", routed(20))
            prepared(node, [routed(10)])
        script = plan(one)
        assert "rule add" not in script and "onlink" not in script and "up0/proxy_arp" not in script, script
        one.start("dom", routed(10))
        twin.host.sh(script)
        same_by_script(one.state(), twin.state())
        script = plan(one, "--stop")
        twin.host.sh(script)
        one.stop("dom", routed(10))
        same_by_script(one.state(), twin.state())


def test_plan_of_what_is_there_already_is_empty():
    with Single(PUBLIC) as one:
        prepared(one, [routed(10)])
        one.start("dom", routed(10))
        commands = [line for line in plan(one).splitlines() if line.strip() and not line.lstrip().startswith(("#", "set "))]
        assert commands == []
