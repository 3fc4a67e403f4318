"""A clean Debian, in mount and process namespaces of its own; what is done in it is gone with it.

Its base is bootstrapped once from the machine's own package sources and kept in CACHE. Each `CleanRoot` is an overlay
on it that its processes have as `/` (pivot_root, so that they can make namespaces in turn). They end with it.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # for `import lab`

from lab.debian import CACHE, bootstrap, codename  # noqa: E402

ENV = {
    "LC_ALL": "C.UTF-8",
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/root",
    "DEBIAN_FRONTEND": "noninteractive",
}
# What our package depends on and recommends, then what the tests in the root use.
PACKAGES = (
    "python3-pyroute2",
    "python3-lxml",
    "python3-click",
    "nftables",
    "iproute2",
    "libvirt-daemon-system",
    "libvirt-daemon-driver-qemu",
    "libvirt-clients",
    "python3-libvirt",
    "qemu-system-x86",
    "iputils-ping",
    "procps",
    "busybox-static",
    "man-db",
    "bash-completion",
    # For tests/service, which boots it.
    "kmod",
    "udev",
    "python3-pytest",
    "bind9",
    "bind9-dnsutils",
)

# Shown to the root: the device nodes, the cache of the tests, what the test guest is made of unless the root has a kernel of its
# own, and read-only the paths that the caller names. Process 1 is a shell that ends with our end of its standard input, and reaps
# orphans.
HOLDER = """
mount -t tmpfs tmpfs "$1"
mkdir "$1/upper" "$1/work" "$1/root"
mount -t overlay overlay -o "lowerdir=$2,upperdir=$1/upper,workdir=$1/work" "$1/root"
cd "$1/root"
mount -t proc proc proc
mount -t sysfs sysfs sys
mount --rbind /dev dev
mount -t tmpfs -o mode=755 tmpfs run
mkdir -p run/lock boot lib/modules
if ! [ -e boot/vmlinuz-* ]; then
    mount --bind /boot boot
    mount --bind /lib/modules lib/modules
fi
cache=$3
mkdir -p ".$cache"
mount --bind "$cache" ".$cache"
shift 3
for path; do
    if [ -d "$path" ]; then mkdir -p ".$path"; else mkdir -p ".${path%/*}"; : >>".$path"; fi
    mount --bind "$path" ".$path"
    mount -o remount,bind,ro ".$path"
done
pivot_root . mnt
umount -l /mnt
echo ready
exec bash -c 'read -r _'
"""


def base(suite: str = "", packages: Sequence[str] = PACKAGES) -> Path:
    """The bootstrapped root of a release, by default of the machine's own; a minute or two when CACHE lacks it."""
    suite = suite or codename()
    key = hashlib.sha256(f"{suite} {tuple(packages)}".encode()).hexdigest()[:12]
    root = CACHE / f"root-{suite}-{key}"
    CACHE.mkdir(parents=True, exist_ok=True)
    with open(CACHE / "root.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not root.exists():
            partial = root.with_suffix(".partial")
            shutil.rmtree(partial, ignore_errors=True)
            bootstrap(suite, partial, packages, "minbase")
            partial.rename(root)
    return root


def download(where: Path, *packages: str) -> list[Path]:
    """The packages' .deb files, of the machine's own release."""
    where.mkdir()
    command = ["apt-get", "-q", "download", *packages]
    done = subprocess.run(command, cwd=where, capture_output=True, text=True)
    if done.returncode:  # the mirror has a newer one than the machine's lists say
        subprocess.run(["apt-get", "-q", "update"], capture_output=True, check=True)
        done = subprocess.run(command, cwd=where, capture_output=True, text=True)
    if done.returncode:
        raise AssertionError(f"{' '.join(command)}: {done.stderr}")
    return [deb for package in packages for deb in where.glob(f"{package}_*.deb")]


class CleanRoot:
    """`where`: an empty folder to mount it at. `over`: another base than that of the machine's release. `shown`: files and
    folders of the machine that are seen in it, read-only."""

    def __init__(self, where: Path, over: Path | None = None, shown: Iterable[Path] = ()):
        where.mkdir(parents=True, exist_ok=True)
        command = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--propagation", "private"]
        self.holder = subprocess.Popen(
            [*command, "sh", "-ec", HOLDER, "holder", str(where), str(over or base()), str(CACHE), *map(str, shown)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=ENV,
        )
        if self.holder.stdout.readline().strip() != "ready":
            self.holder.kill()
            raise AssertionError(f"the clean root did not start: {self.holder.stderr.read()}")
        # unshare's only child is process 1 of the root.
        self.pid = int(Path(f"/proc/{self.holder.pid}/task/{self.holder.pid}/children").read_text())

    def __enter__(self) -> CleanRoot:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.holder.stdin.close()
        self.holder.wait()
        self.holder.stdout.close()
        self.holder.stderr.close()

    def enter(self, argv: Iterable[object]) -> list[str]:
        """The command line that runs `argv` in the root, from outside."""
        return ["nsenter", "-t", str(self.pid), "-m", "-p", "--", *map(str, argv)]

    def path(self, path: str) -> Path:
        """Where the root's file `path` is for us."""
        return Path(f"/proc/{self.pid}/root{path}")

    def write(self, path: str, text: str, mode: int = 0o644) -> None:
        self.path(path).parent.mkdir(parents=True, exist_ok=True)
        self.path(path).write_text(text)
        self.path(path).chmod(mode)

    def run(
        self,
        argv: Sequence[str] | str,
        input: str = "",
        check: bool = True,
        timeout: float = 120,
        env: dict[str, str] | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command (a string: by sh) in the root. Its standard error is part of its output."""
        done = subprocess.run(
            self.enter(["sh", "-ec", argv] if isinstance(argv, str) else argv),
            input=input,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=timeout,
            env=ENV | (env or {}),
        )
        if check and done.returncode:
            raise AssertionError(f"{argv}: exit status {done.returncode}\n{done.stdout}")
        return done

    def install(self, deb: Path) -> str:
        shutil.copy(deb, self.path("/tmp"))
        try:
            return self.run(["dpkg", "-i", f"/tmp/{deb.name}"]).stdout
        finally:
            self.path(f"/tmp/{deb.name}").unlink()

    def files(self) -> set[str]:
        """Every file, except for dpkg's own lists and logs, and what the kernel shows."""
        return set(_files(Path(f"/proc/{self.pid}/root"), ""))


SKIPPED = (
    "/proc",
    "/sys",
    "/dev",
    "/tmp",
    "/boot",
    "/lib/modules",
    "/usr/lib/modules",
    "/var/log",
    "/var/cache",
    "/var/lib/dpkg/status-old",
    "/var/lib/dpkg/lock",
    "/var/lib/dpkg/triggers",
    "/var/lib/dpkg/available",
)


def _files(root: Path, below: str) -> Iterator[str]:
    for entry in os.scandir(f"{root}{below or '/'}"):
        path = f"{below}/{entry.name}"
        if path in SKIPPED:
            continue
        yield f"{path} -> {os.readlink(entry.path)}" if entry.is_symlink() else path
        if entry.is_dir(follow_symlinks=False):
            yield from _files(root, path)
