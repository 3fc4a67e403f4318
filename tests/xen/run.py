"""Boot real Xen with a Debian dom0 under QEMU and run this tier in dom0: `run.py [--suite NAME] [pytest's arguments]`.

The exit status is pytest's. Without --suite it is run on Debian 12 and then, for the tests marked debian13, on Debian 13.
The checkout is installed in dom0 by `make install`. There is no network, and nothing is written to this machine except
the images in its cache, see lab/xen_image.py. Needs no KVM. Status 77: something is missing, and the message says how
to get it.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path.insert(0, str(HERE.parent))  # for `import lab`

from lab.xen_image import XEN, image  # noqa: E402

LIMIT = 2400  # seconds; it takes about ten minutes on two idle cores without KVM
LACKING = 77
MEMORY, DOM0_MEMORY = 3072, 1024  # MiB; the rest is for the guests
# A PV dom0 dies where there is SMAP (-cpu max), and where there is AVX, processes crash at random once a second domain
# runs. npt: for HVM guests.
CPU = "qemu64,+svm,+npt"
TOOLS = {
    "qemu-system-x86_64": "qemu-system-x86",
    "mmdebstrap": "mmdebstrap",
    "mke2fs": "e2fsprogs",
    "cpio": "cpio",
    "zstd": "zstd",
    "depmod": "kmod",
    "make": "make",
}
IN_DOM0 = """
export VMNET_CI=1 LC_ALL=C.UTF-8
cd /lab/checkout
echo "== $(. /etc/os-release; echo $PRETTY_NAME), Xen $(xl info xen_version), Linux $(uname -r)"
python3 -m compileall -q -j 2 /usr/lib/vmnet-hooks tests/lab
echo "== after $(cut -d' ' -f1 /proc/uptime) s"
PYTHONDONTWRITEBYTECODE=1 exec python3 -u -m pytest -p no:cacheprovider {arguments}
"""


def missing() -> list[str]:
    """What is missing, and how to get it."""
    path = os.environ["PATH"] + ":/usr/sbin:/sbin"
    found = [f"{tool}: apt-get install {package}" for tool, package in TOOLS.items() if not shutil.which(tool, path=path)]
    if os.geteuid():
        found.append("root, to make its image: run `sudo make check-xen`")
    return found


def cargo(work: Path, arguments: list[str]) -> Path:
    """The tar that dom0 unpacks at /: our package as it is installed, the tests, and what is to be run."""
    tree = work / "cargo"
    checkout = tree / "lab/checkout"
    subprocess.run(
        ["make", "--no-print-directory", "-C", ROOT, "install", f"DESTDIR={tree}", "PREFIX=/usr"],
        stdout=subprocess.DEVNULL,
        check=True,
    )
    for folder in ("lab", "xen"):
        shutil.copytree(ROOT / "tests" / folder, checkout / "tests" / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "setup.cfg"):
        shutil.copy(ROOT / name, checkout)
    (tree / "lab/job").write_text(IN_DOM0.format(arguments=shlex.join(arguments)))
    packed = work / "cargo.tar"
    # Folders as they are in Debian, where /lib is a link: only files and links are named.
    listed = subprocess.run(["find", ".", "!", "-type", "d", "-print0"], cwd=tree, stdout=subprocess.PIPE, check=True).stdout
    subprocess.run(
        ["tar", "--owner=0", "--group=0", "-c", "-f", packed, "-C", tree, "--null", "-T", "-"], input=listed, check=True
    )
    return packed


def boot(suite: str, work: Path, arguments: list[str]) -> int:
    made, status, console = image(suite), work / "status", work / "console"
    reading, writing = os.pipe()
    drives = [f"file={made.root},snapshot=on", f"file={cargo(work, arguments)},readonly=on"]
    argv = [
        *("qemu-system-x86_64", "-M", "pc", "-cpu", CPU, "-m", str(MEMORY), "-smp", "2", "-accel", "tcg,thread=multi"),
        *("-display", "none", "-nodefaults", "-no-user-config", "-no-reboot", "-rtc", "base=utc"),
        *("-serial", f"file:{console}", "-kernel", made.xen),
        "-append",
        f"dom0_mem={DOM0_MEMORY}M,max:{DOM0_MEMORY}M com1=115200,8n1 console=com1 loglvl=warning guest_loglvl=warning "
        # What costs most under emulation: retpolines, and page tables of its own for the hypervisor.
        "spec-ctrl=no xpti=no",
        # QEMU takes a comma for the next module.
        *("-initrd", f"{made.kernel} console=hvc0 panic=-1 net.ifnames=0 mitigations=off,{made.initrd}"),
        *(word for drive in drives for word in ("-drive", f"{drive},format=raw,if=virtio")),
        *("-device", "virtio-serial-pci"),
        # Not stdio: once its standard input is at its end, QEMU takes nobody to be listening.
        *("-chardev", f"file,id=out,path=/dev/fd/{writing},append=on", "-device", "virtserialport,chardev=out,name=out"),
        *("-chardev", f"file,id=status,path={status}", "-device", "virtserialport,chardev=status,name=status"),
    ]
    machine = subprocess.Popen(argv, stdin=subprocess.DEVNULL, pass_fds=[writing])
    os.close(writing)
    shown = subprocess.Popen(["cat"], stdin=reading)
    os.close(reading)
    try:
        machine.wait(LIMIT)
    except subprocess.TimeoutExpired:
        print(f"tests/xen: Debian's {suite} not done after {LIMIT} s, stopped", file=sys.stderr)
        return 1
    finally:
        if machine.poll() is None:
            machine.kill()
            machine.wait()
        shown.wait()
    said = status.read_text().strip()
    if not said:
        tail = "\n".join(console.read_text(errors="replace").splitlines()[-40:])
        print(f"tests/xen: Debian's {suite} did not boot, or ended before the tests did:\n{tail}", file=sys.stderr)
        return 1
    return int(said)


def main(arguments: list[str]) -> int:
    if lacking := missing():
        print("tests/xen needs " + "; ".join(lacking), file=sys.stderr)
        return LACKING
    suites = list(XEN)
    if arguments[:1] == ["--suite"]:
        suites, arguments = [arguments[1]], arguments[2:]
    statuses = []
    for suite in suites:
        chosen = arguments or ["-v", "-rP", "--durations=10", str(HERE.relative_to(ROOT))]
        if suite != "bookworm":
            chosen = [*chosen, "-m", "debian13"]
        with tempfile.TemporaryDirectory(prefix="vmnet-xen-") as work:
            statuses.append(boot(suite, Path(work), chosen))
    return max(statuses)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
