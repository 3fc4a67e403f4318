"""Values under /proc/sys/net. Per-device values live in the reader's own network namespace."""

import os

from ..state import FORWARDING_GATE, Sysctl

ROOT = "/proc/sys"


def read(path: str) -> str | None:
    """The value, or None if there is no such key (the device is gone, or the kernel lacks it)."""
    try:
        with open(f"{ROOT}/{path}") as file:
            return file.read().strip()
    except FileNotFoundError:
        return None


def write(sysctl: Sysctl) -> None:
    """Sets one value. A write to the IPv6 forwarding gate also writes every device: each gets its own value back, so that
    only the gate moves, and links that live on router advertisements stay hosts. Raises OSError."""
    before = _per_device() if sysctl.path == FORWARDING_GATE else {}
    _write(sysctl.path, sysctl.value)
    for path, value in before.items():
        if read(path) not in (value, None):
            _write(path, value)


def _write(path: str, value: str) -> None:
    with open(f"{ROOT}/{path}", "w") as file:
        file.write(value)


def _per_device() -> dict[str, str]:
    folder = os.path.dirname(os.path.dirname(FORWARDING_GATE))
    paths = [f"{folder}/{dev}/forwarding" for dev in os.listdir(f"{ROOT}/{folder}") if dev != "all"]
    return {path: value for path in paths if (value := read(path)) is not None}
