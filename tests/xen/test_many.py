"""Many guests at once: libxl kills a script after 40 s, and runs those of different guests at the same time."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

import pytest
from lab.xen import MAC, SCRIPTS, Guest, World, idle, together

pytestmark = pytest.mark.usefixtures("restored")
LIMIT = 40  # seconds
TIMES = Path("/tmp/times")
TIMED = """#!/bin/sh
read -r start rest </proc/uptime
{script} "$@"
status=$?
read -r end rest </proc/uptime
echo "$1 $start $end" >>{times}
exit $status
"""


@pytest.fixture
def timed():
    """timed-vif-bridge and timed-vif-route note how long ours took."""
    scripts = [SCRIPTS / f"timed-vif-{kind}" for kind in ("bridge", "route")]
    for script in scripts:
        # No program of its own: every fork counts here.
        script.write_text(TIMED.format(times=TIMES, script=SCRIPTS / script.name.replace("timed", "vmnet")))
        script.chmod(0o755)
    yield
    for script in scripts:
        script.unlink()
    TIMES.unlink()


def vif(number: int) -> str:
    mac = MAC.format(0x30 + number)
    if number % 2:
        return f"mac={mac},bridge=lan,script=timed-vif-bridge,ip=10.0.0.{30 + number}"
    return f"mac={mac},script=timed-vif-route,ip=192.0.2.{30 + number}"


@pytest.mark.parametrize("served", [True, False], ids=["agent", "alone"])
def test_many_at_once(world: World, timed: None, served: bool):
    # Without an agent, each script is a Python that loads all of it: some 2.5 s of an emulated processor.
    count = 10 if served else 6
    with world.dom0.agent() if served else nullcontext():
        started_at_once(world, count)


def started_at_once(world: World, count: int) -> None:
    talkers = [Guest(world.dom0, f"many{number}", vif(number)) for number in range(2)]
    guests = [*talkers, *(idle(world.dom0, f"many{number}", vif(number)) for number in range(2, count))]
    try:
        done = together(guests)
        calls = [line.split() for line in TIMES.read_text().splitlines()]
        times = [float(end) - float(start) for command, start, end in calls if command == "online"]
        print("seconds of each script:  " + " ".join(f"{seconds:.1f}" for seconds in times))
        print("seconds of each create:  " + " ".join(f"{seconds:.1f}" for seconds, _ in done))
        for guest, (_, result) in zip(guests, done, strict=True):
            assert result.returncode == 0, result.stderr
            assert guest.backend("hotplug-status") == "connected"
        assert len(times) == count and max(times) < LIMIT
        for guest in talkers:
            guest.attach()
            world.dom0.run(["xl", "unpause", guest.name])
        for guest, address, peer in zip(talkers, ("192.0.2.30", "10.0.0.31"), ("192.0.2.254", "10.0.0.254"), strict=True):
            guest.console.wait("@up", LIMIT * 3)
            guest.address(f"{address}/24")
            assert guest.pings(peer)
    finally:
        for guest in guests:
            guest.destroy()
