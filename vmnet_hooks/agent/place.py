"""The agent's place: kernel sockets and connections to the records that stay open, and the configuration, reloaded when it
changes.

Only caches are kept in memory. Changes by another process, a hook without the agent or the command line, are effective at the
next call.
"""

import os
import syslog
import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager

from ..declared import configuration
from ..engine import Session
from ..errors import Abandoned, ConfigError, InputError, VmnetError
from ..kernel.linux import Kernel
from ..kernel.monitor.table_cache import TableCache
from ..model import declaration
from ..model.owner import Nic
from ..records import store

Note = Callable[..., None]
Noting = Callable[[Collection[str]], AbstractContextManager[None]]
"""See index.Index.noting."""


class Records(store.Store):
    """The records. A mutex is taken before the lock of the host, so that threads of the agent do not have to poll for each
    other's lock. Writes are announced to the agent's index."""

    def __init__(self, mutex: threading.Lock, wanted: Callable[[], bool], noting: Noting) -> None:
        # First of all: the constructor of Store takes the lock where it has to make the records.
        self._mutex, self._wanted, self._noting = mutex, wanted, noting
        super().__init__()

    @contextmanager
    def lock(self) -> Iterator[None]:
        with self._mutex, super().lock():
            # Checked under the lock: a hook that has given up serves the call in its own process, and the reverse call may have
            # been served since.
            if not self._wanted():
                raise Abandoned("the hook has gone; it does this by itself")
            yield

    def _writing(self, ids: Collection[str]) -> AbstractContextManager[None]:
        return self._noting(ids)


class Resident:
    """A place (see hook.call.Place) for many calls at a time. Each call has its own kernel edge and connection to the
    records."""

    def __init__(
        self,
        note: Note,
        announce: Callable[[Sequence[tuple[str, str, str]]], None],
        await_arrival: Callable[[Sequence[Nic]], None],
        memory: TableCache,
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
        self._read_at = 0.0
        self._problem = ""
        self._loading = threading.Lock()

    @contextmanager
    def on_behalf(self, wanted: Callable[[], bool]) -> Iterator[None]:
        """In the context, this thread serves a client that may give up. `wanted` returns whether the client still waits."""
        self._call.wanted = wanted
        try:
            yield
        finally:
            del self._call.wanted

    def declared(self) -> declaration.Config:
        """Return the present configuration. Where a part of it, or all, can't be used, the last one that could be used stands.
        Raise ConfigError if there has been none."""
        with self._loading:
            signature = _signature()
            if signature != self._signature or self._config is None:
                try:
                    found = configuration.usable(older=self._config)
                except ConfigError as error:
                    if self._config is None:
                        raise
                    self._complain(error, "it")
                else:
                    if found.errors:
                        self._complain(found.errors[0], "a part of it")
                    elif self._signature is not None:
                        self._note("config", "the configuration was read again")
                    if not found.errors:
                        self._problem, self._read_at = "", time.time()
                    self._config = found
                self._signature = signature
            return self._config

    def _complain(self, error: ConfigError, what: str) -> None:
        self._problem = str(error)
        stands = "the old one stands" if self._read_at else "the rest serves"
        self._note("config", f"the configuration was edited, and {what} can't be used, {stands}: {error}", syslog.LOG_ERR)

    def caveat(self) -> str:
        """Return by which configuration the agent goes, if that on disk can't be used; "" if it can."""
        if not self._problem:
            return ""
        when = time.strftime("%H:%M:%S", time.localtime(self._read_at))
        stands = f"by the configuration read at {when}" if self._read_at else "by what can be used of the configuration"
        return f"{stands}; the one on disk can't be used: {self._problem}"

    def explained(self, error: VmnetError) -> str:
        """See hook.call.Place."""
        reason, caveat = str(error), self.caveat() if isinstance(error, InputError) else ""
        return f"{reason} ({caveat})" if caveat and self._problem not in reason else reason

    @contextmanager
    def session(self, declared: declaration.Config | None = None) -> Iterator[Session]:
        """Open a session for the duration of the context. Raise VmnetError."""
        declared = declared or self.declared()
        with self.records() as records:
            kernel = self._kernels.pop() if self._kernels else Kernel(self._memory)
            try:
                yield Session(declared, kernel, records)
            except BaseException:
                # Not used again: an unread answer in a socket would be taken for that of the next request.
                kernel.close()
                raise
            else:
                self._kernels.append(kernel)

    @contextmanager
    def records(self) -> Iterator[Records]:
        """Open the records for the duration of the context. Raise StoreError."""
        while True:
            file, records = self._records.pop() if self._records else (None, None)
            if records is None:
                records = Records(self._mutex, lambda: getattr(self._call, "wanted", _always)(), self._noting)
                file = store.identity()
            try:
                if file == store.identity() and records.has_tables():
                    break
            except BaseException:
                records.close()
                raise
            # The file was removed, replaced or emptied: use the present one.
            records.close()
        try:
            yield records
        finally:
            self._records.append((file, records))

    def close(self) -> None:
        """Close what no call uses. What calls in progress use is closed when the process ends."""
        while self._records:
            self._records.pop()[1].close()
        while self._kernels:
            self._kernels.pop().close()


def _always() -> bool:
    return True


def _signature() -> object:
    """Return a value that changes whenever a file of the configuration changes."""
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
