"""Numbers of file descriptors. libnftables waits with select(2), which knows none above 1,023 and ends the process that gives
it one: so whatever the agent has by the thousand is kept above that."""

import fcntl
import socket

FD_SETSIZE = 1024


def moved_up(found: socket.socket) -> socket.socket:
    """The same socket under a number that leaves the lower ones free; as it is, where the process may have no such number. It
    does not block."""
    try:
        number = fcntl.fcntl(found, fcntl.F_DUPFD_CLOEXEC, FD_SETSIZE)
    except OSError:
        return found
    other = socket.socket(fileno=number)
    other.setblocking(False)
    found.close()
    return other
