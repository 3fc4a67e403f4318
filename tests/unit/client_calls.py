"""A call of a hook as a process, with an agent that the test makes: as hooks/run serves it, and as hooks/client.c does."""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from vmnet_hooks.frontends import hooks
from vmnet_hooks.hook import client

ROOT = Path(__file__).resolve().parents[2]
PYTHON = "/usr/bin/python3"
MAX_STDIN = 700_000

sys.path.insert(0, str(ROOT / "hooks"))
import table  # noqa: E402

sys.path.remove(str(ROOT / "hooks"))

# hooks/run where its folders are others, and what it would do by itself is told instead. `reference HOOK ARGUMENT…` is a hook as
# Python runs it, `…/hooks/run HOOK ARGUMENT…` is what the client runs.
DRIVER = """
import sys
sys.path.insert(0, {root!r})
import vmnet_hooks
vmnet_hooks.RUN, vmnet_hooks.CONFIGURATION = {run!r}, {etc!r}
from vmnet_hooks import frontends
from vmnet_hooks.hook import client
client.MAX_STDIN, client.SECONDS = {max_stdin}, 1.0
if sys.argv[0].endswith("/reference"):
    del sys.argv[0]
def handle(name, argv, stdin):
    import hashlib, os
    text = sys.stdin.buffer.read() if sys.stdin and stdin is None else stdin or b""
    text = text[:client.MAX_STDIN]
    environ = sorted(pair for pair in os.environb.items() if pair != (b"LC_CTYPE", b"C.UTF-8"))
    print(name, argv, len(text), hashlib.sha256(text).hexdigest(), environ, os.getppid())
    return 77
sys.modules["vmnet_hooks.hook.call"] = type(sys)("call")
sys.modules["vmnet_hooks.hook.call"].handle = handle
text = open({root!r} + "/hooks/run").read()
exec(compile(text.replace("def folders(path):", "def folders(path):\\n    yield {root!r}"), "run", "exec"))
"""


@dataclass
class Place:
    """A folder with the two, and with folders of configuration and runtime files."""

    path: Path
    programs: dict[str, list[str]] = field(default_factory=dict)

    def compiled(self, name: str, *flags: str, source: Path = ROOT / "hooks/client.c") -> str:
        """Compile the client, or what includes it. Return the program's path."""
        made = self.path / name
        words = ["gcc", "-std=gnu11", "-Wall", "-Wextra", "-Werror", f'-DTABLE="{self.path}/table.h"', *flags]
        subprocess.run([*words, f'-DCLIENT="{ROOT}/hooks/client.c"', "-o", made, source], check=True)
        return str(made)

    @property
    def agent(self) -> Path:
        return self.path / "run" / "agent.sock"

    def hook(self, name: str) -> str:
        return str(self.path / "hooks" / name)


def placed(path: Path) -> Place:
    """Make such a place, with a table that differs in folders and limits only."""
    for name in ("run/xen", "etc/conf.d", "hooks"):
        (path / name).mkdir(parents=True)
    for name in hooks():
        (path / "hooks" / name).parent.mkdir(exist_ok=True)
        (path / "hooks" / name).symlink_to("../run")
    words = {"root": str(ROOT), "run": f"{path}/run", "etc": f"{path}/etc", "max_stdin": MAX_STDIN}
    for name in ("reference", "hooks/run"):
        (path / name).write_text(DRIVER.format(**words))
    text = table.table(f"{path}/hooks/run")
    for old, new in (
        ('"/run/vmnet-hooks', f'"{path}/run'),
        ('"/etc/vmnet-hooks"', f'"{path}/etc"'),
        (f"MAX_STDIN {client.MAX_STDIN}", f"MAX_STDIN {MAX_STDIN}"),
        ("SECONDS 10", "SECONDS 1"),
    ):
        assert old in text
        text = text.replace(old, new)
    (path / "table.h").write_text(text)
    return Place(path)


@dataclass(frozen=True)
class Agent:
    """How an agent behaves: it reads at most `reads` bytes, sends the parts of its answer with a pause between them, and closes
    the connection, unless it `hangs`. One that `is_deaf` shuts it down for what it would read. It is a process of `user` (0: of
    this one's)."""

    answer: tuple[bytes, ...] = (b"0 0\n",)
    reads: int = 1 << 30
    pause: float = 0
    hangs: bool = False
    is_deaf: bool = False
    user: int = 0


@dataclass(frozen=True)
class Call:
    name: str
    argv: tuple[bytes, ...] = ()
    environ: tuple[bytes, ...] = (b"LC_ALL=C",)
    """As libvirt sets it. Python, started without a locale, sets LC_CTYPE, which the agent is told then."""
    stdin: bytes | None = b""
    agent: Agent | None = Agent()
    closed: tuple[int, ...] = ()


@dataclass(frozen=True)
class Outcome:
    status: int
    out: bytes
    err: bytes
    told: bytes | None
    """What the agent has received."""


class Listener(threading.Thread):
    """An agent, for one call."""

    def __init__(self, path: Path, agent: Agent):
        super().__init__(daemon=True)
        path.unlink(missing_ok=True)
        self.listening = socket.socket(socket.AF_UNIX)
        self.listening.bind(str(path))
        # The kernel tells the client who listens.
        user = os.geteuid()
        os.seteuid(agent.user or user)
        self.listening.listen(1)
        os.seteuid(user)
        self.agent, self.told = agent, b""
        self.was_asked = False
        self.ended = threading.Event()
        self.start()

    def run(self) -> None:
        self.listening.settimeout(0.05)
        while not self.was_asked:
            try:
                connection, _ = self.listening.accept()
                self.was_asked = True
            except TimeoutError:
                if self.ended.is_set():
                    return
        with connection:
            connection.settimeout(5)
            if self.agent.is_deaf:
                connection.shutdown(socket.SHUT_RD)
            try:
                while len(self.told) < min(wanted(self.told), self.agent.reads) and (more := connection.recv(1 << 16)):
                    self.told += more
                for part in self.agent.answer:
                    time.sleep(self.agent.pause)
                    connection.sendall(part)
                if self.agent.hangs:
                    self.ended.wait(10)
            except OSError:
                pass

    def close(self) -> None:
        self.ended.set()
        self.join()
        self.listening.close()


def wanted(told: bytes) -> int:
    """How long a request will be, by what has been received of it."""
    head, newline, _ = told.partition(b"\n")
    return len(head) + 1 + sum(map(int, head.split()[4:])) if newline else 1 << 30


libc = ctypes.CDLL(None)


def strings(words: Sequence[bytes]) -> ctypes.Array:
    return (ctypes.c_char_p * (len(words) + 1))(*words, None)


def run(place: Place, program: str, call: Call) -> Outcome:
    """Run one of the programs as the hook of a call. os.execve knows no variable that is there twice."""
    listener = Listener(place.agent, call.agent) if call.agent else None
    if not listener:
        place.agent.unlink(missing_ok=True)
    argv = [*map(os.fsencode, place.programs[program]), os.fsencode(place.hook(call.name)), *call.argv]
    words, environ = strings(argv), strings(call.environ)
    outputs = [os.memfd_create(name) for name in ("stdin", "out", "err")]
    os.write(outputs[0], call.stdin or b"")
    os.lseek(outputs[0], 0, os.SEEK_SET)
    pid = os.fork()
    if not pid:
        for number, file in enumerate(outputs):
            os.dup2(file, number)
        for number in call.closed:
            os.close(number)
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
        libc.execve(argv[0], words, environ)
        os._exit(99)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if listener:
        listener.close()
    texts = []
    for file in outputs[1:]:
        os.lseek(file, 0, os.SEEK_SET)
        texts.append(b"".join(iter(lambda file=file: os.read(file, 1 << 20), b"")))
    for file in outputs:
        os.close(file)
    told = listener.told if listener and listener.was_asked else None
    return Outcome(status, *texts, told)


def same(place: Place, call: Call, *programs: str) -> Outcome:
    """Run a call with all programs. Return the outcome, which is the same for all."""
    expected = run(place, "Python", call)
    for program in programs or ("C",):
        assert run(place, program, call) == expected, program
    return expected
