"""Our nft tables as a process that stays last read them."""

import threading

from ...model.objects import NftTable
from ..netlink import NETLINK_NETFILTER, Socket, messages
from ..objects.nft import GROUP_NFTABLES, TABLE_CHANGES
from .nftables import BUFFER, our_table


class TableCache:
    """Keeps each table until a notification says that it, or a chain, a rule or a set of it, has changed.

    The kernel queues the notification before the process that made the change goes on. So an answer from here is never older
    than one that the kernel would give.
    """

    def __init__(self) -> None:
        self._socket = Socket(NETLINK_NETFILTER, (GROUP_NFTABLES,), BUFFER)
        self._lock = threading.Lock()
        self._known: dict[str, NftTable] = {}
        self._touched: dict[str, int] = {}
        self._asked: dict[tuple[int, str], int] = {}
        self._epoch = 0

    def close(self) -> None:
        self._socket.close()

    def known(self, want: NftTable) -> NftTable | None:
        """Return the table with the key of `want` as it was last read; None if it may have changed since. Raises OSError."""
        with self._lock:
            self._drain()
            found = self._known.get(want.key)
            if found is None:
                # The caller reads it next. A notification from here on may be of a change before or after that.
                self._asked[threading.get_ident(), want.key] = self._epoch
            return found

    def learned(self, want: NftTable, have: NftTable) -> None:
        """Keep what this thread has read since it called `known`, unless the table has changed meanwhile. Raises OSError."""
        with self._lock:
            self._drain()
            asked = self._asked.pop((threading.get_ident(), want.key), None)
            if asked is not None and self._touched.get(want.key, 0) <= asked and self._touched.get("", 0) <= asked:
                self._known[want.key] = have

    def _drain(self) -> None:
        for data in self._socket.waiting():
            self._epoch += 1
            if data is None:
                self._known.clear()
                self._touched = {"": self._epoch}
                continue
            for kind, _, _, _, body in messages(data):
                if kind in TABLE_CHANGES and (key := our_table(body)):
                    self._known.pop(key, None)
                    self._touched[key] = self._epoch
