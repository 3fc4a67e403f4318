"""Dummy links: a port, or an address, without a wire."""

from collections.abc import Iterator

from ..model.declaration import Config, Declared
from ..model.facts import Host
from ..model.resource import Resource
from . import link

OPTIONS = link.OPTIONS
parse_name = link.parse_name
check = link.check


def check_together(declared: Config) -> None:
    """Nothing between dummies alone."""


def resources(part: Declared, host: Host) -> Iterator[Resource]:
    yield link.device(part, "dummy", host)
    yield from link.attributes(part, host, link.mac_of(part.name, host))
