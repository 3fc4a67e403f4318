"""xenstore, through Xen's Python binding if there is one for this Python version, else through the xenstore-* programs.

Paths without a leading slash are relative to that of this domain (/local/domain/0). Requests have a time limit: xl kills a hook
after 40 s, and xenstored may hang. https://xenbits.xen.org/docs/unstable/misc/xenstore-paths.html
"""

import errno
import glob
import importlib
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from typing import Any

from ..errors import VmnetError, one_line

SECONDS = 8.0
"""Time limit of one request, in seconds."""

_BINDINGS = "/usr/lib/xen-*/lib/python"
_PROGRAMS = "/usr/bin:/bin:/usr/sbin:/sbin:/usr/lib/xen-common/bin"


class XenStoreError(VmnetError):
    """xenstored does not run, or does not answer."""


class XenStore:
    """A connection to xenstored. Methods raise XenStoreError."""

    def __init__(self, seconds: float = SECONDS) -> None:
        module = _binding()
        self._seconds = seconds
        self._store: _Binding | _Programs = self._within(lambda: _Binding(module.xs())) if module else _Programs()

    def read(self, path: str) -> str | None:
        """Return a value; None if the path does not exist, or if this domain may not read it."""
        return self._within(lambda: self._store.read(path))

    def list(self, path: str) -> list[str]:
        """Return the keys below a path; none if the path does not exist."""
        return self._within(lambda: self._store.list(path))

    def tree(self, path: str) -> dict[str, str]:
        """Return the values directly below a path, by key."""
        found = {key: self.read(f"{path}/{key}") for key in self.list(path)}
        return {key: value for key, value in found.items() if value is not None}

    def write(self, values: Mapping[str, str]) -> None:
        """Write values (by path) in the given order."""

        def write_all() -> None:
            for path, value in values.items():
                self._store.write(path, value)

        self._within(write_all)

    def _within(self, ask: Callable[[], Any]) -> Any:
        """Return the result of `ask`. It runs in its own thread, because the binding blocks in C, where signals do not
        interrupt it."""
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
        try:
            value = self._xs.read("", path)
        except Exception as error:
            # The binding's Error has the number of the error first.
            if error.args[:1] == (errno.EACCES,):
                return None
            raise
        return value.decode(errors="replace") if isinstance(value, bytes) else value

    def list(self, path: str) -> list[str]:
        return self._xs.ls("", path) or []

    def write(self, path: str, value: str) -> None:
        self._xs.write("", path, value)


class _Programs:
    """The xenstore-* programs. -R means raw values: without it, the programs interpret backslashes as escapes."""

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
    """Return the module xen.lowlevel.xs; None if Xen has none for this Python version."""
    for folder in sorted(glob.glob(_BINDINGS), reverse=True):
        sys.path.append(folder)
        try:
            return importlib.import_module("xen.lowlevel.xs")
        except ImportError:
            continue
        finally:
            sys.path.remove(folder)
    return None
