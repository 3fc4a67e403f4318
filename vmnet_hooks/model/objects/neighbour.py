"""Neighbours, and addresses for which the kernel answers as a proxy."""

from dataclasses import dataclass
from functools import cached_property
from typing import Self

from ..resource import Resource, dev, ip


@dataclass(frozen=True)
class Neighbour(Resource):
    """A permanent neighbour: no ARP or ND from the host, and no share of gc_thresh3."""

    ifname: str
    address: str
    lladdr: str

    kind = "neigh"
    rank = 40

    @cached_property
    def key(self) -> str:
        return f"neigh {self.ifname} {self.address}"

    @property
    def link(self) -> str:
        return self.ifname

    @property
    def goes_down_with_link(self) -> bool:
        return True

    def set_command(self, have: Self | None) -> str:
        return f"{ip(self.address)} neigh replace {self.address} lladdr {self.lladdr} {dev(self.ifname)} nud permanent"

    def unset_command(self) -> str:
        return f"{ip(self.address)} neigh del {self.address} {dev(self.ifname)}"


@dataclass(frozen=True)
class ProxyNeighbour(Resource):
    """An address for which the kernel answers on a link: IPv6 where proxy_ndp is set, IPv4 where the link forwards."""

    ifname: str
    address: str

    kind = "proxy"
    rank = 41

    @cached_property
    def key(self) -> str:
        return f"proxy {self.ifname} {self.address}"

    @property
    def link(self) -> str:
        return self.ifname

    @property
    def goes_down_with_link(self) -> bool:
        return True

    def set_command(self, have: Self | None) -> str:
        return f"{ip(self.address)} neigh add proxy {self.address} {dev(self.ifname)}"

    def unset_command(self) -> str:
        return f"{ip(self.address)} neigh del proxy {self.address} {dev(self.ifname)}"
