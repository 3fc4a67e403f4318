"""What `check` sees of the world around our objects: links of whatever program, and the kernel's own ways. Plain data."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple


@dataclass(frozen=True)
class Seen:
    """A link. `kind` is IFLA_INFO_KIND; "" for a NIC. `master` is the link that it is a port of, or the VRF that it is in; "" if
    none. `addresses` have prefix lengths, and are without link-local ones. `link_local` is whether it has an IPv6 one that is in
    use. `settings` are values of net/ipv4/conf/LINK by name."""

    kind: str = ""
    mac: str = ""
    up: bool = True
    carrier: bool = True
    master: str = ""
    addresses: tuple[str, ...] = ()
    link_local: bool = True
    settings: Mapping[str, int] = field(default_factory=dict)


class Question(NamedTuple):
    """The question where the kernel sends a packet that arrives on `link`; `source` "" leaves its sender open (IPv6)."""

    link: str
    address: str
    source: str = ""


class Way(NamedTuple):
    """The answer: the route's type as iproute2 calls it, its device, table and destination; or the reason why there is none."""

    type: str = "unicast"
    dev: str = ""
    table: int = 0
    dst: str = ""
    reason: str = ""
