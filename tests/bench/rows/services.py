"""What it costs the agent to answer guests: a boot storm, in which all of a host's guests ask by DHCP at once."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

from lab.dhcp_storm import __file__ as STORM

from bench.hosts import ONLY4, PYTHON, CommandFailed, Host, Product, guest_mac, routed
from bench.report import Effort, Row, middle

GUESTS = 1000
DHCP = '[networks.public.dhcp]\ndns = ["192.0.2.53"]\ndomain = "lan.example"\n'


def services(product: Product, effort: Effort) -> Iterator[Row]:
    count = effort(GUESTS, 500)
    with Host(product, ONLY4 + DHCP) as on:
        on.taps(count)
        on.start_agent()
        on.crowd([routed(number, dual=False) for number in range(count)])
        busy, waited = [], []
        for _ in range(effort(5, 2)):
            # Until the agent is quiet: it opens sockets, and restores what the crowd's links lost.
            settled(on)
            before = processor(on)
            storm = on.node.run([PYTHON, "-IS", STORM, "taps", *(f"t{n}={guest_mac(n)}" for n in range(count))], timeout=120)
            busy.append((processor(on) - before) / count)
            found = json.loads(storm.stdout)
            waited.append(found["median"])
            if found["leases"] != count or found["naks"]:
                raise CommandFailed(f"of {count} guests, {found['leases']} have an address; {found['naks']} were refused")
        on.stop_agent()
    yield middle(f"{count} guests ask by DHCP at once: the agent's processor time for each", busy, 1e-3, "µs", 150, 600)
    yield middle(f"{count} guests ask by DHCP at once: how long one waits", waited, 1, "ms", 1000, 5000)


def processor(on: Host) -> int:
    """Nanoseconds that the agent's threads have run."""
    return sum(int(path.read_text().split()[0]) for path in Path(f"/proc/{on.agent.pid}/task").glob("*/schedstat"))


def settled(on: Host) -> None:
    """Wait until the agent does next to nothing. Raises CommandFailed."""
    end = time.monotonic() + 60
    while time.monotonic() < end:
        before = processor(on)
        time.sleep(1)
        if processor(on) - before < 50e6:
            return
    raise CommandFailed("the agent does not come to rest")
