"""Run a tier's tests in a machine that is booted under QEMU: what vm/run.py, xen/run.py and service/run.py share.

Their exit status is pytest's, or LACKING: something is missing, and the message says how to get it. Output is shown as it comes.
No KVM is needed.
"""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from .kernel import kernel

TESTS = Path(__file__).resolve().parents[1]
ROOT = TESTS.parent
LACKING = 77
MAKING = {"mmdebstrap": "mmdebstrap", "mke2fs": "e2fsprogs", "cpio": "cpio", "zstd": "zstd", "depmod": "kmod"}
"""What images are made with: programs, and the packages that they are in."""

QEMU = {"qemu-system-x86_64": "qemu-system-x86"}
JOB = """
export VMNET_CI=1 VMNET_MACHINE=1 LC_ALL=C.UTF-8 PYTHONDONTWRITEBYTECODE=1
cd {checkout}
{before}
echo "== $(. /etc/os-release; echo $PRETTY_NAME), {what}, Linux $(uname -r), after $(cut -d' ' -f1 /proc/uptime) s"
exec /usr/bin/python3 -u -m pytest -p no:cacheprovider {arguments}
"""


class Image(Protocol):
    """A disk with a Debian, and what boots it."""

    @property
    def root(self) -> Path: ...


@dataclass(frozen=True)
class Tier:
    """The tests of tests/NAME, and what their machine needs of this one."""

    name: str
    limit: int
    """Seconds that the machine may take."""

    tools: Mapping[str, str]
    arguments: tuple[str, ...]
    """pytest's, unless others are given."""

    what: str
    """Shell words: what the machine prints about itself, beside its release and its kernel."""

    before: str = ""
    """Shell commands for the machine, before the tests."""

    def missing(self, *more: str) -> bool:
        """Whether something is missing; prints how to get it. `more` is what the caller found missing."""
        path = os.environ["PATH"] + ":/usr/sbin:/sbin"
        lacking = [tool for tool in self.tools if not shutil.which(tool, path=path)]
        found = [*(f"{tool}: apt-get install {self.tools[tool]}" for tool in lacking), *more]
        if found:
            print(f"tests/{self.name} needs " + "; ".join(found), file=sys.stderr)
        return bool(found)

    def job(self, checkout: Path | str, arguments: Sequence[str]) -> str:
        """The script that runs pytest in the machine."""
        words = {"checkout": shlex.quote(str(checkout)), "arguments": shlex.join(arguments or self.arguments)}
        return JOB.format(before=self.before, what=self.what, **words)


class Machine:
    """One machine of a tier. Use as a context manager.

    What is put below `cargo` is at / in the machine. What is written to `shown` is printed. The machine writes pytest's status to
    the file `status` of `work`, and may have its console in the file `console`.
    """

    def __init__(self, tier: Tier):
        self.tier = tier

    def __enter__(self) -> Machine:
        self.folder = tempfile.TemporaryDirectory(prefix=f"vmnet-{self.tier.name}-")
        self.work = Path(self.folder.name)
        self.cargo, self.status, self.console = (self.work / name for name in ("cargo", "status", "console"))
        (self.cargo / "lab").mkdir(parents=True)
        # A file (a log) as QEMU's standard output would lose what is in it: QEMU opens it once more.
        self.printing = subprocess.Popen(["cat"], stdin=subprocess.PIPE)
        self.shown = self.printing.stdin
        return self

    def __exit__(self, *_exc: object) -> None:
        self.shown.close()
        self.printing.wait()
        self.folder.cleanup()

    def run(self, argv: Sequence[object], **options: Any) -> int:
        """Boot it and wait for its end. The status is pytest's, or 1. `options` are those of Popen."""
        words = [str(word) for word in argv]
        machine = subprocess.Popen(words, stdin=subprocess.DEVNULL, start_new_session=True, cwd=ROOT, **options)
        first(machine.pid)
        try:
            machine.wait(self.tier.limit)
        except subprocess.TimeoutExpired:
            print(f"tests/{self.tier.name}: not done after {self.tier.limit} s, stopped", file=sys.stderr)
            return 1
        finally:
            if machine.poll() is None:
                os.killpg(machine.pid, signal.SIGKILL)
                machine.wait()
        if self.status.exists() and (status := self.status.read_text().strip()):
            return int(status)
        last = self.console.read_text(errors="replace").splitlines()[-40:] if self.console.exists() else []
        failed = f"tests/{self.tier.name}: the machine did not boot, or ended before the tests did"
        print(failed, *last, sep="\n", file=sys.stderr)
        return 1

    def qemu(self, image: Image, arguments: Sequence[str], *more: object) -> int:
        """Boot an image, which unpacks the cargo and runs /lab/job, see xen_image.INIT. `more` names the kernel and its needs."""
        drives = [f"file={image.root},snapshot=on", f"file={self.packed(arguments)},readonly=on"]
        # Not stdio: QEMU closes a chardev whose standard input is at its end.
        ports = {"out": f"/dev/fd/{self.shown.fileno()},append=on", "status": self.status}
        argv = [
            *("qemu-system-x86_64", "-M", "pc", "-smp", "2", "-accel", "tcg,thread=multi"),
            *("-display", "none", "-nodefaults", "-no-user-config", "-no-reboot", "-rtc", "base=utc"),
            *("-serial", f"file:{self.console}", "-device", "virtio-serial-pci"),
            *(word for drive in drives for word in ("-drive", f"{drive},format=raw,if=virtio")),
            *(word for name, path in ports.items() for word in port(name, path)),
            *more,
        ]
        return self.run(argv, pass_fds=[self.shown.fileno()])

    def packed(self, arguments: Sequence[str]) -> Path:
        """The cargo as a tar, with the tests and the job."""
        checkout = self.cargo / "lab/checkout"
        for folder in ("lab", self.tier.name):
            shutil.copytree(TESTS / folder, checkout / "tests" / folder, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(TESTS / "conftest.py", checkout / "tests")
        for name in ("pyproject.toml", "setup.cfg"):
            shutil.copy(ROOT / name, checkout)
        (self.cargo / "lab/job").write_text(self.tier.job("/lab/checkout", arguments))
        packed = self.work / "cargo.tar"
        # Without folders: in Debian /lib is a link.
        listed = subprocess.run(["find", ".", "!", "-type", "d", "-print0"], cwd=self.cargo, stdout=subprocess.PIPE, check=True)
        tar = ["tar", "--owner=0", "--group=0", "-c", "-f", packed, "-C", self.cargo, "--null", "-T", "-"]
        subprocess.run(tar, input=listed.stdout, check=True)
        return packed


def first(session: int) -> None:
    """What shares the processors with an emulated machine waits for it: the limits of its programs are of wall-clock time."""
    if os.geteuid():
        return
    os.setpriority(os.PRIO_PGRP, session, -10)
    # Where the kernel shares the processors among sessions, what is above counts within one alone.
    with suppress(FileNotFoundError):
        Path(f"/proc/{session}/autogroup").write_text("-10")


def port(name: str, path: object) -> tuple[str, ...]:
    """A virtio port that the machine knows by name, as a file here."""
    return "-chardev", f"file,id={name},path={path}", "-device", f"virtserialport,chardev={name},name={name}"


def lacks_kernel() -> list[str]:
    return [] if kernel() else ["Debian's kernel with its modules: apt-get install linux-image-amd64"]


def lacks_root(tier: Tier) -> list[str]:
    return [f"root, to make its image: run `sudo make check-{tier.name}`"] if os.geteuid() else []
