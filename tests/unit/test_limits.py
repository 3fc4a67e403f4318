"""What is nearly full is told of, with the remedy; what is not is not."""

import pytest

from vmnet_hooks.kernel import limits, sysfs
from vmnet_hooks.kernel.objects import sysctl


@pytest.fixture
def host(tmp_path, monkeypatch):
    for module, name in ((sysctl, "ROOT"), (sysfs, "ROOT"), (limits, "STATISTICS")):
        folder = tmp_path / module.__name__.rpartition(".")[2]
        folder.mkdir()
        monkeypatch.setattr(module, name, str(folder))
    return tmp_path


def put(path, text) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{text}\n")


def bridge(host, name: str, ports: int) -> None:
    folder = host / "sysfs" / name / "brif"
    folder.mkdir(parents=True)
    for number in range(ports):
        (folder / f"tap{number}").touch()


def test_nothing_to_say(host):
    bridge(host, "br0", 800)
    put(host / "sysctl/net/ipv4/neigh/default/gc_thresh3", 1024)
    put(host / "limits/arp_cache", "entries allocs\n00000100 00000000")
    put(host / "sysctl/net/netfilter/nf_conntrack_max", 1000)
    put(host / "sysctl/net/netfilter/nf_conntrack_count", 799)
    assert limits.ceilings((0, 0)) == []


def test_a_namespace_has_no_thresholds(host):
    put(host / "limits/arp_cache", "entries allocs\n00010000 00000000")
    assert limits.ceilings((0, 0)) == []


def test_ports(host):
    bridge(host, "br0", 819)
    bridge(host, "br1", 1)
    (line,) = limits.ceilings((0, 0))
    assert line.startswith("bridge br0 has 819 ports, and the kernel takes 1023")


@pytest.mark.parametrize("version, table", [(4, "arp_cache"), (6, "ndisc_cache")])
def test_neighbours(host, version, table):
    """Permanent entries do not count."""
    put(host / f"sysctl/net/ipv{version}/neigh/default/gc_thresh3", 1024)
    put(host / "limits" / table, "entries allocs\n00000400 00000000\n00000400 00000001")
    permanent = (300, 0) if version == 4 else (0, 300)
    assert limits.ceilings(permanent) == []
    (line,) = limits.ceilings((10, 10))
    assert f"IPv{version} neighbour table has 1014 entries, and takes 1024" in line
    assert f"sysctl -w net.ipv{version}.neigh.default.gc_thresh3=8192" in line


def test_connections(host):
    put(host / "sysctl/net/netfilter/nf_conntrack_max", 1000)
    put(host / "sysctl/net/netfilter/nf_conntrack_count", 800)
    (line,) = limits.ceilings((0, 0))
    assert line.startswith("800 connections are tracked, and 1000 can be") and "nf_conntrack_max=4000" in line
