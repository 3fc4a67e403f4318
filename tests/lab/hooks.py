"""The checkout's hooks as `make install` makes them, with the compiled client, in a folder of the tests' cache. Where that can't
be made (no compiler, no root, a venv whose packages only its own interpreter finds), they are the checkout's own."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

from .debian import CACHE, codename

ROOT = Path(__file__).resolve().parents[2]
SOURCES = ("Makefile", "hooks/client.c", "hooks/table.py", "hooks/run", "vmnet_hooks/frontends/__init__.py")
MORE_SOURCES = ("vmnet_hooks/__init__.py", "vmnet_hooks/hook/client.py")


def make(folder: Path, *words: str) -> None:
    """Install the hooks in `folder`/hooks, to be run there, beside a link to the package. Raises CalledProcessError."""
    subprocess.run(["make", "-s", "-C", ROOT, "hooks", f"LIBDIR={folder}", f"HOOKS_PATH={folder}/hooks", *words], check=True)
    (folder / "vmnet_hooks").symlink_to(ROOT / "vmnet_hooks")


def made() -> Path:
    """The folder of the hooks; they are made at the first call. Raises CalledProcessError."""
    if sys.prefix != sys.base_prefix or not (ROOT / SOURCES[1]).exists() or os.geteuid():
        return ROOT / "hooks"
    # A program is of the C library that it was linked with.
    text = "".join([str(ROOT), codename(), *((ROOT / name).read_text() for name in SOURCES + MORE_SOURCES)])
    done = CACHE / f"hooks-{hashlib.sha256(text.encode()).hexdigest()[:12]}"
    if (done / "vmnet_hooks").exists():
        return done / "hooks"
    if not shutil.which("gcc"):
        return ROOT / "hooks"
    CACHE.mkdir(parents=True, exist_ok=True)
    with open(CACHE / "hooks.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (done / "vmnet_hooks").exists():
            for old in CACHE.glob("hooks-*/"):
                if old.stat().st_mtime < time.time() - 86400:
                    shutil.rmtree(old)
            # The paths are in what is compiled, so it is made in place; the link to the package comes last.
            make(done)
    return done / "hooks"


HOOKS = made()
