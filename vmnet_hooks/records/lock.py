"""The host's lock: one process at a time changes the kernel and the records."""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager

from ..errors import Damaged, StoreError, exhausted
from . import ANEW

SECONDS = 30.0
"""Limit on the wait for the lock: libvirt sets none for a hook, xl kills it after 40 s."""


def opened(directory: str) -> int:
    """Return a descriptor of the lock's file. Raises StoreError."""
    path = f"{directory}/lock"
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except IsADirectoryError as error:
        raise Damaged(f"{path}: {error.strerror}; {ANEW}") from None
    except OSError as error:
        raise StoreError(f"{path}: {exhausted(error) or f'{error.strerror}; it must be writable, run as root'}") from None


@contextmanager
def held(directory: str) -> Iterator[None]:
    """Hold the lock in the context. Raises StoreError if it is not free within SECONDS."""
    fd = opened(directory)
    try:
        deadline = time.monotonic() + SECONDS
        while True:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    path = f"{directory}/lock"
                    raise StoreError(f"{path}: held by another process for {SECONDS:.0f} s; see `fuser {path}`") from None
                time.sleep(0.002)
        yield
    finally:
        os.close(fd)
