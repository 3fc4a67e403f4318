"""A Debian to boot under QEMU with systemd as its init: the package tier's clean root, and the machine's own kernel.

Made once and kept in that tier's CACHE. Needs root.
"""

from __future__ import annotations

import fcntl
import hashlib
import shutil
from dataclasses import dataclass
from pathlib import Path

from clean_root import CACHE, base
from lab import xen_image
from lab.kernel import kernel
from lab.xen_image import initramfs, modules, program, run, vmlinux

DISK_MODULES = xen_image.DISK_MODULES
INITRD = xen_image.INITRD.replace("/sbin/lab-init", "/sbin/init").replace("dom0", "machine")
# The second disk is a tar that is unpacked at /; then /lab/job runs, with its output on the port `out` and its exit status on
# `status`.
JOB = r"""#!/bin/bash
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LC_ALL=C.UTF-8
port() { local p; for p in /sys/class/virtio-ports/*; do [ "$(cat $p/name)" = $1 ] && echo /dev/${p##*/}; done; }
modprobe virtio_console
tar -x -f /dev/vdb -C /
bash /lab/job < /dev/null > "$(port out)" 2>&1
echo $? > "$(port status)"
sync; busybox poweroff -f
"""
# It starts once everything else has, and is no part of that.
UNIT = """[Unit]
DefaultDependencies=no
After=basic.target multi-user.target
[Service]
ExecStart=/sbin/lab-job
KillMode=process
[Install]
WantedBy=multi-user.target
"""
# Wanted by nobody here: they cost time under emulation, or the network.
MASKED = (
    *("apt-daily.timer", "apt-daily-upgrade.timer", "dpkg-db-backup.timer", "e2scrub_all.timer", "fstrim.timer", "man-db.timer"),
    *("logrotate.timer", "e2scrub_reap.service", "systemd-pstore.service", "systemd-hwdb-update.service", "getty@tty1.service"),
    *(
        "named.service",
        "serial-getty@ttyS0.service",
        "getty-static.service",
        "machines.target",
        "systemd-journal-catalog-update.service",
    ),
)


@dataclass(frozen=True)
class Image:
    """What QEMU boots."""

    directory: Path

    @property
    def kernel(self) -> Path:
        return self.directory / "vmlinux"

    @property
    def initrd(self) -> Path:
        return self.directory / "initrd.cpio"

    @property
    def root(self) -> Path:
        return self.directory / "root.ext4"


def image() -> Image:
    """The image; it is made when CACHE lacks it, which takes a minute, and the network if the clean root is not there either."""
    clean, booted = base(), kernel()
    sources = b"".join(Path(file).read_bytes() for file in (__file__, xen_image.__file__))
    key = hashlib.sha256(f"{clean.name} {booted.name}".encode() + sources).hexdigest()[:12]
    directory = CACHE / f"service-{key}"
    with open(CACHE / "service.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not directory.exists():
            for old in CACHE.glob("service-*"):
                shutil.rmtree(old)
            partial = directory.with_suffix(".partial")
            partial.mkdir()
            try:
                build(clean, booted, partial)
            except BaseException:
                shutil.rmtree(partial)
                raise
            partial.rename(directory)
    return Image(directory)


def build(clean: Path, booted: Path, out: Path) -> None:
    root, version = out / "root", booted.name.removeprefix("vmlinuz-")
    run(["cp", "-a", clean, root])
    (out / "vmlinux").write_bytes(vmlinux(booted.read_bytes()))
    source, target = Path("/lib/modules", version), root / "lib/modules" / version
    modules(source, target)
    shutil.copytree(source / "kernel/fs/autofs", target / "kernel/fs/autofs")
    run(["depmod", "-b", root, version])
    initramfs(out / "initrd.cpio", root, version, DISK_MODULES, INITRD)

    program(root / "sbin/lab-job", JOB)
    units = root / "etc/systemd/system"
    (units / "lab.service").write_text(UNIT)
    (units / "multi-user.target.wants/lab.service").symlink_to("../lab.service")
    for name in MASKED:
        (units / name).unlink(missing_ok=True)
        (units / name).symlink_to("/dev/null")
    (units / "default.target").symlink_to("/lib/systemd/system/multi-user.target")
    (root / "etc/fstab").write_text("/dev/vda / ext4 defaults 0 0\n")
    (root / "etc/hostname").write_text("machine\n")
    (root / "etc/machine-id").write_text(f"{hashlib.md5(root.name.encode()).hexdigest()}\n")
    # The index of man pages takes long.
    (root / "var/lib/man-db/auto-update").unlink(missing_ok=True)
    # libvirt's own network wants dnsmasq.
    shutil.rmtree(root / "etc/libvirt/qemu/networks", ignore_errors=True)
    for folder in ("var/cache/apt", "var/lib/apt/lists", "boot"):
        shutil.rmtree(root / folder, ignore_errors=True)
    size = int(run(["du", "-sm", root]).split()[0]) * 5 // 4 + 200
    run(["mke2fs", "-q", "-t", "ext4", "-O", "^has_journal,^metadata_csum", "-m", "0", "-d", root, out / "root.ext4", f"{size}M"])
    shutil.rmtree(root)
