"""Changes of our nft tables by other processes."""

from collections.abc import Iterator

from ...model.objects import NftElement, NftTable
from ...model.resource import FORWARD_MAPS, NAT_SETS, TABLE
from ..netlink import NETLINK_NETFILTER, Socket, messages
from ..objects.nft import (
    CHAIN_NAME,
    DATA_VALUE,
    DELSETELEM,
    DESTROYSETELEM,
    ELEM_KEY,
    FAMILIES,
    GROUP_NFTABLES,
    LIST_ELEMENTS,
    LIST_SET,
    NEWTABLE,
    RULE_CHAIN,
    TABLE_CHANGES,
    TABLE_NAME,
    port_chain,
)
from ..wire import NFGENMSG, attributes, text, values
from .senders import Senders
from .suspects import Suspects

BUFFER = 8 << 20
"""Bytes of notifications that may wait: `nft flush ruleset` with thousands of guests."""

_FAMILY_NAMES = {number: name for name, number in FAMILIES.items()}


class NftMonitor:
    """Listens to nftables."""

    def __init__(self) -> None:
        self._socket = Socket(NETLINK_NETFILTER, (GROUP_NFTABLES,), BUFFER)
        self._senders = Senders(NETLINK_NETFILTER)

    def fileno(self) -> int:
        return self._socket.fileno()

    def close(self) -> None:
        self._socket.close()

    def drain(self) -> Suspects:
        """Read the notifications that wait, except for those of changes by this process. Does not block. Raises OSError."""
        found = Suspects()
        made: set[str] = set()
        for data in self._socket.waiting():
            if data is None:
                found.everything = True
                continue
            for kind, _, _, port, body in messages(data):
                # All messages of a datagram are of one transaction, so of one sender.
                if self._senders.is_ours(port):
                    break
                if kind in TABLE_CHANGES and (key := _port(body)):
                    # Before Linux 6.16, the chain of a port goes with its tap.
                    found.keys.add(key)
                elif kind in TABLE_CHANGES and (table := our_table(body)):
                    found.keys.add(table)
                    (made if kind == NEWTABLE else found.tampered).add(table)
                elif kind in (DELSETELEM, DESTROYSETELEM) and (table := our_table(body)):
                    found.starts |= _elements(table, body)
        # A table of ours that was made anew was made by another process of this program: a hook without the agent.
        found.tampered -= made
        return found


def our_table(body: bytes) -> str:
    """Return the key of the table that a message is about; "" if it is not one of ours."""
    family = _FAMILY_NAMES.get(body[0], "")
    name = text(attributes(body, NFGENMSG.size).get(TABLE_NAME, b""))
    return NftTable.key_of(family, name) if family and (name == TABLE or name.startswith(f"{TABLE}-")) else ""


def _port(body: bytes) -> str:
    """Return the key of the chain of a port, or of an end of a wire, that a message is about, or a rule in it; "" if it is about
    anything else."""
    items = attributes(body, NFGENMSG.size)
    # In messages about anything else, these numbers stand for what is no such name.
    names = [text(items[number]) for number in (CHAIN_NAME, RULE_CHAIN) if number in items]
    if not names or _FAMILY_NAMES.get(body[0]) != "netdev":
        return ""
    table = text(items.get(TABLE_NAME, b""))
    return next((chain.key for name in names if (chain := port_chain(table, name))), "")


def _elements(table: str, body: bytes) -> set[str]:
    """Return the starts of the keys of the elements that a message is about."""
    items = attributes(body, NFGENMSG.size)
    name = text(items.get(LIST_SET, b""))
    family = table.split()[1]
    if name.startswith(NAT_SETS) or name in ("closed", "reached", "fenced", "admitted_groups", *FORWARD_MAPS):
        # The interface does not come first; there are few elements.
        return {NftElement.key_of(family, name)}
    return {NftElement.key_of(family, name, f'"{tap}"') for tap in _taps(items.get(LIST_ELEMENTS, b""))}


def _taps(elements: bytes) -> Iterator[str]:
    """Yield the interface that the key of each element starts with."""
    for element in values(elements):
        key = attributes(element).get(ELEM_KEY)
        value = attributes(key).get(DATA_VALUE) if key is not None else None
        if value is not None:
            yield text(value[:16])
