"""Guests of a real Xen, from within dom0: `Guest` is a domU that obeys its console, `World` what lies around dom0.

outside (a node) ── eth0, dom0's uplink         203.0.113.9 and 2001:db8:9::9 are somewhere behind it
                 └─ lan1 ── lan0, port of dom0's bridge lan
"""

from __future__ import annotations

import os
import re
import select
import sqlite3
import subprocess
import time
import tty
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

from .nodes import CommandFailed, Node, changes, dump, ran, wire
from .xen_idle import kernel

SCRIPTS = Path("/etc/xen/scripts")
KERNEL, INITRD = "/lab/vmlinux", "/lab/guest.cpio"
BOOT = 180  # seconds
ENV = {"LC_ALL": "C.UTF-8", "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root"}
FAR4, FAR6 = "203.0.113.9", "2001:db8:9::9"
MAC = "00:16:3e:00:00:{:02x}"
# The tap's own address, from fe:ff:ff:ff:ff:ff: a routed guest's gateway.
GATEWAY6 = "fe80::fcff:ffff:feff:ffff"


def eventually(condition, timeout: float = 60) -> bool:
    end = time.monotonic() + timeout
    while not (met := condition()) and time.monotonic() < end:
        time.sleep(0.5)
    return bool(met)


class Dom0:
    """The machine itself. Answers to what `nodes.dump` and the tests ask of a `Node`."""

    def run(
        self, argv: Sequence[object] | str, check: bool = True, timeout: float = 240, env: dict[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run a command (a string: split at blanks) to its end."""
        words = argv.split() if isinstance(argv, str) else [str(word) for word in argv]
        done = subprocess.run(
            words, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=timeout, env=ENV | (env or {})
        )
        return ran(words, done) if check else done

    def sh(self, script: str, check: bool = True, timeout: float = 240) -> str:
        """Run a shell script (stops at its first error), return what it printed."""
        return self.run(["sh", "-ec", script], check=check, timeout=timeout).stdout

    def popen(self, argv: Sequence[object], **options: Any) -> subprocess.Popen[str]:
        """Start a command. `options` are those of Popen."""
        words = [str(word) for word in argv]
        return subprocess.Popen(words, stdin=subprocess.DEVNULL, text=True, env=ENV, **options)

    @contextmanager
    def agent(self) -> Iterator[None]:
        """In the block, hooks have an agent to ask."""
        socket = Path("/run/vmnet-hooks/agent.sock")
        process = self.popen(["vmnet-hookd"])
        try:
            assert eventually(socket.exists), "the agent did not start"
            yield
        finally:
            process.terminate()
            process.wait(30)

    def xenstore(self, path: str) -> str:
        """A key's value, or an empty string if it is not there."""
        return self.run(["xenstore-read", path], check=False).stdout.strip()

    def state(self) -> str:
        """Everything that a script can change: `nodes.dump`, VLANs, our own records, and xenstore's backends of vifs."""
        rest = self.sh(
            """
            echo '### bridge vlan'; bridge vlan show
            echo '### files'
            find /run/vmnet-hooks /run/vmnet-hosts /run/xen-hotplug -type f ! -path '*state.db*' |
                grep -vxE '/run/vmnet-hooks/(lock|clock|down)' | sort
            echo '### backends'; for domain in $(xenstore-list backend/vif); do xenstore-ls -f backend/vif/$domain; done
            """,
            check=False,
        )
        # How many MACs a bridge has learnt is in `ip -d link` since Linux 6.9.
        kernel = re.sub(r" fdb_n_learned \d+", "", dump(self))
        return f"{kernel}\n{rest}### records\n{records()}"

    def assert_restored(self, before: str, timeout: float = 30) -> None:
        """The state is, or soon becomes, the one of before; else the difference is the message."""
        end = time.monotonic() + timeout
        while (now := self.state()) != before and time.monotonic() < end:
            time.sleep(1)
        assert now == before, "\n" + changes(before, now)


def records(path: str = "/run/vmnet-hooks/state.db") -> str:
    """The rows of our records, a line each; empty if there are none yet."""
    if not os.path.exists(path):
        return ""
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as db:
        tables = [name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        return "\n".join(sorted(f"{table}: {row}" for table in tables for row in db.execute(f"SELECT * FROM {table}")))


class World:
    """Dom0 and what is around it. Use as a context manager."""

    def __init__(self) -> None:
        self.dom0 = Dom0()
        self.stack = ExitStack()
        try:
            self.outside = outside = self.stack.enter_context(Node("outside"))
            for node in (self.dom0, outside):
                node.sh("for f in all default; do echo 0 > /proc/sys/net/ipv6/conf/$f/accept_dad; done")
            for ifname, far, mac in (("eth0", "eth0", "aa"), ("lan0", "lan1", "ab")):
                wire(self.dom0, ifname, outside, far, f"02:00:00:00:00:{mac}", f"02:00:00:00:01:{mac}")
            self.dom0.sh("""
                ip link add lan type bridge; ip link set lan0 master lan up; ip link set lan up
                ip link set eth0 up; ip addr add 192.0.2.1/24 dev eth0; ip -6 addr add 2001:db8::1/64 dev eth0
                ip route add default via 192.0.2.254; ip -6 route add default via 2001:db8::fe
            """)
            outside.sh(f"""
                ip link set eth0 up; ip addr add 192.0.2.254/24 dev eth0; ip -6 addr add 2001:db8::fe/64 dev eth0
                ip addr add {FAR4}/32 dev lo; ip -6 addr add {FAR6}/128 dev lo
                ip link set lan1 up; ip addr add 10.0.0.254/24 dev lan1; ip -6 addr add fd00::fe/64 dev lan1
            """)
            for address in ("192.0.2.1", "2001:db8::1"):
                assert eventually(lambda address=address: reaches(outside, address)), f"{address} is not there"
        except BaseException:
            self.stack.close()
            raise

    def __enter__(self) -> World:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.dom0.sh("ip link del lan; ip link del lan0; ip link del eth0", check=False)
        self.stack.close()

    @contextmanager
    def heard(self, ifname: str, what: str, tags: bool = False) -> Iterator[list[str]]:
        """The frames that `what` (a filter of tcpdump) picks on the outside's `ifname` meanwhile, a line each."""
        lines: list[str] = []
        argv = ["tcpdump", "-lnne", "-i", ifname, "-Q", "in", what]
        process = self.outside.popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        while "listening on" not in process.stderr.readline():
            assert process.poll() is None, "tcpdump ended"
        time.sleep(1)  # it says so before its filter is in place
        try:
            yield lines
        finally:
            time.sleep(1.5)  # its buffer
            process.terminate()
            # It ends with an empty line.
            lines += filter(None, process.communicate()[0].splitlines())


def reaches(node: Node | Dom0, address: str, count: int = 1, source: str = "") -> bool:
    words = ["ping", "-c", count, "-W", 3, *(["-I", source] if source else []), address]
    return not node.run(words, check=False).returncode


class Console:
    """What a guest's init obeys, see GUEST_INIT in xen_image.py. `path` is a pseudo terminal."""

    def __init__(self, path: str):
        self.file = os.open(path, os.O_RDWR | os.O_NOCTTY)
        tty.setraw(self.file)
        self.seen = ""
        self.number = 0

    def close(self) -> None:
        os.close(self.file)

    def read(self, seconds: float) -> bool:
        """Wait for more output. False if there was none."""
        if not select.select([self.file], [], [], seconds)[0]:
            return False
        try:
            self.seen += os.read(self.file, 4096).decode(errors="replace").replace("\r", "")
        except OSError:
            time.sleep(seconds)  # the other end is closed: the guest is gone
            return False
        return True

    def wait(self, mark: str, timeout: float) -> str:
        """What came before the line that begins with `mark`, and that line. Raises CommandFailed if it does not come."""
        end = time.monotonic() + timeout
        while not (found := re.search(rf"^{mark}.*\n", self.seen, re.M)):
            if time.monotonic() > end:
                raise CommandFailed(f"the guest did not say {mark} in {timeout} s, but:\n{self.seen[-2000:]}")
            self.read(0.5)
        before, line, self.seen = self.seen[: found.start()], found[0], self.seen[found.end() :]
        return before + line

    def send(self, command: str) -> int:
        self.number += 1
        os.write(self.file, f"{self.number} {command}\n".encode())
        return self.number

    def run(self, command: str, timeout: float = 90) -> tuple[int, str]:
        """The exit status of a shell command in the guest, and what it printed."""
        *output, mark = self.wait(f"@{self.send(command)} ", timeout).splitlines()
        return int(mark.split()[1]), "\n".join(output)


class Guest:
    """A domU. `vifs` are written as in xl.cfg. Use as a context manager: it is destroyed at the end, if it is still there."""

    def __init__(self, dom0: Dom0, name: str, *vifs: str, type: str = "pv", memory: int = 96, **settings: str):
        self.dom0, self.name = dom0, name
        self.console: Console | None = None
        self.config = Path(f"/tmp/{name}.cfg")
        lines = {"name": name, "type": type, "on_crash": "destroy", **settings}
        if type != "hvm" and "kernel" not in lines:
            lines |= {"kernel": KERNEL, "ramdisk": INITRD, "extra": "console=hvc0 quiet loglevel=1 mitigations=off"}
        self.settings = "".join(f'{key} = "{value}"\n' for key, value in lines.items()) + f"memory = {memory}\nvcpus = 1\n"
        self.configure(*vifs)

    def configure(self, *vifs: str) -> None:
        """Write the configuration, with these NICs."""
        self.config.write_text(f"{self.settings}vif = {list(vifs)!r}\n")

    def create(self, *options: str) -> subprocess.CompletedProcess[str]:
        """`xl create`. The exit status is the caller's to judge."""
        return self.dom0.run(["xl", "create", *options, self.config], check=False)

    def __enter__(self) -> Guest:
        done = self.create("-p")
        if done.returncode:
            raise CommandFailed(f"xl create: exit status {done.returncode}\n{done.stdout}{done.stderr}")
        try:
            self.attach()
            self.dom0.run(["xl", "unpause", self.name])
            self.console.wait("@up", BOOT)
        except BaseException:
            self.destroy()
            raise
        return self

    def __exit__(self, *_exc: object) -> None:
        if self.console:
            self.console.close()
        self.destroy()

    def attach(self) -> None:
        """Open the console of the domain as it is now."""
        if self.console:
            self.console.close()
        key = f"/local/domain/{self.domid}/console/tty"
        assert eventually(lambda: self.dom0.xenstore(key)), "no console"
        self.console = Console(self.dom0.xenstore(key))

    @property
    def domid(self) -> str:
        """Empty if there is no such domain."""
        return self.dom0.run(["xl", "domid", self.name], check=False).stdout.strip()

    def vif(self, number: int = 0) -> str:
        return f"vif{self.domid}.{number}"

    def backend(self, key: str, number: int = 0) -> str:
        return self.dom0.xenstore(f"backend/vif/{self.domid}/{number}/{key}")

    def sh(self, command: str, check: bool = True, timeout: float = 90) -> str:
        """Run a shell command in the guest."""
        status, output = self.console.run(command, timeout)
        if check and status:
            raise CommandFailed(f"[{self.name}] {command}: exit status {status}\n{output}")
        return output

    def pings(self, address: str, source: str = "", tries: int = 4) -> bool:
        """Whether the guest reaches an address."""
        options = f"-I {source} " if source else ""
        command = f"for i in $(seq {tries}); do ping -c 1 -W 2 {options}{address} >/dev/null && exit 0; done; exit 1"
        return not self.console.run(command, 60 + 4 * tries)[0]

    def address(self, *addresses: str, ifname: str = "eth0") -> None:
        """Bring a NIC of the guest up, with addresses."""
        self.sh("; ".join([f"ip link set {ifname} up", *(f"ip addr add {address} dev {ifname}" for address in addresses)]))

    def routed(self, address: str, address6: str, ifname: str = "eth0") -> None:
        """Configure a NIC as an admin configures a guest of a routed network by hand."""
        self.address(f"{address}/32", f"{address6}/128", ifname=ifname)
        self.sh(
            f"ip route add 192.0.2.1 dev {ifname} && ip route add default via 192.0.2.1 dev {ifname} src {address} && "
            f"ip -6 route add default via {GATEWAY6} dev {ifname} src {address6}"
        )

    def gone(self, timeout: float = 60) -> bool:
        """Whether the domain has gone, soon."""
        return eventually(lambda: not self.domid, timeout)

    def destroy(self) -> None:
        if self.domid:
            self.dom0.run(["xl", "destroy", self.name], check=False)
        self.config.unlink(missing_ok=True)


def idle(dom0: Dom0, name: str, *vifs: str) -> Guest:
    """A guest that does nothing, and costs next to nothing; it is not created yet."""
    file = Path("/tmp/idle")
    file.write_bytes(kernel())
    return Guest(dom0, name, *vifs, memory=24, kernel=str(file))


def together(guests: Sequence[Guest]) -> list[tuple[float, subprocess.CompletedProcess[str]]]:
    """`xl create -p` of all at once: how long each took, in seconds, and what it said."""

    def timed(guest: Guest) -> tuple[float, subprocess.CompletedProcess[str]]:
        start = time.monotonic()
        done = guest.create("-p")
        return time.monotonic() - start, done

    with ThreadPoolExecutor(len(guests)) as pool:
        return list(pool.map(timed, guests))
