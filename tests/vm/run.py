"""Boot Debian's kernel under QEMU, on this machine's own files, and run this tier in it: `run.py [pytest's arguments]`.

The machine's file system is read-only in there (virtme-ng lays tmpfs overlays over it), and there is no network. The exit
status: see lab/boot.py.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for `import lab`

from lab import boot, xenstore  # noqa: E402
from lab.kernel import kernel  # noqa: E402

CPUS, MEMORY = 2, "1G"
# What costs most under emulation: retpolines, and a fifth level of page tables.
KERNEL_ARGUMENTS = ("mitigations=off", "no5lvl")
# max_bonds and numdummies: no bond0 and dummy0 that nobody asked for.
MODULES = ("8021q", "bonding max_bonds=0", "dummy numdummies=0", "vrf", "macvlan", "bridge", "veth", "tun", "nf_tables")
# Of tests/netns, what depends most on what a kernel does with a guest's frames before a filter sees them: one of each kind.
# All of the two files take more than ten minutes here.
CHECKSUMS, LINK_LOCAL = "tests/netns/test_checksums.py", "tests/netns/test_link_local.py"
FROM_NETNS = (
    *(f"{CHECKSUMS}::test_no_lie_leaves_a_bridge[tap-{lie}]" for lie in ("IPv4-plain", "IPv6-plain", "advertisement-tagged")),
    f"{CHECKSUMS}::test_without_it_they_leave[tap]",
    f"{CHECKSUMS}::test_segments[tap]",
    f"{CHECKSUMS}::test_no_lie_leaves_a_router[tap]",
    f"{LINK_LOCAL}::test_groups[addressed]",
    f"{LINK_LOCAL}::test_no_guest_becomes_the_root[unfiltered]",
    "tests/netns/test_wires.py::test_an_end_goes_and_comes_back[killed-ab]",
)
TIER = boot.Tier(
    "vm",
    limit=4800,  # it took 17 minutes on two cores
    tools=boot.QEMU,
    arguments=("-q", "--durations=10", "-n", "2", "tests/vm", *FROM_NETNS),
    what="this machine's files",
    before="\n".join(
        [
            "export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root",
            # A tmpfs of virtme's; below it is what was fetched before.
            "umount /var/cache",
            *(f"modprobe {module} || echo '== no module: {module}'" for module in MODULES),
        ]
    ),
)


def virtme() -> Path | None:
    """virtme-ng's `vng`: that of the check's own venv, else that in PATH."""
    own = boot.ROOT / ".venv-check/bin/vng"
    found = own if own.exists() else shutil.which("vng")
    return Path(found) if found else None


def lacks_virtme() -> list[str]:
    return [] if virtme() else ["virtme-ng: `make .venv-check/ready`, or `pip install virtme-ng` in a venv that is in PATH"]


def main(arguments: list[str]) -> int:
    if TIER.missing(*boot.lacks_kernel(), *lacks_virtme()):
        return boot.LACKING
    # There is no network in there, and compiling would take long. What `lab.hooks` makes is made by now.
    xenstore.fetched()
    with boot.Machine(TIER) as machine:
        job = machine.work / "job"
        job.write_text(TIER.job(boot.ROOT, arguments))
        argv = [virtme(), "--disable-kvm", "--run", kernel(), "--user", "root", "--cpus", CPUS, "--memory", MEMORY]
        argv += [word for argument in KERNEL_ARGUMENTS for word in ("--append", argument)]
        # vng's own status does not depend on what ran in the machine.
        argv += ["--rwdir", machine.work, "--exec", f"bash {job} </dev/null; echo $? >{machine.status}"]
        # vng writes settings and sockets below HOME; its own programs must come first in PATH.
        env = {**os.environ, "HOME": str(machine.work), "PATH": f"{virtme().parent}:{os.environ['PATH']}"}
        return machine.run(argv, stdout=machine.shown, stderr=machine.shown, env=env)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
