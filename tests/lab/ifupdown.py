"""Debian's real ifup and ifdown in a node: an /etc/network of the node's own, whose only scripts are those that the node is
given. `Ifupdown2` is the same with those of ifupdown2, a package that conflicts with ifupdown: it is fetched and unpacked.
"""

from __future__ import annotations

import fcntl
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from .debian import CACHE, codename
from .hooks import HOOKS
from .nodes import IN_VENV, CommandFailed, Node

HOOK = HOOKS / "ifupdown" / "vmnet"
FOLDERS = ("if-pre-up.d", "if-up.d", "if-down.d", "if-post-down.d")


class Ifupdown:
    """ifupdown on `node`, with our hook, and the machine's own scripts of that name ("bridge", "vlan", "ifenslave")."""

    def __init__(self, node: Node, scripts: Sequence[str] = ()):
        self.node = node
        node.sh(f"mount -t tmpfs tmpfs /etc/network; cd /etc/network; mkdir {' '.join(FOLDERS)} interfaces.d")
        for script in scripts:
            sources = [path for folder in FOLDERS if (path := Path("/etc/network", folder, script)).exists()]
            assert sources, f"/etc/network/if-*.d/{script} is missing: apt-get install bridge-utils vlan ifenslave"
            for source in sources:
                self.script(source.parent.name, script, source.read_text())
        for folder in ("if-up.d", "if-down.d"):
            if IN_VENV:
                # A venv's packages are visible to its own interpreter only.
                self.script(folder, "vmnet-hooks", f'#!/bin/sh\nexec {sys.executable} -IS {HOOK} "$@"\n')
            else:
                node.sh(f"ln -s {HOOK} /etc/network/{folder}/vmnet-hooks")
        self.interfaces("")

    def script(self, folder: str, name: str, text: str) -> None:
        self.node.write(f"/etc/network/{folder}/{name}", text)
        self.node.path(f"/etc/network/{folder}/{name}").chmod(0o755)

    def interfaces(self, text: str) -> None:
        self.node.write("/etc/network/interfaces", text)

    def run(self, *argv: str) -> subprocess.CompletedProcess[str]:
        """ifup or ifdown, to its end. The exit status is the caller's to judge."""
        return self.node.run(list(argv), check=False, timeout=180)

    def up(self, *argv: str) -> str:
        return self._done("ifup", *argv)

    def down(self, *argv: str) -> str:
        return self._done("ifdown", *argv)

    def _done(self, *argv: str) -> str:
        done = self.run(*argv)
        assert done.returncode == 0, (argv, done.stdout, done.stderr)
        return done.stderr


def fetched() -> Path:
    """Where ifupdown2 is unpacked: downloaded at the first call. Raises CommandFailed."""
    done = CACHE / f"ifupdown2-{codename()}"
    CACHE.mkdir(parents=True, exist_ok=True)
    with open(CACHE / "ifupdown2.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not done.exists():
            command = f"""
                rm -rf {done}.partial; mkdir {done}.partial; cd {done}.partial
                apt-get download ifupdown2; dpkg-deb -x *.deb .
                for name in ifup ifdown; do ln -sf ../usr/share/ifupdown2/ifupdown2 sbin/$name; done
            """
            ran = subprocess.run(["sh", "-ec", command], stdin=subprocess.DEVNULL, capture_output=True, text=True)
            if ran.returncode:
                raise CommandFailed(f"ifupdown2 (Debian's, from a mirror): {ran.stdout}{ran.stderr}")
            Path(f"{done}.partial").rename(done)
    return done


class Ifupdown2(Ifupdown):
    """ifupdown2 on `node`, with our hook."""

    def __init__(self, node: Node, fresh: bool = True):
        """With `fresh` false, /etc/network is already the node's own."""
        if fresh:
            super().__init__(node)
        self.node, self.root = node, fetched()
        node.sh(
            f"mkdir -p /etc/network/ifupdown2 /run/ifupdown2; cp -r {self.root}/etc/network/ifupdown2/. /etc/network/ifupdown2/\n"
            "sed -i 's|^state_dir=.*|state_dir=/run/ifupdown2/|' /etc/network/ifupdown2/ifupdown2.conf"
        )

    def run(self, *argv: str) -> subprocess.CompletedProcess[str]:
        command, *rest = argv
        # It goes by its own name.
        words = ["/usr/bin/python3", f"{self.root}/sbin/{command}", *rest]
        return self.node.run(words, check=False, timeout=180)
