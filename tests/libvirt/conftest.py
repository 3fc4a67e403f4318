"""One libvirt host and router for the tier. A test that leaves anything behind fails; the next one gets a new host."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import guest_image  # noqa: E402
import lvhost  # noqa: E402
from lab import tier  # noqa: E402
from lab.nodes import changes, settled  # noqa: E402


class Lab:
    """`host` and `router`, and `before`: the dump of the host with no domain on it."""

    def __init__(self) -> None:
        self.router = lvhost.Router()
        self.host = lvhost.Host("lva", self.router)
        self.before = settled(self.host)

    def close(self) -> None:
        self.host.close()
        self.router.close()

    def left_over(self) -> str:
        """What differs from the host with no domain on it; empty when nothing does."""
        return changes(self.before, settled(self.host))

    def assert_clean(self) -> None:
        found = self.left_over()
        assert not found, f"left behind on the host:\n{found}"

    def reset(self) -> None:
        """Take away a test's domains, hooks and configuration. Not the kernel state: that is what is tested."""
        host = self.host
        for name in host.virsh("list", "--all", "--name").stdout.split():
            host.virsh("destroy", name, check=False)
            host.virsh("undefine", name, "--managed-save", check=False)
        for hook in host.path("/etc/libvirt/hooks/qemu.d").iterdir():
            if hook.name != "vmnet-hooks":
                hook.unlink()
        if not host.path("/etc/libvirt/hooks/qemu.d/vmnet-hooks").is_symlink():
            host.link_hook("vmnet-hooks", lvhost.HOOK)
        for file in host.path("/etc/vmnet-hooks/domains.d").glob("*.toml"):
            file.unlink()
        host.config(lvhost.CONFIG)


@pytest.fixture(scope="session")
def machine() -> None:
    """What the tier needs of the machine."""
    lacking = lvhost.missing()
    tier.refuse("libvirt", "needs: " + "; ".join(lacking) if lacking else "")
    try:
        guest_image.build()
    except guest_image.MissingPiece as error:
        tier.refuse("libvirt", f"needs: {error}")


@pytest.fixture(scope="session")
def labs(machine: None) -> Iterator[list[Lab]]:
    """At most one lab, kept as long as it is clean."""
    kept: list[Lab] = []
    yield kept
    for each in kept:
        each.close()


@pytest.fixture
def lab(labs: list[Lab]) -> Iterator[Lab]:
    if not labs:
        labs.append(Lab())
    lab = labs[0]
    yield lab
    try:
        lab.reset()
        dirty = lab.left_over()
    except Exception as error:
        dirty = f"the host is beyond repair: {error}"
    if dirty:
        labs.remove(lab)
        lab.close()
        pytest.fail(f"left behind after the test:\n{dirty}", pytrace=False)
