"""A machine to boot under QEMU: Xen, a dom0 with xl and what our package needs, and a guest's kernel and initramfs.

Made from Debian's packages alone, once per release, and kept in CACHE. `Image.files` are what QEMU is given. Needs root.
"""

from __future__ import annotations

import fcntl
import gzip
import hashlib
import lzma
import os
import shlex
import shutil
import struct
import subprocess
from dataclasses import dataclass
from pathlib import Path

from . import debian
from .debian import CACHE, XEN

PACKAGES = (
    "xenstore-utils xen-utils-common mount iproute2 bridge-utils kmod procps ethtool iputils-ping iputils-arping net-tools "
    "iptables tcpdump busybox-static dnsmasq-base qemu-system-xen nftables python3 python3-pyroute2 python3-lxml python3-click "
    "python3-pytest"
).split()
# What the root disk needs, in this order with what each needs in turn; then what a guest's NIC needs.
DISK_MODULES = ("virtio_pci", "virtio_blk", "crc32c_generic", "ext4")
GUEST_MODULES = ("xen-netfront", "8139cp", "8139too", "8021q")
# The folders of modules that dom0 gets; single modules of drivers/net are copied besides.
MODULES = "net crypto lib arch drivers/xen drivers/block drivers/virtio drivers/vhost fs/ext4 fs/jbd2".split()
NET_MODULES = "xen-netback vxlan bonding ipvlan".split()

INITRD = r"""#!/bin/busybox sh
b=/bin/busybox
$b mount -t proc proc /proc; $b mount -t sysfs sys /sys; $b mount -t devtmpfs dev /dev
for m in /mod/*; do $b insmod $m; done
i=0; while ! $b test -b /dev/vda && $b test $i -lt 100; do $b sleep 0.1; i=$((i+1)); done
$b mount -t ext4 /dev/vda /root || { echo "dom0: no root disk"; $b poweroff -f; }
for d in proc sys dev; do $b mount --move /$d /root/$d; done
exec $b switch_root /root /sbin/lab-init
"""
# Neither systemd nor udevd. The second disk is a tar that is unpacked at /; then /lab/job runs, with its output on the port
# `out` and its exit status on `status`.
INIT = r"""#!/bin/bash
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8
port() { local p; for p in /sys/class/virtio-ports/*; do [ "$(cat $p/name)" = $1 ] && echo /dev/${p##*/}; done; }
fail() { echo "dom0: $*"; busybox poweroff -f; sleep 60; }
mount -t tmpfs -o mode=755 run /run; mkdir -p /run/lock /dev/pts /dev/shm
mount -t devpts devpts /dev/pts; mount -t tmpfs tmp /tmp; mount -t tmpfs shm /dev/shm
echo dom0 > /proc/sys/kernel/hostname; ip link set lo up
modprobe -a virtio_console xen-privcmd xen-evtchn xen-gntdev xenfs xen-netback bridge 8021q veth tun dummy
/etc/init.d/xen start || fail "/etc/init.d/xen: $?"
timeout 20 xenstore-read domid > /dev/null || fail "no xenstore"
tar -x -f /dev/vdb -C /
mkdir -p /var/log/xen
bash /lab/job < /dev/null > "$(port out)" 2>&1
echo $? > "$(port status)"
sync; busybox poweroff -f
"""
# A guest obeys its console: each line is `NUMBER COMMAND`, answered by what the command prints and `@NUMBER STATUS`.
GUEST_INIT = r"""#!/bin/busybox sh
/bin/busybox --install -s /bin; export PATH=/bin HOME=/; mkdir -p /sbin /tmp
printf '#!/bin/sh\n/bin/busybox poweroff -f\n' > /sbin/poweroff; printf '#!/bin/sh\n/bin/busybox reboot -f\n' > /sbin/reboot
chmod 755 /sbin/*
mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t devtmpfs dev /dev
echo 0 > /proc/sys/net/ipv6/conf/all/accept_dad; echo 0 > /proc/sys/net/ipv6/conf/default/accept_dad
echo 1 > /proc/sys/net/ipv4/ip_nonlocal_bind
for m in /mod/*; do insmod $m; done
for w in $(cat /proc/cmdline); do case $w in console=*) tty=/dev/${w#console=}; tty=${tty%,*};; esac; done
ip link set lo up
trap '' INT
exec < $tty > $tty 2>&1
stty raw -echo
echo "@up"
while :; do
    while read -r number command; do sh -c "$command"; echo "@$number $?"; done
    sleep 1
done
"""


@dataclass(frozen=True)
class Image:
    """What QEMU boots."""

    directory: Path

    @property
    def xen(self) -> Path:
        return self.directory / "xen"

    @property
    def kernel(self) -> Path:
        return self.directory / "vmlinux"

    @property
    def initrd(self) -> Path:
        return self.directory / "dom0.cpio"

    @property
    def root(self) -> Path:
        return self.directory / "root.ext4"


def image(suite: str) -> Image:
    """The image of a release; it is made when CACHE lacks it, which takes a minute and the network."""
    key = hashlib.sha256(Path(__file__).read_bytes() + Path(debian.__file__).read_bytes()).hexdigest()[:12]
    directory = CACHE / f"xen-{suite}-{key}"
    CACHE.mkdir(parents=True, exist_ok=True)
    with open(CACHE / f"xen-{suite}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not directory.exists():
            for old in CACHE.glob(f"xen-{suite}-*"):
                shutil.rmtree(old)
            partial = directory.with_suffix(".partial")
            partial.mkdir()
            try:
                build(suite, partial)
            except BaseException:
                shutil.rmtree(partial)
                raise
            partial.rename(directory)
    return Image(directory)


def run(argv: list[object], **options: object) -> str:
    """Run a command to its end. Raises SystemExit with all that it printed if it fails."""
    words = [str(word) for word in argv]
    done = subprocess.run(
        words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", **options
    )
    if done.returncode:
        raise SystemExit(f"{' '.join(words)}: exit status {done.returncode}\n{done.stdout[-4000:]}")
    return done.stdout


def build(suite: str, out: Path) -> None:
    root, package = out / "root", out / "kernel"
    bootstrap(suite, root)
    package.mkdir()
    for deb in (root / "kernel").glob("*.deb"):
        run(["dpkg-deb", "-x", deb, package])
    shutil.rmtree(root / "kernel")
    (root / "kernel.name").unlink()
    version = next((package / "boot").glob("vmlinuz-*")).name.removeprefix("vmlinuz-")
    (out / "vmlinux").write_bytes(vmlinux((package / f"boot/vmlinuz-{version}").read_bytes()))
    (out / "xen").write_bytes(gzip.decompress((root / f"boot/xen-{XEN[suite]}-amd64.gz").read_bytes()))
    modules(modules_folder(package) / version, root / "lib/modules" / version)
    run(["depmod", "-b", root, version])

    initramfs(out / "dom0.cpio", root, version, DISK_MODULES, INITRD)
    (root / "lab").mkdir()
    initramfs(root / "lab/guest.cpio", root, version, GUEST_MODULES, GUEST_INIT)
    os.link(out / "vmlinux", root / "lab/vmlinux")
    shutil.copy(package / f"boot/vmlinuz-{version}", root / "lab/vmlinuz")
    program(root / "sbin/lab-init", INIT)
    for folder in ("var/cache/apt", "var/lib/apt/lists", "boot"):
        shutil.rmtree(root / folder)
    size = int(run(["du", "-sm", root]).split()[0]) * 5 // 4 + 200
    run(["mke2fs", "-q", "-t", "ext4", "-O", "^has_journal,^metadata_csum", "-m", "0", "-d", root, out / "root.ext4", f"{size}M"])
    shutil.rmtree(root)
    shutil.rmtree(package)


def modules_folder(root: Path) -> Path:
    """Below /usr since the merge."""
    return next(folder for folder in (root / "usr/lib/modules", root / "lib/modules") if folder.is_dir())


def bootstrap(suite: str, root: Path) -> None:
    """Debian's packages, and in /kernel that of the kernel, which is only unpacked: no initramfs of its own is wanted."""
    kernel = (
        "cd /; apt-cache depends linux-image-amd64 | sed -n 's/^ *Depends: //p' | head -1 >/kernel.name && "
        "mkdir /kernel && cd /kernel && apt-get -q download $(cat /kernel.name)"
    )
    included = [*PACKAGES, f"xen-utils-{XEN[suite]}", f"xen-hypervisor-{XEN[suite]}-amd64"]
    debian.bootstrap(
        suite,
        root,
        included,
        "apt",
        '--aptopt=Apt::Install-Recommends "false"',
        *(f"--dpkgopt=path-exclude=/usr/share/{folder}/*" for folder in ("man", "locale", "doc")),
        f'--customize-hook=chroot "$1" sh -ec {shlex.quote(kernel)}',
    )


def vmlinux(image: bytes) -> bytes:
    """The ELF kernel inside a bzImage: unpacking it under emulation takes long. See Documentation/arch/x86/boot.rst."""
    start = (image[0x1F1] + 1) * 512 + struct.unpack_from("<I", image, 0x248)[0]
    payload = image[start : start + struct.unpack_from("<I", image, 0x24C)[0]]
    if payload.startswith(b"\xfd7zXZ\0"):
        return lzma.LZMADecompressor().decompress(payload)
    if payload.startswith(b"\x28\xb5\x2f\xfd"):
        return subprocess.run(["zstd", "-dcq"], input=payload[:-4], stdout=subprocess.PIPE, check=True).stdout
    raise SystemExit(f"a kernel that is packed in an unknown way: {payload[:6]!r}")


def modules(source: Path, target: Path) -> None:
    """Copy what dom0 and the guests may need; unpacked, as busybox wants them."""
    (target / "kernel/drivers/net").mkdir(parents=True)
    for name in ("modules.builtin", "modules.order", "modules.builtin.modinfo"):
        shutil.copy(source / name, target)
    for folder in (*MODULES, *(f"drivers/net/{name}" for name in (*NET_MODULES, "ethernet/realtek"))):
        if (source / "kernel" / folder).is_dir():
            shutil.copytree(source / "kernel" / folder, target / "kernel" / folder)
    files = [source / "kernel/drivers/char", source / "kernel/fs", source / "kernel/drivers/net"]
    for folder in files:
        for file in folder.glob("*.ko*"):
            copy = target / file.relative_to(source)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, copy)
    for packed in target.rglob("*.ko.xz"):
        packed.with_suffix("").write_bytes(lzma.decompress(packed.read_bytes()))
        packed.unlink()


def initramfs(out: Path, root: Path, version: str, names: tuple[str, ...], init: str) -> None:
    """A cpio of busybox, the modules in the order in which they must be loaded, and `init`."""
    tree = out.with_suffix(".tree")
    for folder in ("bin", "mod", "proc", "sys", "dev", "root"):
        (tree / folder).mkdir(parents=True)
    shutil.copy(root / "bin/busybox", tree / "bin")
    files: dict[str, None] = {}
    for name in names:
        shown = run(["modprobe", "-d", root, "-S", version, "--show-depends", name])
        files |= {line.split()[1]: None for line in shown.splitlines() if line.startswith("insmod ")}
    for number, file in enumerate(files):
        shutil.copy(file, tree / f"mod/{number:02}-{Path(file).name}")
    program(tree / "init", init)
    listed = subprocess.run(["find", "."], cwd=tree, stdout=subprocess.PIPE, check=True).stdout
    packed = subprocess.run(
        ["cpio", "-o", "-H", "newc", "--quiet"], cwd=tree, input=listed, stdout=subprocess.PIPE, check=True
    ).stdout
    out.write_bytes(packed)
    shutil.rmtree(tree)


def program(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o755)
