"""What has an address: addresses of links, neighbours, addresses for which the kernel answers as a proxy, and names of guests."""

import shlex
from dataclasses import dataclass
from ipaddress import ip_interface
from typing import ClassVar, Self

from ..resource import OnLink, Resource, cached, dev, ip


class _Addressed(OnLink):
    """An object on a link that its address identifies there. The kernel removes it when the link is set down."""

    address: str

    @cached
    def key(self) -> str:
        return self.key_of(self.ifname, self.address)

    @property
    def goes_down_with_link(self) -> bool:
        return True


@dataclass(frozen=True)
class Address(_Addressed):
    """An address (with prefix length) on a link; with the other end of a point-to-point link as ADDRESS peer PEER/LENGTH."""

    address: str

    kind = "address"
    word = "addr"
    rank = 35

    @property
    def version(self) -> int:
        return 6 if ":" in self.address else 4

    @property
    def broadcast(self) -> str:
        """The standard broadcast address, as other network programs set it; "" for IPv6, for /31 and /32, and with a peer."""
        if " " in self.address:
            return ""
        network = ip_interface(self.address).network
        return str(network.broadcast_address) if network.version == 4 and network.prefixlen < 31 else ""

    def set_command(self, have: Self | None) -> str:
        broadcast = f" broadcast {self.broadcast}" if self.broadcast else ""
        return f"{ip(self.address)} addr add {self.address}{broadcast} {dev(self.ifname)}" + (
            " nodad" if ":" in self.address else ""
        )

    def unset_command(self) -> str:
        return f"{ip(self.address)} addr del {self.address} {dev(self.ifname)}"


@dataclass(frozen=True)
class Neighbour(_Addressed):
    """A permanent neighbour: the host sends no ARP or ND for it, and it does not count towards gc_thresh3."""

    address: str
    lladdr: str

    kind = "neigh"
    word = "neigh"
    rank = 40

    def set_command(self, have: Self | None) -> str:
        return f"{ip(self.address)} neigh replace {self.address} lladdr {self.lladdr} {dev(self.ifname)} nud permanent"

    def unset_command(self) -> str:
        return f"{ip(self.address)} neigh del {self.address} {dev(self.ifname)}"


@dataclass(frozen=True)
class ProxyNeighbour(_Addressed):
    """An address for which the kernel answers on a link: IPv6 where proxy_ndp is set, IPv4 where the link forwards."""

    address: str

    kind = "proxy"
    word = "proxy"
    rank = 41

    def set_command(self, have: Self | None) -> str:
        return f"{ip(self.address)} neigh add proxy {self.address} {dev(self.ifname)}"

    def unset_command(self) -> str:
        return f"{ip(self.address)} neigh del proxy {self.address} {dev(self.ifname)}"


@dataclass(frozen=True)
class HostName(Resource):
    """A guest's name in a file of its own, hosts(5). dnsmasq reads the folder with --hostsdir, and notices files that come and
    go. A network that has a server has a folder of its own."""

    ifname: str
    name: str
    addresses: tuple[str, ...]
    network: str = ""

    later = frozenset({"network"})

    kind = "host-name"
    rank = 46
    marked = True
    DIRECTORY: ClassVar[str] = "/run/vmnet-hosts"
    OF_NETWORKS: ClassVar[str] = "/run/vmnet-dnsmasq/names"

    @property
    def folder(self) -> str:
        return f"{self.OF_NETWORKS}/{self.network}" if self.network else self.DIRECTORY

    @property
    def path(self) -> str:
        return f"{self.folder}/{self.ifname}"

    @property
    def text(self) -> str:
        return "".join(f"{address} {self.name}\n" for address in self.addresses)

    @cached
    def key(self) -> str:
        return self.key_of(self.ifname)

    @staticmethod
    def key_of(ifname: str) -> str:
        return f"host-name {ifname}"

    @property
    def drawn_in(self) -> tuple[str | int, ...]:
        return (self.ifname,)

    def set_command(self, have: Self | None) -> str:
        return f"mkdir -p {self.folder}; printf %s {shlex.quote(self.text)} > {self.path}"

    def unset_command(self) -> str:
        return f"rm -f {self.path}"
