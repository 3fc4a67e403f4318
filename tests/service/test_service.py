"""vmnet-hookd as a service: installed, started, stopped, killed, stuck, upgraded and removed by those who do that to services.

The tests are one story, in this order: the first installs the package, the last removes it. Until then, a system call that
the unit does not allow kills whoever makes it.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from lab.domains import Interface
from lab.guest import Nic, wired
from lab.named import Named
from lab.nodes import changes
from lab.routed import call, reach
from lab.xenstore import Vif
from machine import CONFIG, GATEWAY4, HOOK, LIBVIRT, SERVICE, SOCKET, World, domain, eventually, state

SCORE = 2.1
"""Exposure by `systemd-analyze security`: 0 is best, 10 worst."""

DDNS = f"""
[ddns.lab]
server = "{GATEWAY4}"
zone = "lab.example"
reverse = ["2.0.192.in-addr.arpa"]
key = "/etc/vmnet-hooks/ddns.key"
networks = ["public"]
"""

STRICT = """[Service]
SystemCallErrorNumber=kill
# What libraries try (sqlite as root, libnuma when it is loaded), and do without.
SystemCallFilter=fchown set_mempolicy
"""


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with World() as made:
        yield made


def install(world: World, deb: str) -> str:
    began = time.monotonic()
    done = world.host.run(["dpkg", "-i", deb], check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    print(f"dpkg -i {deb}: {time.monotonic() - began:.1f} s")
    return done.stdout + done.stderr


def same(before: str, after: str) -> None:
    assert before == after, "\n" + changes(before, after)


def test_it_is_started_at_installation(world: World) -> None:
    host = world.host
    print(install(world, "/lab/vmnet-hooks.deb"))
    for unit in (SOCKET, SERVICE):
        assert host.is_active(unit), host.run(["systemctl", "status", unit], check=False).stdout
        assert host.run(["systemctl", "is-enabled", unit]).stdout == "enabled\n"
    assert host.shown("Type", "SubState", "NRestarts", "Result") == ("notify", "running", "0", "success")
    for path, mode in (("/run/vmnet-hooks", 0o40700), ("/run/vmnet-hooks/agent.sock", 0o140600), ("/run/vmnet-hookd", 0o40755)):
        assert os.stat(path).st_mode == mode and os.stat(path).st_uid == 0, path
    assert host.served() == 0
    Path("/etc/vmnet-hooks/vmnet.toml").write_text(CONFIG)
    # Before libvirtd, at boot; and it asks for nothing that is not there.
    assert {"libvirtd.service", "xendomains.service"} <= set(host.shown("Before")[0].split())


def test_units_are_sound(world: World) -> None:
    for unit in (SOCKET, SERVICE, "vmnet-networks.service", "vmnet-ddns.socket", "vmnet-ddns@1.service"):
        done = world.host.run(["systemd-analyze", "verify", "--man=no", unit], check=False)
        assert done.returncode == 0 and not done.stdout + done.stderr, (unit, done)


def test_exposure(world: World) -> None:
    shown = world.host.run(["systemd-analyze", "security", "--no-pager", SERVICE]).stdout
    print("\n".join(line for line in shown.splitlines() if not line.startswith(("✓", "+")) and line.strip()))
    assert float(re.search(r"Overall exposure level for \S+: ([0-9.]+)", shown)[1]) <= SCORE
    status = dict(line.split(":\t", 1) for line in Path(f"/proc/{world.host.pid}/status").read_text().splitlines())
    # CAP_NET_ADMIN and CAP_NET_RAW, and no way to more.
    assert [int(status[name], 16) for name in ("CapPrm", "CapEff", "CapBnd")] == 3 * [1 << 12 | 1 << 13]
    assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")


def test_guests_in_the_sandbox(world: World) -> None:
    """Routed, and on a bridge and a VLAN that are made for them; by whatever the agent does under its unit's restrictions."""
    host = world.host
    host.drop_in("strict", STRICT)
    host.run(["systemctl", "restart", SERVICE])
    before = state(host)
    with world.guest("one", 10, "public") as (one, node1), world.guest("two", 11, "tenant") as (two, node2):
        host.served_by_agent(4, lambda: [world.start("one", one), world.start("two", two)])
        pairs = [(node1, "192.0.2.1"), (node1, "2001:db8::1"), (node2, "10.7.0.254")]
        pairs += [(world.router, "192.0.2.10"), (world.router, "2001:db8::10")]
        assert eventually(lambda: reach(pairs) == []), reach(pairs)
        assert {"eth2.100", "tbr0"} <= set(os.listdir("/sys/class/net"))
        names = Path("/etc/iproute2/rt_tables.d/vmnet-snf_routed.conf")
        assert names.stat().st_mode & 0o777 == 0o644 and re.search(r"^222\s+snf_routed$", names.read_text(), re.M)
        assert host.run("ip route show table snf_routed").stdout.count("tap-one") >= 1
        for path in ("ipv4/conf/tap-one/proxy_arp", "ipv4/conf/tap-one/forwarding", "ipv6/conf/eth1/proxy_ndp"):
            assert Path("/proc/sys/net", path).read_text() == "1\n", path
        host.check()

        # Who collects metrics is not root.
        metrics = ["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups", "cat", "/run/vmnet-hookd/metrics.prom"]
        wanted = re.compile(r'^vmnet_requests_total\{frontend="libvirt/qemu",operation="start",status="0"\} 2$', re.M)
        assert eventually(lambda: wanted.search(host.run(metrics).stdout)), host.run(metrics).stdout

        # A firewall's reload.
        whole = state(host)
        began = time.monotonic()
        host.run("nft flush ruleset")
        assert eventually(lambda: "tap-one" in host.run("nft list ruleset").stdout, every=0.05)
        print(f"nft flush ruleset: healed after {time.monotonic() - began:.2f} s")
        assert eventually(lambda: state(host) == whole), changes(whole, state(host))
        assert eventually(lambda: reach(pairs) == []), reach(pairs)
        host.served_by_agent(4, lambda: [world.stop("one", one), world.stop("two", two)])
    assert eventually(lambda: state(host) == before), changes(before, state(host))


SERVED = """
[bridges.sbr0]
addresses = ["10.9.0.1/24"]

[networks.served]
mode = "bridged"
bridge = "sbr0"

[networks.served.dhcp]
pool = ["10.9.0.100-10.9.0.199"]
hosts = []

[networks.served.dns]
domain = "lan.example"
forwarders = []
"""
SERVER = "vmnet-dnsmasq@served.service"
DNSMASQ = """
for lib in /lab/dnsmasq/*.so*; do
    [ -e /usr/lib/x86_64-linux-gnu/${lib##*/} ] || [ -e /lib/x86_64-linux-gnu/${lib##*/} ] || cp $lib /usr/lib/x86_64-linux-gnu/
done
install -m 755 /lab/dnsmasq/dnsmasq /usr/sbin/dnsmasq
ldconfig
"""
ASK = "ip link set eth0 up; busybox udhcpc -f -n -q -t 20 -T 1 -i eth0 -s /bin/true"


def test_a_server(world: World) -> None:
    """dnsmasq by its unit, not as root, and with what a new bridge takes; killed, stopped, edited, taken down."""
    host = world.host
    host.sh(DNSMASQ)
    path = Path("/etc/vmnet-hooks/vmnet.toml")
    path.write_text(CONFIG + SERVED)
    host.run("vmnet-hook up")
    assert host.is_active(SERVER), host.journal("-u", SERVER)
    done = host.run(["systemd-analyze", "verify", "--man=no", SERVER], check=False)
    assert done.returncode == 0 and not done.stdout + done.stderr, done

    def pid() -> int:
        return int(host.shown("MainPID", unit=SERVER)[0])

    status = dict(line.split(":\t", 1) for line in Path(f"/proc/{pid()}/status").read_text().splitlines())
    assert status["Uid"].split()[0] != "0" and (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")
    assert int(status["CapEff"], 16) & (1 << 10 | 1 << 12 | 1 << 13) == 1 << 10 | 1 << 12 | 1 << 13, status
    host.check()
    nic = Interface("52:54:00:aa:00:30", "tap-served", bridge="sbr0")
    with wired(host, nic.tap, "served", Nic(nic.mac)) as node:
        host.run(f"ip link set {nic.tap} master sbr0")
        world.start("served", nic)
        assert "lease of 10.9.0.1" in node.run(["sh", "-c", f"{ASK} 2>&1"], timeout=120).stdout
        assert "10.9.0.1" in host.run("vmnet-hook leases").stdout
        # systemd starts it again; the agent what was stopped, from within its sandbox.
        before = pid()
        os.kill(before, signal.SIGKILL)
        assert eventually(lambda: host.is_active(SERVER) and pid() not in (0, before))
        host.run(["systemctl", "stop", SERVER])
        assert eventually(lambda: host.is_active(SERVER)), host.journal("-u", SERVER)
        before = pid()
        host.sh("echo port=5353 >> /run/vmnet-dnsmasq/served.conf")
        assert eventually(lambda: pid() not in (0, before))
        assert "5353" not in Path("/run/vmnet-dnsmasq/served.conf").read_text()
        assert eventually(lambda: host.run("vmnet-hook check", check=False).stdout == "ok\n")
        # Static leases are read anew; a bridge that is made anew is served.
        before = pid()
        path.write_text(CONFIG + SERVED.replace("hosts = []", f'hosts = [{{ mac = "{nic.mac}", ips = ["10.9.0.77"] }}]'))
        host.run("vmnet-hook up")
        assert pid() == before
        assert "lease of 10.9.0.77" in node.run(["sh", "-c", f"{ASK} 2>&1"], timeout=120).stdout
        host.run("ip link del sbr0")
        assert eventually(lambda: host.run("vmnet-hook check", check=False).stdout == "ok\n"), host.run("vmnet-hook check").stdout
        assert pid() == before
        assert "lease of 10.9.0.77" in node.run(["sh", "-c", f"{ASK} 2>&1"], timeout=120).stdout
        world.stop("served", nic)
    assert "leases" in host.run("ls /var/lib/vmnet-hooks/dnsmasq/served/").stdout
    path.write_text(CONFIG + SERVED.replace("hosts = []", "keep_leases = false"))
    host.run("vmnet-hook up")
    host.run("vmnet-hook down")
    assert not host.is_active(SERVER)
    assert (
        not Path("/var/lib/private/vmnet-hooks/dnsmasq/served").exists() and not Path("/run/vmnet-dnsmasq/served.conf").exists()
    )
    path.write_text(CONFIG)


def test_names_in_the_sandbox(world: World) -> None:
    """The agent may use no network; nsupdate, which systemd starts for it, may. What was registered outlasts the agent."""
    host = world.host
    named = Named(world.router, GATEWAY4, "lab.example", "2.0.192.in-addr.arpa")
    key = Path("/etc/vmnet-hooks/ddns.key")
    key.write_text(named.key)
    key.chmod(0o600)
    config = Path("/etc/vmnet-hooks/vmnet.toml")
    config.write_text(CONFIG + DDNS)
    host.run(["ip", "addr", "add", "192.0.2.2/24", "dev", "eth1", "noprefixroute"])
    host.run(["ip", "route", "add", GATEWAY4, "dev", "eth1"])
    ptr = "10.2.0.192.in-addr.arpa"

    def has(*values: str) -> bool:
        found = (named.asked("one.lab.example"), named.asked("one.lab.example", "AAAA"), named.asked(ptr, "PTR"))
        return found == values

    try:
        with world.guest("one", 10, "public") as (one, _):
            world.start("one", one)
            told = host.journal("-t", "vmnet-hook", "-n", "20")
            assert eventually(lambda: has("192.0.2.10", "2001:db8::10", "one.lab.example.")), told + host.journal("-n", "40")
            host.check()
            assert oct(os.stat("/var/lib/vmnet-hooks").st_mode) == "0o40711"
            host.run(["systemctl", "kill", "-s", "KILL", SERVICE])
            world.stop("one", one)
            assert eventually(lambda: has("", "", "")), host.journal("-n", "40")
            host.check()
        # Prerequisites that do not hold are no failure of the unit.
        assert "vmnet-ddns" not in host.run(["systemctl", "list-units", "--failed", "--no-legend"]).stdout
        shown = host.run(["systemd-analyze", "security", "--no-pager", "vmnet-ddns@1.service"]).stdout
        assert float(re.search(r"Overall exposure level for \S+: ([0-9.]+)", shown)[1]) <= SCORE
    finally:
        config.write_text(CONFIG)
        host.run(["ip", "addr", "del", "192.0.2.2/24", "dev", "eth1"])
        named.stop()


def test_xen_in_the_sandbox(world: World) -> None:
    """xenstored by its socket; and a name for a resolver, who is not root."""
    host = world.host
    daemon = world.xenstored()
    host.sh("ip addr add 10.0.1.1/24 dev eth1")
    before = state(host)
    try:
        vif = Vif(host, 7, 0, name="web", script="vmnet-vif-nat", ip="10.8.0.7", gatewaydev="eth1", device=False)
        with vif:
            vif.device("10.8.0.7")
            for command in ("online", "offline"):
                if command == "offline":
                    name = Path("/run/vmnet-hosts/vif7.0")
                    assert name.read_text().startswith("10.8.0.7 ") and name.stat().st_mode & 0o777 == 0o644
                    assert name.parent.stat().st_mode & 0o777 == 0o755
                    vif.leave()
                done = []
                host.served_by_agent(1, lambda done=done, command=command: done.append(vif.call(command)))
                assert done[0].returncode == 0 and done[0].stderr == "", done
                if command == "online":
                    assert (vif.status, vif.error) == ("connected", None)
            vif.forget()
        assert not os.listdir("/run/vmnet-hosts")
        assert eventually(lambda: state(host) == before), changes(before, state(host))
    finally:
        host.sh("ip addr del 10.0.1.1/24 dev eth1")
        daemon.kill()
        daemon.wait()


def test_watchdog(world: World) -> None:
    """It is fed, for as long as the agent works; one that is stuck is replaced, and a hook does not wait for it for ever."""
    host = world.host
    host.drop_in("watchdog", "[Service]\nWatchdogSec=8\n")
    host.run(["systemctl", "restart", SERVICE])
    pid, restarts = host.pid, host.restarts
    time.sleep(20)
    assert (host.pid, host.restarts) == (pid, restarts) and host.is_active()
    with world.guest("stuck", 12, "public") as (nic, node):
        os.kill(pid, signal.SIGSTOP)
        began = time.monotonic()
        world.start("stuck", nic)
        print(f"two calls while the agent was stopped: {time.monotonic() - began:.1f} s")
        assert eventually(lambda: host.pid not in (0, pid) and host.is_active())
        assert "Watchdog timeout" in host.journal("-u", SERVICE)
        assert host.restarts > restarts
        host.served_by_agent(1, lambda: call(host, "stuck", "reconnect", nic))
        assert eventually(lambda: reach([(node, "192.0.2.1"), (node, "2001:db8::1")]) == [])
        world.stop("stuck", nic)
    Path(f"/etc/systemd/system/{SERVICE}.d/watchdog.conf").unlink()
    host.run("systemctl daemon-reload")
    host.run(["systemctl", "restart", SERVICE])


def test_a_hook_starts_it(world: World) -> None:
    host = world.host
    with world.guest("first", 13, "public") as (nic, node):
        world.start("first", nic)
        whole = state(host)
        host.run(["systemctl", "stop", SERVICE])
        assert not host.is_active() and host.is_active(SOCKET)
        same(whole, state(host))
        world.stop("first", nic)
        assert host.is_active()
        # Under emulation it may start too late for the one who asked.
        print(f"served of two calls: {host.served()}")
        host.served_by_agent(2, lambda: world.start("first", nic))
        assert eventually(lambda: reach([(node, "192.0.2.1"), (node, "2001:db8::1")]) == [])
        world.stop("first", nic)


def test_killed(world: World) -> None:
    """Nothing is lost, and nobody waits."""
    host = world.host
    with world.guest("lasting", 14, "public") as (nic, node), world.guest("coming", 15, "public") as (other, other_node):
        world.start("lasting", nic)
        whole, pid, restarts = state(host), host.pid, host.restarts
        host.run(["systemctl", "kill", "-s", "KILL", SERVICE])
        world.start("coming", other)
        assert eventually(lambda: host.pid not in (0, pid) and host.is_active())
        assert host.restarts == restarts + 1
        pairs = [(a, address) for a in (node, other_node) for address in ("192.0.2.1", "2001:db8::1")]
        assert eventually(lambda: reach(pairs) == []), reach(pairs)
        world.stop("coming", other)
        assert eventually(lambda: state(host) == whole), changes(whole, state(host))
        world.stop("lasting", nic)


# --- libvirt ------------------------------------------------------------------------------------------------------------------


def virsh(world: World, *words: str, input: str | None = None, check: bool = True) -> subprocess.CompletedProcess[str]:
    return world.host.run(["virsh", "-q", "-c", "qemu:///system", *words], input=input, check=check)


@contextmanager
def repeatedly(action: object) -> Iterator[list[float]]:
    """`action` again and again, by somebody else; yields when each ended. What it raises is raised at the end."""
    ends, failed, stop = [], [], threading.Event()

    def work() -> None:
        try:
            while not stop.is_set():
                action()
                ends.append(time.monotonic())
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield ends
    finally:
        stop.set()
        thread.join()
    if failed:
        raise failed[0]


def is_set_up(world: World, name: str, last: int, bridged: bool) -> None:
    """What a guest needs is there when `virsh start` returns."""
    host = world.host
    if bridged:
        assert " master tbr0 " in host.run(["ip", "link", "show", f"tap-{name}"]).stdout
    else:
        assert f"192.0.2.{last} dev tap-{name}" in host.run("ip route show table 222").stdout
        assert f"2001:db8::{last} dev tap-{name}" in host.run("ip -6 route show table 222").stdout
        assert f"tap-{name}" in host.run("nft list ruleset").stdout
    assert re.search(rf"\b{name}\b", host.run("vmnet-hook status").stdout)


GUESTS = {f"dom{number}": (number, number % 2 == 1) for number in range(20, 24)}


def test_virsh_start_while_it_is_restarted(world: World) -> None:
    host = world.host
    host.run(["systemctl", "start", *LIBVIRT])
    assert eventually(lambda: virsh(world, "list", check=False).returncode == 0, 120)
    # The first asks QEMU what it can, which takes long.
    assert eventually(lambda: virsh(world, "domcapabilities", "--virttype", "qemu", check=False).returncode == 0, 120)
    before = state(host)
    for name, (last, bridged) in GUESTS.items():
        virsh(world, "define", "/dev/stdin", input=domain(name, last, bridged))
    times = []
    with repeatedly(lambda: host.run(["systemctl", "restart", SERVICE])) as restarts:
        for name, (last, bridged) in GUESTS.items():
            began = time.monotonic()
            virsh(world, "start", name, "--paused")
            times.append(time.monotonic() - began)
            is_set_up(world, name, last, bridged)
    spent = ", ".join(f"{seconds:.1f}" for seconds in times)
    print(f"virsh start, {len(GUESTS)} times: {spent} s; systemctl restart meanwhile: {len(restarts)} times")
    assert len(restarts) >= len(GUESTS)
    assert host.is_active()
    host.check()
    for name, (last, bridged) in GUESTS.items():
        is_set_up(world, name, last, bridged)
    with repeatedly(lambda: host.run(["systemctl", "restart", SERVICE])):
        for name in GUESTS:
            virsh(world, "destroy", name)
    assert eventually(lambda: state(host) == before), changes(before, state(host))


def test_upgrade(world: World) -> None:
    """dpkg puts in a newer one while guests run, and while others start and stop: nothing is lost, and hooks of either version
    find their way."""
    host = world.host
    virsh(world, "start", "dom20", "--paused")
    virsh(world, "start", "dom21", "--paused")
    whole, pid = state(host), host.pid

    def start_and_stop() -> None:
        virsh(world, "start", "dom22", "--paused")
        is_set_up(world, "dom22", 22, False)
        virsh(world, "destroy", "dom22")

    with repeatedly(start_and_stop) as cycles:
        said = install(world, "/lab/newer.deb")
    print(f"guests started and stopped meanwhile: {len(cycles)}")
    assert cycles and "stay as they are" not in said
    assert "9.9.9" in host.run("vmnet-hook --version").stdout
    assert host.pid != pid and host.is_active() and host.is_active(SOCKET)
    assert Path("/etc/vmnet-hooks/vmnet.toml").read_text() == CONFIG
    host.check()
    assert eventually(lambda: state(host) == whole), changes(whole, state(host))
    for name in ("dom20", "dom21"):
        is_set_up(world, name, *GUESTS[name])
    # The agent is the new one: it takes calls of hooks of its own version alone.
    assert int(host.served()) >= 0
    before = host.served()
    virsh(world, "start", "dom23", "--paused")
    assert host.served() > before
    for name in ("dom20", "dom21", "dom23"):
        virsh(world, "destroy", name)


def test_nothing_was_denied(world: World) -> None:
    host = world.host
    shown = host.journal("-t", "vmnet-hook") + host.journal("-u", SERVICE) + host.journal("-u", SOCKET)
    assert len(shown.splitlines()) > 30
    wrong = re.compile(r"not permitted|EPERM|denied|Read-only|SIGSYS|status=31|Traceback|internal error|(^|: )error:", re.I)
    assert [line for line in shown.splitlines() if wrong.search(line)] == []
    # Seccomp's kills, and whatever else the kernel objected to.
    kernel = host.journal("-k")
    assert [line for line in kernel.splitlines() if re.search(r"type=1326|segfault|BUG:|Call Trace", line)] == []


def test_removed(world: World) -> None:
    """It ends, hooks and networks of guests that run do not; after purge nothing is left."""
    host = world.host
    virsh(world, "start", "dom20", "--paused")
    whole = state(host)
    said = host.run("dpkg -r vmnet-hooks").stdout
    assert "warning" not in said, said
    assert not host.is_active(SOCKET) and not host.is_active()
    assert not Path("/run/vmnet-hooks/agent.sock").exists() and not Path(HOOK).exists()
    same(whole, state(host))
    host.run("dpkg -P vmnet-hooks")
    gone = ("/run/vmnet-hooks", "/run/vmnet-hookd", "/run/vmnet-hosts", "/etc/vmnet-hooks")
    gone += ("/run/vmnet-dnsmasq", "/var/lib/vmnet-hooks", "/var/lib/private/vmnet-hooks")
    assert [path for path in gone if Path(path).exists()] == []
    units = host.run("systemctl list-units --all --no-legend --plain vmnet*").stdout
    assert "vmnet-hookd" not in units, units
    virsh(world, "destroy", "dom20", check=False)
