#!/usr/bin/python3
"""The guest of the libvirt tier and of the demo: Debian's kernel and a busybox initramfs, nothing to download.

`build()` returns (kernel, initrd). The initrd is cached under CACHE, keyed by the kernel's version and by this
file, so that a changed guest is never tested with an old image. No root file system, no KVM: boots in a few
seconds under TCG with 96 MiB.

Words on the kernel's command line (N is the NIC's number, in PCI order):

    ipN=192.0.2.10/24    IPv4 address        ip6_N=2001:db8::10/128   IPv6 address
    gwN=192.0.2.1        IPv4 default route  gw6_N=2001:db8::1        on-link route to it, then default route via it

The first serial line is the console: it prints GUEST-UP when the NICs are configured. The second one takes commands,
`ID COMMAND` on one line, and answers with the output followed by `@@ID STATUS`. Commands therefore reach the guest
however badly its network is filtered.
"""

import hashlib
import lzma
import os
import shutil
import struct
import subprocess
import sys
import tempfile
from pathlib import Path

CACHE = Path("/var/cache/vmnet-hooks-tests")
BUSYBOX = Path("/bin/busybox")
VNET = Path(__file__).resolve().parents[1] / "lab/vnet.c"
# What the guest needs beyond what is built into Debian's kernel. `ipv6` is built in there; a kernel that has it as
# a module works too.
DRIVERS = ("virtio_pci", "virtio_net", "ipv6", "af_packet")

INIT = """#!/bin/busybox sh
B=/bin/busybox
$B mount -t proc proc /proc; $B mount -t sysfs sys /sys; $B mount -t devtmpfs dev /dev
$B --install -s /bin; export PATH=/bin
for m in $(cat /modules); do insmod /mod/$m || echo "insmod $m failed"; done
for w in $(cat /proc/cmdline); do case $w in ip[0-9]=*|ip6_[0-9]=*|gw[0-9]=*|gw6_[0-9]=*) eval "$w";; esac; done
ip link set lo up
n=0; while [ -e /sys/class/net/eth$n ]; do
  d=eth$n
  eval "a=\\${ip$n:-} a6=\\${ip6_$n:-} g=\\${gw$n:-} g6=\\${gw6_$n:-}"
  echo 0 > /proc/sys/net/ipv6/conf/$d/accept_ra
  ip link set $d up
  [ -n "$a" ] && ip addr add $a dev $d
  [ -n "$a6" ] && ip -6 addr add $a6 dev $d
  [ -n "$g" ] && ip route add default via $g dev $d
  [ -n "$g6" ] && ip -6 route add $g6 dev $d && ip -6 route add default via $g6 dev $d
  n=$((n+1))
done
stty -F /dev/ttyS1 raw -echo
echo "GUEST-UP $(cut -d' ' -f1 /proc/uptime)"
exec 3<>/dev/ttyS1
while :; do
  while read -r id cmd; do
    # A client that finds the line empty sends a bare newline first: nothing to run, nothing to answer.
    [ -n "$cmd" ] || continue
    sh -c "$cmd" >/tmp/out 2>&1 </dev/null; s=$?
    cat /tmp/out >&3; echo "@@$id $s" >&3
  done <&3
  sleep 0.1
done
"""


class MissingPiece(Exception):
    """Something that the guest is made of is not on this machine; the text says how to get it."""


def newest_kernel() -> tuple[str, Path]:
    """(version, image) of the newest installed Debian kernel that has its modules."""
    found = [
        (tuple(int(n) for n in version.split("-")[0].split(".") if n.isdigit()), version, image)
        for image in Path("/boot").glob("vmlinuz-*")
        if (Path("/lib/modules") / (version := image.name.removeprefix("vmlinuz-")) / "modules.dep").exists()
    ]
    if not found:
        raise MissingPiece("no guest kernel in /boot with modules in /lib/modules; apt-get install linux-image-amd64")
    _, version, image = max(found)
    return version, image


def modules_for(version: str) -> list[Path]:
    """Files of DRIVERS and of what they depend on, each after what it needs; those built into the kernel left out."""
    root = Path("/lib/modules") / version
    needs: dict[str, list[str]] = {}
    for line in (root / "modules.dep").read_text().splitlines():
        path, _, rest = line.partition(":")
        needs[path] = rest.split()
    by_name = {Path(path).name.split(".ko")[0].replace("-", "_"): path for path in needs}
    built_in = {Path(line).stem.replace("-", "_") for line in (root / "modules.builtin").read_text().splitlines()}
    ordered: list[str] = []
    for name in DRIVERS:
        if name in built_in:
            continue
        if name not in by_name:
            raise MissingPiece(f"kernel {version} has no {name}; apt-get install linux-image-amd64")
        path = by_name[name]
        # modules.dep lists dependencies in the reverse of the order in which they must be loaded.
        for each in [*reversed(needs[path]), path]:
            if each not in ordered:
                ordered.append(each)
    return [root / path for path in ordered]


def _wants_loader(elf: bytes) -> bool:
    """Whether a 64-bit little-endian ELF program has a PT_INTERP header."""
    (table,) = struct.unpack_from("<Q", elf, 32)
    size, count = struct.unpack_from("<HH", elf, 54)
    return any(struct.unpack_from("<I", elf, table + size * n) == (3,) for n in range(count))


def _plain(module: Path) -> bytes:
    """The module's ELF: busybox's insmod does not unpack."""
    data = module.read_bytes()
    if module.suffix == ".xz":
        return lzma.decompress(data)
    if module.suffix == ".zst":
        return subprocess.run(["zstd", "-dc"], input=data, stdout=subprocess.PIPE, check=True).stdout
    return data


def _vnet() -> bytes:
    """The program that sends frames whose checksums are left to the host."""
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder) / "vnet"
        done = subprocess.run(["gcc", "-static", "-Os", "-Wall", "-o", made, VNET], stderr=subprocess.PIPE, text=True)
        if done.returncode:
            raise MissingPiece(f"{VNET.name} can't be compiled; apt-get install gcc libc6-dev: {done.stderr.strip()}")
        return made.read_bytes()


def _cpio(entries: list[tuple[str, int, bytes]]) -> bytes:
    """A `newc` archive (the kernel's Documentation/driver-api/early-userspace/buffer-format.rst)."""
    out = bytearray()
    for number, (name, mode, data) in enumerate([*entries, ("TRAILER!!!", 0, b"")], 1):
        encoded = name.encode() + b"\0"
        fields = (number, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(encoded), 0)
        out += b"070701" + b"".join(b"%08X" % field for field in fields) + encoded
        out += b"\0" * (-len(out) % 4)
        out += data
        out += b"\0" * (-len(out) % 4)
    return bytes(out)


def build() -> tuple[Path, Path]:
    """(kernel, initrd), built when the cache lacks it. Raises MissingPiece."""
    if not BUSYBOX.exists():
        raise MissingPiece("no /bin/busybox; apt-get install busybox-static")
    version, kernel = newest_kernel()
    key = hashlib.sha256(Path(__file__).read_bytes() + BUSYBOX.read_bytes() + VNET.read_bytes()).hexdigest()[:16]
    # The demo needs no compiler, and does not send such frames.
    with_vnet = shutil.which("gcc") is not None
    key += "-vnet" * with_vnet
    image = CACHE / f"guest-{version}-{key}.cpio"
    if image.exists():
        return kernel, image
    # The initrd has no dynamic loader: a busybox that wants one would only show as a guest that never comes up.
    if _wants_loader(BUSYBOX.read_bytes()):
        raise MissingPiece("/bin/busybox is linked dynamically; apt-get install busybox-static")
    directory, program, plain = 0o040755, 0o100755, 0o100644
    modules = modules_for(version)
    names = [module.name.split(".ko")[0] + ".ko" for module in modules]
    entries = [(name, directory, b"") for name in ("bin", "dev", "proc", "sys", "tmp", "mod")]
    entries += [("bin/busybox", program, BUSYBOX.read_bytes()), ("init", program, INIT.encode())]
    entries += [("bin/vnet", program, _vnet())] if with_vnet else []
    entries += [("modules", plain, "\n".join(names).encode())]
    entries += [(f"mod/{name}", plain, _plain(module)) for name, module in zip(names, modules, strict=True)]
    CACHE.mkdir(parents=True, exist_ok=True)
    # Renamed into place: two test runs may build at once.
    with tempfile.NamedTemporaryFile(dir=CACHE, delete=False) as partial:
        partial.write(_cpio(entries))
    os.chmod(partial.name, 0o644)
    os.rename(partial.name, image)
    return kernel, image


if __name__ == "__main__":
    try:
        print(*build())
    except MissingPiece as error:
        sys.exit(f"guest_image: {error}")
