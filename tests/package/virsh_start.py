"""Runs in a clean root with the package installed: virsh starts a guest through the installed hook, it talks, it stops.

Prints what it saw, "nothing is left" last. Uses the lab of the libvirt tier, but no code of vmnet_hooks: what plugs the
guest in is what the package installed.
"""

from __future__ import annotations

import sys
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(TESTS), str(TESTS / "libvirt")]

import lvhost  # noqa: E402
from guest import Guest, Nic, domain_xml, ping_from  # noqa: E402
from lab.nodes import changes, settled  # noqa: E402

ROUTED = Nic("52:54:00:aa:00:10", dev="tap0", network="public", ips=("192.0.2.10", "2001:db8::10"))
BRIDGED = Nic("52:54:00:aa:00:11", kind="bridge", dev="tap1", bridge="br0")
CMDLINE = "ip0=192.0.2.10/24 gw0=192.0.2.1 ip6_0=2001:db8::10/128 gw6_0=2001:db8::1 ip1=10.9.0.10/24"


def main() -> None:
    router = lvhost.Router()
    host = lvhost.Host("clean", router, hook=Path("/usr/lib/vmnet-hooks/hooks/libvirt/qemu"))
    try:
        print(host.run("readlink -f /etc/libvirt/hooks/qemu.d/vmnet-hooks").stdout.strip())
        before = settled(host)
        host.define(domain_xml("dom1", [ROUTED, BRIDGED], CMDLINE))
        print(host.virsh("start", "dom1").stdout.strip() or "virsh start dom1: done")
        print(host.run("vmnet-hook status").stdout.rstrip())
        guest = Guest(host, "dom1").ready(120)
        for address in ("192.0.2.1", lvhost.OUTSIDE4, "2001:db8::1", lvhost.OUTSIDE6, "10.9.0.1"):
            guest.ping(address)
            print(f"guest reaches {address}")
        for address in ("192.0.2.10", "2001:db8::10"):
            ping_from(router, address)
            print(f"router reaches {address}")
        host.run("vmnet-hook check")
        host.virsh("destroy", "dom1")
        host.wait_gone("dom1")
        host.virsh("undefine", "dom1")
        left = changes(before, settled(host))
        print(left or "nothing is left")
    finally:
        host.close()
        router.close()


main()
