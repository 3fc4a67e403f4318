"""A real guest through real libvirtd: it reaches the world while it runs, and leaves nothing however it ends."""

from __future__ import annotations

import json
import re
from concurrent.futures import ThreadPoolExecutor

import pytest
from guest import Guest, Nic, domain_xml, ping_from
from lab.nodes import changes, settled, without_anycast
from lvhost import CONFIG, OUTSIDE4, OUTSIDE6

pytestmark = pytest.mark.libvirt

ROUTED = Nic("52:54:00:aa:00:10", dev="tap0", network="public", ips=("192.0.2.10", "2001:db8::10"))
BRIDGED = Nic("52:54:00:aa:00:11", "bridge", dev="tap1", bridge="br0")
CMDLINE = "ip0=192.0.2.10/24 gw0=192.0.2.1 ip6_0=2001:db8::10/128 gw6_0=2001:db8::1 ip1=10.9.0.10/24"


def dom1() -> str:
    return domain_xml("dom1", [ROUTED, BRIDGED], CMDLINE)


def idle(name: str, *nics: Nic) -> str:
    """A domain with nothing to boot, to be created paused."""
    return domain_xml(name, nics)


def guest_pings(lab, guest: Guest) -> None:
    """Out and in, both families, on both NICs."""
    for address in ("192.0.2.1", "2001:db8::1", OUTSIDE4, OUTSIDE6, "10.9.0.1"):
        guest.ping(address)
    for address in ("192.0.2.10", "2001:db8::10", "10.9.0.10"):
        ping_from(lab.router, address)


def booted(lab) -> Guest:
    """dom1, running, and reaching the world."""
    lab.host.create(dom1())
    guest = Guest(lab.host, "dom1").ready()
    guest_pings(lab, guest)
    return guest


def running(lab) -> str:
    """The dump without interface numbers: a restored guest's tap has the same name but is another device."""
    return re.sub(r"(?m)^\d+: ", "N: ", without_anycast(settled(lab.host)))


def log_hooks(lab) -> None:
    """Have a second hook, which runs after ours, write down each call."""
    lab.host.path("/run/hooks.log").unlink(missing_ok=True)
    lab.host.add_hook("zz-log", 'echo "$1 $2" >> /run/hooks.log\n')


def wait_for_hook(lab, call: str) -> None:
    log = lab.host.path("/run/hooks.log")
    lab.host.wait_for(lambda: log.exists() and call in log.read_text().splitlines(), f"hook call {call}")


def reason(error: str) -> str:
    """The hook's own line in virsh's error; it must be the only one that the hook wrote."""
    found = re.search(r"unexpected exit status (\d+): (.*)", error, re.DOTALL)
    assert found, error
    lines = found[2].strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("vmnet-hook: "), error
    return lines[0]


def check_is_clean(lab) -> None:
    done = lab.host.cli("check")
    assert done.returncode == 0, done.stdout + done.stderr


# --- starts, and each way to end ----------------------------------------------------------------------------------


def test_guest_reaches_the_world_until_destroy(lab):
    booted(lab)
    check_is_clean(lab)
    lab.host.virsh("destroy", "dom1")
    lab.assert_clean()
    check_is_clean(lab)


def test_defined_domain_that_powers_itself_off(lab):
    lab.host.define(dom1())
    lab.host.virsh("start", "dom1")
    guest = Guest(lab.host, "dom1").ready()
    guest_pings(lab, guest)
    guest.run("(sleep 0.2; poweroff -f) >/dev/null 2>&1 &")
    lab.host.wait_gone("dom1")
    lab.assert_clean()
    # The same domain again: nothing of its first life stands in the way.
    lab.host.virsh("start", "dom1", "--paused")
    lab.host.virsh("destroy", "dom1")
    lab.assert_clean()


def test_qemu_is_killed(lab):
    booted(lab)
    lab.host.run(["kill", "-9", lab.host.qemu_pid("dom1")])
    lab.host.wait_gone("dom1")
    lab.assert_clean()


def test_save_and_restore(lab):
    guest = booted(lab)
    first = running(lab)
    lab.host.virsh("save", "dom1", "/run/dom1.save")
    lab.assert_clean()
    lab.host.virsh("restore", "/run/dom1.save")
    guest_pings(lab, guest)
    assert not changes(first, running(lab))
    check_is_clean(lab)
    lab.host.virsh("destroy", "dom1")
    lab.assert_clean()


def test_reboot_changes_nothing(lab):
    guest = booted(lab)
    first = running(lab)
    lab.host.virsh("reset", "dom1")
    guest.ready()
    guest_pings(lab, guest)
    assert not changes(first, running(lab))
    lab.host.virsh("destroy", "dom1")
    lab.assert_clean()


# --- libvirtd itself ends -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("signal", ["TERM", "KILL"])
def test_libvirtd_restarts_under_a_running_guest(lab, signal):
    guest = booted(lab)
    first = running(lab)
    log_hooks(lab)
    lab.host.stop_libvirtd(signal)
    guest.ping("192.0.2.1")
    lab.host.start_libvirtd()
    wait_for_hook(lab, "dom1 reconnect")
    assert lab.host.state("dom1") == "running"
    guest_pings(lab, guest)
    assert not changes(first, running(lab))
    lab.host.virsh("destroy", "dom1")
    lab.assert_clean()


def test_reconnect_mends_what_was_lost_meanwhile(lab):
    guest = booted(lab)
    first = running(lab)
    log_hooks(lab)
    lab.host.stop_libvirtd()
    lab.host.sh("nft flush ruleset; ip rule del from 192.0.2.0/24; ip route flush table 222")
    lab.host.start_libvirtd()
    wait_for_hook(lab, "dom1 reconnect")
    assert not changes(first, running(lab))
    guest_pings(lab, guest)


def test_qemu_dies_while_libvirtd_is_down(lab):
    lab.host.create(idle("dom1", ROUTED, BRIDGED), "--paused")
    pid = lab.host.qemu_pid("dom1")
    lab.host.stop_libvirtd()
    lab.host.run(["kill", "-9", pid])
    lab.host.start_libvirtd()
    lab.host.wait_gone("dom1")
    lab.assert_clean()


@pytest.mark.parametrize("config", ["this is [not TOML", '[networks.public]\nmode = "rooted"\n', ""])
def test_reconnect_with_a_broken_configuration_spares_the_guest(lab, config):
    lab.host.create(idle("dom1", ROUTED, BRIDGED), "--paused")
    first = running(lab)
    log_hooks(lab)
    lab.host.stop_libvirtd()
    lab.host.config(config)
    lab.host.start_libvirtd()
    wait_for_hook(lab, "dom1 reconnect")
    assert lab.host.state("dom1") == "paused"
    assert not changes(first, running(lab))
    # Clean-up needs the record, not the configuration.
    lab.host.virsh("destroy", "dom1")
    lab.assert_clean()


def test_libvirtd_is_killed_during_start(lab):
    host = lab.host
    host.add_hook("zz-sleep", '[ "$2" = start ] || exit 0; echo $$ > /run/asleep; exec sleep 120\n')
    host.path("/run/asleep").unlink(missing_ok=True)
    client = host.popen("virsh -q -c qemu:///system create /dev/stdin --paused", stdin=-1, stdout=-3, stderr=-3)
    client.stdin.write(idle("dom1", ROUTED, BRIDGED))
    client.stdin.close()
    host.wait_for(lambda: host.path("/run/asleep").exists() and host.path("/run/asleep").read_text(), "the second hook")
    host.stop_libvirtd("KILL")
    client.wait(20)
    host.run(["kill", host.path("/run/asleep").read_text().strip()])
    host.remove_hook("zz-sleep")
    host.start_libvirtd()
    # The tap is gone with libvirtd, and no hook was called for it.
    assert host.state("dom1") == ""
    assert lab.left_over()
    done = host.cli("check")
    assert done.returncode == 1 and "dom1" in done.stdout + done.stderr, done
    done = host.cli("repair")
    assert done.returncode == 0, done.stderr
    lab.assert_clean()
    check_is_clean(lab)


# --- a start that fails -------------------------------------------------------------------------------------------

OTHER = Nic("52:54:00:aa:00:20", dev="tap9", network="public", ips=("192.0.2.10",))


def test_address_of_a_running_guest(lab):
    lab.host.create(idle("dom1", ROUTED, BRIDGED), "--paused")
    first = running(lab)
    done = lab.host.create(idle("dom2", OTHER), "--paused", check=False)
    assert done.returncode
    text = reason(done.stderr)
    assert "192.0.2.10" in text and "dom1" in text
    assert not changes(first, running(lab))
    lab.host.virsh("destroy", "dom1")
    lab.assert_clean()
    # The address is free again.
    lab.host.create(idle("dom2", OTHER), "--paused")


BROKEN = {
    "no uplink": (CONFIG.replace('"eth1"', '"eth77"'), ROUTED, "eth77"),
    "no bridge": (CONFIG.replace('"br0"', '"br77"'), Nic("52:54:00:aa:00:12", dev="tap2", network="lan"), "br77"),
    "no such network": (CONFIG, Nic("52:54:00:aa:00:12", dev="tap2", network="lam"), "lam"),
    "address outside": (CONFIG, Nic("52:54:00:aa:00:12", dev="tap2", network="public", ips=("198.51.100.7",)), "198.51.100.7"),
    "not TOML": ("this is [not TOML", ROUTED, "vmnet.toml"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_start_is_refused_with_a_reason(lab, case):
    config, nic, word = BROKEN[case]
    lab.host.config(config)
    done = lab.host.create(idle("dom1", nic), "--paused", check=False)
    assert done.returncode
    assert word in reason(done.stderr)
    assert lab.host.state("dom1") == ""
    lab.assert_clean()


@pytest.mark.parametrize("operation", ["prepare", "start", "started"])
def test_another_hook_fails(lab, operation):
    """Ours has set everything up (except at `prepare`); libvirt then gives up and calls `stopped` and `release`."""
    lab.host.add_hook("zz-fail", f'[ "$2" != {operation} ] || {{ echo "no, says $2" >&2; exit 1; }}\n')
    done = lab.host.create(idle("dom1", ROUTED, BRIDGED), "--paused", check=False)
    assert done.returncode and f"no, says {operation}" in done.stderr
    assert lab.host.state("dom1") == ""
    lab.assert_clean()


# --- many at once -------------------------------------------------------------------------------------------------


def test_five_domains_at_once(lab):
    domains = {
        f"many{n}": idle(
            f"many{n}",
            Nic(f"52:54:00:bb:00:{n:02x}", network="public", ips=(f"192.0.2.{100 + n}",)),
            Nic(f"52:54:00:bc:00:{n:02x}", "bridge", bridge="br0"),
        )
        for n in range(5)
    }
    with ThreadPoolExecutor(len(domains)) as threads:
        for _ in range(2):
            for done in threads.map(lambda xml: lab.host.create(xml, "--paused", check=False), domains.values()):
                assert done.returncode == 0, done.stderr
            check_is_clean(lab)
            shown = lab.host.cli("status", "--json")
            assert shown.returncode == 0, shown.stderr
            assert all(name in json.dumps(json.loads(shown.stdout)) for name in domains)
            for done in threads.map(lambda name: lab.host.virsh("destroy", name, check=False), domains):
                assert done.returncode == 0, done.stderr
            lab.assert_clean()


# --- what is not ours ---------------------------------------------------------------------------------------------


def test_nic_that_nothing_claims_is_left_alone(lab):
    """A bridge that is not declared, and an ethernet NIC without metadata: the same as without the hook."""
    lab.host.sh("ip link add br7 type bridge; ip link set br7 up")
    xml = idle("dom1", Nic("52:54:00:aa:00:12", dev="tap2"), Nic("52:54:00:aa:00:13", "bridge", dev="tap3", bridge="br7"))
    seen = []
    try:
        for hooked in (True, False):
            if not hooked:
                lab.host.remove_hook("vmnet-hooks")
            lab.host.create(xml, "--paused")
            seen.append(running(lab))
            lab.host.virsh("destroy", "dom1")
    finally:
        lab.host.sh("ip link del br7")
    assert not changes(*seen)
