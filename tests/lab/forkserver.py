"""The product, loaded once and forked per call: hundreds of hook runs without hundreds of interpreter starts; and a
SIGKILL at an exact point of one.

As a program (in a node): each line of stdin is a JSON list of calls, all started at once; the answer is one line, the
list of results. A call is {"argv": [program, …], "stdin": text, "kill": N}; program is a hook's path, or `vmnet-hook`.
With `kill`, the process kills itself just before its N-th change of the kernel or of the records (counted from 1).
`ForkServer(node)` is the other end.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
CHANGES = {"set", "add", "del", "delete", "replace", "change", "append"}


@dataclass(frozen=True)
class Result:
    """How a call ended: its status (negative: the signal) and all that it printed."""

    returncode: int
    output: str

    @property
    def killed(self) -> bool:
        return self.returncode == -signal.SIGKILL


class ForkServer:
    """Runs calls of the product in a node. Ends with the node."""

    def __init__(self, node: Any):
        self.process = node.popen(
            [sys.executable if sys.prefix != sys.base_prefix else "/usr/bin/python3", __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )

    def calls(self, calls: Sequence[dict[str, Any]]) -> list[Result]:
        self.process.stdin.write(json.dumps(calls) + "\n")
        self.process.stdin.flush()
        return [Result(*item) for item in json.loads(self.process.stdout.readline())]

    def hook(self, domain: str, op: str, sub: str, xml: str, kill: int = 0) -> Result:
        return self.calls([hook_call(domain, op, sub, xml, kill)])[0]

    def cli(self, *argv: str, kill: int = 0) -> Result:
        return self.calls([{"argv": ["vmnet-hook", *argv], "stdin": "", "kill": kill}])[0]


def hook_call(domain: str, op: str, sub: str, xml: str, kill: int = 0) -> dict[str, Any]:
    return {"argv": [str(ROOT / "hooks/libvirt/qemu"), domain, op, sub, "-"], "stdin": xml, "kill": kill}


def points(attempt: Callable[[int], bool], most: int) -> int:
    """Call `attempt(1)`, `attempt(2)`, … until it says that what it shall kill there lived to the end: before `most`. How
    many points there were."""
    for point in range(1, most):
        try:
            if not attempt(point):
                return point - 1
        except AssertionError as error:
            raise AssertionError(f"killed before change {point}: {error}") from error
    raise AssertionError(f"more than {most} steps")


# --- in the node ----------------------------------------------------------------------------------------------------


def die_at(point: int) -> None:
    """Wrap whatever changes something, so that this process is gone just before the point-th of them."""
    from vmnet_hooks.kernel import iproute2, netlink, rtnl
    from vmnet_hooks.kernel.objects import nft, sysctl
    from vmnet_hooks.records.store import Store

    seen = 0

    def before(function: Callable[..., Any], counts: Callable[..., bool] = lambda *_: True) -> Callable[..., Any]:
        def counted(*args: Any, **options: Any) -> Any:
            nonlocal seen
            if counts(*args):
                seen += 1
                if seen == point:
                    os.kill(os.getpid(), signal.SIGKILL)
            return function(*args, **options)

        return counted

    class Socket:
        """An IPRoute whose changes count, and whose reads do not."""

        def __init__(self, real: Any):
            self.real = real

        def __getattr__(self, name: str) -> Any:
            value = getattr(self.real, name)
            if not callable(value):
                return value
            return before(value, lambda *args: bool(args) and isinstance(args[0], str) and args[0] in CHANGES)

    connect = rtnl.connect
    rtnl.connect = lambda: Socket(connect())
    netlink.Socket.change = before(netlink.Socket.change)
    nft.Nft.apply = before(nft.Nft.apply)
    sysctl.write_value = before(sysctl.write_value)
    iproute2.batch = before(iproute2.batch)
    for name in ("open_journal", "commit", "close_journal", "forget", "set_phase", "set_pending"):
        setattr(Store, name, before(getattr(Store, name)))


def run(call: dict[str, Any]) -> int:
    from vmnet_hooks import cli, hook
    from vmnet_hooks.hook import call as call_module

    if call["kill"]:
        die_at(call["kill"])
    program, *argv = call["argv"]
    if program != "vmnet-hook":
        name = hook.matters(program, [program, *argv])
        return call_module.handle(name, [program, *argv]) if name else 0
    try:
        cli.main(argv, prog_name="vmnet-hook")
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 1
    return 0


def start(call: dict[str, Any]) -> tuple[int, int]:
    """Fork one call. Returns its process id and the file that holds its output."""
    stdin, output = os.memfd_create("stdin"), os.memfd_create("output")
    os.write(stdin, call["stdin"].encode())
    os.lseek(stdin, 0, os.SEEK_SET)
    pid = os.fork()
    if pid:
        os.close(stdin)
        return pid, output
    status = 70
    try:
        for fd, standard in ((stdin, 0), (output, 1), (output, 2)):
            os.dup2(fd, standard)
        sys.stdin = open(0)
        status = run(call)
    except BaseException as error:
        os.write(2, f"forkserver: {error!r}".encode())
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def serve() -> None:
    sys.path.insert(0, str(ROOT))
    sys.dont_write_bytecode = True
    __import__("vmnet_hooks.hook.events")
    __import__("vmnet_hooks.hook.call")
    for subject in ("check", "host", "migration", "repair"):
        __import__(f"vmnet_hooks.engine.{subject}")
    __import__("vmnet_hooks.kernel.linux")
    __import__("vmnet_hooks.frontends.running")
    for row in __import__("vmnet_hooks.cli").cli.COMMANDS:
        __import__(f"vmnet_hooks.cli.{row.file}")
    for line in sys.stdin:
        results = []
        for pid, output in [start(call) for call in json.loads(line)]:
            status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
            os.lseek(output, 0, os.SEEK_SET)
            with open(output, errors="replace") as file:
                results.append((status, file.read()))
        print(json.dumps(results), flush=True)


if __name__ == "__main__":
    serve()
