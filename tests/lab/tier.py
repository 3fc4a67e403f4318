"""What a tier of tests needs of the machine, and how to get it. The tests of a tier that lacks something are skipped."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping

import pytest

TOOLS: Mapping[str, str] = {
    "unshare": "util-linux",
    "nsenter": "util-linux",
    "ip": "iproute2",
    "bridge": "iproute2",
    "nft": "nftables",
    "tcpdump": "tcpdump",
    "ping": "iputils-ping",
    "arping": "iputils-arping",
}
"""What nodes, wires and captures are made with: programs, and the packages that they are in."""


def lacks(tools: Mapping[str, str], target: str) -> str:
    """What of root and of these tools is missing, and how to get it; empty if nothing is."""
    if os.geteuid():
        return f"needs root: run `sudo make {target}`"
    packages = sorted({package for tool, package in tools.items() if not shutil.which(tool)})
    return f"needs tools that are not installed: apt-get install {' '.join(packages)}" if packages else ""


def in_namespaces(flags: str, script: str) -> subprocess.CompletedProcess[str]:
    """Run a script with `sh` (`flags`: -c, -ec) in new mount and network namespaces."""
    command = ["unshare", "--mount", "--net", "--propagation", "private", "sh", flags, script]
    return subprocess.run(command, capture_output=True, text=True)


def own_network() -> list[str]:
    """The words that run a command in a network namespace of its own; without root, in a user namespace too."""
    words = ["unshare", "--net"] if os.geteuid() == 0 else ["unshare", "--map-root-user", "--net"]
    if subprocess.run([*words, "true"], stderr=subprocess.DEVNULL).returncode:
        pytest.skip("needs root, or user namespaces for everybody: sysctl -w kernel.unprivileged_userns_clone=1")
    return words


def refuse(tier: str, reason: str) -> None:
    """Skip a test of a tier, if there is a reason."""
    if reason:
        pytest.skip(f"tests/{tier} {reason}")
