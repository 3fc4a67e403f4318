"""Open this host: its configuration, its kernel and its records. The import loads the kernel edge, which costs."""

from collections.abc import Iterator
from contextlib import closing, contextmanager

from ..declared import configuration
from ..declared.sections import SECTIONS
from ..kernel.linux import Kernel
from ..model.declaration import Config
from ..records.store import Store
from .engine import Engine


@contextmanager
def open(declared: Config | None = None) -> Iterator[Engine]:
    """An engine with sockets and records of its own, which are closed at the end. Without `declared`, load the configuration.
    Raises VmnetError."""
    declared = declared or configuration.load(SECTIONS)
    with closing(Kernel()) as kernel, closing(Store()) as records:
        yield Engine(declared, kernel, records)
