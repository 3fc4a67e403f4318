"""Parsers of MAC addresses, interface names and IP addresses. Each raises ValueError with what is wrong with the value."""

import ipaddress
import re
from _socket import AF_INET, AF_INET6, inet_pton
from collections.abc import Callable, Iterable
from typing import TypeVar

# Stricter than the kernel (which only forbids '/', ':' and white space): names also go into nft and shell text.
_IFNAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.@+-]{0,14}", re.ASCII)
_MAC = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}", re.ASCII)
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]{0,62}", re.ASCII)

T = TypeVar("T")

IPv4 = ipaddress.IPv4Address
IPv6 = ipaddress.IPv6Address
IPAddress = IPv4 | IPv6
Subnet = ipaddress.IPv4Network | ipaddress.IPv6Network
Interface = ipaddress.IPv4Interface | ipaddress.IPv6Interface


def text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError(f"is {type(value).__name__}, not a string")
    return value


def name(value: object) -> str:
    """Parse the name of a network or a routing table: letters, digits and `_.+-`, at most 63 characters."""
    if not _NAME.fullmatch(text(value)):
        raise ValueError("is not a name; use letters, digits and _ . + - (at most 63)")
    return str(value)


def ifname(value: object) -> str:
    """Parse an interface's name, at most 15 bytes (IFNAMSIZ - 1). Not one that the kernel's settings of all interfaces have."""
    if value in ("all", "default"):
        raise ValueError("stands for all interfaces in the kernel's settings; choose another name")
    if not _IFNAME.fullmatch(text(value)):
        if len(str(value)) > 15:
            raise ValueError("is longer than an interface's name may be; use at most 15 characters")
        raise ValueError("is not an interface's name; use letters, digits and _ . @ + - (at most 15)")
    return str(value)


def mac(value: object) -> str:
    """Parse a unicast MAC address; return it in lower case, with colons."""
    address = text(value).lower().replace("-", ":")
    if not _MAC.fullmatch(address):
        raise ValueError("is not a MAC address; write it as 52:54:00:12:34:56")
    if int(address[:2], 16) & 1:
        raise ValueError("is a multicast MAC address; the first octet must be even")
    if address == "00:00:00:00:00:00":
        raise ValueError("is the zero MAC address; make one with `vmnet-hook mac`")
    return address


def mac_number(address: str) -> str:
    """Return a MAC address as one number, as nft takes it for raw bytes of a packet."""
    return f"{int(address.replace(':', ''), 16):#x}"


def mac_or_none(value: object) -> str:
    """Parse a MAC address; "" stays ""."""
    return mac(value) if value else ""


def boolean(value: object) -> bool:
    if not isinstance(value, bool):
        raise ValueError("must be true or false")
    return value


def integer(low: int, high: int) -> Callable[[object], int]:
    """Return a parser of whole numbers from `low` to `high`."""

    def parse(value: object) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise ValueError(f"must be a whole number from {low} to {high}")
        return value

    return parse


def one_of(*words: str) -> Callable[[object], str]:
    def parse(value: object) -> str:
        if value not in words:
            raise ValueError(f"must be one of {', '.join(words)}")
        return str(value)

    return parse


def is_address(text: str) -> bool:
    """Return whether a text is an IPv4 or IPv6 address, without a prefix length and a scope."""
    try:
        inet_pton(AF_INET6 if ":" in text else AF_INET, text)
    except (OSError, ValueError):
        return False
    return True


def address(value: object) -> IPAddress:
    """Parse an IPv4 or IPv6 address, without a prefix length."""
    try:
        found = ipaddress.ip_address(text(value))
    except ValueError:
        raise ValueError(f"is not an IP address; write {_without_length(value)}") from None
    if getattr(found, "scope_id", None):
        raise ValueError("has a zone; write the address without %zone")
    return found


def _without_length(value: object) -> str:
    try:
        return str(ipaddress.ip_interface(str(value)).ip)
    except ValueError:
        return "192.0.2.1 or 2001:db8::1"


def _without_host_bits(value: object) -> str:
    try:
        return str(ipaddress.ip_network(str(value), strict=False))
    except ValueError:
        return "NETWORK/LENGTH"


def each(parse: Callable[[object], T], items: Iterable[object]) -> tuple[T, ...]:
    """Parse the items of a list; the error names the item at fault."""
    found = []
    for item in items:
        try:
            found.append(parse(item))
        except ValueError as error:
            raise ValueError(f"holds {str(item)[:60]!r}, which {error}") from None
    return tuple(found)


def source_subnet(value: object) -> Subnet:
    """Parse a source that a guest may send from: a subnet that is routed to the guest, or an address (returned as /32 or
    /128)."""
    try:
        found = ipaddress.ip_network(text(value))
    except ValueError as error:
        raise ValueError(f"is neither an address nor a subnet ({error}); write {_without_length(value)}") from None
    if getattr(found.network_address, "scope_id", None):
        raise ValueError("has a zone; write the address without %zone")
    return found


def spelt(subnet: Subnet) -> str:
    """Return a subnet as text; a /32 or /128 as its address."""
    return str(subnet.network_address if subnet.prefixlen == subnet.max_prefixlen else subnet)


def source(value: object) -> str:
    """Parse a source as `source_subnet` does; return it as text, see `spelt`."""
    return spelt(source_subnet(value))


def overlap(one: Subnet, other: Subnet) -> bool:
    """Return whether two subnets have addresses in common."""
    return one.version == other.version and one.overlaps(other)


def version(found: str) -> int:
    """Return the IP version, 4 or 6, of a parsed address or prefix."""
    return 6 if ":" in found else 4


def bare(found: str) -> str:
    """Return the address of an ADDRESS/LENGTH or of an ADDRESS peer PEER/LENGTH."""
    return found.partition("/")[0].partition(" ")[0]


def host(found: str) -> str:
    """Return a parsed address as a /32 or /128."""
    return f"{found}/128" if ":" in found else f"{found}/32"


def single(dst: str) -> str:
    """Return the address of a /32 or /128; "" for another prefix."""
    address, _, length = dst.partition("/")
    return address if length == ("128" if ":" in address else "32") else ""


def address_of(version: int) -> Callable[[object], IPAddress]:
    """Return a parser of addresses of one IP version, 4 or 6."""

    def parse(value: object) -> IPAddress:
        found = address(value)
        if found.version != version:
            raise ValueError(f"is not an IPv{version} address")
        return found

    return parse


def subnet(value: object) -> Subnet:
    """Parse a subnet, without host bits."""
    try:
        return ipaddress.ip_network(text(value))
    except ValueError as error:
        raise ValueError(f"is not a subnet ({error}); write {_without_host_bits(value)}") from None


def address_or_prefix(value: object) -> str:
    """Parse a source as `source` does, but keep an explicit prefix length: its meaning depends on the network's mode."""
    found = source(value)
    return found if "/" in found or "/" not in str(value) else host(found)


def eui64(prefix: ipaddress.IPv6Network, hwaddr: str) -> IPv6:
    """Return the address that a host with MAC `hwaddr` forms in `prefix` (a /64), RFC 4291 appendix A."""
    octets = bytes.fromhex(hwaddr.replace(":", ""))
    identifier = bytes([octets[0] ^ 2]) + octets[1:3] + b"\xff\xfe" + octets[3:]
    return IPv6(int(prefix.network_address) | int.from_bytes(identifier, "big"))


LINK_LOCAL = ipaddress.IPv6Network("fe80::/64")


def link_local(value: object) -> IPv6:
    """Parse an IPv6 link-local address."""
    found = address(value)
    if not isinstance(found, IPv6) or found not in LINK_LOCAL or found == LINK_LOCAL.network_address:
        raise ValueError("is not an IPv6 link-local address; write fe80::1")
    return found


def vids(value: object) -> tuple[int, ...]:
    """Parse a list of VLAN IDs and "LOW-HIGH" ranges; return the IDs in ascending order, without duplicates."""
    if not isinstance(value, list):
        raise ValueError('must be a list of VLAN IDs, [10, "20-30"]')
    found: set[int] = set()
    for item in value:
        low, dash, high = item.partition("-") if isinstance(item, str) else ("", "", "")
        if dash and item.isascii() and low.isdecimal() and high.isdecimal() and len(item) <= 9:
            first, last = int(low), int(high)
        elif isinstance(item, int) and not isinstance(item, bool):
            first = last = item
        else:
            raise ValueError(f'holds {str(item)[:40]!r}, which is no VLAN ID; write [10, "20-30"]')
        if not 1 <= first <= last <= 4094:
            raise ValueError(f"holds {str(item)[:40]!r}; VLAN IDs go from 1 to 4094")
        found.update(range(first, last + 1))
    return tuple(sorted(found))


ROLES = ("dhcp-server", "router", "querier", "switch")
"""What a guest may be besides a client."""


def roles(value: object) -> tuple[str, ...]:
    """Parse a list of ROLES; return them in that order, without duplicates."""
    if not isinstance(value, list):
        raise ValueError(f'must be a list of roles, ["{ROLES[1]}", "{ROLES[2]}"]')
    found = each(one_of(*ROLES), value)
    return tuple(role for role in ROLES if role in found)


def ranges(numbers: Iterable[int]) -> str:
    """Return numbers as text, in ascending order, with consecutive ones as a range: `10,20-30`."""
    runs: list[list[int]] = []
    for number in sorted(numbers):
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ",".join(str(low) if low == high else f"{low}-{high}" for low, high in runs)


def numbers(text: str) -> set[int]:
    """Parse the output of `ranges`."""
    found: set[int] = set()
    for run in filter(None, text.split(",")):
        low, _, high = run.partition("-")
        found.update(range(int(low), int(high or low) + 1))
    return found


def interface(value: object) -> Interface:
    """Parse an address with its prefix length."""
    try:
        found = ipaddress.ip_interface(text(value))
    except ValueError:
        raise ValueError("is not an address with a prefix length; write 192.0.2.1/24") from None
    if "/" not in str(value):
        raise ValueError(f"has no prefix length; write {found.ip}/{64 if found.version == 6 else 24}")
    if getattr(found, "scope_id", None):
        raise ValueError("has a zone; write the address without %zone")
    return found


_LABEL = re.compile(r"(?!-)[A-Za-z0-9_-]{1,63}(?<!-)", re.ASCII)


def domain(value: object) -> str:
    """Parse a domain name (RFC 1035, 2.3.4), with or without a final dot; return it without."""
    found = text(value).removesuffix(".")
    if not found or len(found) > 253 or not all(_LABEL.fullmatch(label) for label in found.split(".")):
        raise ValueError("is not a domain name; write one as example.org")
    return found
