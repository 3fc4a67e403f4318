"""The question whether an address is in use, before a guest gets it (RFC 5227, 2.1; RFC 4862, 5.4).

The kernel's own neighbour discovery asks: a packet socket takes about 12 ms to close. The answer is a neighbour entry with a MAC.
An entry that was asked for here has our protocol, so that an entry that the host has for other reasons is never taken for an
answer: after a live migration the source's is valid. The kernel asks three times within three seconds; a later process may look
at the entry again.
"""

import syslog
from collections.abc import Iterable, Sequence
from contextlib import suppress

from ..model.resource import PROTO
from .netlink import Netlink, NetlinkError
from .wire import INCOMPLETE, PERMANENT, NeighbourMessage

Pair = tuple[str, str]
"""Link and address."""

Place = tuple[int, str]
"""Index of a link, and address."""


def ask(netlink: Netlink, pairs: Iterable[Pair]) -> dict[Pair, bool]:
    """Ask for each address on its link. Does not wait. A link that is down, or can't ask, gives no answer. Returns for each
    address that was asked for whether the kernel knew a MAC before."""
    places = _places(netlink, pairs)
    asked: dict[Pair, bool] = {}
    try:
        there = netlink.resolve(list(places.values()), PROTO)
    except OSError:
        return asked
    for (pair, place), (was_there, known) in zip(places.items(), there, strict=True):
        if known is None or known.state & PERMANENT:
            # Refused, or the admin's own entry.
            continue
        asked[pair] = was_there and bool(known.mac)
        if was_there and (known.proto != PROTO or known.state != INCOMPLETE):
            # It may be of a host that the guest has left.
            _delete(netlink, place)
            with suppress(OSError):
                netlink.resolve([place], PROTO)
    return asked


def answers(netlink: Netlink, pairs: Iterable[Pair]) -> dict[Pair, str]:
    """Return the MAC that has answered for each address that was asked for; without those that none has answered for, or this
    host itself."""
    found = {pair: known.mac for pair, _, known in _entries(netlink, pairs) if known and known.proto == PROTO and known.mac}
    if not found:
        return {}
    try:
        own = {link.address for link in netlink.links()}
    except (NetlinkError, OSError):
        return {}
    return {pair: mac for pair, mac in found.items() if mac not in own}


def forget(netlink: Netlink, pairs: Iterable[Pair]) -> None:
    """Remove the entries of addresses that were asked for."""
    for _, place, known in _entries(netlink, pairs):
        if known and known.proto == PROTO:
            _delete(netlink, place)


def settle(netlink: Netlink, pairs: Sequence[Pair]) -> None:
    """Remove the entries of addresses that no machine has answered for. The others stay: `check` tells of them."""
    found = answers(netlink, pairs)
    forget(netlink, [pair for pair in pairs if pair not in found])


def unanswered(netlink: Netlink, pairs: Sequence[Pair]) -> list[Pair]:
    """Return those that no machine has answered for. The others go to the log: it was too late to refuse the guest."""
    found = answers(netlink, pairs)
    for (link, address), mac in found.items():
        syslog.syslog(syslog.LOG_ERR, f"{address} is not announced on {link}: {mac} answers for it; stop that machine")
    return [pair for pair in pairs if pair not in found]


def _entries(netlink: Netlink, pairs: Iterable[Pair]) -> list[tuple[Pair, Place, NeighbourMessage | None]]:
    """Each pair whose link exists, its place, and the neighbour entry there."""
    places = _places(netlink, pairs)
    try:
        known = netlink.neighbour_entries(list(places.values()))
    except (NetlinkError, OSError):
        return []
    return [(pair, place, entry) for (pair, place), entry in zip(places.items(), known, strict=True)]


def _places(netlink: Netlink, pairs: Iterable[Pair]) -> dict[Pair, Place]:
    """The place of each pair whose link exists."""
    indexes: dict[str, int] = {}
    for link, _ in (pairs := list(pairs)):
        if link not in indexes:
            try:
                indexes[link] = netlink.index(link)
            except OSError:
                indexes[link] = 0
    return {(link, address): (index, address) for link, address in pairs if (index := indexes[link])}


def _delete(netlink: Netlink, place: Place) -> None:
    # It may be gone by now.
    with suppress(NetlinkError, OSError):
        netlink.delete_neighbour(*place)
