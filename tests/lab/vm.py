"""Hypervisors for a slow machine: `Host` is a node in which the product runs without an interpreter start per call.

Under emulation an interpreter that imports pyroute2 takes seconds to start. So one process imports the product, and per
call forks a child that enters the node's namespaces. As a program: each line of stdin is a JSON list of calls
{"pid": …, "argv": [program, …], "stdin": text, "env": {…} if not ours}, all started at once; the answer is one line, the list of
[status, stdout, stderr].
"""

from __future__ import annotations

import ctypes
import importlib
import json
import os
import pkgutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from lab.domains import Interface
from lab.forkserver import run
from lab.guest import Nic, wired
from lab.nodes import ENV, HOOK, ROOT, CommandFailed, Node, dump
from lab.routed import call as libvirt
from lab.single import same
from lab.xenstore import Dom0

CLONE_NEWNS, CLONE_NEWNET = 0x00020000, 0x40000000
LIMIT = 120  # seconds that a call may take


class Product:
    """The process that holds the product. Use as a context manager."""

    def __enter__(self) -> Product:
        self.process = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**ENV, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1", "LC_ALL": "C.UTF-8"},
        )
        return self

    def __exit__(self, *_exc: object) -> None:
        self.process.communicate(timeout=30)

    def calls(self, calls: Sequence[dict[str, Any]]) -> list[subprocess.CompletedProcess[str]]:
        self.process.stdin.write(json.dumps(calls) + "\n")
        self.process.stdin.flush()
        # A child's own alarm ends it; this is for the parent, on which the whole tier would wait for ever.
        deadline = threading.Timer(LIMIT + 60, self.process.kill)
        deadline.start()
        answer = self.process.stdout.readline()
        deadline.cancel()
        if not answer:
            raise CommandFailed("the process that holds the product has died, or did not answer")
        return [
            subprocess.CompletedProcess(call["argv"], *result) for call, result in zip(calls, json.loads(answer), strict=True)
        ]


class Host(Node):
    """A hypervisor. Its link-local addresses are there at once, so that dumps need not wait for duplicate address
    detection."""

    def __init__(self, name: str, product: Product):
        super().__init__(name)
        self.product = product
        self.sh("for f in all default; do echo 0 > /proc/sys/net/ipv6/conf/$f/accept_dad; done")

    def call(self, *argv: str, input: str = "") -> dict[str, Any]:
        return {"pid": self.pid, "argv": argv, "stdin": input}

    def hook(self, domain: str, op: str, sub: str, xml: str, extra: str = "-") -> subprocess.CompletedProcess[str]:
        return self.product.calls([self.call(str(HOOK), domain, op, sub, extra, input=xml)])[0]

    def cli(self, *argv: object, input: str | None = None) -> subprocess.CompletedProcess[str]:
        return self.product.calls([self.call("vmnet-hook", *map(str, argv), input=input or "")])[0]


class QuickDom0(Dom0):
    """A dom0 without Xen, whose scripts of ours run without an interpreter start."""

    def __init__(self, product: Product, name: str = "dom0"):
        super().__init__(name)
        self.product = product

    def cli(self, *argv: object, input: str | None = None) -> subprocess.CompletedProcess[str]:
        call = {"pid": self.pid, "argv": ["vmnet-hook", *map(str, argv)], "stdin": input or ""}
        return self.product.calls([call])[0]

    def script(
        self, script: str, *argv: str, env: Mapping[str, str] | None = None, cwd: str = "/", timeout: float = LIMIT
    ) -> subprocess.CompletedProcess[str]:
        name = Path(script).name
        if not name.startswith("vmnet-"):
            return super().script(script, *argv, env=env, cwd=cwd, timeout=timeout)
        hook = str(ROOT / "hooks/xen" / name.removeprefix("vmnet-"))
        call = {"pid": self.pid, "argv": [hook, *argv], "stdin": "", "env": {**ENV, **(env or {})}}
        return self.product.calls([call])[0]


def everywhere(hosts: Iterable[Host], *argv: str) -> list[subprocess.CompletedProcess[str]]:
    """`vmnet-hook` on several hosts at the same time. The exit statuses are the caller's to judge."""
    hosts = list(hosts)
    return hosts[0].product.calls([host.call("vmnet-hook", *argv) for host in hosts])


@dataclass(frozen=True)
class Guest:
    """A guest behind a tap of `host`, and the domain that holds it."""

    host: Host
    nic: Nic
    interface: Interface
    node: Node

    @property
    def tap(self) -> str:
        return self.interface.tap

    @property
    def domain(self) -> str:
        return f"dom-{self.node.name}"

    def plug(self) -> None:
        for op in ("start", "started"):
            libvirt(self.host, self.domain, op, self.interface)

    def unplug(self) -> None:
        for op in ("stopped", "release"):
            libvirt(self.host, self.domain, op, self.interface)


@contextmanager
def guest(host: Host, name: str, network: str, nic: Nic, start: bool = True) -> Iterator[Guest]:
    """A guest whose tap is wired to `host`; unless `start` is false, libvirt's hook has started it on `network`."""
    with wired(host, f"tap-{name}", name, nic) as node:
        made = Guest(host, nic, Interface(nic.mac, f"tap-{name}", network), node)
        if start:
            made.plug()
        yield made


def dumps(hosts: Sequence[Node]) -> list[str]:
    """`nodes.dump` of each, at the same time."""
    with ThreadPoolExecutor() as pool:
        return list(pool.map(dump, hosts))


def snapshots(hosts: Sequence[Node]) -> list[str]:
    """`dumps` once the kernel has noticed carriers and has added its own addresses."""

    def addresses() -> list[str]:
        return [host.run("ip -o addr show").stdout for host in hosts]

    last, now = [], addresses()
    while now != last or any(" tentative" in shown for shown in now):
        time.sleep(1)
        last, now = now, addresses()
    return dumps(hosts)


def assert_restored(hosts: Sequence[Node], before: Sequence[str], timeout: float = 15) -> None:
    """Each host's dump is, or soon becomes, the one of before; else the difference is the message."""
    end = time.monotonic() + timeout
    while (now := dumps(hosts)) != list(before) and time.monotonic() < end:
        time.sleep(1)
    for was, found in zip(before, now, strict=True):
        same(was, found)


# --- the process that holds the product -----------------------------------------------------------------------------


def enter(pid: int) -> None:
    """Become a process of the node that `pid` holds."""
    libc = ctypes.CDLL(None, use_errno=True)  # os.setns came with Python 3.12
    # Both are opened first: in the other mount namespace this /proc is not the one we know.
    for fd, kind in [(os.open(f"/proc/{pid}/ns/{name}", os.O_RDONLY), kind) for name, kind in NAMESPACES]:
        if libc.setns(fd, kind):
            raise OSError(ctypes.get_errno(), "setns")
        os.close(fd)


NAMESPACES = (("net", CLONE_NEWNET), ("mnt", CLONE_NEWNS))


def start(call: dict[str, Any]) -> tuple[int, list[int]]:
    """Fork one call. Returns its process id and the files that hold what it prints."""
    files = [os.memfd_create(name) for name in ("stdin", "stdout", "stderr")]
    os.write(files[0], call["stdin"].encode())
    os.lseek(files[0], 0, os.SEEK_SET)
    pid = os.fork()
    if pid:
        os.close(files[0])
        return pid, files[1:]
    status = 70
    try:
        for standard, fd in enumerate(files):
            os.dup2(fd, standard)
        sys.stdin = open(0)
        signal.alarm(LIMIT)
        enter(call["pid"])
        if "env" in call:
            os.environ.clear()
            os.environ.update(call["env"])
        status = run({"kill": 0, "argv": call["argv"]})
    except BaseException as error:
        os.write(2, f"{Path(__file__).name}: {error!r}".encode())
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def text(file: int) -> str:
    os.lseek(file, 0, os.SEEK_SET)
    with open(file, errors="replace") as opened:
        return opened.read()


def serve() -> None:
    sys.dont_write_bytecode = True
    package = importlib.import_module("vmnet_hooks")
    for module in pkgutil.walk_packages(package.__path__, "vmnet_hooks."):
        try:
            importlib.import_module(module.name)
        except ImportError:
            pass  # it needs what is not installed: the call that needs it will say so
    for line in sys.stdin:
        results = []
        for pid, files in [start(call) for call in json.loads(line)]:
            status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
            results.append([status, *map(text, files)])
        print(json.dumps(results), flush=True)


if __name__ == "__main__":
    serve()
