"""A VLAN-aware bridge with the host's own address on it, in the untagged VLAN: as ifupdown and Proxmox have it.

guests lan1 ten1 -- vmbr0 host eth0 == segment == eth0 router (192.0.2.1, untagged)
                                          |
                                       twin eth0: the same by ifupdown
"""

from __future__ import annotations

from contextlib import ExitStack

import pytest
from lab.capture import Capture
from lab.guest import Nic
from lab.ifupdown import Ifupdown
from lab.nodes import Node, Switch
from lab.routed import eventually, ping
from lab.vm import Host, assert_restored, guest, snapshots
from test_vlan_aware import SLOW, vids

INTERFACES = """\
auto vmbr0
iface vmbr0 inet static
    address 192.0.2.10/24
    gateway 192.0.2.1
    bridge-ports eth0
    bridge-stp off
    bridge-fd 0
    bridge-maxwait 0
    bridge-vlan-aware yes
    bridge-vids 2-4094
"""
MORE = """
[vlans."vmbr0.10"]
parent = "vmbr0"
id = 10
addresses = ["10.9.10.254/24"]

[networks.lan]
mode = "bridged"
bridge = "vmbr0"

[networks.ten]
mode = "bridged"
bridge = "vmbr0"
vlan = 10
"""
ACCESS = {"PVID", "Egress Untagged"}


@pytest.fixture
def wired_up(product):
    with ExitStack() as stack:
        segment = stack.enter_context(Switch("segment"))
        router = stack.enter_context(Node("router"))
        segment.plug(router, "eth0", "02:00:00:00:00:0f")
        router.sh("ip addr add 192.0.2.1/24 dev eth0")
        hosts = [stack.enter_context(Host(name, product)) for name in ("host", "twin")]
        for number, host in enumerate(hosts, 1):
            segment.plug(host, "eth0", f"02:00:00:00:00:0{number}")
        yield router, *hosts


def run(host: Host, *argv: str) -> str:
    done = host.cli(*argv)
    assert done.returncode == 0, (argv, done.stdout, done.stderr)
    return done.stdout


def test_imported(wired_up, tmp_path):
    """The host answers as it did by ifupdown; guests without a VLAN are its neighbours; others are in their own."""
    router, host, twin = wired_up
    Ifupdown(twin, ("bridge",)).interfaces(INTERFACES)
    assert twin.run(["ifup", "-a"], timeout=180).returncode == 0
    assert eventually(lambda: ping(twin, "192.0.2.1", 2) is not None, SLOW)
    by_ifup = vids(twin)
    twin.run("ip link set eth0 down")
    before = snapshots([host])
    (tmp_path / "interfaces").write_text(INTERFACES)
    host.config(run(host, "import", "--interfaces", str(tmp_path / "interfaces")) + MORE)
    run(host, "up")
    assert by_ifup["vmbr0"] == {1: ACCESS} and vids(host)["vmbr0"] == {1: ACCESS, 10: set()}
    assert by_ifup["eth0"] == {1: ACCESS} and vids(host)["eth0"][1] == ACCESS
    with Capture(router, "eth0", "") as wire:
        assert eventually(lambda: ping(host, "192.0.2.1", 2) is not None, SLOW)
    frames = wire.having("ICMP echo")
    assert frames and not [frame for frame in frames if "vlan" in frame], wire
    with guest(host, "lan1", "lan", Nic("52:54:00:09:00:01", "192.0.2.20", 24)) as lan1:
        assert vids(host)[lan1.tap] == {1: ACCESS}
        for target in ("192.0.2.10", "192.0.2.1"):
            assert eventually(lambda target=target: ping(lan1.node, target, 2) is not None, SLOW), target
        with guest(host, "ten1", "ten", Nic("52:54:00:09:00:02", "10.9.10.1", 24)) as ten1:
            assert eventually(lambda: ping(ten1.node, "10.9.10.254", 2) is not None, SLOW)
            ten1.node.sh("ip addr add 192.0.2.30/24 dev eth0")
            assert ping(ten1.node, "192.0.2.10", wait=2) is None
            ten1.unplug()
            host.run(f"ip link del {ten1.tap}")
        lan1.unplug()
        host.run(f"ip link del {lan1.tap}")
    assert run(host, "check") == "ok\n" and "nothing to do" in run(host, "up")
    host.sh("bridge vlan del dev vmbr0 vid 1 self; bridge vlan del dev eth0 vid 1")
    assert ping(host, "192.0.2.1", wait=2) is None
    assert host.cli("check").returncode == 1
    run(host, "repair")
    assert eventually(lambda: ping(host, "192.0.2.1", 2) is not None, SLOW)
    # One part alone: what the others need of the bridge stays.
    run(host, "down", "vmbr0.10")
    assert vids(host)["vmbr0"] == {1: ACCESS, 10: set()} and ping(host, "192.0.2.1", 2) is not None
    run(host, "down", "--force")
    assert_restored([host], before)


def test_taken_over(wired_up):
    """`adopt` into the untagged VLAN: the gateway answers as before, and again when it is given back."""
    _, host, _ = wired_up
    host.sh("ip addr add 192.0.2.10/24 dev eth0; ip route add default via 192.0.2.1")
    assert eventually(lambda: ping(host, "192.0.2.1", 2) is not None, SLOW)
    before = snapshots([host])
    text = '[bridges.vmbr0]\nports = ["eth0"]\nadopt = "eth0"\nvlan_filtering = true\n'
    host.config(text)
    refused = host.cli("up")
    assert refused.returncode != 0 and "set pvid = 1" in refused.stderr, refused
    host.config(text + "pvid = 1\n")
    run(host, "up")
    assert vids(host)["vmbr0"] == {1: ACCESS} and vids(host)["eth0"][1] == ACCESS
    assert eventually(lambda: ping(host, "192.0.2.1", 2) is not None, SLOW)
    assert run(host, "check") == "ok\n"
    run(host, "down")
    assert eventually(lambda: ping(host, "192.0.2.1", 2) is not None, SLOW)
    assert_restored([host], before)
