"""Which files are programs."""

import os
from pathlib import Path

from vmnet_hooks.frontends import hooks

ROOT = Path(__file__).resolve().parents[2]


def test_nothing_is_executable_but_programs():
    for path in (ROOT / "vmnet_hooks").rglob("*.py"):
        assert not os.access(path, os.X_OK), path
    assert os.access(ROOT / "hooks" / "run", os.X_OK)
    links = [path for path in (ROOT / "hooks").rglob("*") if path.parent != ROOT / "hooks"]
    assert {str(link.relative_to(ROOT / "hooks")) for link in links} == set(hooks())
    for link in links:
        assert os.readlink(link) == "../run"
