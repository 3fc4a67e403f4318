"""Fail closed: after another program has flushed our filters, and until they are restored, packets of guests are dropped.

The agent's tables (ruleset.KEEPERS) are owned by its netlink socket, so `nft flush ruleset` does not remove them. They mark
packets from a guarded tap before our filter, and drop those that are still marked after it. The filter itself clears the mark.
"""

from collections.abc import Collection

from ..engine import Kernel
from ..errors import KernelError
from ..kernel.libnftables import Context
from ..kernel.netlink import NETLINK_NETFILTER, Socket
from ..kernel.objects import nft
from ..model.objects import NftTable
from ..model.ruleset import ARP, BRIDGE, CLOSED6, INET, KEEP_CLOSED, KEEPER, KEEPERS, KEPT_SETS
from ..records.store import Store

_FILTERS = (INET, ARP, BRIDGE)
Taps = frozenset[tuple[str, str]]
"""Elements of a keeper table, as (set, tap)."""


class Keeper:
    """The agent's tables, from the first `follow` until `close` or the end of the process. Not thread-safe."""

    def __init__(self) -> None:
        self._nft = Context()
        self._socket = Socket(NETLINK_NETFILTER)
        self._held: dict[str, Taps] = {}
        """The elements of the tables that exist, by family."""
        self._known: set[str] = set()
        """The families whose taps were all read from the records once. From then on only changes are read."""
        self._closed = False

    def close(self) -> None:
        self._nft.close()
        self._socket.close()

    def follow(self, store: Store, kernel: Kernel, taps: Collection[str] | None = None) -> None:
        """Guard the taps that are guarded by the records. If only `taps` can have changed, only they are read, and the cost does
        not depend on the number of guests. Raises KernelError, with nothing changed, if the kernel does not support tables with
        an owner, or another process owns them."""
        with store.reading():
            ours = [table for table in _FILTERS if _is_ours(table, store)]
            guarded = {table: self._guarded(table, store, taps) if table in ours else frozenset() for table in _FILTERS}
            closed = INET in ours and store.recorded(CLOSED6.key) is not None
        # The filter of another version may not remove the mark: its taps are not guarded.
        self._known = {table.family for table in ours}
        for table, kept in guarded.items():
            self._follow(table, kept, kernel)
        closed = closed and "inet" in self._held
        if closed and not self._closed:
            self._run(KEEP_CLOSED)
        elif self._closed and not closed:
            self._run("".join(f"delete chain inet {KEEPER} {name}_forward\n" for name in ("before", "after")))
        self._closed = closed

    def _guarded(self, table: NftTable, store: Store, taps: Collection[str] | None) -> Taps:
        """Return the taps that a filter guards by the records."""
        held = self._held.get(table.family)
        starts = {name: f"{table.key} {name} " for name in KEPT_SETS[table.family]}
        if held is None or taps is None or table.family not in self._known:
            return frozenset((name, key.removeprefix(start)) for name, start in starts.items() for key in store.keys_under(start))
        asked = {f'{start}"{tap}"': (name, f'"{tap}"') for name, start in starts.items() for tap in taps}
        return held.difference(asked.values()) | {asked[key] for key in store.there(asked)}

    def _follow(self, table: NftTable, taps: Taps, kernel: Kernel) -> None:
        held = self._held.get(table.family)
        if held is None and (not taps or kernel.read([table]).get(table.key) != table):
            return
        statements = [] if held is not None else [KEEPERS[table.family]]
        held = held or frozenset()
        for verb, changed in (("delete", held - taps), ("add", taps - held)):
            for name in KEPT_SETS[table.family]:
                if chosen := sorted(tap for kept, tap in changed if kept == name):
                    statements.append(f"{verb} element {table.family} {KEEPER} {name} {{ {', '.join(chosen)} }}\n")
        if statements:
            self._run("".join(statements))
        self._held[table.family] = taps

    def lost(self) -> bool:
        """Return whether one of the tables has gone. Then the others are deleted, and the next `follow` makes all anew. Raises
        KernelError."""
        there = [f for f in self._held if nft.read_table(self._socket, NftTable(f, "", (), KEEPER)) is not None]
        if len(there) == len(self._held):
            return False
        self._run("".join(f"delete table {family} {KEEPER}\n" for family in there))
        self._held, self._closed = {}, False
        return True

    def _run(self, statements: str) -> None:
        _, error = self._nft.run(statements)
        if error:
            raise KernelError(f"filters are not kept while others flush them: {error.splitlines()[0]}")


def _is_ours(table: NftTable, store: Store) -> bool:
    recorded = store.recorded(table.key)
    return recorded is not None and recorded[0] == table
