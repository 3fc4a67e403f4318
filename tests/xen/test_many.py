"""Many guests at once: libxl gives a script 40 s, and runs those of different guests at the same time."""

from __future__ import annotations

import pytest
from lab.xen import FAR4, MAC, Guest, World, together

pytestmark = pytest.mark.usefixtures("restored")
COUNT = 10
LIMIT = 40  # seconds


def test_ten_at_once(world: World):
    guests = [
        Guest(
            world.dom0,
            f"many{number}",
            f"mac={MAC.format(0x30 + number)},bridge=lan,script=vmnet-vif-bridge,ip=10.0.0.{30 + number}"
            if number % 2
            else f"mac={MAC.format(0x30 + number)},script=vmnet-vif-route,ip=192.0.2.{30 + number}",
            memory=80,
        )
        for number in range(COUNT)
    ]
    try:
        done = together(guests)
        print("xl create, seconds: " + " ".join(f"{seconds:.1f}" for seconds, _ in done))
        for guest, (_, result) in zip(guests, done, strict=True):
            assert result.returncode == 0, result.stderr
            assert guest.backend("hotplug-status") == "connected"
        assert max(seconds for seconds, _ in done) < LIMIT
        # Started, two of them talk: one of each kind.
        for guest in guests[:2]:
            guest.attach()
            world.dom0.run(["xl", "unpause", guest.name])
        for guest in guests[:2]:
            guest.console.wait("@up", 120)
        guests[0].address("192.0.2.30/24")
        assert guests[0].pings("192.0.2.254") and FAR4
        guests[1].address("10.0.0.31/24")
        assert guests[1].pings("10.0.0.254")
    finally:
        for guest in guests:
            guest.destroy()
