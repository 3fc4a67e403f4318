"""What one guest is told of its network by DHCP and router advertisements. Plain data, in bytes where it goes into packets."""

from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network


@dataclass(frozen=True)
class Terms:
    """`mac` is the guest's. `address4` with `prefix4` (a length) is what DHCPv4 leases, `addresses6` what DHCPv6 does. `gateway4`
    need not be in that prefix. `server4` is the server identifier (RFC 2132, 9.7), and the sender of replies. `routes4` are
    (destination, next hop), the default route not among them. `lease` is in seconds, `mtu` in bytes.

    `router6` is the link-local address that the guest's IPv6 gateway has on the guest's link: None if there is no gateway, or
    another machine advertises it. `prefixes6` go into router advertisements: on-link if `on_link6`, for SLAAC if `slaac`.
    `router_mac` is the gateway's: b"" if it is that of the guest's link.
    """

    mac: bytes
    lease: int
    mtu: int
    hostname: str = ""
    domain: str = ""
    search: tuple[str, ...] = ()
    address4: IPv4Address | None = None
    prefix4: int = 32
    gateway4: IPv4Address | None = None
    server4: IPv4Address | None = None
    dns4: tuple[IPv4Address, ...] = ()
    ntp4: tuple[IPv4Address, ...] = ()
    routes4: tuple[tuple[IPv4Network, IPv4Address], ...] = ()
    addresses6: tuple[IPv6Address, ...] = ()
    router6: IPv6Address | None = None
    prefixes6: tuple[IPv6Network, ...] = ()
    on_link6: bool = False
    slaac: bool = False
    dns6: tuple[IPv6Address, ...] = ()
    ntp6: tuple[IPv6Address, ...] = ()
    routes6: tuple[IPv6Network, ...] = ()
    router_mac: bytes = b""
    answered4: dict[tuple[bytes, bool, int, bytes], bytes] = field(default_factory=dict, init=False, compare=False, repr=False)
    """By what the guest asked for last by DHCPv4, the options that it got: its next request is the same."""

    @property
    def duid(self) -> bytes:
        """The DHCPv6 server's identifier (DUID-LL, RFC 8415, 11.4): the same on every node that the guest may run on."""
        return b"\0\3\0\1\xfe" + self.mac[1:]
