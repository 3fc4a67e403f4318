"""Switching forwarding on, for some links and no others."""

from collections.abc import Iterable, Iterator

from ..model.facts import Host
from ..model.objects import FORWARDING_GATE, NftElement, Sysctl
from ..model.resource import Resource
from ..model.ruleset import CLOSED6, INET


def forwarding(version: int, links: Iterable[str], host: Host) -> Iterator[Resource]:
    """Yield what makes the host forward one family, 4 or 6, for packets that come in by `links`.

    A host that did not forward before does not begin to between its other interfaces. For IPv4 the setting of the device
    decides. For IPv6 the kernel looks at `all` alone, so the set `forwarding` decides. Links whose default route comes from a
    router advertisement get accept_ra=2 first, or the kernel purges what they learned.
    """
    if version == 4:
        for dev in links:
            yield Sysctl(f"net/ipv4/conf/{dev}/forwarding", "1")
        return
    yield INET
    for dev in host.ra_links:
        yield Sysctl(f"net/ipv6/conf/{dev}/accept_ra", "2")
    if not host.router6:
        yield CLOSED6
    for dev in links:
        yield NftElement("inet", "forwarding", (f'"{dev}"',))
    yield Sysctl(FORWARDING_GATE, "1")
    for dev in links:
        yield Sysctl(f"net/ipv6/conf/{dev}/forwarding", "1")
