#!/usr/bin/python3
"""A libvirt host of our own, and the router that it is wired to; the machine's own libvirt is not seen or changed.

`Host` is a `Node` that also has its own process, host name and IPC namespaces, its own /etc (a copy: what a test
writes there is gone with it), /var/{lib,log,cache}/libvirt and /var/lib/vmnet-hooks, and runs libvirtd and virtlogd in
them. The hook is linked as the Debian package does it. Process 1 of the host ends when our end of its stdin closes, also
by SIGKILL of the test run, and takes every process of the host with it: daemons, guests, hooks.

`Router` is the world outside: gateway of the routed network on `public0`, a peer on the bridged network on `lan0`, and
an address beyond the gateway.
"""

from __future__ import annotations

import os
import select
import shutil
import subprocess
import sys
import time
import uuid
from collections.abc import Iterable, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests"))

from lab.nodes import ENV, HOOK, CommandFailed, Node, wire  # noqa: E402

# program → Debian package
NEEDED = {
    "libvirtd": "libvirt-daemon",
    "virtlogd": "libvirt-daemon",
    "virsh": "libvirt-clients",
    "qemu-system-x86_64": "qemu-system-x86",
    "nft": "nftables",
    "ip": "iproute2",
    "tcpdump": "tcpdump",
    "ping": "iputils-ping",
    "unshare": "util-linux",
    "nsenter": "util-linux",
    "busybox": "busybox-static",
}

CONFIG = """\
[networks.public]
mode = "routed"
uplink = "eth1"
table = 222
table_name = "snf_routed"
role = "host"
ipv4 = { subnet = "192.0.2.0/24", gateway = "192.0.2.1", arp_source = "192.0.2.254" }
ipv6 = { subnet = "2001:db8::/64", gateway = "2001:db8::1" }

[networks.lan]
mode = "bridged"
bridge = "br0"
"""
OUTSIDE4, OUTSIDE6 = "203.0.113.1", "2001:db8:ffff::1"

LIBVIRTD_CONF = """\
host_uuid = "{uuid}"
listen_tls = 0
listen_tcp = 1
auth_tcp = "none"
auth_unix_rw = "none"
unix_sock_group = "root"
log_outputs = "3:file:/var/log/libvirt/libvirtd.log"
"""
# No user, label or device namespace of QEMU's own: those need what a namespace on a CI machine may lack.
QEMU_CONF = """\
user = "root"
group = "root"
dynamic_ownership = 0
security_driver = "none"
namespaces = []
"""


def missing() -> list[str]:
    """One line for each thing that the machine lacks, with how to get it."""
    path = ENV["PATH"]
    lacking = [
        f"no {program}: apt-get install {package}" for program, package in NEEDED.items() if not shutil.which(program, path=path)
    ]
    if os.geteuid():
        lacking.append("not root: run with sudo")
    if not os.path.exists("/dev/net/tun"):
        lacking.append("no /dev/net/tun: modprobe tun (in a container: --device /dev/net/tun)")
    return lacking


class Inside(subprocess.Popen):
    """A command run by nsenter, which had to fork to enter a process namespace: signals are for its child."""

    def send_signal(self, sig: int) -> None:
        if self.poll() is None:
            for pid in Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split():
                os.kill(int(pid), sig)


class Host(Node):
    """A hypervisor with its own libvirtd. `eth1` is the uplink, `br0` the bridge of network `lan`."""

    daemon = "libvirtd -d"

    def __init__(self, name: str, router: Router | None = None, hook: Path = HOOK):
        self.name = name
        self.children: list[subprocess.Popen] = []
        self.holder = subprocess.Popen(
            [
                "unshare",
                "--mount",
                "--net",
                "--pid",
                "--uts",
                "--ipc",
                "--propagation",
                "private",
                "--fork",
                "--kill-child",
                sys.executable,
                "-I",
                __file__,
                "process-1",
                name,
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=ENV,
        )
        if self.holder.stdout.readline().strip() != "ready":
            self.holder.kill()
            raise CommandFailed(f"host {name} did not start: {self.holder.stderr.read()}")
        # unshare's only child is process 1 of the namespaces.
        self.pid = int(Path(f"/proc/{self.holder.pid}/task/{self.holder.pid}/children").read_text())
        self.netns = os.stat(f"/proc/{self.pid}/ns/net").st_ino
        try:
            self.config(CONFIG)
            self.link_hook("vmnet-hooks", hook)
            if router:
                router.connect(self)
            self.start_libvirtd()
        except BaseException:
            self.close()
            raise

    def enter(self, argv: Iterable[object]) -> list[str]:
        return ["nsenter", "-t", str(self.pid), "-m", "-n", "-p", "-u", "-i", "--", *map(str, argv)]

    def popen(self, argv: Sequence[object] | str, **options: object) -> subprocess.Popen:
        words = argv.split() if isinstance(argv, str) else argv
        child = Inside(self.enter(words), env=ENV, **{"stdin": subprocess.DEVNULL, "text": True, **options})
        self.children.append(child)
        return child

    def close(self) -> None:
        """End process 1; the kernel kills the rest before unshare returns."""
        self.holder.stdin.close()
        try:
            self.holder.wait(10)
        except subprocess.TimeoutExpired:
            self.holder.kill()  # --kill-child
            self.holder.wait()
        for child in self.children:
            child.wait()
        for process in (*self.children, self.holder):
            for stream in (process.stdout, process.stderr):
                if stream:
                    stream.close()

    # Hooks

    def link_hook(self, name: str, target: Path) -> None:
        """A link in qemu.d, as the package makes it. libvirtd never looks again if it found no hook when it started."""
        directory = self.path("/etc/libvirt/hooks/qemu.d")
        directory.mkdir(parents=True, exist_ok=True)
        (directory / name).symlink_to(target)

    def add_hook(self, name: str, script: str) -> None:
        """A second hook in qemu.d (they run in byte order). `script`: sh, without its first line; $1 domain, $2 op."""
        self.write(f"/etc/libvirt/hooks/qemu.d/{name}", "#!/bin/sh\n" + script)
        self.path(f"/etc/libvirt/hooks/qemu.d/{name}").chmod(0o755)

    def remove_hook(self, name: str) -> None:
        self.path(f"/etc/libvirt/hooks/qemu.d/{name}").unlink(missing_ok=True)

    # libvirtd

    def virsh(self, *argv: object, check: bool = True, input: str | None = None, timeout: float = 90):
        return self.run(["virsh", "-q", "-c", "qemu:///system", *argv], check=check, input=input, timeout=timeout)

    def create(self, xml: str, *options: str, check: bool = True):
        """`virsh create`: a transient domain."""
        return self.virsh("create", "/dev/stdin", *options, input=xml, check=check)

    def define(self, xml: str) -> None:
        self.virsh("define", "/dev/stdin", input=xml)

    def state(self, domain: str) -> str:
        """`running`, `paused`, `shut off`, or "" when libvirt does not know it."""
        return self.virsh("domstate", domain, check=False).stdout.strip()

    def start_libvirtd(self) -> None:
        self.run(self.daemon)
        end = time.monotonic() + 60
        while self.virsh("list", check=False).returncode:
            if time.monotonic() > end:
                raise CommandFailed("libvirtd does not answer\n" + self.libvirtd_log())
            time.sleep(0.05)

    def stop_libvirtd(self, signal: str = "TERM") -> None:
        """End libvirtd alone: guests and running hooks live on."""
        pid = self.path("/run/libvirtd.pid").read_text().strip()
        self.run(["kill", "-s", signal, pid])
        self.wait_for(lambda: self.run(["kill", "-0", pid], check=False).returncode, "libvirtd to end", 30)

    def libvirtd_log(self) -> str:
        try:
            return self.path("/var/log/libvirt/libvirtd.log").read_text(errors="replace")
        except FileNotFoundError:
            return ""

    def qemu_pid(self, domain: str) -> str:
        """The process id inside the host's own process namespace."""
        return self.path(f"/run/libvirt/qemu/{domain}.pid").read_text().strip()

    def wait_for(self, condition, what: str, timeout: float = 20) -> None:
        end = time.monotonic() + timeout
        while not condition():
            if time.monotonic() > end:
                raise AssertionError(f"{self.name}: waited {timeout} s for {what}")
            time.sleep(0.05)

    def wait_gone(self, domain: str, timeout: float = 20) -> None:
        """Wait until libvirt has cleaned up after a domain: off or forgotten, and its `release` hook has returned."""
        self.wait_for(lambda: self.state(domain) in ("", "shut off"), f"{domain} to be gone", timeout)
        # libvirt says `shut off` before it runs `stopped` and `release`; a query that takes the domain's job waits for
        # them, but a transient domain is forgotten at once: look at the hooks themselves.
        self.wait_for(lambda: not self.hooks_running(), "its hooks to return", timeout)

    def hooks_running(self) -> list[str]:
        """Command lines of the hooks that libvirtd runs now."""
        out = self.run(["ps", "-eo", "args"], check=False).stdout.splitlines()
        return [line for line in out if "/etc/libvirt/hooks/" in line]


class Router(Node):
    """Gateway of `public`, peer of `lan`. It answers at once: no duplicate address detection on its own addresses."""

    def __init__(self, name: str = "router"):
        super().__init__(name)
        self.hosts = 0
        self.sh(f"""
            for f in ipv4/ip_forward ipv6/conf/all/forwarding; do echo 1 > /proc/sys/net/$f; done
            echo 0 > /proc/sys/net/ipv6/conf/default/accept_dad
            for dev in public0 lan0; do
                ip link add $dev type bridge mcast_snooping 0
                ip link set $dev up
            done
            ip link set public0 address 02:00:00:00:00:01
            ip link set lan0 address 02:00:00:00:09:01
            ip addr add 192.0.2.1/24 dev public0
            ip -6 addr add 2001:db8::1/64 dev public0 nodad
            ip addr add 10.9.0.1/24 dev lan0
            ip addr add {OUTSIDE4}/32 dev lo
            ip -6 addr add {OUTSIDE6}/128 dev lo
        """)

    def connect(self, host: Host) -> None:
        """Wire a host's uplink `eth1` and its bridge `br0` (port `eth2`) to the two segments."""
        n = self.hosts = self.hosts + 1
        # From our side: the host's own process namespace does not know our process id.
        wire(self, f"public{n}", host, "eth1", mac_b=f"02:00:00:00:01:{n:02x}")
        wire(self, f"lan{n}", host, "eth2", mac_b=f"02:00:00:00:02:{n:02x}")
        self.sh(f"ip link set public{n} master public0 up; ip link set lan{n} master lan0 up")
        host.sh("""
            # An uplink of an IP-less host: up, no address but its link-local one.
            ip link set eth1 up
            ip link add br0 type bridge mcast_snooping 0
            ip link set eth2 master br0 up
            ip link set br0 up
        """)


# --- process 1 of a host ------------------------------------------------------------------------------------


def _mount(*words: str) -> None:
    subprocess.run(["mount", *words], check=True)


def process_1(name: str) -> None:
    """Make the namespaces a libvirt host, say `ready`, reap orphans until stdin ends."""
    subprocess.run(["hostname", name], check=True)
    _mount("-t", "proc", "proc", "/proc")
    # sysfs shows the devices of the network namespace that mounted it; without the cgroups below, libvirt uses none.
    if subprocess.run(["umount", "-R", "/sys"], stderr=subprocess.DEVNULL).returncode:
        subprocess.run(["umount", "-l", "/sys"], check=True)
    _mount("-t", "sysfs", "sysfs", "/sys")
    _mount("-t", "tmpfs", "-o", "mode=755", "tmpfs", "/run")
    for each in ("/run/lock", "/run/etc", "/run/guests"):
        os.mkdir(each)
    subprocess.run("cp -a /etc/. /run/etc/", shell=True, check=True)
    _mount("--bind", "/run/etc", "/etc")
    for each in ("/var/lib/libvirt", "/var/log/libvirt", "/var/cache/libvirt", "/var/lib/vmnet-hooks"):
        os.makedirs(each, exist_ok=True)
        _mount("-t", "tmpfs", "-o", "mode=755", "tmpfs", each)
    for each in ("/etc/libvirt/hooks", "/etc/libvirt/qemu", "/etc/vmnet-hooks", "/etc/iproute2/rt_tables.d"):
        shutil.rmtree(each, ignore_errors=True)
        os.makedirs(each)
    Path("/etc/libvirt/libvirtd.conf").write_text(LIBVIRTD_CONF.format(uuid=uuid.uuid4()))
    Path("/etc/libvirt/qemu.conf").write_text(QEMU_CONF)
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    subprocess.run(["virtlogd", "-d"], check=True)
    print("ready", flush=True)
    while True:
        readable, _, _ = select.select([0], [], [], 0.2)
        if readable and not os.read(0, 4096):
            os._exit(0)
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            pass


if __name__ == "__main__" and sys.argv[1:2] == ["process-1"]:
    process_1(sys.argv[2])
