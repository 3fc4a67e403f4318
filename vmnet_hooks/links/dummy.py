"""Dummy links: links without hardware, for an address or as a port of a bridge."""

from collections.abc import Iterator

from ..model.declaration import Declared
from ..model.facts import Host
from ..model.resource import Resource
from . import link


class Dummy(link.LinkKind):
    makes_up_mac = True

    def resources(self, part: Declared, host: Host) -> Iterator[Resource]:
        yield link.device(part, "dummy", host)
        yield from link.attributes(part, host, link.mac_of(part.name, host))
