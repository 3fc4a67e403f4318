"""Switching forwarding on, for some links and no others."""

from collections.abc import Iterable, Iterator

from ..model.facts import Host
from ..model.objects import FORWARDING_GATE, NftElement, Sysctl
from ..model.resource import Resource
from ..model.ruleset import CLOSED6, INET


def forwarding(version: int, links: Iterable[str], host: Host) -> Iterator[Resource]:
    """Forwarding of one family for what comes in by `links`. A host that did not forward before does not begin to between
    other interfaces: the kernel forwards IPv6 by `all` alone, so there the set `forwarding` decides, as the device does for
    IPv4. Links that live on router advertisements get accept_ra=2 before, or the kernel purges what they learned."""
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
