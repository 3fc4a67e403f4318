"""The clock of the records: seconds since the epoch, but for what the wall clock was set by since the boot. The records hold
times of it, and older versions, whose times are those of the wall clock, can read them."""

import os
import time
from contextlib import suppress


def now(directory: str) -> float:
    """Return the time by the records in a directory. A file there has the epoch by the monotonic clock; the first call makes
    it."""
    path = f"{directory}/clock"
    try:
        return _read(path) + time.monotonic()
    except (OSError, ValueError):
        pass
    epoch = time.time() - time.monotonic()
    # Where the disk is full, it is the wall clock.
    with suppress(OSError, ValueError):
        with open(f"{path}.{os.getpid()}", "w") as file:
            file.write(f"{epoch!r}\n")
        os.replace(f"{path}.{os.getpid()}", path)
        # Another process may have been first.
        epoch = _read(path)
    return epoch + time.monotonic()


def _read(path: str) -> float:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return float(os.read(fd, 64))
    finally:
        os.close(fd)
