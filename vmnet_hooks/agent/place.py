"""The agent's place: kernel sockets and record connections that stay open, and the configuration, read again when it changes.

The records are the truth and memory is a cache: whatever another process does, a hook without the agent or the command line,
is seen at the next call.
"""

import os
import syslog
import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from ..declared import SECTIONS, configuration
from ..engine import Session
from ..errors import Abandoned, ConfigError
from ..kernel.linux import Kernel
from ..model import declaration
from ..model.owner import Owner
from ..records import store

Note = Callable[..., None]
Noting = Callable[[Collection[str]], AbstractContextManager[None]]
"""See index.Index.noting."""


class Records(store.Store):
    """The records, with one more lock in front of the host's: threads wait for each other asleep, not by polling. The agent's
    index is told of whom something is written."""

    def __init__(self, mutex: threading.Lock, wanted: Callable[[], bool], noting: Noting) -> None:
        # Locks itself already, where there are no records yet.
        self._mutex, self._wanted, self._noting = mutex, wanted, noting
        super().__init__()

    @contextmanager
    def lock(self) -> Iterator[None]:
        with self._mutex, super().lock():
            # Only now: whoever gave up before has done, or does next, the same by himself, and maybe its reverse since.
            if not self._wanted():
                raise Abandoned("the hook has gone; it does this by itself")
            yield

    def _writing(self, ids: Collection[str]) -> AbstractContextManager[None]:
        return self._noting(ids)


class Resident:
    """A place (see hook.call.Place) for many calls at once: each has a kernel edge and records of its own."""

    def __init__(
        self,
        note: Note,
        announce: Callable[[Sequence[tuple[str, str, str]]], None],
        await_arrival: Callable[[Sequence[Owner]], None],
        memory: Any,
        noting: Noting,
    ) -> None:
        self.announce = announce
        self.await_arrival = await_arrival
        self._note = note
        self._memory = memory
        self._noting = noting
        self._mutex = threading.Lock()
        self._call = threading.local()
        self._kernels: list[Kernel] = []
        self._records: list[tuple[object, Records]] = []
        self._config: declaration.Config | None = None
        self._signature: object = None
        self._loading = threading.Lock()

    @contextmanager
    def on_behalf(self, wanted: Callable[[], bool]) -> Iterator[None]:
        """Calls in this thread are for somebody who may give up: `wanted` says whether he waits still."""
        self._call.wanted = wanted
        try:
            yield
        finally:
            del self._call.wanted

    def declared(self) -> declaration.Config:
        """The configuration as it is now; while what is written there can't be used, the one that could. Raises ConfigError
        if there never was one."""
        with self._loading:
            signature = _signature()
            if signature != self._signature or self._config is None:
                try:
                    self._config = configuration.load(SECTIONS)
                except ConfigError as error:
                    if self._config is None:
                        raise
                    self._note("config", f"the new configuration can't be used, the old one stands: {error}", syslog.LOG_ERR)
                else:
                    if self._signature is not None:
                        self._note("config", "the configuration was read again")
                self._signature = signature
            return self._config

    @contextmanager
    def session(self, declared: declaration.Config | None = None) -> Iterator[Session]:
        """A session for as long as the context lasts. Raises VmnetError."""
        declared = declared or self.declared()
        with self.records() as records:
            kernel = self._kernels.pop() if self._kernels else Kernel(self._memory)
            try:
                yield Session(declared, kernel, records)
            except BaseException:
                # What a socket may still have to say is nobody's answer.
                kernel.close()
                raise
            else:
                self._kernels.append(kernel)

    @contextmanager
    def records(self) -> Iterator[Records]:
        """The records for as long as the context lasts. Raises StoreError."""
        while True:
            file, records = self._records.pop() if self._records else (None, None)
            if records is None:
                records = Records(self._mutex, lambda: getattr(self._call, "wanted", _always)(), self._noting)
                file = store.identity()
            if file == store.identity():
                break
            # The file was removed, or moved away: the records are those that are there now.
            records.close()
        try:
            yield records
        finally:
            self._records.append((file, records))

    def close(self) -> None:
        """What a call that is still under way gives back is closed with the process."""
        while self._records:
            self._records.pop()[1].close()
        while self._kernels:
            self._kernels.pop().close()


def _always() -> bool:
    return True


def _signature() -> object:
    """What changes when any file of the configuration does."""
    folders = (f"{declaration.DIRECTORY}/conf.d", configuration.RUNTIME)
    paths = [f"{declaration.DIRECTORY}/vmnet.toml", *folders]
    for folder in folders:
        try:
            paths += [f"{folder}/{name}" for name in os.listdir(folder)]
        except OSError:
            pass
    found = []
    for path in paths:
        try:
            status = os.stat(path)
        except OSError:
            continue
        found.append((path, status.st_ino, status.st_mtime_ns, status.st_size))
    return tuple(sorted(found))
