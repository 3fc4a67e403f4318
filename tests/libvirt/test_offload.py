"""A guest under QEMU asks its host for checksums over what the filter has judged: nothing of it leaves."""

from __future__ import annotations

import pytest
from guest import Guest, Nic, domain_xml
from lab import offload
from lab.frames import udp4
from lab.offload import Listener

pytestmark = pytest.mark.libvirt

MAC, PEER = "52:54:00:aa:00:11", "02:00:00:00:09:01"
OWN, OTHER = ("10.9.0.10", "2001:db8:9::10"), ("10.9.0.1", "2001:db8:9::1")
NIC = Nic(MAC, "bridge", dev="tap1", bridge="br0", network="lan", ips=OWN)
SENTINEL = udp4(PEER, MAC, OWN[0], "10.9.0.99", 7777)


def sent(guest: Guest, frame: bytes, start: int = 0, offset: int = 0) -> None:
    done = guest.run(f"vnet eth0 {start} {offset} {frame.hex()}")
    assert done.status == 0, done.output


@pytest.mark.parametrize("checksums", ["checked", "trusted"])
def test_lies(lab, checksums):
    """Trusted, they leave: that they are lies is no assumption."""
    host = lab.host
    host.config(host.path("/etc/vmnet-hooks/vmnet.toml").read_text() + f'checksums = "{checksums}"\n')
    offload.tx_checksum(host, "eth2", False)
    host.sh("for f in /proc/sys/net/bridge/bridge-nf-call-*tables; do [ ! -e $f ] || echo 0 > $f; done")
    host.create(domain_xml("dom1", [NIC], "ip0=10.9.0.10/24 ip6_0=2001:db8:9::10/64"))
    guest = Guest(host, "dom1").ready()
    guest.ping("10.9.0.1")
    lies = offload.lies(MAC, PEER, OWN, OTHER)
    with Listener(lab.router, "lan1") as listener:
        for what, lie in lies.items():
            frame, wanted = offload.forged(*lie)
            sent(guest, wanted)
            sent(guest, SENTINEL)
            assert listener.has(SENTINEL)
            assert not listener.has(wanted, 0.1), f"{what}: sent plainly"
            del listener.frames[:]
            sent(guest, frame, lie.start, lie.at - lie.start)
            sent(guest, SENTINEL)
            assert listener.has(SENTINEL)
            assert listener.has(wanted, 0.1) == (checksums == "trusted"), what
            del listener.frames[:]
    host.virsh("destroy", "dom1")
    offload.tx_checksum(host, "eth2", True)
    host.sh("for f in /proc/sys/net/bridge/bridge-nf-call-*tables; do [ ! -e $f ] || echo 1 > $f; done")
    lab.assert_clean()
