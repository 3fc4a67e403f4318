"""Leases: pools of addresses for guests without declared ones, static leases, and network boot. The keys of `dhcp` for them, and
what makes them valid. dnsmasq gives the leases, see dnsmasq.py."""

import ipaddress
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from .. import values
from ..model.declaration import Config, Declared, Network, Option, Required

_PATH = re.compile(r"/[A-Za-z0-9_./@+-]{0,200}", re.ASCII)
_FILE = re.compile(r"[A-Za-z0-9_./@+:?=%&-]{1,127}", re.ASCII)
"""The field of a DHCPv4 message has 128 bytes (RFC 2131, 2), and ends with a zero."""
_HOST = re.compile(r"(?!-)[A-Za-z0-9-]{1,63}(?<!-)", re.ASCII)

_WORDS = re.compile(r"ignore|infinite|\d+[smhdw]?", re.ASCII | re.IGNORECASE)
"""What dnsmasq takes for a word of its own, or for the time of the lease, in place of a host's name."""


class Range(NamedTuple):
    """Addresses from `first` to `last`, of one family."""

    first: values.IPAddress
    last: values.IPAddress

    @property
    def size(self) -> int:
        return int(self.last) - int(self.first) + 1

    def holds(self, address: values.IPAddress) -> bool:
        return address.version == self.first.version and int(self.first) <= int(address) <= int(self.last)

    def __str__(self) -> str:
        return f"{self.first}-{self.last}"


def _range(value: object) -> Range:
    first, dash, last = values.text(value).partition("-")
    if not dash:
        raise ValueError("is no range; write 10.9.0.100-10.9.0.200")
    found = Range(values.address(first.strip()), values.address(last.strip()))
    if found.first.version != found.last.version:
        raise ValueError("begins and ends in different families; name two ranges")
    if found.size < 1:
        raise ValueError(f"ends before it begins; write {found.last}-{found.first}")
    return found


def _listed(parse: Callable[[object], Any], example: str) -> Callable[[object], tuple[Any, ...]]:
    def parsed(value: object) -> tuple[Any, ...]:
        if not isinstance(value, list):
            raise ValueError(f"must be a list, {example}")
        return values.each(parse, value)

    return parsed


def host_label(value: object) -> str:
    """Parse the name of a guest, without a domain (RFC 1123, 2.1); return it in lower case."""
    if not _HOST.fullmatch(values.text(value)):
        raise ValueError("is not the name of a host; use letters, digits and - (at most 63)")
    if _WORDS.fullmatch(str(value)):
        raise ValueError("is a word of dnsmasq's, or a time; choose another name")
    return str(value).lower()


def _matching(pattern: re.Pattern[str], problem: str) -> Callable[[object], str]:
    def parsed(value: object) -> str:
        # dnsmasq takes commas and line ends for its own.
        if not pattern.fullmatch(values.text(value)):
            raise ValueError(problem)
        return str(value)

    return parsed


def _host(value: Any) -> Any:
    if not value["ips"] and not value["name"]:
        raise ValueError("has neither ips nor a name; give one")
    if any(len([ip for ip in value["ips"] if ip.version == version]) > 1 for version in (4, 6)):
        raise ValueError("has several addresses of a family; a lease has one of each")
    return value


def _boot(value: Any) -> Any:
    if value["tftp_root"] and value["server"]:
        raise ValueError("has a server and a tftp_root, which makes the host the server; remove one")
    return value


_RANGES = '["10.9.0.100-10.9.0.200", "fd00:9::1000-fd00:9::ffff"]'
POOL = Option(
    "pool",
    _listed(_range, _RANGES),
    (),
    "bridged: addresses for guests that have no declared ones, leased by dnsmasq",
    _RANGES,
)
OPTIONS = (
    POOL,
    Option(
        "hosts",
        _host,
        (),
        "static leases, for guests that have no declared addresses",
        '[{ mac = "52:54:00:12:34:56", ips = ["10.9.0.10"], name = "web1" }]',
        (
            Option("mac", values.mac, Required, "the guest's MAC", '"52:54:00:12:34:56"'),
            Option("ips", _listed(values.address, '["10.9.0.10"]'), (), "its addresses, one of a family", '["10.9.0.10"]'),
            Option("name", host_label, "", "its name", '"web1"'),
        ),
        listed=True,
    ),
    Option(
        "boot",
        _boot,
        None,
        "network boot (PXE) of guests with leases",
        '{ file = "pxelinux.0", tftp_root = "/srv/tftp" }',
        (
            Option(
                "file",
                _matching(_FILE, "is no file to boot; use letters, digits and _ . / @ + : ? = % & - (at most 127)"),
                Required,
                "the file that they load, or its URL",
                '"pxelinux.0"',
            ),
            Option("server", values.address_of(4), None, "the TFTP server; default: the host", '"192.0.2.69"'),
            Option(
                "tftp_root",
                _matching(_PATH, "is no folder; give its path, as /srv/tftp (letters, digits and _ . / @ + -)"),
                "",
                "the folder that the host itself serves by TFTP",
                '"/srv/tftp"',
            ),
        ),
    ),
    Option("keep_leases", values.boolean, True, "keep leases while the network is down", "false"),
)


def is_leased(network: Network) -> bool:
    """Return whether guests of a network get leases."""
    offer = network.options.get("dhcp")
    return bool(offer and (offer["pool"] or offer["hosts"]))


def server_bridge(network: Network, declared: Config, key: str) -> Declared:
    """Return the declared bridge that the server of a network is on. Raise ConfigError, for `key`, if there can be none."""
    name = network.mode.bridge_of(network)
    if not name:
        raise network.error(key, "is for guests on a bridge; declare the network with a bridge of its own, or remove it")
    part = declared.links.get(name)
    if part is None or not part.kind.takes_guests or not part["addresses"]:
        raise network.error(
            key, f'bridge {name} has no declared address to serve at; declare [bridges.{name}] with addresses = ["10.9.0.1/24"]'
        )
    if part["anycast_gateway"]:
        raise network.error(
            key, f"{part.label} has anycast_gateway: each node would give out the same addresses and names; serve on one node"
        )
    if part["vlan_filtering"] and (network.options.get("vlan") or part["pvid"]) != part["pvid"]:
        raise network.error(
            key, f"{part.label} has its addresses in VLAN {part['pvid']}, and the network's guests are in another; remove vlan"
        )
    if "+" in network.name:
        raise network.error(key, "names of systemd's units have no +; rename the network")
    return part


def check(network: Network, declared: Config) -> None:
    """Raise ConfigError if pools, static leases or network boot are not possible as they are declared."""
    offer = network.options["dhcp"]
    if offer["boot"] and not is_leased(network):
        raise network.error("dhcp.boot", "is for guests with leases: give a pool or hosts, or remove it")
    if not is_leased(network):
        return
    key = "dhcp.pool" if offer["pool"] else "dhcp.hosts"
    part = server_bridge(network, declared, key)
    own = [address.ip for address in part["addresses"]]
    gateways = {*own, *filter(None, [offer["gateway"]])}
    for found in offer["pool"]:
        subnet = _subnet_of(found.first, part)
        if subnet is None or found.last not in subnet:
            raise network.error("dhcp.pool", f"{found} is in no subnet of {part.label}; {_subnets(part)}")
        if taken := next((address for address in sorted(gateways, key=str) if found.holds(address)), None):
            raise network.error("dhcp.pool", f"{found} has the gateway {taken} in it; leave it out")
        if subnet.version == 4 and subnet.prefixlen < 31:
            for address, what in ((subnet.network_address, "network"), (subnet.broadcast_address, "broadcast")):
                if found.holds(address):
                    raise network.error("dhcp.pool", f"{found} has the {what} address {address} in it; leave it out")
    for one, other in _pairs(offer["pool"]):
        if one.holds(other.first) or other.holds(one.first):
            raise network.error("dhcp.pool", f"{one} and {other} overlap; separate them")
    _check_hosts(network, part, gateways)
    for address in part["addresses"]:
        if address.version == 6 and address.network.prefixlen < 64 and is_leased_in(network, address.network):
            raise network.error(key, f"{address} has a prefix shorter than 64, in which dnsmasq leases nothing; use a /64")


def _check_hosts(network: Network, part: Declared, gateways: Iterable[values.IPAddress]) -> None:
    seen: set[object] = set()
    for host in network.options["dhcp"]["hosts"]:
        for ip in host["ips"]:
            if _subnet_of(ip, part) is None:
                raise network.error("dhcp.hosts", f"{host['mac']}: {ip} is in no subnet of {part.label}; {_subnets(part)}")
            if ip in gateways:
                raise network.error("dhcp.hosts", f"{host['mac']}: {ip} is the gateway; choose another address")
        mine = [host["mac"], *host["ips"], *filter(None, [host["name"]])]
        if twice := next((what for what in mine if what in seen), None):
            raise network.error("dhcp.hosts", f"{twice} is given twice; remove one")
        seen.update(mine)


def _pairs(ranges: Sequence[Range]) -> Iterator[tuple[Range, Range]]:
    for number, one in enumerate(ranges):
        for other in ranges[:number]:
            yield other, one


def _subnet_of(address: values.IPAddress, part: Declared) -> values.Subnet | None:
    return next((own.network for own in part["addresses"] if address in own.network), None)


def _subnets(part: Declared) -> str:
    return f"its subnets are {', '.join(str(own.network) for own in part['addresses'])}"


def _leases_in(network: Network, subnet: values.Subnet) -> Iterator[values.IPAddress]:
    """Yield addresses of a subnet that may be leased: the first of each pool, and all static ones."""
    offer = network.options["dhcp"]
    found = [*(pool.first for pool in offer["pool"]), *(ip for host in offer["hosts"] for ip in host["ips"])]
    return (address for address in found if address in subnet)


def whose(network: Network, address: str, mac: str) -> str:
    """Return to whom dnsmasq may lease an address, of others than the guest with this MAC; "" if to none."""
    offer, found = network.options["dhcp"], ipaddress.ip_address(address)
    for pool in offer["pool"]:
        if pool.holds(found):
            return f"in the pool {pool}"
    owner = next((host["mac"] for host in offer["hosts"] if found in host["ips"] and host["mac"] != mac), "")
    return f"leased to {owner} (dhcp.hosts)" if owner else ""


def may_lease(network: Network, address: str, mac: str) -> bool:
    """Return whether dnsmasq may lease an address to the guest with this MAC, by what is declared now: its file has leases of
    before, which may be another guest's declared addresses by now."""
    offer, found = network.options["dhcp"], ipaddress.ip_address(address)
    owner = next((host["mac"] for host in offer["hosts"] if found in host["ips"]), "")
    return owner == mac if owner else any(pool.holds(found) for pool in offer["pool"])


def is_leased_in(network: Network, subnet: values.Subnet) -> bool:
    """Return whether addresses of a subnet may be leased."""
    return any(True for _ in _leases_in(network, subnet))
