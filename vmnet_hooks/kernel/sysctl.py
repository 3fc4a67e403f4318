"""Values under /proc/sys/net. Per-device values live in the reader's own network namespace."""

import os

from ..model.objects import FORWARDING_GATE, Sysctl

ROOT = "/proc/sys"
SAVED = "/run/vmnet-hooks/forwarding"
"""The devices' own values while the gate is being written."""


def read(path: str) -> str | None:
    """The value, or None if there is no such key (the device is gone, or the kernel lacks it)."""
    try:
        fd = os.open(f"{ROOT}/{path}", os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        return os.read(fd, 4096).decode().strip()
    except FileNotFoundError:
        # The device went after its file was opened.
        return None
    finally:
        os.close(fd)


def write(sysctl: Sysctl) -> None:
    """Sets one value. A write to the IPv6 forwarding gate also writes every device: each gets its own value back, so that
    only the gate moves, and links that live on router advertisements stay hosts. Raises OSError.

    The values are kept in SAVED while that goes on: the devices are no change of anybody's plan, so no journal knows them."""
    if sysctl.path != FORWARDING_GATE:
        write_value(sysctl.path, sysctl.value)
        return
    finish()
    before = _per_device()
    os.makedirs(os.path.dirname(SAVED), mode=0o700, exist_ok=True)
    with open(f"{SAVED}.new", "w") as file:
        file.writelines(f"{path} {value}\n" for path, value in {FORWARDING_GATE: read(FORWARDING_GATE), **before}.items())
    os.replace(f"{SAVED}.new", SAVED)
    write_value(sysctl.path, sysctl.value)
    _put_back(before)
    os.unlink(SAVED)


def finish() -> None:
    """Gives every device its own forwarding back, if a process was killed in the middle of `write`. Needs the lock."""
    try:
        with open(SAVED) as file:
            before = dict(line.split() for line in file)
    except FileNotFoundError:
        return
    if read(FORWARDING_GATE) != before.pop(FORWARDING_GATE, None):
        _put_back(before)
    os.unlink(SAVED)


def _put_back(before: dict[str, str]) -> None:
    for path, value in before.items():
        if read(path) not in (value, None):
            write_value(path, value)


def write_value(path: str, value: str) -> None:
    """Sets one value that is not the gate. Raises OSError."""
    fd = os.open(f"{ROOT}/{path}", os.O_WRONLY | os.O_TRUNC | os.O_CLOEXEC)
    try:
        os.write(fd, value.encode())
    finally:
        os.close(fd)


def _per_device() -> dict[str, str]:
    folder = os.path.dirname(os.path.dirname(FORWARDING_GATE))
    paths = [f"{folder}/{dev}/forwarding" for dev in os.listdir(f"{ROOT}/{folder}") if dev != "all"]
    return {path: value for path in paths if (value := read(path)) is not None}
