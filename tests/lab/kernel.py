"""The kernel that tests boot under QEMU."""

from __future__ import annotations

import re
from pathlib import Path


def kernel() -> Path | None:
    """The newest of Debian's kernels that is installed with its modules."""
    found = [
        path
        for path in Path("/boot").glob("vmlinuz-*-amd64")
        if "-cloud-" not in path.name and Path("/lib/modules", path.name.removeprefix("vmlinuz-")).is_dir()
    ]
    return max(found, key=lambda path: [int(number) for number in re.findall(r"\d+", path.name)], default=None)
