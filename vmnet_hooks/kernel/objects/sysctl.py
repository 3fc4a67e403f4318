"""Values under /proc/sys/net, of the network namespace of this process."""

import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress

from ... import RUN
from ...model.objects import FORWARDING_GATE, Sysctl
from ..netlink import View
from . import Edge

ROOT = "/proc/sys"
SAVED = f"{RUN}/forwarding"
"""The devices' own values, while the gate is written."""


class Sysctls(Edge[Sysctl]):
    def read(self, wanted: Sequence[Sysctl], view: View) -> Iterable[Sysctl]:
        settings: dict[str, Mapping[tuple[str, str], str]] = {}
        found = ((want.path, _value(want, view, settings)) for want in wanted)
        return [Sysctl(path, value) for path, value in found if value is not None]

    def set(self, want: Sysctl, have: Sysctl | None, view: View) -> None:
        write(want)

    def unset(self, have: Sysctl, view: View) -> None:
        # It goes with its device, and not before.
        pass


def _value(want: Sysctl, view: View, settings: dict[str, Mapping[tuple[str, str], str]]) -> str | None:
    """A value; `settings` are those of links that were looked at already."""
    # The link's own message has most of them. A file takes three system calls, and a walk through /proc.
    _, family, folder, *rest = want.path.split("/")
    if folder != "conf" or not want.link:
        return read(want.path)
    if want.link not in settings:
        link = view.link(want.link)
        settings[want.link] = link.settings if link else {}
    value = settings[want.link].get((family, rest[-1]))
    return read(want.path) if value is None else value


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
    """Set one value. A write to the IPv6 forwarding gate also writes every device: each gets its own value back, so that only
    the gate changes, and links that depend on router advertisements stay hosts. Raises OSError.

    SAVED keeps the values meanwhile: devices are in no plan, and so in no journal. A full disk must not prevent the write: it may
    take back another."""
    if sysctl.path != FORWARDING_GATE:
        write_value(sysctl.path, sysctl.value)
        return
    finish()
    before = _per_device()
    with suppress(OSError):
        os.makedirs(os.path.dirname(SAVED), mode=0o700, exist_ok=True)
        with open(f"{SAVED}.new", "w") as file:
            file.writelines(f"{path} {value}\n" for path, value in {FORWARDING_GATE: read(FORWARDING_GATE), **before}.items())
        os.replace(f"{SAVED}.new", SAVED)
    write_value(sysctl.path, sysctl.value)
    _put_back(before)
    with suppress(FileNotFoundError):
        os.unlink(SAVED)


def finish() -> None:
    """Give every device its own forwarding back, if a process was killed during `write`. Needs the lock. Raises OSError."""
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
    """Set one value that is not the gate. Raises OSError."""
    fd = os.open(f"{ROOT}/{path}", os.O_WRONLY | os.O_TRUNC | os.O_CLOEXEC)
    try:
        os.write(fd, value.encode())
    finally:
        os.close(fd)


def _per_device() -> dict[str, str]:
    folder = os.path.dirname(os.path.dirname(FORWARDING_GATE))
    paths = [f"{folder}/{dev}/forwarding" for dev in os.listdir(f"{ROOT}/{folder}") if dev != "all"]
    return {path: value for path in paths if (value := read(path)) is not None}


EDGES: Mapping[str, Edge] = {Sysctl.kind: Sysctls()}
