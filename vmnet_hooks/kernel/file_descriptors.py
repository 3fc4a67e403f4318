"""Numbers of file descriptors. libnftables waits with select(2), which is undefined for numbers above 1,023 and aborts the
process. So sockets that the agent opens by the thousand get numbers above that."""

import fcntl
import socket

FD_SETSIZE = 1024


def moved_up(found: socket.socket) -> socket.socket:
    """Return the socket under a number from FD_SETSIZE on, as a non-blocking one, and close the old number. Return `found` itself
    if the process may have no such number (RLIMIT_NOFILE)."""
    try:
        number = fcntl.fcntl(found, fcntl.F_DUPFD_CLOEXEC, FD_SETSIZE)
    except OSError:
        return found
    other = socket.socket(fileno=number)
    other.setblocking(False)
    found.close()
    return other
