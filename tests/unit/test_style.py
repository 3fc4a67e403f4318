"""The linter and the type checker, as tests. In CI their absence is a failure."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from vmnet_hooks.frontends import hooks

ROOT = Path(__file__).resolve().parents[2]


def tool(name: str, package: str) -> str:
    """The program: beside this interpreter, in the check's own environment, or in PATH."""
    places = [Path(sys.executable).parent / name, ROOT / ".venv-check" / "bin" / name]
    if sys.prefix == sys.base_prefix:
        places.reverse()
    for place in (*places, shutil.which(name)):
        if place and os.access(place, os.X_OK):
            return str(place)
    reason = f"{name} is not installed; {package}"
    if os.environ.get("VMNET_CI") == "1":
        pytest.fail(f"VMNET_CI=1 and {reason}", pytrace=False)
    pytest.skip(reason)


def run(*command: str) -> None:
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        pytest.fail(f"{' '.join(command)}\n{done.stdout}{done.stderr}", pytrace=False)


def test_ruff():
    run(tool("ruff", "run `make lint`, or pip install ruff"), "check", "--no-cache", "--output-format", "concise", ".")


def test_mypy():
    run(tool("mypy", "apt-get install mypy, or pip install mypy"), "--cache-dir", os.devnull)


def test_nothing_is_executable_but_programs():
    for path in (ROOT / "vmnet_hooks").rglob("*.py"):
        assert not os.access(path, os.X_OK), path
    assert os.access(ROOT / "hooks" / "run", os.X_OK)
    links = [path for path in (ROOT / "hooks").rglob("*") if path.parent != ROOT / "hooks"]
    assert {str(link.relative_to(ROOT / "hooks")) for link in links} == set(hooks())
    for link in links:
        assert os.readlink(link) == "../run"
