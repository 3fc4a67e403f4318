"""Whether the process may open more files. Where it can't, libnftables ends it."""

import os


def are_free(number: int) -> bool:
    """Return whether the process may open that many files more."""
    held: list[int] = []
    try:
        while len(held) < number:
            held.append(os.eventfd(0, os.EFD_CLOEXEC))
    except OSError:
        return False
    finally:
        for descriptor in held:
            os.close(descriptor)
    return True
