"""The question whether an address is in use, before a guest gets it (RFC 5227, 2.1; RFC 4862, 5.4).

The kernel's own neighbour discovery asks: a packet socket takes about 12 ms to close. The answer is a neighbour entry with a MAC.
An entry that was asked for here has our protocol, so that an entry that the host has for other reasons is never taken for an
answer: after a live migration the source's is valid. The kernel asks three times within three seconds; a later process may look
at the entry again.
"""

import syslog
from collections.abc import Iterable, Sequence

from ..model.resource import PROTO
from .netlink import Netlink, NetlinkError
from .wire import PERMANENT

Pair = tuple[str, str]
"""Link and address."""


def ask(netlink: Netlink, pairs: Iterable[Pair]) -> set[str]:
    """Ask for each address on its link. Does not wait. A link that is down, or can't ask, gives no answer. Returns the addresses
    for which the kernel knew a MAC before."""
    met = set()
    for link, address in pairs:
        try:
            index = netlink.index(link)
            known = netlink.neighbour(index, address)
            if known and known.state & PERMANENT:
                # The admin's own entry.
                continue
            if known:
                # It may be of a host that the guest has left.
                netlink.delete_neighbour(index, address)
                met |= {address} if known.mac else set()
            netlink.resolve(index, address, PROTO)
        except (NetlinkError, OSError):
            continue
    return met


def answer(netlink: Netlink, link: str, address: str) -> str:
    """Return the MAC that has answered for an address that was asked for; "" if none has, or one of this host's own."""
    try:
        known = netlink.neighbour(netlink.index(link), address)
        if known is None or known.proto != PROTO or not known.mac:
            return ""
        return "" if known.mac in {link.address for link in netlink.links()} else known.mac
    except (NetlinkError, OSError):
        return ""


def forget(netlink: Netlink, pairs: Iterable[Pair]) -> None:
    """Remove the entries of addresses that were asked for."""
    for link, address in pairs:
        try:
            index = netlink.index(link)
            known = netlink.neighbour(index, address)
            if known and known.proto == PROTO:
                netlink.delete_neighbour(index, address)
        except (NetlinkError, OSError):
            continue


def settle(netlink: Netlink, pairs: Iterable[Pair]) -> None:
    """Remove the entries of addresses that nobody has answered for. The others stay: `check` tells of them."""
    forget(netlink, [pair for pair in pairs if not answer(netlink, *pair)])


def unanswered(netlink: Netlink, pairs: Sequence[Pair]) -> list[Pair]:
    """Return those that no machine has answered for. The others go to the log: it was too late to refuse the guest."""
    found = []
    for link, address in pairs:
        if mac := answer(netlink, link, address):
            syslog.syslog(syslog.LOG_ERR, f"{address} is not announced on {link}: {mac} answers for it; stop that machine")
        else:
            found.append((link, address))
    return found
