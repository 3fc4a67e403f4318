"""Boot Debian with systemd under QEMU, and run this tier in it: `run.py [pytest's arguments]`.

The exit status is pytest's. The package is built from the checkout, and so is a newer one to upgrade to; the tests install
them. There is no network, and nothing is written to this machine except the image in its cache, see image.py. Needs no KVM.
Status 77: something is missing, and the message says how to get it.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path[:0] = [str(HERE), str(HERE.parent), str(HERE.parent / "package")]

from building import build  # noqa: E402
from image import image  # noqa: E402
from lab import xenstore  # noqa: E402
from lab.kernel import kernel  # noqa: E402

LIMIT = 2400  # seconds; it takes about eight minutes on two cores without KVM
LACKING = 77
MEMORY = 1536  # MiB
TOOLS = {
    "qemu-system-x86_64": "qemu-system-x86",
    "mmdebstrap": "mmdebstrap",
    "mke2fs": "e2fsprogs",
    "cpio": "cpio",
    "zstd": "zstd",
    "depmod": "kmod",
    "dpkg-buildpackage": "build-essential",
    "dh": "debhelper",
}
NEWER = "9.9.9"
IN_MACHINE = """
export VMNET_CI=1
cd /lab/checkout
echo "== $(. /etc/os-release; echo $PRETTY_NAME), systemd $(systemctl --version | awk '{{ print $2; exit }}'), Linux $(uname -r)"
echo "== after $(cut -d' ' -f1 /proc/uptime) s"
PYTHONDONTWRITEBYTECODE=1 exec python3 -u -m pytest -p no:cacheprovider {arguments}
"""


def missing() -> list[str]:
    """What is missing, and how to get it."""
    path = os.environ["PATH"] + ":/usr/sbin:/sbin"
    found = [f"{tool}: apt-get install {package}" for tool, package in TOOLS.items() if not shutil.which(tool, path=path)]
    if not kernel():
        found.append("Debian's kernel with its modules: apt-get install linux-image-amd64")
    if os.geteuid():
        found.append("root, to make its image: run `sudo make check-service`")
    return found


def newer(deb: Path, work: Path) -> Path:
    """The same package as the next release would be: what is in it says so, too."""
    tree, built = work / "newer", work / "newer.deb"
    subprocess.run(["dpkg-deb", "-R", deb, tree], check=True)
    for file, pattern, by in (
        ("DEBIAN/control", r"(?m)^Version: .*$", f"Version: {NEWER}"),
        ("usr/lib/python3/dist-packages/vmnet_hooks/__init__.py", r'(?m)^__version__ = ".*"$', f'__version__ = "{NEWER}"'),
    ):
        text, number = re.subn(pattern, by, (tree / file).read_text())
        assert number == 1, file
        (tree / file).write_text(text)
    subprocess.run(["dpkg-deb", "--root-owner-group", "-Zgzip", "-b", tree, built], stdout=subprocess.DEVNULL, check=True)
    return built


def cargo(work: Path, arguments: list[str]) -> Path:
    """The tar that the machine unpacks at /: our packages, the tests, Xen's userland, and what is to be run."""
    tree = work / "cargo"
    checkout = tree / "lab/checkout"
    (work / "deb").mkdir()
    deb = build(work / "deb", DEB_BUILD_OPTIONS="nocheck")
    checkout.mkdir(parents=True)
    shutil.copy(deb, tree / "lab/vmnet-hooks.deb")
    shutil.copy(newer(deb, work), tree / "lab/newer.deb")
    for folder in ("lab", "service"):
        shutil.copytree(ROOT / "tests" / folder, checkout / "tests" / folder, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", checkout)
    shutil.copytree(xenstore.fetched(), tree / "lab/xen", symlinks=True)
    (tree / "lab/job").write_text(IN_MACHINE.format(arguments=shlex.join(arguments)))
    packed = work / "cargo.tar"
    subprocess.run(["tar", "--owner=0", "--group=0", "-c", "-f", packed, "-C", tree, "lab"], check=True)
    return packed


def boot(work: Path, arguments: list[str]) -> int:
    made, status, console = image(), work / "status", work / "console"
    reading, writing = os.pipe()
    drives = [f"file={made.root},snapshot=on", f"file={cargo(work, arguments)},readonly=on"]
    argv = [
        *("qemu-system-x86_64", "-M", "pc", "-m", str(MEMORY), "-smp", "2", "-accel", "tcg,thread=multi"),
        *("-display", "none", "-nodefaults", "-no-user-config", "-no-reboot", "-rtc", "base=utc"),
        *("-serial", f"file:{console}", "-kernel", made.kernel, "-initrd", made.initrd),
        # What costs most under emulation: retpolines.
        *("-append", "console=ttyS0 panic=-1 net.ifnames=0 mitigations=off audit=1 quiet systemd.show_status=0"),
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
        print(f"tests/service: not done after {LIMIT} s, stopped", file=sys.stderr)
        return 1
    finally:
        if machine.poll() is None:
            machine.kill()
            machine.wait()
        shown.wait()
    said = status.read_text().strip()
    if not said:
        tail = "\n".join(console.read_text(errors="replace").splitlines()[-40:])
        print(f"tests/service: it did not boot, or ended before the tests did:\n{tail}", file=sys.stderr)
        return 1
    return int(said)


def main(arguments: list[str]) -> int:
    if lacking := missing():
        print("tests/service needs " + "; ".join(lacking), file=sys.stderr)
        return LACKING
    with tempfile.TemporaryDirectory(prefix="vmnet-service-") as work:
        return boot(Path(work), arguments or ["-v", "-rP", "--durations=10", str(HERE.relative_to(ROOT))])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
