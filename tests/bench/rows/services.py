"""What it costs to answer guests: a boot storm, in which all of a host's guests ask by DHCP at once."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from subprocess import PIPE, Popen
from typing import Any

from lab.dhcp_storm import __file__ as STORM
from lab.domains import Interface

from bench.hosts import ONLY4, PYTHON, CommandFailed, Host, Product, guest_mac, routed
from bench.report import Effort, Row, middle

GUESTS = 1000
LEASES = 500
VIRTUAL = """
[networks.lab]
mode = "virtual"
forward = "isolated"
ipv4 = { subnet = "10.66.0.0/16", gateway = "10.66.0.1", pool = ["10.66.1.0-10.66.4.255"] }
"""
DHCP = '[networks.public.dhcp]\ndns = ["192.0.2.53"]\ndomain = "lan.example"\n'


def services(product: Product, effort: Effort) -> Iterator[Row]:
    yield from _declared(product, effort)
    yield from _pooled(product, effort)


def _declared(product: Product, effort: Effort) -> Iterator[Row]:
    """The agent answers guests with declared addresses."""
    count = effort(GUESTS, 500)
    with Host(product, ONLY4 + DHCP) as on:
        on.taps(count)
        on.start_agent()
        on.crowd([routed(number, dual=False) for number in range(count)])
        busy, waited = [], []
        for _ in range(effort(5, 2)):
            with asking(on, count) as storm:
                # Until the agent is quiet: it opens sockets, and follows the carriers of the links.
                settled(on)
                before = processor(on.agent.pid)
                waited.append(leased(storm, count)["median"])
                busy.append((processor(on.agent.pid) - before) / count)
        on.stop_agent()
    yield middle(f"{count} guests ask by DHCP at once: the agent's processor time for each", busy, 1e-3, "µs", 50, 600)
    yield middle(f"{count} guests ask by DHCP at once: how long one waits", waited, 1, "ms", 1000, 5000)


def _pooled(product: Product, effort: Effort) -> Iterator[Row]:
    """dnsmasq leases addresses of a pool."""
    count = effort(LEASES, 100)
    with Host(product, VIRTUAL) as on:
        on.taps(count)
        on.start_agent()
        on.crowd([Interface(guest_mac(number), f"t{number}", "lab", (), bridge="lab") for number in range(count)])
        server = int(on.node.run("cat /var/lib/vmnet-hooks/dnsmasq/lab/pid").stdout)
        busy, waited, memory = [], [], []
        for _ in range(effort(5, 2)):
            with asking(on, count) as storm:
                settled(on)
                before = processor(server)
                waited.append(leased(storm, count, refused=count // 100)["median"])
                busy.append((processor(server) - before) / count)
                memory.append(resident(server))
        on.stop_agent()
    yield middle(f"{count} guests of a pool ask at once: dnsmasq's processor time for each", busy, 1e-3, "µs", 5000, 20000)
    yield middle(f"{count} guests of a pool ask at once: how long one waits", waited, 1, "ms", 5000, 20000)
    yield middle("dnsmasq's memory after the last such storm / the first", [memory[-1] / memory[0]], 1, "×", 1.1, 1.5)


@contextmanager
def asking(on: Host, count: int) -> Iterator[Popen]:
    """So many guests, of which each has its carrier, and asks once it is told."""
    ends = [f"t{n}={guest_mac(n)}" for n in range(count)]
    with on.node.popen([PYTHON, "-IS", STORM, "--told", "taps", *ends], stdin=PIPE, stdout=PIPE) as storm:
        storm.stdout.readline()
        yield storm


def leased(storm: Popen, count: int, refused: int = 0) -> dict[str, Any]:
    """Tell them, and return what became of it. Raises CommandFailed if a guest has no lease, or if more were refused."""
    found = json.loads(storm.communicate("go\n", timeout=120)[0])
    if found["leases"] != count or found["naks"] > refused:
        raise CommandFailed(f"of {count} guests, {found['leases']} have an address; {found['naks']} were refused")
    return found


def processor(pid: int) -> int:
    """Nanoseconds that the threads of a process have run."""
    return sum(int(path.read_text().split()[0]) for path in Path(f"/proc/{pid}/task").glob("*/schedstat"))


def resident(pid: int) -> int:
    """Bytes of memory that a process occupies."""
    return int(re.findall(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())[0]) << 10


def settled(on: Host) -> None:
    """Wait until the agent does next to nothing. Raises CommandFailed."""
    end = time.monotonic() + 60
    while time.monotonic() < end:
        before = processor(on.agent.pid)
        time.sleep(1)
        if processor(on.agent.pid) - before < 50e6:
            return
    raise CommandFailed("the agent does not come to rest")
