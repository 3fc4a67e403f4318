"""Which netlink ports belong to this process. libnftables, for one, does not tell the port of its socket."""

import os
import time
from collections.abc import Iterator

_SECONDS = 5.0
"""How long a port is taken to belong to the same process: the kernel gives ports of closed sockets to others."""


class Senders:
    """The ports of one netlink protocol."""

    def __init__(self, protocol: int) -> None:
        self._protocol = protocol
        self._known: dict[int, bool] = {}
        self._until = 0.0

    def is_ours(self, port: int) -> bool:
        """Whether this process sent, or caused, a message from `port`. Port 0 is the kernel."""
        if not port:
            return False
        if port not in self._known:
            if (now := time.monotonic()) > self._until:
                self._known, self._until = {}, now + _SECONDS
            self._known.update(dict.fromkeys(_ports(self._protocol), True))
            self._known.setdefault(port, False)
        return self._known[port]


def _ports(protocol: int) -> Iterator[int]:
    """Yield the netlink ports of this process's sockets."""
    mine = set()
    for name in os.listdir("/proc/self/fd"):
        try:
            mine.add(str(os.stat(f"/proc/self/fd/{name}").st_ino))
        except OSError:
            # Closed meanwhile; or the directory itself.
            continue
    with open("/proc/net/netlink") as file:
        for line in file:
            # sk, protocol, port, …, inode
            words = line.split()
            if words[1] == str(protocol) and words[-1] in mine:
                yield int(words[2])
