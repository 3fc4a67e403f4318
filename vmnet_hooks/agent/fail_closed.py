"""Fail-closed: while somebody's flush has taken our filters away, and until they are back, nothing that guests send passes.

The agent's tables (ruleset.KEEPERS) belong to its socket, so that `nft flush ruleset` does not touch them. They know nothing but
which taps are guarded; judging is left to the filters.
"""

from collections.abc import Collection

from ..engine.transaction import Kernel
from ..errors import KernelError
from ..kernel import nft_tables
from ..kernel.framing import NETLINK_NETFILTER, Socket
from ..kernel.libnftables import Context
from ..model.objects import NftTable
from ..model.ruleset import ARP, BRIDGE, CLOSED6, INET, KEEP_CLOSED, KEEPER, KEEPERS, KEPT_SETS
from ..records.store import Store

_FILTERS = (INET, ARP, BRIDGE)
Taps = frozenset[tuple[str, str]]
"""Elements as (set, tap)."""


class Keeper:
    """For one thread. The tables are there from the first `follow` until `close`, or until this process ends."""

    def __init__(self) -> None:
        self._nft = Context()
        self._socket = Socket(NETLINK_NETFILTER)
        self._held: dict[str, Taps] = {}
        """By family of the tables that are there."""
        self._known: set[str] = set()
        """The families of whose taps the records were asked for all, once: since then what changed is enough."""
        self._closed = False

    def close(self) -> None:
        self._nft.close()
        self._socket.close()

    def follow(self, store: Store, kernel: Kernel, taps: Collection[str] | None = None) -> None:
        """Guards what the records say; of these `taps` alone, if nothing else can have changed, which takes as long among
        thousands. Raises KernelError, with nothing changed, where the kernel knows no such tables or another process has them."""
        with store.reading():
            ours = [table for table in _FILTERS if _is_ours(table, store)]
            guarded = {table: self._guarded(table, store, taps) if table in ours else frozenset() for table in _FILTERS}
            closed = INET in ours and store.recorded(CLOSED6.key) is not None
        # Of a filter of another version, which may take no marks off, nothing is known.
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
        """The taps that a filter guards by the records."""
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
        """Whether a table of ours is gone: then all are made anew by the next `follow`."""
        there = [f for f in self._held if nft_tables.read(self._socket, NftTable(f, "", (), KEEPER)) is not None]
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
