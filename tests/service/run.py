"""Boot Debian with systemd under QEMU, and run this tier in it: `run.py [pytest's arguments]`.

The package is built from the checkout, and so is a newer one to upgrade to; the tests install them. There is no network, and
nothing is written to this machine except the image in its cache, see image.py. The exit status: see lab/boot.py.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent), str(HERE.parent / "package")]

from building import build  # noqa: E402
from image import image  # noqa: E402
from lab import boot, xenstore  # noqa: E402

TIER = boot.Tier(
    "service",
    limit=2400,  # it takes about eight minutes on two cores
    tools={**boot.QEMU, **boot.MAKING, "dpkg-buildpackage": "build-essential", "dh": "debhelper", "dnsmasq": "dnsmasq-base"},
    arguments=("-v", "-rP", "--durations=10", "tests/service"),
    what="systemd $(systemctl --version | awk '{ print $2; exit }')",
)
MEMORY = 1536  # MiB
NEWER = "9.9.9"


def copy_dnsmasq(to: Path) -> None:
    """This machine's dnsmasq, with its libraries."""
    to.mkdir()
    program = shutil.which("dnsmasq", path="/usr/sbin:/usr/bin")
    needed = subprocess.run(["ldd", program], check=True, capture_output=True, text=True).stdout
    for file in (program, *re.findall(r"=> (/\S+)", needed)):
        shutil.copy(file, to)


def load(machine: boot.Machine) -> None:
    """Our packages, dnsmasq and Xen's userland."""
    (machine.work / "deb").mkdir()
    deb = build(machine.work / "deb", DEB_BUILD_OPTIONS="nocheck")
    shutil.copy(deb, machine.cargo / "lab/vmnet-hooks.deb")
    newer = build(machine.work / "newer", NEWER, DEB_BUILD_OPTIONS="nocheck")
    shutil.copy(newer, machine.cargo / "lab/newer.deb")
    copy_dnsmasq(machine.cargo / "lab/dnsmasq")
    shutil.copytree(xenstore.fetched(), machine.cargo / "lab/xen", symlinks=True)


def main(arguments: list[str]) -> int:
    if TIER.missing(*boot.lacks_kernel(), *boot.lacks_root(TIER)):
        return boot.LACKING
    made = image()
    with boot.Machine(TIER) as machine:
        load(machine)
        # What costs most under emulation: retpolines.
        append = "console=ttyS0 panic=-1 net.ifnames=0 mitigations=off audit=1 quiet systemd.show_status=0"
        kernel = ("-kernel", made.kernel, "-initrd", made.initrd, "-append", append)
        return machine.qemu(made, arguments, "-m", MEMORY, *kernel)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
