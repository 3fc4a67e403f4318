"""xenstore, through Xen's Python binding where there is one for this Python, else through the xenstore-* programs.

Paths without a leading slash are below this domain's own (/local/domain/0). A xenstored that hangs must not hang a hook: xl
waits 40 s for it. https://xenbits.xen.org/docs/unstable/misc/xenstore-paths.html
"""

import glob
import importlib
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from typing import Any

from ..errors import VmnetError, one_line

SECONDS = 8.0
"""Time limit of one request."""

_BINDINGS = "/usr/lib/xen-*/lib/python"
_PROGRAMS = "/usr/bin:/bin:/usr/sbin:/sbin:/usr/lib/xen-common/bin"


class XenStoreError(VmnetError):
    """xenstored is not there, or does not answer."""


class XenStore:
    """A connection to xenstored. Raises XenStoreError."""

    def __init__(self, seconds: float = SECONDS) -> None:
        module = _binding()
        self._seconds = seconds
        self._store: _Binding | _Programs = self._within(lambda: _Binding(module.xs())) if module else _Programs()

    def read(self, path: str) -> str | None:
        """Return a value; None if there is none."""
        return self._within(lambda: self._store.read(path))

    def list(self, path: str) -> list[str]:
        """Return the keys below a path; none if there is no such path."""
        return self._within(lambda: self._store.list(path))

    def tree(self, path: str) -> dict[str, str]:
        """Return the values right below a path, by key."""
        found = {key: self.read(f"{path}/{key}") for key in self.list(path)}
        return {key: value for key, value in found.items() if value is not None}

    def write(self, values: Mapping[str, str]) -> None:
        """Write values by path, in this order."""

        def write_all() -> None:
            for path, value in values.items():
                self._store.write(path, value)

        self._within(write_all)

    def _within(self, ask: Callable[[], Any]) -> Any:
        """Return what `ask` returns. It runs in its own thread: the binding blocks in C, where no signal interrupts it."""
        answer: list[Any] = []

        def run() -> None:
            try:
                answer.append((ask(), None))
            except BaseException as error:
                answer.append((None, error))

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        thread.join(self._seconds)
        if not answer:
            raise XenStoreError(f"xenstored has not answered for {self._seconds:.0f} s; see `systemctl status xen`")
        value, error = answer[0]
        if error is None:
            return value
        if isinstance(error, VmnetError):
            raise error
        raise XenStoreError(f"xenstored: {one_line(error)}; is it running? See `systemctl status xen`") from None


class _Binding:
    def __init__(self, connection: Any) -> None:
        self._xs = connection

    def read(self, path: str) -> str | None:
        value = self._xs.read("", path)
        return value.decode(errors="replace") if isinstance(value, bytes) else value

    def list(self, path: str) -> list[str]:
        return self._xs.ls("", path) or []

    def write(self, path: str, value: str) -> None:
        self._xs.write("", path, value)


class _Programs:
    """-R gives raw values; without it, the programs take a backslash for the start of an escape."""

    def _run(self, *words: str) -> str | None:
        try:
            done = subprocess.run(
                words, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", env={"PATH": _PROGRAMS}
            )
        except FileNotFoundError:
            raise XenStoreError(
                f"{words[0]} is missing, and so is Xen's Python binding; install xenstore-utils, or run this on dom0"
            ) from None
        if done.returncode == 0:
            return done.stdout
        if "No such file" in done.stderr or "couldn't read path" in done.stderr or "xs_directory" in done.stderr:
            return None
        raise XenStoreError(f"{words[0]}: {one_line(done.stderr.strip())}; is xenstored running?")

    def read(self, path: str) -> str | None:
        return self._run("xenstore-read", "-R", path)

    def list(self, path: str) -> list[str]:
        return (self._run("xenstore-list", path) or "").split()

    def write(self, path: str, value: str) -> None:
        if self._run("xenstore-write", "-R", path, value) is None:
            raise XenStoreError(f"xenstore: {path} can't be written")


def _binding() -> Any | None:
    """The module xen.lowlevel.xs; None if Xen has none for this Python."""
    for folder in sorted(glob.glob(_BINDINGS), reverse=True):
        sys.path.append(folder)
        try:
            return importlib.import_module("xen.lowlevel.xs")
        except ImportError:
            continue
        finally:
            sys.path.remove(folder)
    return None
