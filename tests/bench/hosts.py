"""Hypervisors to measure on, in namespaces of their own:

    t0 t1 t2 …  taps -- host -- up0 == eth0 -- wire (the segment, and all that is behind it)

The product is a copy, compiled as a package's files are, the hooks' client too, so that a run measures one state of it and writes
nothing beside the sources.
"""

from __future__ import annotations

import compileall
import json
import re
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any

from lab.domains import Interface, domain_toml, domain_xml
from lab.nodes import ENV, ROOT, CommandFailed, Node, wire
from lab.tap import __file__ as TAP

PYTHON = "/usr/bin/python3"
HERE = Path(__file__).parent
FLOOR = [PYTHON, "-I", "-S", "-c", "pass"]
SOCKET = "/run/vmnet-hooks/agent.sock"
GATEWAY4, ARP_SOURCE, GATEWAY6 = "10.64.0.1", "10.64.0.2", "2001:db8::1"
UPLINK_MAC, WIRE_MAC, TAP_MAC = "02:00:00:00:00:aa", "02:00:00:00:00:01", "fe:ff:ff:ff:ff:ff"
BRIDGES = 4
PORTS = 1010
"""Guests per bridge: the kernel gives a bridge 1,023 ports."""
IPV4 = f'ipv4 = {{ subnet = "10.64.0.0/16", gateway = "{GATEWAY4}", arp_source = "{ARP_SOURCE}" }}\n'
IPV6 = f'ipv6 = {{ subnet = "2001:db8::/64", gateway = "{GATEWAY6}" }}\n'
ROUTED = '[networks.public]\nmode = "routed"\nuplink = "up0"\ntable = 222\n'
BRIDGED = "".join(f'[networks.lan{n}]\nmode = "bridged"\nbridge = "br{n}"\n' for n in range(BRIDGES))
TRUSTED = BRIDGED.replace("\n[", '\nchecksums = "trusted"\n[') + 'checksums = "trusted"\n'
DUAL, ONLY4 = ROUTED + IPV4 + IPV6, ROUTED + IPV4
Commands = Mapping[str, Mapping[str, object]]
Series = dict[str, list[float]]

MAKE_TAPS = """
import fcntl, os, struct, sys
for n in range(int(sys.argv[1]), int(sys.argv[2])):
    fd = os.open("/dev/net/tun", os.O_RDWR)
    fcntl.ioctl(fd, 0x400454CA, struct.pack("16sH22x", b"t%d" % n, 0x1002))
    fcntl.ioctl(fd, 0x400454CB, 1)
    os.close(fd)
"""
# What a hypervisor's domain has beside its NICs, so that there is something to parse.
DEVICES = "".join(
    f"<controller type='pci' index='{n}' model='pcie-root-port'><model name='pcie-root-port'/>"
    f"<target chassis='{n}' port='{n:#x}'/><alias name='pci.{n}'/>"
    f"<address type='pci' domain='0x0000' bus='0x00' slot='0x02' function='{n % 8:#x}'/></controller>"
    for n in range(1, 15)
) + (
    "<disk type='block' device='disk'><driver name='qemu' type='raw' cache='none'/><source dev='/dev/vg/guest'/>"
    "<target dev='vda' bus='virtio'/><alias name='virtio-disk0'/></disk><serial type='pty'><source path='/dev/pts/3'/>"
    "<target type='isa-serial' port='0'/><alias name='serial0'/></serial><memballoon model='virtio'/>"
)


def guest4(number: int) -> str:
    return f"10.64.{1 + number // 256}.{number % 256}"


def guest_mac(number: int) -> str:
    return f"52:54:00:00:{number >> 8:02x}:{number & 255:02x}"


def routed(number: int, dual: bool = True, filter: bool = True) -> Interface:
    """The NIC of a guest on network public: an address of each family."""
    ips = [guest4(number)] + ([f"2001:db8::1:{number:x}"] if dual else [])
    return Interface(guest_mac(number), f"t{number}", "public", ips, filter=filter)


def bridged(number: int) -> Interface:
    """The NIC of a guest on a bridge."""
    return Interface(guest_mac(number), f"t{number}", "", (), bridge=f"br{number // PORTS}")


def prefixed(number: int) -> Interface:
    """The NIC of a guest on a bridge, with a prefix of each family."""
    bridge = number // PORTS
    ips = (f"10.{64 + number // 4096}.{number // 16 % 256}.{number % 16 * 16}/28", f"2001:db8:{number:x}::/64")
    return Interface(guest_mac(number), f"t{number}", f"lan{bridge}", ips, bridge=f"br{bridge}")


def xml(domain: str, *nics: Interface, stage: str = "start") -> str:
    return domain_xml(domain, *nics, stage=stage).replace("</emulator>", f"</emulator>{DEVICES}")


class Product:
    """A copy of hooks/ and vmnet_hooks/, compiled. Use as a context manager."""

    def __init__(self, source: Path = ROOT) -> None:
        self.folder = tempfile.TemporaryDirectory(prefix="vmnet-bench-")
        self.path = Path(self.folder.name)
        for name in ("hooks", "vmnet_hooks"):
            ignore = shutil.ignore_patterns("__pycache__")
            shutil.copytree(source / name, self.path / name, symlinks=True, ignore=ignore)
        self.version = re.findall(r'__version__ = "(.+)"', (self.path / "vmnet_hooks/__init__.py").read_text())[0]
        compileall.compile_dir(self.path, quiet=1)
        if (source / "hooks/client.c").exists():  # older checkouts have none
            make = ["make", "-s", "-C", source, "hooks", f"LIBDIR={self.path}", f"HOOKS_PATH={self.path}/hooks"]
            subprocess.run(make, check=True)
        for tool in HERE.glob("*.c"):
            subprocess.run(["gcc", "-O2", "-Wall", "-o", self.path / tool.stem, tool], check=True)

    def __enter__(self) -> Product:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.folder.cleanup()

    def hook(self, name: str) -> str:
        return str(self.path / "hooks" / name)


class Host:
    """A hypervisor and the wire that its uplink ends in. Use as a context manager."""

    def __init__(self, product: Product, config: str = DUAL, bridges: int = 0):
        self.product = product
        self.agent: subprocess.Popen | None = None
        self.stack = ExitStack()
        try:
            self.node = self.stack.enter_context(Node("host"))
            self.wire = self.stack.enter_context(Node("wire"))
            wire(self.node, "up0", self.wire, "eth0", UPLINK_MAC, WIRE_MAC)
            quiet = "for f in all default; do echo 0 > /proc/sys/net/ipv6/conf/$f/accept_dad; done\n"
            self.wire.sh(f"{quiet}ip link set eth0 up")
            self.node.sh(
                f"{quiet}ip link set up0 up; ip addr add 10.9.0.1/24 dev up0\n"
                + "".join(f"ip link add br{n} type bridge; ip link set br{n} up\n" for n in range(bridges))
            )
            self.node.config(config)
        except BaseException:
            self.stack.close()
            raise

    def __enter__(self) -> Host:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.stack.close()

    def taps(self, count: int, first: int = 0) -> None:
        """Persistent taps t0, t1 …, as many as `count`, up, as libvirt leaves them to a hook; nobody holds them open."""
        self.node.run([PYTHON, "-IS", "-c", MAKE_TAPS, first, first + count], timeout=120)
        self.batch(f"link set t{n} up" for n in range(first, first + count))

    def batch(self, lines: Iterator[str] | Sequence[str]) -> None:
        """Many `ip` commands by one process. Raises CommandFailed at the first that fails."""
        self.node.run(["ip", "-batch", "-"], input="\n".join(lines) + "\n", timeout=300)

    def hold(self, number: int) -> None:
        """A process that holds a tap open, so that it has a carrier."""
        self.node.popen([PYTHON, "-IS", TAP, f"t{number}"], stdout=subprocess.PIPE).stdout.readline()

    def crowd(self, nics: Sequence[Interface], each: int = 50) -> None:
        """Plug many guests, by as few calls of the hook as domains of `each` NICs allow."""
        groups = {f"crowd{first}": nics[first : first + each] for first in range(0, len(nics), each)}
        starts = {name: self.hook(name, "start", *group) for name, group in groups.items()}
        if self.agent:
            self.requests(starts, list(starts))
            return
        for start in starts.values():
            self.run(start)

    def call(self, domain: str, operation: str, *nics: Interface) -> None:
        """One call of libvirt's hook. Raises CommandFailed."""
        self.run(self.hook(domain, operation, *nics))

    def run(self, command: Mapping[str, object]) -> None:
        """One such call, not timed. Raises CommandFailed."""
        self.node.run(command["argv"], input=command["stdin"], timeout=300)

    def hook(self, domain: str, operation: str, *nics: Interface, stage: str = "") -> dict[str, object]:
        """That call, for `spawn`."""
        argv = [self.product.hook("libvirt/qemu"), domain, operation, "begin", "-"]
        return {"argv": argv, "env": ENV, "stdin": xml(domain, *nics, stage=stage or operation)}

    def declare(self, domain: str, *nics: Interface) -> None:
        """A domains.d file, for hooks that are told no more than a tap's name."""
        self.node.domain_toml(domain, domain_toml(*nics))

    def start_agent(self) -> None:
        """The agent, ready for requests. Raises CommandFailed."""
        env = {**ENV, "PYTHONPATH": str(self.product.path), "PYTHONDONTWRITEBYTECODE": "1"}
        with tempfile.TemporaryFile("w+") as said:
            command = ["nice", "-n", "-10", PYTHON, "-m", "vmnet_hooks.agent"]  # as the unit has it
            self.agent = self.node.popen(command, env=env, stdout=said, stderr=said)
            self.await_agent(said)

    def await_agent(self, said: IO[str]) -> None:
        end = time.monotonic() + 20
        while True:
            try:
                with socket.socket(socket.AF_UNIX) as tried:
                    tried.connect(str(self.node.path(SOCKET)))
                return
            except OSError as error:
                if self.agent.poll() is not None:
                    said.seek(0)
                    raise CommandFailed(f"the agent ended: {said.read().strip()[-150:]}") from None
                if time.monotonic() > end:
                    raise CommandFailed(f"the agent does not listen: {error}") from None
                time.sleep(0.05)

    def stop_agent(self) -> None:
        self.agent.terminate()
        self.agent.wait(30)
        self.agent = None

    def spawn(self, commands: Commands, sequence: Sequence[str], repeat: int) -> Series:
        """Whole processes, see spawn.py. Raises CommandFailed."""
        return self.json("spawn.py", {"commands": commands, "sequence": sequence, "repeat": repeat})

    def crowds(self, commands: Commands, crowds: Sequence[Sequence[str]], repeat: int) -> list[list[float]]:
        """Many processes at once, see spawn.py. Raises CommandFailed."""
        return self.json("spawn.py", {"commands": commands, "crowds": crowds, "repeat": repeat})

    def requests(self, commands: Commands, sequence: Sequence[str], repeat: int = 1, pause: float = 0) -> Series:
        """The agent alone, see calls.py. Raises CommandFailed."""
        order = {"commands": commands, "sequence": sequence, "repeat": repeat, "pause": pause}
        return self.json("calls.py", order, self.product.path)

    def bare(self, commands: Commands, repeat: int, pause: float) -> Series:
        """What the kernel alone takes for calls of a guest that is not there, see bare.py. Raises CommandFailed."""
        # With site: it has libraries to load.
        argv = [PYTHON, HERE / "bare.py", self.product.path, repeat, pause]
        return json.loads(self.node.run(argv, input=json.dumps(commands), timeout=900).stdout)

    def json(self, program: str, order: object, *words: object) -> Any:
        done = self.node.run([PYTHON, "-IS", HERE / program, *words], input=json.dumps(order), timeout=900)
        return json.loads(done.stdout)

    def served(self) -> int:
        """How many calls the agent has served."""
        with socket.socket(socket.AF_UNIX) as agent:
            agent.connect(str(self.node.path(SOCKET)))
            agent.sendall(b"vmnet-hooks %b agent/status 0 0 0 0\n" % self.product.version.encode())
            return int(json.loads(agent.makefile().read().partition("\n")[2])["served"])

    @contextmanager
    def all_served(self, calls: int) -> Iterator[None]:
        """The agent serves so many calls in the block, or it would be the fallback that is measured. Raises CommandFailed."""
        before = self.served()
        yield
        end = time.monotonic() + 2
        # The answer comes before the counting.
        while (served := self.served() - before) != calls:
            if time.monotonic() > end:
                raise CommandFailed(f"the agent served {served} of {calls} calls; the others did it by themselves")
            time.sleep(0.05)

    def tool(self, *words: object, node: Node | None = None) -> Tool:
        """One of the C programs, running in the host (or in another node)."""
        argv = [self.product.path / words[0], *words[1:]]
        return Tool((node or self.node).popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE))

    def received(self) -> int:
        """Packets that have come out of the uplink."""
        shown = json.loads(self.wire.run("ip -s -j link show dev eth0").stdout)
        return int(shown[0]["stats64"]["rx"]["packets"])


class Tool:
    """A program that answers each line with one line of numbers."""

    def __init__(self, process: subprocess.Popen):
        self.process = process
        self.ask("hello")

    def ask(self, line: str) -> list[int]:
        self.process.stdin.write(f"{line}\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer:
            raise CommandFailed(f"{line}: {self.process.stderr.read()}")
        return [int(word) for word in answer.split()]


@contextmanager
def hosts(product: Product, *configs: str, bridges: int = 0) -> Iterator[list[Host]]:
    """Some hosts, for a comparison."""
    with ExitStack() as stack:
        yield [stack.enter_context(Host(product, config, bridges)) for config in configs]
