"""libnftables in a process with several threads, as the agent is."""

from __future__ import annotations

from pathlib import Path

from lab.nodes import Node

ROOT = Path(__file__).parents[2]
THREADS = """
import sys, threading
sys.path.insert(0, sys.argv[1])
from vmnet_hooks.kernel.libnftables import Context
said = Context().run("add table inet t; add set inet t a { type iface_index; }")
def work(first):
    context = Context()
    for number in range(first, first + 60):
        said.append(context.run(f"add element inet t a {{ {number} }}")[1])
        context.run("list table inet t")
said = [said[1]]
threads = [threading.Thread(target=work, args=(100 * number,)) for number in range(1, 5)]
for thread in threads: thread.start()
for thread in threads: thread.join()
print(len(said), "".join(said))
"""


def test_several_threads_and_many_links():
    """The names of links are read in each transaction, and kept for all contexts of the process."""
    with Node("host") as host:
        host.run(["ip", "-batch", "-"], input="".join(f"tuntap add t{number} mode tap\n" for number in range(500)))
        done = host.run(["/usr/bin/python3", "-c", THREADS, ROOT])
        assert done.stdout.split() == ["241"]
