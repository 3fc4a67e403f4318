"""Builds the Debian package from a clean copy of the tree."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

from clean_root import ENV

ROOT = Path(__file__).resolve().parents[2]
IGNORED = shutil.ignore_patterns(
    ".git", "__pycache__", ".venv*", "dist", "*.egg-info", ".pytest_cache", ".mypy_cache", ".ruff_cache", ".pybuild"
)


def clean_copy(to: Path) -> Path:
    shutil.copytree(ROOT, to, symlinks=True, ignore=IGNORED)
    return to


def run(argv: list[str], cwd: Path, **more: str) -> str:
    done = subprocess.run(
        argv,
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**ENV, **more},
    )
    assert done.returncode == 0, f"{' '.join(argv)}: exit status {done.returncode}\n{done.stdout[-6000:]}"
    return done.stdout


def build(where: Path, version: str = "", **more: str) -> Path:
    """Build source and binary packages of a clean copy of the tree; returns the .deb. `version`: another than ours, of the
    package and of all that is in it."""
    tree = clean_copy(where / "tree")
    if version:
        changelog = tree / "debian/changelog"
        old = changelog.read_text()
        changelog.write_text(re.sub(r"\(.*?\)", f"({version})", old, count=1) + "\n" + old)
        init = tree / "vmnet_hooks/__init__.py"
        init.write_text(re.sub(r'(?m)^__version__ = ".*"$', f'__version__ = "{version}"', init.read_text()))
    run(["dpkg-buildpackage", "-us", "-uc"], tree, **more)
    (deb,) = where.glob("vmnet-hooks_*.deb")
    return deb
