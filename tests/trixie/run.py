"""Run the tests in a Debian 13 root, on this machine's kernel: `run.py [--short | COMMAND...]`.

Without arguments: every tier, the package built and installed there, `make demo`, and some of the vm tier on Debian 13's
kernel. --short: what `make check` runs. COMMAND is run in the root instead, in the checkout.

The root has the packages that the Makefile installs for `make check`. It is bootstrapped once and kept, see
package/clean_root.py; what is done in it is gone with it, but for the cache of the tests. The checkout is read-only in there.
Status 77: something is missing, and the message says how to get it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path.insert(0, str(HERE.parent / "package"))

from clean_root import ENV, CleanRoot, base  # noqa: E402

SUITE = "trixie"
LACKING = 77
TOOLS = {"mmdebstrap": "mmdebstrap", "unshare": "util-linux", "nsenter": "util-linux", "make": "make"}
# The vm tier's: Debian 13 has it as a package.
VNG = ("virtme-ng", "virtiofsd")
# What of the machine is seen in there: the checkout, and how to reach PyPI.
SHOWN = (ROOT, Path("/etc/resolv.conf"), Path("/etc/hosts"), Path("/etc/ssl/certs/ca-certificates.crt"), Path("/etc/pip.conf"))
PYTEST = ("/usr/bin/python3", "-m", "pytest", "-q", "-p", "no:cacheprovider")
VENV = ".venv-check"
UNIT = (*PYTEST, "-n", "auto")
# What reads and writes the words of `ip` and `nft`, pyroute2's answers, Xen's binding and libvirt's calls.
NETNS = ("plan_script.py", "import_state.py", "takeover.py::test_carried_along", "xen.py::test_either_way_into_the_store")
LIBVIRT = ("guest_reaches_the_world_until_destroy", "defined_domain_that_powers_itself_off", "qemu_is_killed")
# The laws take half of the time of tests/unit, and ask nothing of a library or a program: Debian 12's run is theirs.
SHORT = (
    (*UNIT, "--ignore-glob=tests/unit/test_laws*", "tests/unit", "tests/cases"),
    (*PYTEST, "-n", "2", *(f"tests/netns/test_{name}" for name in NETNS)),
    (*PYTEST, *(f"tests/libvirt/test_lifecycle.py::test_{name}" for name in LIBVIRT)),
)
ALL = (
    (*UNIT, "tests/unit", "tests/cases"),
    (*PYTEST, "-n", "2", "tests/netns"),
    (*PYTEST, "tests/libvirt"),
    (*PYTEST, "tests/package"),
    ("make", "--no-print-directory", "demo"),
    ("/usr/bin/python3", "tests/vm/run.py", "-q", "tests/vm/test_bond.py"),
)


def missing() -> list[str]:
    """What is missing, and how to get it."""
    path = os.environ["PATH"] + ":/usr/sbin:/sbin"
    found = [f"{tool}: apt-get install {package}" for tool, package in TOOLS.items() if not shutil.which(tool, path=path)]
    if os.geteuid():
        found.append("root: run `sudo make check-trixie`")
    return found


def packages() -> list[str]:
    """Those of `make check`."""
    listed = subprocess.run(["make", "-s", "-C", ROOT, "list-packages"], stdout=subprocess.PIPE, check=True, text=True)
    return listed.stdout.split()


def environment() -> dict[str, str]:
    """The root's own, and how to reach PyPI."""
    pip = {key: value for key, value in os.environ.items() if key.startswith("PIP_") or key.lower().endswith("_proxy")}
    return ENV | pip | {"VMNET_CI": "1", "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}


def run(commands: Sequence[Sequence[str]]) -> int:
    """Run the commands in one root, each whatever became of those before it; the highest of their statuses."""
    made = base(SUITE, [*packages(), *VNG])
    statuses = []
    with tempfile.TemporaryDirectory(prefix=f"vmnet-{SUITE}-") as work:
        shown = [path for path in SHOWN if path.exists()]
        with CleanRoot(Path(work), made, shown) as root:
            if (ROOT / VENV).is_dir() and not (ROOT / VENV).is_symlink():
                # Of the machine's own Python: the root has Debian 13's virtme-ng. What a link leads to is not shown there.
                root.run(["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", ROOT / VENV])
            for command in commands:
                print(f"== Debian 13: {' '.join(command)}", flush=True)
                began = time.monotonic()
                inside = root.enter(["env", "-C", ROOT, *command])
                statuses.append(subprocess.run(inside, stdin=subprocess.DEVNULL, env=environment()).returncode)
                print(f"== status {statuses[-1]} after {time.monotonic() - began:.0f} s", flush=True)
    return max(statuses)


def main(arguments: list[str]) -> int:
    if lacking := missing():
        print("tests/trixie needs " + "; ".join(lacking), file=sys.stderr)
        return LACKING
    if arguments == ["--short"]:
        return run(SHORT)
    return run([arguments] if arguments else ALL)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
