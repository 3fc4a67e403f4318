"""Wires: what comes in at one end, a NIC of a guest or a link of the host, leaves by the other one, every frame as it is.

Each end has a chain of its own and an element that tells the other end by its number, so that both ends change whenever one of
them comes or goes. Records know a wire as a network of its name. See port_rules.WIRES.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from .. import values
from ..errors import ConfigError, InputError
from ..links.link import require
from ..model.declaration import Config, Declared, Network, Option, Required, parse_options
from ..model.end import End
from ..model.facts import Host, Tap
from ..model.guest import Vif
from ..model.kind import Kind, Row
from ..model.mode import Mode
from ..model.objects import LinkAttribute, NftChain, NftElement, Sysctl
from ..model.objects.nft import WIRED, WIRED_LINK
from ..model.resource import WIRE_MAPS, Resource
from ..model.ruleset import WIRES

MOST = 65521
"""Bytes: the largest MTU of a tap."""

_BY_MAC = re.compile(r"(.+):((?:[0-9A-Fa-f]{2}[:-]){5}[0-9A-Fa-f]{2})", re.DOTALL)
LINK = "link"
"""What stands for the guest at an end that is a link of the host."""
_HOW = 'write "GUEST:NUMBER", "GUEST:MAC", "GUEST:TAP", or "link:NAME" for a link of the host'


def _end(value: object) -> End:
    text = values.text(value)
    shown = f"{text[:40]!r}"
    found = _BY_MAC.fullmatch(text)
    domain, nic = (found[1], found[2]) if found else text.rpartition(":")[::2]
    if not domain or not nic:
        raise ValueError(f"{shown} is no end of a wire; {_HOW}")
    if not domain.isprintable() or len(domain.encode(errors="surrogateescape")) > 200:
        raise ValueError(f"{shown} names no guest; {_HOW}")
    if domain == LINK:
        return End(link=_ifname(nic, shown))
    if found:
        return End(domain, mac=values.mac(nic))
    if nic.isascii() and nic.isdecimal():
        if len(nic) > 3:
            raise ValueError(f"{shown}: no guest has so many NICs; they are counted from 0")
        return End(domain, int(nic))
    return End(domain, ifname=_ifname(nic, shown))


def _ifname(nic: str, shown: str) -> str:
    if "@" in nic:
        raise ValueError(f"{shown}: both ends of a wire are on this host; {_HOW}")
    try:
        return values.ifname(nic)
    except ValueError as error:
        raise ValueError(f"{shown}: {nic[:40]!r} {error}; {_HOW}") from None


def _ends(value: object) -> tuple[End, ...]:
    if not isinstance(value, list) or len(value) != 2:
        raise ValueError('must be a list of two ends, ["a:0", "b:0"]')
    first, second = map(_end, value)
    if first == second:
        raise ValueError(f"has {first} at both ends; name another NIC at one of them")
    return first, second


OPTIONS = (
    Option(
        "ends",
        _ends,
        Required,
        "the two NICs: GUEST:NUMBER (from 0), GUEST:MAC, GUEST:TAP, or link:NAME, a link of the host",
        '["a:0", "b:52:54:00:00:00:0b"]',
    ),
    Option("mtu", values.integer(68, MOST), None, "bytes, of both ends; default: as they are", "9000"),
    Option(
        "carrier",
        values.boolean,
        False,
        "the agent takes the carrier from a guest's NIC (of libvirt's) while the other end is away",
        "true",
    ),
)


class Wires(Kind):
    options = OPTIONS

    def declare(self, name: str, options: Mapping[str, Any], source: str) -> Network:
        mode = _TO_LINK if any(end.link for end in options["ends"]) else _BETWEEN_GUESTS
        return Network(self, name, options, source, mode)

    def hint(self, name: str, table: object, source: str) -> Iterable[Declared]:
        """Return a wire with its ends, where these can be read: their guests are not to start without it."""
        try:
            ends = {"ends": table["ends"]} if isinstance(table, Mapping) else {}
            return (self.declare(name, parse_options(OPTIONS, ends, source), source),)
        except (ConfigError, KeyError):
            return ()

    def check_together(self, parts: Sequence[Declared], declared: Config) -> None:
        """Raise ConfigError if two wires have an end in common, or if an end is a link that something else uses."""
        seen: dict[End, Declared] = {}
        for part in parts:
            for end in part["ends"]:
                if (other := seen.setdefault(end, part)) is not part:
                    raise part.error("ends", f"{end} is an end of {other.label} already; name another NIC")
                if end.link and (user := _user(end.link, declared)):
                    raise part.error("ends", f"{end.link} is in use by {user.label}; a wire needs a link of its own")


def _user(link: str, declared: Config) -> Declared | None:
    """Return a part other than a wire that uses a link."""
    others = (*declared.parts.values(), *declared.networks.values())
    return next(
        (
            other
            for other in others
            if not (isinstance(other, Network) and other.mode.ends(other))
            and other.name != link
            and link in (*other.links(), *other.ports, *other.stands_on())
        ),
        None,
    )


class Wire(Mode):
    brings_up_alone = False

    # --- reading -----------------------------------------------------------------------------------------------------

    def ends(self, network: Network) -> Sequence[End]:
        return tuple(network["ends"])

    def links(self, network: Network) -> tuple[str, ...]:
        return tuple(end.link for end in self.ends(network) if end.link)

    def addressed(self, network: Network) -> tuple[str, ...]:
        return self.links(network)

    def is_filtered(self, vif: Vif, network: Network) -> bool:
        return False

    def nothing_below(self, network: Network) -> ConfigError:
        return network.error("", "is between guests, and comes up with them; see `vmnet-hook status`")

    def home(self, network: Network) -> str:
        """Return no node: a wire is drawn from end to end."""
        return ""

    # --- composing ---------------------------------------------------------------------------------------------------

    def network_resources(self, network: Network, host: Host) -> Iterator[Resource]:
        """Return what the ends need that are links of the host. Raise ConfigError if one of them is in use."""
        for name in self.links(network):
            require(network, "ends", name, host)
            link = host.links.get(name)
            if link and link.master:
                raise network.error("ends", f"{name} is a port of {link.master}; a wire needs a link of its own")
            if own := host.addresses.get(name):
                remedy = f"remove it (ip addr del {own[0]} dev {name}), or name another link"
                problem = f"{name} has address {own[0]}, and all that arrives there is for the other end; {remedy}"
                raise network.error("ends", problem)
            yield WIRES
            yield NftChain.at_wire(name, WIRED_LINK)
            # A declared link has an MTU of its own.
            yield from _silent(name, network["mtu"] if name not in host.parts else None, host)
            # What is for a guest has the guest's MAC.
            yield LinkAttribute(name, "promisc", "on")
            yield LinkAttribute(name, "state", "up")
        yield from joints(network, host)

    def vif_resources(self, vif: Vif, network: Network, host: Host) -> Iterator[Resource]:
        link = host.links.get(vif.ifname)
        if link and link.master:
            nomaster = f"ip link set dev {vif.ifname} nomaster"
            raise InputError(
                f"tap {vif.ifname} is a port of {link.master}, and an end of {network.label}; "
                f"make the NIC <interface type='ethernet'>, or take it out ({nomaster})"
            )
        yield WIRES
        yield NftChain.at_wire(vif.ifname, WIRED)
        yield from joints(network, host, vif)
        yield from _silent(vif.ifname, vif.mtu or network["mtu"], host)
        yield LinkAttribute(vif.ifname, "state", "up")


class WireToLink(Wire):
    """A wire with an end that is there without a guest."""

    brings_up_alone = True

    def serves_others(self, network: Network) -> bool:
        return all(end.link for end in self.ends(network))


_BETWEEN_GUESTS = Wire(Row("wire", __name__, "Wire"))
_TO_LINK = WireToLink(Row("wire", __name__, "WireToLink"))


def _silent(name: str, mtu: int | None, host: Host) -> Iterator[Resource]:
    """Yield what keeps the host from sending at an end by itself, and from taking what comes in there if another program has
    flushed the chain: no IPv6, no answers to ARP, and IPv4 from no address, as none is routed there."""
    if host.ipv6:
        yield Sysctl(f"net/ipv6/conf/{name}/disable_ipv6", "1")
    yield Sysctl(f"net/ipv4/conf/{name}/arp_ignore", "8")
    yield Sysctl(f"net/ipv4/conf/{name}/rp_filter", "1")
    if mtu:
        yield LinkAttribute(name, "mtu", str(mtu))


def joints(network: Network, host: Host, vif: Vif | None = None) -> Iterator[NftElement]:
    """Yield the elements that tell where frames go: those from a NIC or, without one, from links of the host. A tap is told by
    its number, as its name may be another guest's next time; a link of the host by its name, as it may be yet to be made."""
    taps = host.wired.get(network.name, ())
    links = network.mode.links(network)
    if vif:
        others = [(tap.ifname, str(tap.number)) for tap in taps if not _is_same(tap, vif)]
        yield from _joints(vif.ifname, [*others, *((name, f'"{name}"') for name in links)])
        return
    for name in links:
        others = [(tap.ifname, str(tap.number)) for tap in taps]
        yield from _joints(name, [*others, *((other, f'"{other}"') for other in links if other != name)])


def _joints(ifname: str, others: Sequence[tuple[str, str]]) -> Iterator[NftElement]:
    # Of the two links of one NIC, the emulated one has the longer name.
    for name, (_, value) in zip(WIRE_MAPS, sorted(others), strict=False):
        yield NftElement("netdev", name, (f'"{ifname}"',), value)


def _is_same(tap: Tap, vif: Vif) -> bool:
    """Whether a tap is of this NIC: the tap itself, or its other link."""
    return tap.domain == vif.domain and (tap.ifname == vif.ifname or bool(vif.mac) and tap.mac == vif.mac)


# --- showing ---------------------------------------------------------------------------------------------------------------


def sides(network: Network, taps: Sequence[Tap]) -> list[tuple[End, list[Tap]]]:
    """Return the ends of a wire, each with the links of guests that are there now: none while it waits. Of a guest that has both
    ends, those that are declared by number are told apart by the other one, or by the order of their links."""
    first, second = network.mode.ends(network)
    there: tuple[list[Tap], list[Tap]] = ([], [])
    for tap in sorted(taps, key=lambda tap: (len(tap.ifname), tap.ifname)):
        vif = Vif(tap.mac, tap.ifname)
        fits = [end.domain == tap.domain and (end.number is not None or end.is_of(vif)) for end in (first, second)]
        if all(fits):
            sure = [end.number is None for end in (first, second)]
            fits = sure if any(sure) else [not there[0] or _is_same(there[0][0], replace(vif, domain=tap.domain)), True]
        there[0 if fits[0] else 1].append(tap)
    return [(first, there[0]), (second, there[1])]
