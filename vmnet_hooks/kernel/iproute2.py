"""ip(8) and bridge(8), for rare operations that are shorter as commands than as netlink messages."""

import json
import subprocess
from collections.abc import Iterable
from typing import Any

from ..errors import KernelError, one_line


def run(*command: str, check: bool = True, stdin: str = "") -> str:
    """Run a program and return what it prints; without `check`, "" if it fails. Raises KernelError."""
    try:
        done = subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise KernelError(f"{' '.join(command)}: {error}; install iproute2") from None
    if done.returncode and check:
        raise KernelError(f"{' '.join(command)}: {one_line(done.stderr.strip() or f'exit status {done.returncode}')}")
    return "" if done.returncode else done.stdout


def rows(program: str, *words: str, check: bool = True) -> list[dict[str, Any]]:
    """Run a program with -json and return its rows; without `check`, none if it fails. Raises KernelError."""
    text = run(program, "-json", *words, check=check)
    try:
        return json.loads(text or "[]")
    except ValueError as error:
        raise KernelError(f"{program} -json {' '.join(words)}: {error}; install iproute2") from None


def batch(lines: Iterable[str], force: bool = False) -> None:
    """Run the commands of `lines` (without the leading `ip`) in one process; with `force`, go on after one that fails. Raises
    KernelError."""
    commands = list(lines)
    stdin = "".join(f"{line}\n" for line in commands)
    try:
        run("ip", *(["-force"] if force else []), "-batch", "-", check=not force, stdin=stdin)
    except KernelError as error:
        # ip tells the number of the line.
        reason, _, number = str(error).removeprefix("ip -batch -: ").partition("\\nCommand failed -:")
        line = commands[int(number) - 1] if number.isdecimal() else "-batch -"
        raise KernelError(f"ip {line}: {reason}") from None
