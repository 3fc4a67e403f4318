"""Host networks: a hypervisor whose NICs end in machines of their own, and one whose only NIC is its life line.

Host       eth1 -- end1 (10.7.0.1)        beside what `Single` has: eth9 with the host's addresses, br0 with lan0,
           eth2 -- end2 (10.7.0.2)        and what an admin may have put there
           eth3 -- end3 (10.7.0.3)

LifeLine   eth0 == switch == eth0 of the router (192.0.2.1, 2001:db8::1; behind it 198.51.100.1, 2001:db8:ffff::1)
           eth9 -- an interface that is nobody's business
"""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack

from .forkserver import ForkServer, Result
from .nodes import ENV, IN_VENV, ROOT, Node, Switch, canonical, settled, wire
from .routed import GATEWAY4, GATEWAY6, WORLD4, WORLD6, eventually
from .single import Single
from .transfer import __file__ as TRANSFER

# --- the command line -----------------------------------------------------------------------------------------------


class Product:
    """`vmnet-hook` in a node, loaded once: a call costs a fork. (`Command` is the real thing.)"""

    def __init__(self, node: Node):
        self.node, self.server = node, ForkServer(node)

    def __call__(self, *argv: str, status: int = 0) -> str:
        """Run it; the exit status must be `status`. Returns all that it printed."""
        result = self.tried(*argv)
        assert result.returncode == status, f"vmnet-hook {' '.join(argv)}: {result.returncode}\n{result.output}"
        return result.output

    def tried(self, *argv: str, kill: int = 0) -> Result:
        """Run it; how it ends is the caller's to judge."""
        return self.server.cli(*argv, kill=kill)

    def running(self) -> list[str]:
        """Processes of the product that are left in the node."""
        node, own = self.node, self.server.process.pid
        commands = {pid: node.command(pid) for pid in node.processes() if pid != own}
        return [command for command in commands.values() if "vmnet_hooks" in command or "forkserver" in command]


def refusal(result: Result, *words: str) -> Result:
    """Check that a command refused, with one line that holds each of `words`."""
    lines = result.output.splitlines()
    assert result.returncode in (1, 2), result
    assert len(lines) == 1 and lines[0].startswith("vmnet-hook: "), result
    for word in words:
        assert word in lines[0], f"it does not say {word!r}: {lines[0]}"
    return result


def commands(plan: str) -> list[str]:
    """What a printed plan would run."""
    return [line for line in plan.splitlines() if line and not line.startswith("#")]


def attribute(node: Node, ifname: str, name: str) -> str:
    """One of a bridge's or port's attributes, as in sysfs: `bridge/stp_state`, `address`, `mtu`."""
    return node.path(f"/sys/class/net/{ifname}/{name}").read_text().strip()


def exists(node: Node, ifname: str) -> bool:
    return node.path(f"/sys/class/net/{ifname}").exists()


def ports(node: Node, bridge: str) -> list[str]:
    return sorted(path.name for path in node.path(f"/sys/class/net/{bridge}/brif").iterdir())


def without_birth(state: str) -> str:
    """A dump without what tells a bridge from the same bridge made anew: interface indexes, to which of its own ports a
    bridge ascribes the MAC that it shares with one, and how long a port waits for the spanning tree: it listens, then learns."""
    state = re.sub(r"(?m)^\d+: (?=\S+ |\S+: <)", "", state)
    state = re.sub(r"(?m)^(\S+) dev \S+ (vlan 1 )?master (\S+) permanent$", r"\1 master \3 permanent", state)
    state = re.sub(r" bridge_slave state (listening|learning) ", " bridge_slave state listening ", state)
    sections = re.split(r"(?m)^(?=### )", state)
    return "\n".join(part if part.startswith("### nft") else "\n".join(sorted(part.splitlines())) for part in sections)


# --- what goes on meanwhile -----------------------------------------------------------------------------------------


class Pinging:
    """`ping -i 0.01` while the block runs. Afterwards: `lost`, how many requests had no answer, and `gap`, the longest
    row of them; at the end the answers must come again."""

    def __init__(self, node: Node, target: str, back_within: float = 10):
        self.node, self.target, self.back_within = node, target, back_within
        self.missing: list[int] = []

    def __enter__(self) -> Pinging:
        self.file = tempfile.TemporaryFile("w+")
        self.process = self.node.popen(["ping", "-n", "-i", "0.01", self.target], stdout=self.file, stderr=-2)
        self.answered(5, 10)
        return self

    def answers(self) -> list[int]:
        self.file.seek(0)
        return [int(number) for number in re.findall(r"bytes from .* icmp_seq=(\d+) .*time=", self.file.read())]

    def answered(self, count: int, timeout: float) -> None:
        """Wait for `count` more answers."""
        before = len(self.answers())
        assert eventually(lambda: len(self.answers()) >= before + count, timeout), f"{self.target} does not answer {self.node}"

    def __exit__(self, kind: object, *_exc: object) -> None:
        try:
            if kind is None:
                self.answered(20, self.back_within)
        finally:
            self.process.send_signal(signal.SIGINT)
            self.process.wait()
            self.node.children.remove(self.process)
            answers = self.answers()
            self.file.close()
        self.missing = sorted(set(range(answers[0], max(answers))) - set(answers)) if answers else []

    @property
    def lost(self) -> int:
        return len(self.missing)

    @property
    def gap(self) -> int:
        longest = run = 0
        for before, number in zip([0, *self.missing], self.missing, strict=False):
            run = run + 1 if number == before + 1 else 1
            longest = max(longest, run)
        return longest


class Transfer:
    """A TCP connection between two nodes, busy in both directions while the block runs; it must end intact."""

    PORT = "5001"

    def __init__(self, client: Node, server: Node, address: str):
        self.client, self.server, self.address = client, server, address

    def _start(self, node: Node, role: str) -> subprocess.Popen:
        argv = ["/usr/bin/python3", "-IS", TRANSFER, role, self.address, self.PORT]
        process = node.popen(argv, stdin=-1, stdout=-1, stderr=-2)
        assert process.stdout.readline() == "ready\n", process.stdout.read()
        return process

    def __enter__(self) -> Transfer:
        self.ends = [self._start(self.server, "listen"), self._start(self.client, "connect")]
        self.goes_on(10)
        return self

    def received(self) -> int:
        end = self.ends[1]
        end.stdin.write("\n")
        end.stdin.flush()
        return int(end.stdout.readline())

    def goes_on(self, timeout: float = 30) -> None:
        """Wait until another 100 kB have come."""
        before = self.received()
        assert eventually(lambda: self.received() > before + 100_000, timeout), f"TCP stands still after {before} bytes"

    def __exit__(self, kind: object, *_exc: object) -> None:
        if kind is None:
            self.goes_on()
            outputs = [end.communicate(timeout=30)[0] for end in reversed(self.ends)]
            assert all(end.returncode == 0 for end in self.ends) and all("intact" in text for text in outputs), outputs


# --- Host -----------------------------------------------------------------------------------------------------------


class Host(Single):
    """A host with three spare NICs, each with a machine at its other end. eth1 is up, the others are not."""

    def __init__(self, config: str = "", **options: bool):
        super().__init__(config, **options)
        try:
            self.vmnet = Product(self.host)
            self.ends = [self.stack.enter_context(Node(f"end{number}")) for number in (1, 2, 3)]
            for number, end in enumerate(self.ends, 1):
                mac = f"02:00:00:00:0{number}"
                wire(self.host, f"eth{number}", end, "eth0", f"{mac}:01", f"{mac}:02")
                end.sh(
                    "echo 0 > /proc/sys/net/ipv6/conf/eth0/accept_dad; ip link set eth0 up\n"
                    f"ip addr add 10.7.0.{number}/24 dev eth0; ip -6 addr add fd07::{number}/64 dev eth0 nodad"
                )
                # Having been up once is something that the kernel does not forget (qdisc, multicast): so it was, before us.
                self.host.sh(f"ip link set eth{number} up")
            self.host.sh("ip link set eth2 down; ip link set eth3 down")
            assert eventually(lambda: "fe80::" in self.host.run("ip -6 addr show dev eth1 -tentative").stdout)
        except BaseException:
            self.stack.close()
            raise

    def index(self, ifname: str) -> str:
        return attribute(self.host, ifname, "ifindex")


# --- LifeLine -------------------------------------------------------------------------------------------------------


class Uplinks:
    """A switch with a router; hosts plug in."""

    def __init__(self) -> None:
        self.stack = ExitStack()
        try:
            self.switch = self.stack.enter_context(Switch("switch"))
            self.router = self.stack.enter_context(Node("router"))
            self.switch.plug(self.router, "eth0", "02:00:00:00:00:01")
            self.router.sh(f"""
                echo 1 > /proc/sys/net/ipv4/ip_forward; echo 1 > /proc/sys/net/ipv6/conf/all/forwarding
                ip addr add {GATEWAY4}/24 dev eth0; ip -6 addr add {GATEWAY6}/64 dev eth0 nodad
                ip addr add {WORLD4}/32 dev lo; ip -6 addr add {WORLD6}/128 dev lo nodad
            """)
        except BaseException:
            self.stack.close()
            raise

    def __enter__(self) -> Uplinks:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.stack.close()

    def host(self, last: int = 10, config: str = "") -> LifeLine:
        return LifeLine(self, last, config)


class LifeLine:
    """A host whose eth0 carries everything: addresses, routes of two tables, neighbours, sysctls of its own."""

    def __init__(self, uplinks: Uplinks, last: int, config: str):
        self.last, self.router = last, uplinks.router
        self.port = f"p{uplinks.switch.ports}"
        self.mac = f"02:00:00:00:00:{last:02x}"
        self.ip4, self.second4, self.ip6 = f"192.0.2.{last}", f"192.0.2.{100 + last}", f"2001:db8::{last}"
        self.node = node = uplinks.stack.enter_context(Node(f"host{last}"))
        self.vmnet = Product(node)
        uplinks.switch.plug(node, "eth0", self.mac)
        peer = uplinks.stack.enter_context(Node(f"peer{last}"))
        wire(node, "eth9", peer, "eth9", f"02:00:00:09:00:{last:02x}")
        peer.sh("ip link set eth9 up")
        via4, via6 = f"via {GATEWAY4} dev eth0", f"via {GATEWAY6} dev eth0"
        # Duplicate address detection as a host has it: an address that moves must not wait for it again.
        node.sh(f"""
            echo 1 > /proc/sys/net/ipv6/conf/eth0/accept_dad
            cd /proc/sys/net; echo 2 > ipv4/conf/eth0/rp_filter; echo 1 > ipv4/conf/eth0/arp_ignore
            echo 0 > ipv6/conf/eth0/accept_ra
            ip addr add {self.ip4}/24 brd + dev eth0; ip addr add {self.second4}/24 dev eth0
            ip addr add 198.18.{last}.5/28 dev eth0 label eth0:1
            ip addr add 10.99.{last}.1 peer 10.99.{last}.2/32 dev eth0
            ip -6 addr add {self.ip6}/64 dev eth0 nodad
            ip route add default {via4}; ip -6 route add default {via6}
            ip route add 203.0.113.0/25 {via4} metric 50 src {self.second4} proto static
            ip route add 203.0.113.128/25 {via4} mtu 1400 advmss 1300
            ip route add 198.18.200.0/24 dev eth0 scope link metric 7
            ip route add 198.18.201.0/24 via 203.0.113.1 dev eth0 onlink
            ip route add unreachable 198.18.202.0/24
            ip route add default {via4} table 100; ip route add 192.0.2.0/24 dev eth0 src {self.second4} table 100
            ip rule add from {self.second4} lookup 100 pref 1000
            ip -6 route add 2001:db8:77::/48 {via6} metric 55 src {self.ip6}
            ip -6 route add 2001:db8:78::/48 {via6} mtu 1400 proto static
            ip -6 route add default {via6} table 100
            ip -6 rule add from fd99:{last}::/64 lookup 100 pref 1000
            ip neigh add 192.0.2.77 lladdr 02:00:00:00:00:77 dev eth0 nud permanent
            ip -6 neigh add 2001:db8::77 lladdr 02:00:00:00:00:77 dev eth0 nud permanent
            echo 0 > /proc/sys/net/ipv6/conf/eth9/accept_dad
            ip link set eth9 up; ip addr add 10.0.1.1/24 dev eth9; ip -6 addr add fd00:1::1/64 dev eth9 nodad
            ip route add 198.18.0.0/24 dev eth9 table 100
            nft add table inet filter
            nft add chain inet filter input '{{ type filter hook input priority 0; policy accept; }}'
        """)
        node.config(config)
        assert eventually(
            lambda: all("fe80::" in node.run(f"ip -6 addr show dev {n} -tentative").stdout for n in ("eth0", "eth9"))
        )

    def state(self) -> str:
        return settled(self.node)

    def carries(self, ifname: str) -> dict[str, list[str]]:
        """What a takeover has to carry along, as it is on `ifname` now, with the name taken out."""
        found = {}
        for what, command in {
            "addresses": f"ip -N -o addr show dev {ifname}",
            "routes4": "ip -N -4 route show table all",
            "routes6": "ip -N -6 route show table all",
            "neighbours4": f"ip -N -4 neigh show nud permanent dev {ifname}",
            "neighbours6": f"ip -N -6 neigh show nud permanent dev {ifname}",
        }.items():
            lines = canonical(command, self.node.run(command).stdout).splitlines()
            if "route" in command:
                lines = [line for line in lines if f"dev {ifname} " in f"{line} "]
            # The number and the name; an address's label, which may follow the device.
            lines = [re.sub(rf"^\d+: {ifname}\b|\b{ifname}\b(:1)?|\\", "-", line) for line in lines]
            found[what] = sorted(" ".join(line.split()) for line in lines)
        return found

    def sysctls(self, ifname: str) -> dict[str, str]:
        """Every sysctl of an interface."""
        script = f"cd /proc/sys/net; grep -r . ipv4/conf/{ifname} ipv4/neigh/{ifname} ipv6/conf/{ifname} ipv6/neigh/{ifname}"
        lines = self.node.sh(f"{script} 2>/dev/null || :").splitlines()
        return dict(line.replace(f"/{ifname}/", "/-/").split(":", 1) for line in lines)

    def is_taken_over(self, bridge: str = "xenbr0") -> bool:
        return f"inet {self.ip4}/" in self.node.run(["ip", "addr", "show", "dev", bridge], check=False).stdout

    def back(self, before: str, timeout: float) -> bool:
        """Poll until everything is as it was."""
        return eventually(lambda: not exists(self.node, "xenbr0") and self.state() == before, timeout, every=0.3)


class Command:
    """`vmnet-hook` as a process that is looked at, killed or left alone while it runs. It has a session of its own."""

    def __init__(self, node: Node, *argv: str, prefix: Sequence[str] = (), **options: object):
        self.node, self.argv = node, argv
        self.output = tempfile.TemporaryFile("w+")
        python = sys.executable if IN_VENV else "/usr/bin/python3"
        self.began = time.monotonic()
        self.process = node.popen(
            [*prefix, python, "-m", "vmnet_hooks.cli", *argv],
            env={**ENV, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1", "LC_ALL": "C.UTF-8"},
            **{"stdout": self.output, "stderr": self.output, "start_new_session": not prefix, **options},
        )

    @property
    def running(self) -> bool:
        return self.process.poll() is None

    @property
    def text(self) -> str:
        """All that it has printed so far."""
        self.output.seek(0)
        return self.output.read()

    def wait(self, status: int | None = 0, timeout: float = 60) -> str:
        """Wait for its end; with `status` it must be that one. Returns all that it printed."""
        got = self.process.wait(timeout)
        self.node.children.remove(self.process)
        assert status is None or got == status, f"vmnet-hook {' '.join(self.argv)}: {got}\n{self.text}"
        return self.text

    def kill(self, after: float = 0) -> None:
        """SIGKILL, `after` seconds from its start."""
        time.sleep(max(0, self.began + after - time.monotonic()))
        self.process.kill()
        self.wait(None)
