"""Whether the process may open more files. Where it can't, libnftables ends it."""

import os


def held(number: int) -> list[int]:
    """Return that many descriptors, which keep room for as many files until they are closed. Raise OSError, with none held."""
    found: list[int] = []
    try:
        # Copies of one: to make each anew costs four times as much, and every call asks.
        found.append(os.eventfd(0, os.EFD_CLOEXEC))
        while len(found) < number:
            found.append(os.dup(found[0]))
    except OSError:
        release(found)
        raise
    return found


def release(found: list[int]) -> None:
    """Close descriptors, and empty the list."""
    while found:
        os.close(found.pop())


def are_free(number: int) -> bool:
    """Return whether the process may open that many files more."""
    try:
        release(held(number))
    except OSError:
        return False
    return True
