"""Machines made of namespaces: a `Node` is one mount and one network namespace, kept by one sleeping process.

Nothing outside the namespaces is touched, except that the folders of MOUNTS are created on the machine when they are not
there: a mount needs a directory to stand on. When the test run dies, even by SIGKILL, every node dies with it (the
holder reads from a pipe that only we hold open).
"""

from __future__ import annotations

import difflib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

from .hooks import HOOKS

ROOT = Path(__file__).resolve().parents[2]
HOOK = HOOKS / "libvirt" / "qemu"
IFUP = HOOKS / "qemu" / "ifup"
IFDOWN = HOOKS / "qemu" / "ifdown"
# What libvirt gives its hooks: nothing of the caller's environment, see "Process context" of libvirt's hooks page.
ENV = {"LC_ALL": "C", "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root"}
# A venv's packages are visible to its own interpreter only; without a venv, the hook's first line names the right one.
IN_VENV = sys.prefix != sys.base_prefix
MOUNTS = ("/run", "/etc/vmnet-hooks", "/etc/iproute2/rt_tables.d", "/var/lib/vmnet-hooks")

# The holder: `cat` ends when our end of its stdin closes. sysfs shows the devices of the namespace that mounted it.
HOLDER = """
umount -R /sys 2>/dev/null || umount -l /sys || :
mount -t sysfs sysfs /sys
for dir in {mounts}; do mount -t tmpfs -o mode=755 tmpfs "$dir"; done
mkdir -p /run/lock
ip link set lo up
echo ready
exec cat >/dev/null
"""


class CommandFailed(AssertionError):
    """A command in a node exited with another status than 0; the message holds all that it printed."""


def ran(argv: Sequence[str], done: subprocess.CompletedProcess[str]) -> subprocess.CompletedProcess[str]:
    """Return `done`, or raise CommandFailed if its status is not 0."""
    if done.returncode:
        raise CommandFailed(f"{' '.join(map(str, argv))}: exit status {done.returncode}\n{done.stdout}{done.stderr}")
    return done


class Node:
    """One machine: own network, own /run, /etc/vmnet-hooks, /var/lib/vmnet-hooks, /etc/iproute2/rt_tables.d and /sys."""

    def __init__(self, name: str):
        self.name = name
        for path in MOUNTS:
            os.makedirs(path, exist_ok=True)
        self.children: list[subprocess.Popen] = []
        self.holder = subprocess.Popen(
            [
                "unshare",
                "--mount",
                "--net",
                "--propagation",
                "private",
                "sh",
                "-ec",
                HOLDER.format(mounts=" ".join(MOUNTS)),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=ENV,
        )
        if self.holder.stdout.readline().strip() != "ready":
            self.holder.kill()
            raise CommandFailed(f"node {name} did not start: {self.holder.stderr.read()}")
        self.pid = self.holder.pid
        # The kernel reuses inode numbers of namespaces. While this is open, it keeps the namespace and its number.
        self.opened: int | None = os.open(f"/proc/{self.pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        self.netns = os.fstat(self.opened).st_ino

    def __repr__(self) -> str:
        return f"Node({self.name})"

    def __enter__(self) -> Node:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Kill every process of this node, also those that detached themselves, and with them its namespaces. Once is enough:
        a test may close a guest that its host's stack closes too."""
        if self.opened is None:
            return
        for child in self.children:
            if child.poll() is None:
                child.kill()
        # A process can fork while we look: the list must come out empty once.
        for _ in range(50):
            pids = [pid for pid in self.processes() if pid != self.pid]
            for pid in pids:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    pass
            if not pids:
                break
            time.sleep(0.02)
        self.holder.kill()
        for process in (*self.children, self.holder):
            process.wait()
            for stream in (process.stdin, process.stdout, process.stderr):
                if stream:
                    try:
                        stream.close()
                    except BrokenPipeError:
                        pass
        os.close(self.opened)
        self.opened = None

    def processes(self) -> list[int]:
        """Process ids of all that runs in this node's network namespace."""
        found = []
        for entry in os.listdir("/proc"):
            if entry.isdigit():
                try:
                    with open(f"/proc/{entry}/stat", "rb") as stat:
                        zombie = stat.read().rpartition(b")")[2].split()[0] == b"Z"
                    if not zombie and os.stat(f"/proc/{entry}/ns/net").st_ino == self.netns:
                        found.append(int(entry))
                except OSError:
                    pass  # gone, or a kernel thread
        return found

    @staticmethod
    def command(pid: int) -> str:
        """The command line of a process; empty if it is gone."""
        try:
            with open(f"/proc/{pid}/cmdline") as file:
                return file.read().replace("\0", " ")
        except OSError:
            return ""

    def enter(self, argv: Iterable[object]) -> list[str]:
        """The command line that runs `argv` in this node, from outside."""
        return ["nsenter", "-t", str(self.pid), "-m", "-n", "--", *map(str, argv)]

    def run(
        self,
        argv: Sequence[object] | str,
        input: str | None = None,
        check: bool = True,
        timeout: float = 60,
        env: dict[str, str] | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command (a string: split at blanks) to its end."""
        words = argv.split() if isinstance(argv, str) else [str(word) for word in argv]
        done = subprocess.run(
            self.enter(words),
            input=input,
            stdin=None if input is not None else subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
            env=env or ENV,
        )
        return ran([f"[{self.name}]", *words], done) if check else done

    def sh(self, script: str, check: bool = True, timeout: float = 60) -> str:
        """Run a shell script (stops at its first error), return what it printed."""
        return self.run(["sh", "-ec", script], check=check, timeout=timeout).stdout

    def popen(self, argv: Sequence[object] | str, **options: object) -> subprocess.Popen:
        """Start a command; it is killed, at the latest, with the node."""
        words = argv.split() if isinstance(argv, str) else argv
        options.setdefault("stdin", subprocess.DEVNULL)
        options.setdefault("text", True)
        child = subprocess.Popen(self.enter(words), env=options.pop("env", ENV), **options)
        self.children.append(child)
        return child

    # Files. /proc/PID/root is the node's own view of the file system.

    def path(self, path: str) -> Path:
        """Where the node's file `path` is for us. (Not for /proc: that answers for the reader.)"""
        return Path(f"/proc/{self.pid}/root{path}")

    def write(self, path: str, text: str) -> None:
        self.path(path).parent.mkdir(parents=True, exist_ok=True)
        self.path(path).write_text(text)

    def config(self, text: str) -> None:
        """Write vmnet.toml."""
        self.write("/etc/vmnet-hooks/vmnet.toml", text)

    def domain_toml(self, name: str, text: str | None) -> None:
        """Write domains.d/NAME.toml; None removes it."""
        if text is None:
            self.path(f"/etc/vmnet-hooks/domains.d/{name}.toml").unlink(missing_ok=True)
        else:
            self.write(f"/etc/vmnet-hooks/domains.d/{name}.toml", text)

    def sysctl(self, key: str, value: object = None) -> str:
        """Read or set one value, named as a path below /proc/sys/net: `ipv4/conf/all/rp_filter`."""
        path = f"/proc/sys/net/{key}"
        if value is not None:
            self.sh(f"echo {value} > {path}")
        return self.sh(f"cat {path}").strip()

    # The product.

    def program(self, path: Path, *argv: str) -> list[str]:
        return [*((sys.executable, "-IS") if IN_VENV else ()), str(path), *argv]

    def hook(self, domain: str, op: str, sub: str, xml: str, extra: str = "-") -> subprocess.CompletedProcess[str]:
        """Call the qemu hook as libvirt does. The exit status is the caller's to judge."""
        return self.run(self.program(HOOK, domain, op, sub, extra), input=xml, check=False)

    def ifup(self, ifname: str) -> subprocess.CompletedProcess[str]:
        return self.run(self.program(IFUP, ifname), check=False)

    def ifdown(self, ifname: str) -> subprocess.CompletedProcess[str]:
        return self.run(self.program(IFDOWN, ifname), check=False)

    def cli(self, *argv: object, input: str | None = None) -> subprocess.CompletedProcess[str]:
        """Run `vmnet-hook`. The exit status is the caller's to judge."""
        python = sys.executable if IN_VENV else "/usr/bin/python3"
        return self.run(
            [python, "-m", "vmnet_hooks.cli", *argv],
            input=input,
            check=False,
            env={**ENV, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1", "LC_ALL": "C.UTF-8"},
        )


class Switch(Node):
    """A dumb Ethernet segment: a bridge that learns, and nothing else."""

    def __init__(self, name: str):
        super().__init__(name)
        self.ports = 0
        # No IPv6 and no multicast snooping: the segment says nothing of its own and carries all multicast at once.
        self.sh(
            "echo 1 > /proc/sys/net/ipv6/conf/all/disable_ipv6; echo 1 > /proc/sys/net/ipv6/conf/default/disable_ipv6\n"
            "ip link add br0 type bridge mcast_snooping 0; ip link set br0 up"
        )

    def plug(self, node: Node, ifname: str, mac: str) -> None:
        """Give `node` an interface on this segment, up."""
        port = f"p{self.ports}"
        self.ports += 1
        wire(node, ifname, self, port, mac_a=mac)
        self.run(f"ip link set {port} master br0 up")
        # A segment that has been up for long: its duplicate address detection is over.
        node.sh(f"echo 0 > /proc/sys/net/ipv6/conf/{ifname}/accept_dad; ip link set {ifname} up")


def wire(a: Node, ifa: str, b: Node, ifb: str, mac_a: str | None = None, mac_b: str | None = None) -> None:
    """A cable (veth) between two nodes, both ends down."""
    # The kernel takes a namespace down, and the cables in it, a moment after its last process: one of the same name may be going.
    gone_by = time.monotonic() + 5
    while a.run(["ip", "link", "show", "dev", ifa], check=False).returncode == 0 and time.monotonic() < gone_by:
        time.sleep(0.005)
    words_a = ["address", mac_a] if mac_a else []
    words_b = ["address", mac_b] if mac_b else []
    a.run(["ip", "link", "add", ifa, *words_a, "type", "veth", "peer", "name", ifb, *words_b, "netns", b.pid])


# --- the state of a node as text ------------------------------------------------------------------------------------

# -N: numbers, or a name that is registered in rt_tables.d would change how an unchanged route prints.
COMMANDS = (
    "ip -N -d -o link show",
    "ip -N -o addr show",
    "ip -N -4 route show table all",
    "ip -N -6 route show table all",
    "ip -N -4 rule show",
    "ip -N -6 rule show",
    "ip -N -4 neigh show nud permanent",
    "ip -N -6 neigh show nud permanent",
    "ip -N -4 neigh show proxy",
    "ip -N -6 neigh show proxy",
    "ip -N maddr show",
    "bridge fdb show",
    "nft -s list ruleset",
    "grep -r . /proc/sys/net/ipv4 /proc/sys/net/ipv6 /proc/sys/net/bridge",
    "grep -r . /etc/iproute2/rt_tables.d",
)
# Lines whose order says nothing: the kernel walks hash tables, or creation order.
UNORDERED = ("route", "neigh", "fdb", "grep", "maddr")
NOISE = (
    (re.compile(r" (\w+_timer) +[0-9.]+"), r" \1 *"),  # bridge timers run
    (re.compile(r" (valid_lft|preferred_lft|expires) +\w+"), ""),  # lifetimes run down
    (re.compile(r" (tentative|optimistic|nodad)\b"), ""),  # duplicate address detection runs on its own clock
    (re.compile(r" age [0-9]+sec"), ""),  # route ages
    (re.compile(r" fdb_n_learned \d+"), " fdb_n_learned *"),  # what a bridge has learnt from traffic
    (re.compile(r" promiscuity \d+ "), " promiscuity * "),  # a tcpdump that has just ended
    (re.compile(r"(: vmnet-ifb: .* link/\[1\]) \S+"), r"\1 *"),  # random, and used by no frame
    (re.compile(r" linkdown\b"), ""),  # follows the carrier, which the guest's end decides
)
# Counters that live among the sysctls, and one that is random by design.
NOISY_SYSCTLS = re.compile(r"/(tcp_fastopen_key|nf_conntrack_count|fib_multipath_hash_seed|stable_secret):")


def canonical(command: str, output: str) -> str:
    lines = []
    for line in output.splitlines():
        for pattern, replacement in NOISE:
            line = pattern.sub(replacement, line)
        line = line.rstrip()
        if command.startswith("bridge") and "permanent" not in line and "static" not in line:
            continue  # learnt from traffic
        if command.startswith("grep") and NOISY_SYSCTLS.search(line):
            continue
        lines.append(line)
    if "maddr" in command:
        # One block per interface: make each line carry its interface, so that the lines can be sorted.
        ifname, flat = "", []
        for line in lines:
            if line[:1].isdigit():
                ifname = line.split()[-1]
            else:
                flat.append(f"{ifname} {' '.join(line.split())}")
        lines = flat
    if " rule " in command:
        # Rules of one priority: in the order in which they came; ours of one priority all say the same.
        lines.sort(key=lambda line: (int(line.split(":")[0]), line) if line else (0, ""))
    if command.startswith("nft"):
        # Tables print in the order in which they were made.
        text = re.sub(r"(?s)(?:\tchain port-.*?\n\t\}\n\n?)+", _sorted_ports, "\n".join(lines) + "\n")
        text = re.sub(r"(?s)\t\telements = \{(.*?)\}\n", lasting, text)
        return "".join(sorted(re.split(r"(?m)^(?=table )", text)))
    if any(word in command for word in UNORDERED):
        lines.sort()
    return "\n".join(lines)


def _sorted_ports(chains: re.Match[str]) -> str:
    """The chains of ports, in the order of their names: they print as they were made."""
    found = sorted(re.findall(r"(?s)\tchain port-.*?\n\t\}\n", chains[0]))
    return "\n".join(found) + "\n" * chains[0].endswith("\n\n")


def lasting(elements: re.Match[str]) -> str:
    """The elements of a set without those that rules add for a time."""
    found = [element.strip() for element in elements[1].split(",") if " timeout " not in element]
    return "\t\telements = {{ {} }}\n".format(",\n\t\t\t     ".join(found)) if found else ""


def dump(node: Node) -> str:
    """Everything in the node that a hook can change, in a form that is equal exactly when the state is. Without the tables that
    live and die with the agent."""
    script = "\n".join(f"echo '### {command}'; {command} 2>/dev/null || :" for command in COMMANDS)
    output = node.sh(script)
    output = re.sub(r"(?ms)^table \w+ vmnet_keeper \{.*?^\}\n", "", output)
    parts = re.split(r"^### (.*)\n", output, flags=re.M)[1:]
    return "\n".join(f"### {command}\n{canonical(command, text)}" for command, text in zip(parts[::2], parts[1::2], strict=True))


def settled(node: Node, timeout: float = 5) -> str:
    """`dump(node)` once two dumps in a row agree and no address is tentative (the kernel adds link-local ones by
    itself)."""
    end = time.monotonic() + timeout
    last = ""
    while time.monotonic() < end:
        tentative = node.run("ip -6 -o addr show tentative").stdout
        now = dump(node)
        if now == last and not tentative:
            return now
        last = now
        time.sleep(0.1)
    return last


def without_anycast(state: str, links: str = r"tap\S*") -> str:
    """A dump without the memberships of the anycast address fe80:: of `links` (a pattern). The kernel joins it when forwarding
    comes on with an address there, and leaves it with any address that goes, also one that never joined: so it depends on the
    order of events long past. It is in no plan, and nobody uses it (a router's link-local anycast)."""
    groups = "inet6 ff02::1:ff00:0|link 33:33:ff:00:00:00"
    marks = re.compile(rf"^4 fe80:: dev {links}\b|^{links} ({groups})\b|^33:33:ff:00:00:00 dev {links}\b")
    return "\n".join(line for line in state.splitlines() if not marks.search(line))


def changes(before: str, after: str) -> str:
    """A readable difference of two dumps, empty when they are equal."""
    return "\n".join(difflib.unified_diff(before.splitlines(), after.splitlines(), "before", "after", lineterm="", n=0))
