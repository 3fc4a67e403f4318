"""A clean Debian of the machine's own release, in a mount namespace of its own; what is done in it is gone with it.

Its base is bootstrapped once from the machine's own package sources and kept in CACHE. Each `CleanRoot` is an overlay
on it that its processes have as `/` (pivot_root, so that they can make namespaces in turn).
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

CACHE = Path("/var/cache/vmnet-hooks-tests")
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
)

# Shown to the root: what the test guest is made of, and the device nodes.
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
mount --bind /boot boot
mount --bind /lib/modules lib/modules
pivot_root . mnt
umount -l /mnt
echo ready
exec cat >/dev/null
"""


def base() -> Path:
    """The bootstrapped root; about a minute when the cache lacks it."""
    codename = dict(line.split("=", 1) for line in Path("/etc/os-release").read_text().splitlines() if "=" in line)[
        "VERSION_CODENAME"
    ].strip('"')
    key = hashlib.sha256(f"{codename} {PACKAGES}".encode()).hexdigest()[:12]
    root = CACHE / f"root-{codename}-{key}"
    CACHE.mkdir(parents=True, exist_ok=True)
    with open(CACHE / "root.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if root.exists():
            return root
        partial = root.with_suffix(".partial")
        shutil.rmtree(partial, ignore_errors=True)
        # How the machine reaches its package mirror (a proxy, a certificate) is configured for apt.
        options = subprocess.run(["apt-config", "dump", "--no-empty", "Acquire"], capture_output=True, text=True, check=True)
        sources = [
            str(path)
            for path in (Path("/etc/apt/sources.list"), *sorted(Path("/etc/apt/sources.list.d").glob("*")))
            if path.suffix in (".list", ".sources") and path.exists()
        ]
        opts = CACHE / "apt.conf"
        opts.write_text(options.stdout)
        done = subprocess.run(
            [
                "mmdebstrap",
                "--mode=root",
                "--variant=minbase",
                f"--aptopt={opts}",
                f"--include={','.join(PACKAGES)}",
                "--dpkgopt=force-unsafe-io",
                codename,
                str(partial),
                *sources,
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=ENV | _proxies(),
        )
        if done.returncode:
            raise AssertionError(f"mmdebstrap: exit status {done.returncode}\n{done.stdout[-3000:]}")
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


def _proxies() -> dict[str, str]:
    return {key: value for key, value in os.environ.items() if key.lower().endswith("_proxy")}


class CleanRoot:
    def __init__(self, where: Path):
        where.mkdir(parents=True, exist_ok=True)
        self.holder = subprocess.Popen(
            ["unshare", "--mount", "--propagation", "private", "sh", "-ec", HOLDER, "holder", str(where), str(base())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=ENV,
        )
        if self.holder.stdout.readline().strip() != "ready":
            self.holder.kill()
            raise AssertionError(f"the clean root did not start: {self.holder.stderr.read()}")

    def __enter__(self) -> CleanRoot:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.holder.stdin.close()
        self.holder.wait()
        self.holder.stdout.close()
        self.holder.stderr.close()

    def path(self, path: str) -> Path:
        """Where the root's file `path` is for us."""
        return Path(f"/proc/{self.holder.pid}/root{path}")

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
        words = ["sh", "-ec", argv] if isinstance(argv, str) else [str(word) for word in argv]
        done = subprocess.run(
            ["nsenter", "-t", str(self.holder.pid), "-m", "--", *words],
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
        return set(_files(Path(f"/proc/{self.holder.pid}/root"), ""))


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
