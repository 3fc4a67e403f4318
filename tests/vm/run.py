"""Boot Debian's kernel under QEMU, on this machine's own files, and run this tier in it: `run.py [pytest's arguments]`.

The exit status is pytest's. The machine's file system is read-only in there (virtme-ng lays tmpfs overlays over it), and
there is no network. Needs no KVM. Status 77: something is missing, and the message says how to get it.
"""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]

sys.path.insert(0, str(HERE.parent))  # for `import lab`

from lab import xenstore  # noqa: E402
from lab.kernel import kernel  # noqa: E402

LIMIT = 4800  # seconds; it takes a quarter of an hour on two idle cores without KVM
CPUS, MEMORY = 2, "1G"
LACKING = 77
# What costs most under emulation: retpolines, and a fifth level of page tables.
KERNEL_ARGUMENTS = ("mitigations=off", "no5lvl")
# max_bonds and numdummies: no bond0 and dummy0 that nobody asked for.
MODULES = ("8021q", "bonding max_bonds=0", "dummy numdummies=0", "vrf", "macvlan", "bridge", "veth", "tun", "nf_tables")
IN_VM = """
set -u
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C.UTF-8 HOME=/root
export VMNET_CI=1 PYTHONDONTWRITEBYTECODE=1 PYTHONPATH={root}
cd {root}
# A tmpfs of virtme's; below it is what was fetched before.
umount /var/cache
echo "== Linux $(uname -r) after $(cut -d' ' -f1 /proc/uptime) s"
{modprobe}
/usr/bin/python3 -u -m pytest -p no:cacheprovider {arguments} </dev/null
echo $? >{status}
"""


def virtme() -> Path | None:
    """virtme-ng's `vng`: that of the check's own venv, else that in PATH."""
    own = ROOT / ".venv-check/bin/vng"
    found = own if own.exists() else shutil.which("vng")
    return Path(found) if found else None


def missing() -> list[str]:
    """What is missing, and how to get it."""
    wanted = (
        (kernel(), "Debian's kernel with its modules: apt-get install linux-image-amd64"),
        (shutil.which("qemu-system-x86_64"), "QEMU: apt-get install qemu-system-x86"),
        (virtme(), "virtme-ng: `make .venv-check/ready`, or `pip install virtme-ng` in a venv that is in PATH"),
    )
    return [remedy for there, remedy in wanted if not there]


def boot(work: Path, arguments: list[str]) -> int:
    status, script = work / "status", work / "run.sh"
    script.write_text(
        IN_VM.format(
            root=shlex.quote(str(ROOT)),
            modprobe="\n".join(f"modprobe {module} || echo '== no module: {module}'" for module in MODULES),
            arguments=shlex.join(arguments),
            status=status,
        )
    )
    # vng writes settings and sockets below HOME; its own programs must come first in PATH.
    env = {**os.environ, "HOME": str(work), "PATH": f"{virtme().parent}:{os.environ['PATH']}"}
    argv = [virtme(), "--disable-kvm", "--run", kernel(), "--user", "root", "--cpus", str(CPUS), "--memory", MEMORY]
    argv += [word for argument in KERNEL_ARGUMENTS for word in ("--append", argument)]
    argv += ["--rwdir", work, "--exec", f"bash {script}"]
    # QEMU opens what it writes to once more: a file (a log) would lose what is in it.
    shown = subprocess.Popen(["cat"], stdin=subprocess.PIPE)
    out = {"stdin": subprocess.DEVNULL, "stdout": shown.stdin, "stderr": shown.stdin}
    machine = subprocess.Popen(argv, **out, cwd=ROOT, env=env, start_new_session=True)
    shown.stdin.close()
    try:
        machine.wait(LIMIT)
    except subprocess.TimeoutExpired:
        print(f"tests/vm: not done after {LIMIT} s, stopped", file=sys.stderr)
        return 1
    finally:
        if machine.poll() is None:
            os.killpg(machine.pid, signal.SIGKILL)
            machine.wait()
        shown.wait()
    # vng's own status says nothing about what ran in it.
    if not status.exists():
        print(f"tests/vm: {kernel()} did not boot, or ended before the tests did; to see more: vng --verbose", file=sys.stderr)
        return 1
    return int(status.read_text())


def main(arguments: list[str]) -> int:
    if lacking := missing():
        print("tests/vm needs " + "; ".join(lacking), file=sys.stderr)
        return LACKING
    # There is no network in there.
    xenstore.fetched()
    with tempfile.TemporaryDirectory(prefix="vmnet-vm-") as work:
        return boot(Path(work), arguments or ["-q", "--durations=10", str(HERE.relative_to(ROOT))])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
