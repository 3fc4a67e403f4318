"""Enables forwarding for some links and no others."""

from collections.abc import Iterable, Iterator

from ..model.facts import Host
from ..model.objects import FORWARDING_GATE, NftElement, Sysctl
from ..model.resource import Resource
from ..model.ruleset import CLOSED6, INET


def forwarding(version: int, links: Iterable[str], host: Host) -> Iterator[Resource]:
    """Yield the resources that make the host forward packets of one IP version, 4 or 6, that arrive on `links`.

    A host that did not forward before must not start to forward between its other interfaces. For IPv4, the setting of the device
    is decisive. For IPv6, the kernel uses `all` only, so the nft set `forwarding` is decisive. Links whose default route comes
    from a router advertisement get accept_ra=2 first, or the kernel would purge what they learned.
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
