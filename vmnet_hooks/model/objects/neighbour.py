"""Neighbours, and addresses for which the kernel answers as a proxy."""

from dataclasses import dataclass
from functools import cached_property
from typing import Self

from ..resource import Keys, Resource, dev, ip


@dataclass(frozen=True)
class Neighbour(Resource):
    """A permanent neighbour: the host sends no ARP or ND for it, and it does not count towards gc_thresh3."""

    ifname: str
    address: str
    lladdr: str

    kind = "neigh"
    rank = 40

    @cached_property
    def key(self) -> str:
        return self.key_of(self.ifname, self.address)

    @staticmethod
    def key_of(ifname: str, address: str) -> str:
        return f"neigh {ifname} {address}"

    @classmethod
    def keys_on(cls, ifname: str) -> Keys:
        return Keys(starts=(cls.key_of(ifname, ""),))

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
        return self.key_of(self.ifname, self.address)

    @staticmethod
    def key_of(ifname: str, address: str) -> str:
        return f"proxy {ifname} {address}"

    @classmethod
    def keys_on(cls, ifname: str) -> Keys:
        return Keys(starts=(cls.key_of(ifname, ""),))

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
