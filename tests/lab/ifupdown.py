"""Debian's real ifup and ifdown in a node: an /etc/network of the node's own, whose only scripts are those that the node is
given.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from .nodes import IN_VENV, ROOT, Node

HOOK = ROOT / "hooks" / "ifupdown" / "vmnet"
SCRIPTS = ("if-pre-up.d", "if-up.d", "if-down.d", "if-post-down.d")


class Ifupdown:
    """ifupdown on `node`. `scripts` are links below the four folders that are made besides ours: {"if-up.d/ip": target}."""

    def __init__(self, node: Node, scripts: dict[str, Path] | None = None, hook: bool = True):
        self.node = node
        self.links = dict(scripts or {})
        if hook and not IN_VENV:
            self.links |= {f"{folder}/vmnet-hooks": HOOK for folder in ("if-up.d", "if-down.d")}
        links = "\n".join(f"ln -s {target} /etc/network/{link}" for link, target in self.links.items())
        node.sh(f"mount -t tmpfs tmpfs /etc/network; cd /etc/network; mkdir {' '.join(SCRIPTS)} interfaces.d\n{links}")
        if hook and IN_VENV:
            # A venv's packages are visible to its own interpreter only.
            for folder in ("if-up.d", "if-down.d"):
                node.write(f"/etc/network/{folder}/vmnet-hooks", f'#!/bin/sh\nexec {sys.executable} -IS {HOOK} "$@"\n')
                node.path(f"/etc/network/{folder}/vmnet-hooks").chmod(0o755)
        node.write("/etc/network/interfaces", "")

    def interfaces(self, text: str) -> None:
        self.node.write("/etc/network/interfaces", text)

    def run(self, *argv: str) -> subprocess.CompletedProcess[str]:
        """ifup or ifdown, to its end. The exit status is the caller's to judge."""
        return self.node.run(list(argv), check=False)

    def up(self, *argv: str) -> str:
        return self._done("ifup", *argv)

    def down(self, *argv: str) -> str:
        return self._done("ifdown", *argv)

    def _done(self, *argv: str) -> str:
        done = self.run(*argv)
        assert done.returncode == 0, (argv, done.stdout, done.stderr)
        return done.stderr
