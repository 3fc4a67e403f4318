"""Addresses of links."""

from dataclasses import dataclass
from functools import cached_property
from ipaddress import ip_interface
from typing import Self

from ..resource import Keys, Resource, dev, ip


@dataclass(frozen=True)
class Address(Resource):
    """An address (with prefix length) on a link."""

    ifname: str
    address: str

    kind = "address"
    rank = 35

    @cached_property
    def key(self) -> str:
        return self.key_of(self.ifname, self.address)

    @staticmethod
    def key_of(ifname: str, address: str) -> str:
        return f"addr {ifname} {address}"

    @classmethod
    def keys_on(cls, ifname: str) -> Keys:
        return Keys(starts=(cls.key_of(ifname, ""),))

    @property
    def link(self) -> str:
        return self.ifname

    @property
    def goes_down_with_link(self) -> bool:
        return True

    @property
    def broadcast(self) -> str:
        """The standard broadcast address, as other network programs set it; "" for IPv6 and for /31 and /32."""
        network = ip_interface(self.address).network
        return str(network.broadcast_address) if network.version == 4 and network.prefixlen < 31 else ""

    def set_command(self, have: Self | None) -> str:
        broadcast = f" broadcast {self.broadcast}" if self.broadcast else ""
        return f"{ip(self.address)} addr add {self.address}{broadcast} {dev(self.ifname)}" + (
            " nodad" if ":" in self.address else ""
        )

    def unset_command(self) -> str:
        return f"{ip(self.address)} addr del {self.address} {dev(self.ifname)}"
