"""ip(8) and bridge(8), for what netlink's messages say less well than their words."""

import json
import subprocess
from collections.abc import Iterable
from typing import Any

from ..errors import KernelError, one_line


def run(*command: str, check: bool = True, stdin: str = "") -> str:
    """What a program prints; without `check`, "" if it fails. Raises KernelError."""
    try:
        done = subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise KernelError(f"{' '.join(command)}: {error}; install iproute2") from None
    if done.returncode and check:
        raise KernelError(f"{' '.join(command)}: {one_line(done.stderr.strip() or f'exit status {done.returncode}')}")
    return "" if done.returncode else done.stdout


def rows(program: str, *words: str, check: bool = True) -> list[dict[str, Any]]:
    """What a program shows, as JSON; without `check`, nothing if it fails. Raises KernelError."""
    text = run(program, "-json", *words, check=check)
    try:
        return json.loads(text or "[]")
    except ValueError as error:
        raise KernelError(f"{program} -json {' '.join(words)}: {error}; install iproute2") from None


def batch(lines: Iterable[str], force: bool = False) -> None:
    """Does lines of words for `ip`, one after the other; with `force`, past those that fail. Raises KernelError."""
    run("ip", *(["-force"] if force else []), "-batch", "-", check=not force, stdin="".join(f"{line}\n" for line in lines))
