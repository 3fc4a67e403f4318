"""Roots of Debian's packages, from the mirror that the machine itself is configured for."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterable
from pathlib import Path

CACHE = Path("/var/cache/vmnet-hooks-tests")
MIRROR, SECURITY = "http://deb.debian.org/debian", "http://deb.debian.org/debian-security"

# Debian's release, and its version of Xen.
XEN = {"bookworm": "4.17", "trixie": "4.20"}


def codename() -> str:
    """The machine's own release."""
    fields = dict(line.split("=", 1) for line in Path("/etc/os-release").read_text().splitlines() if "=" in line)
    return fields["VERSION_CODENAME"].strip('"')


def mirrors() -> tuple[str, str]:
    """Where this machine gets Debian's packages, and its security updates."""
    files = [Path("/etc/apt/sources.list.d/debian.sources"), Path("/etc/apt/sources.list")]
    lines = [line for file in files if file.exists() for line in file.read_text().splitlines() if not line.startswith("#")]
    found = [word for line in lines for word in line.split() if "://" in word]
    plain = [word for word in found if "security" not in word]
    return (plain or [MIRROR])[0], next((word for word in found if "security" in word), SECURITY)


def sources(suite: str) -> list[str]:
    """What mmdebstrap is told of where a release's packages are: lines of a sources.list, or the machine's own files."""
    if suite == codename():
        files = (Path("/etc/apt/sources.list"), *sorted(Path("/etc/apt/sources.list.d").glob("*")))
        return [str(file) for file in files if file.suffix in (".list", ".sources") and file.exists()]
    mirror, security = mirrors()
    return [f"deb {mirror} {suite} main", f"deb {mirror} {suite}-updates main", f"deb {security} {suite}-security main"]


def bootstrap(suite: str, root: Path, packages: Iterable[str], variant: str, *options: str) -> None:
    """Make a root of a release's packages and what they depend on. Raises SystemExit with mmdebstrap's words if that fails."""
    # How the machine reaches its package mirror (a proxy, a certificate) is configured for apt.
    shown = subprocess.run(["apt-config", "dump", "--no-empty", "Acquire"], stdout=subprocess.PIPE, check=True).stdout
    configured = root.parent / f"{root.name}.apt.conf"
    configured.write_bytes(shown)
    command = [
        *("mmdebstrap", "--mode=root", f"--variant={variant}", f"--aptopt={configured}", "--dpkgopt=force-unsafe-io"),
        *(f"--include={','.join(packages)}", *options, suite, str(root), *sources(suite)),
    ]
    # INITRD: no test boots a kernel with an initramfs of Debian's.
    env = os.environ | {"LC_ALL": "C.UTF-8", "DEBIAN_FRONTEND": "noninteractive", "INITRD": "No"}
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", env=env
    )
    configured.unlink()
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}: exit status {done.returncode}\n{done.stdout[-4000:]}")
