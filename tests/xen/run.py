"""Boot real Xen with a Debian dom0 under QEMU and run this tier in it: `run.py [--suite NAME] [pytest's arguments]`.

Without --suite it is run on Debian 12 and then, for the tests marked debian13, on Debian 13. The checkout is installed in dom0
by `make install`. There is no network, and nothing is written to this machine except the images in its cache, see
lab/xen_image.py. The exit status: see lab/boot.py.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for `import lab`

from lab import boot  # noqa: E402
from lab.xen_image import XEN, image  # noqa: E402

TIER = boot.Tier(
    "xen",
    limit=2400,  # it took 12 minutes on two cores
    tools={**boot.QEMU, **boot.MAKING, "make": "make"},
    arguments=("-v", "-rP", "--durations=10", "tests/xen"),
    what="Xen $(xl info xen_version)",
    before="python3 -m compileall -q -j 2 /usr/lib/vmnet-hooks tests/lab",
)
MEMORY, DOM0_MEMORY = 3072, 1024  # MiB; the rest is for the guests
# A PV dom0 dies where there is SMAP (-cpu max), and where there is AVX, processes crash at random once a second domain
# runs. npt: for HVM guests.
CPU = "qemu64,+svm,+npt"


def run(suite: str, arguments: list[str]) -> int:
    made = image(suite)
    with boot.Machine(TIER) as machine:
        install = ["make", "--no-print-directory", "-C", boot.ROOT, "install", f"DESTDIR={machine.cargo}", "PREFIX=/usr"]
        subprocess.run(install, stdout=subprocess.DEVNULL, check=True)
        return machine.qemu(
            made,
            arguments,
            *("-cpu", CPU, "-m", MEMORY, "-kernel", made.xen),
            "-append",
            f"dom0_mem={DOM0_MEMORY}M,max:{DOM0_MEMORY}M com1=115200,8n1 console=com1 loglvl=warning guest_loglvl=warning "
            # What costs most under emulation: retpolines, and page tables of its own for the hypervisor.
            "spec-ctrl=no xpti=no",
            # QEMU takes a comma for the next module.
            *("-initrd", f"{made.kernel} console=hvc0 panic=-1 net.ifnames=0 mitigations=off,{made.initrd}"),
        )


def main(arguments: list[str]) -> int:
    if TIER.missing(*boot.lacks_root(TIER)):
        return boot.LACKING
    suites = list(XEN)
    if arguments[:1] == ["--suite"]:
        suites, arguments = [arguments[1]], arguments[2:]
    marked = {suite: [] if suite == "bookworm" else ["-m", "debian13"] for suite in suites}
    return max(run(suite, [*(arguments or TIER.arguments), *marked[suite]]) for suite in suites)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
