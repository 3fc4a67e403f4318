"""What guests reach besides their own network: the host itself, and what the host forwards to.

What a guest opens to the host's own addresses is judged where the host takes it in; with a bridge, the port tells the guest, and
a mark carries that up to IP. What a guest sends through the host leaves by the links that its network names, or not at all: a
guest's tap is told by its group, which is the network's, any other link by its name. See ruleset.INET.
"""

from binascii import crc32
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import product

from .. import values
from ..model.declaration import Config, Declared, Network, Option, nearest
from ..model.facts import Host
from ..model.guest import Vif
from ..model.mode import Side
from ..model.objects import LinkAttribute, NftElement
from ..model.resource import Resource
from ..model.ruleset import INET, forwarding

ALL = "all"
_SERVICES = "services"
OPEN: Mapping[str, str] = {"reach_host": ALL, "reach": ALL}
"""The options of a network that no file declares: what it reaches is as with the scripts that it replaces."""
_SETS = {"none": "mutes", "replies": "repliers"}
_LINK = "link:"


def _reach(value: object) -> tuple[str, ...] | str:
    if value == ALL:
        return ALL
    if not isinstance(value, list):
        raise ValueError(f'must be a list of networks and links, ["lan2", "{_LINK}eth3"], or "{ALL}"')
    return values.each(_reached, value)


def _reached(value: object) -> str:
    if isinstance(value, str) and value.startswith(_LINK):
        if value == f"{_LINK}lo":
            raise ValueError("is the host itself; see reach_host")
        return _LINK + values.ifname(value.removeprefix(_LINK))
    return values.name(value)


HOST = Option(
    "reach_host",
    values.one_of("none", "replies", _SERVICES, ALL),
    None,
    "what guests may send to the host's own addresses: none: ARP and ND; replies: also answers to what the host sends by TCP, "
    "UDP and ICMP; services: also ICMP, DHCP and DNS; all: anything; default: services, but all from guests with the role router",
    '"all"',
)
NETWORKS = Option(
    "reach",
    _reach,
    (),
    "other networks, and link:NAME for other links, that the host forwards to from guests and back, besides the way out that the "
    "network names; all: everything that it has a route to",
    '["lan2", "link:eth3"]',
)


def group(network: str) -> str:
    """Return the link group of a network's taps. No program has groups as large as these."""
    return str(crc32(network.encode()) >> 1 | 1 << 30)


def check(networks: Sequence[Network], declared: Config) -> None:
    """Raise ConfigError if one of `networks` reaches a network that is not declared, or shares its group with another."""
    others = [name for name, other in declared.networks.items() if not other.mode.ends(other)]
    others += [broken.name for broken in declared.broken.values() if broken.is_network]
    groups: dict[str, str] = {}
    for name in declared.networks:
        groups.setdefault(group(name), name)
    for network in networks:
        if _names(network) and (problem := _not_routed(network, declared)):
            raise network.error("reach", f"is of no use: {problem}")
        for name in _names(network):
            if name == network.name:
                raise network.error("reach", f"{name} is the network itself, whose guests reach one another; remove it")
            if name.startswith(_LINK) and (part := declared.links.get(name.removeprefix(_LINK))) and _is_virtual(part, declared):
                raise network.error("reach", f"{name} is the bridge of networks.{part.implied_by}; write {part.implied_by}")
            if not name.startswith(_LINK) and name not in others:
                raise network.error("reach", f"no network {name!r} is declared{nearest(name, others)}; a link is {_LINK}{name}")
            other = declared.networks.get(name)
            if other and (away := next((n for n in (network, other) if n.mode.beyond(n)), None)):
                beside = other if away is network else network
                if not beside.mode.table_of(beside):
                    raise network.error(
                        "reach", f"{name} is out of reach: guests of {away.label} send to their gateway elsewhere, which decides"
                    )
            if other and other.mode.bridge_of(other) in declared.links and (problem := _not_routed(other, declared)):
                raise network.error("reach", f"{name} is out of reach: {problem}")
        if (twin := groups.setdefault(group(network.name), network.name)) != network.name:
            raise network.error("", f"has the same link group as networks.{twin}, by chance; rename one of the two")


def _is_virtual(part: Declared, declared: Config) -> bool:
    """Return whether a link is a network's own, by which no other leads."""
    network = declared.networks.get(part.implied_by)
    return bool(network and network.mode.exclusive(network))


def _not_routed(network: Network, declared: Config) -> str:
    """Return why the host forwards nothing between the guests of a network and other links; "" if it does."""
    name = network.mode.bridge_of(network)
    if not name:
        return ""
    part = declared.links.get(name)
    if not part:
        return f"the bridge {name} is not declared, so what the host forwards from it is the admin's; declare it in [bridges]"
    from ..links import bridge  # Few networks reach others.

    return "" if bridge.forwards(part, declared.nats) else bridge.not_routed(part)


def _names(network: Network) -> tuple[str, ...]:
    names = network.options.get("reach", ())
    return () if names == ALL else names


def host(family: str, vif: Vif, network: Network) -> Iterator[Resource]:
    """Yield the nft elements that limit what the guest at a tap, or at a bridge's port (family bridge), may send to the host."""
    level = network["reach_host"] or (ALL if "router" in (vif.roles or ()) else _SERVICES)
    if level == ALL:
        return
    yield NftElement(family, "outsiders", (f'"{vif.ifname}"',))
    if level in _SETS:
        yield NftElement(family, _SETS[level], (f'"{vif.ifname}"',))


def asking(network: Network, bridge: str) -> Iterator[Resource]:
    """Yield the element by which the host remembers what it asks guests on a bridge."""
    if network["reach_host"] != ALL:
        yield INET
        yield NftElement("inet", "asking", (f'"{bridge}"',))


def within(network: Network, bridge: str) -> Iterator[Resource]:
    """Yield what lets packets between the ports of a bridge pass, which the chains of IP see with br_netfilter."""
    if network["reach"] != ALL:
        yield INET
        yield NftElement("inet", "bridged", (f'"{bridge}"', f'"{bridge}"'))


def tap(vif: Vif, network: Network, host: Host) -> Iterator[Resource]:
    """Yield what holds the guest at a tap to the ways of its network."""
    if ":" not in network.name:
        # One that no file declares is of the admin's making, and guests of others reach it.
        yield LinkAttribute(vif.ifname, "group", group(network.name))
    if network["reach"] != ALL:
        yield NftElement("inet", "enclosed", (f'"{vif.ifname}"',))
        if network.mode.side(network, host).out is None:
            yield NftElement("inet", "unbound", (f'"{vif.ifname}"',))


def links(network: Network) -> tuple[str, ...]:
    """Return the links, other than those of networks, that a network reaches."""
    return tuple(name.removeprefix(_LINK) for name in _names(network) if name.startswith(_LINK))


def forwards(version: int, network: Network, host: Host) -> Iterator[Resource]:
    """Yield what makes the host forward packets of one IP version that arrive on the links that a network reaches, as far as they
    exist: guests that need none of them start all the same."""
    if names := [name for name in links(network) if name in host.links]:
        yield from forwarding(version, names, host)


def ways(network: Network, host: Host, versions: Iterable[int]) -> Iterator[Resource]:
    """Yield what lets the host forward, in these IP versions, between a network and what it reaches. An end of a way is a link,
    or the group of a network's taps."""
    side = network.mode.side(network, host)
    if network["reach"] == ALL or not (side.links or side.taps):
        return
    own = _ends(network, side)
    yield INET
    if side.taps and network["limit_neighbours"]:
        yield NftElement("inet", "fenced", (group(network.name),))
        for name, gateway in product(side.out or (), network.mode.beyond(network)):
            yield NftElement("inet", f"exits{gateway.version}", (f'"{name}"', group(network.name), str(gateway)))
    for version in versions:
        yield from forwards(version, network, host)
    for name in side.links:
        yield NftElement("inet", "enclosed", (f'"{name}"',))
        yield NftElement("inet", "inner", (f'"{name}"',))
        if side.out is None:
            yield NftElement("inet", "unbound", (f'"{name}"',))
    out = [f'"{name}"' for name in side.out or ()]
    yield from _between(own, [*own, *out])
    # A way out through a bridge that is another network's: what answers comes in by it.
    bridges = {f'"{other.mode.bridge_of(other)}"' for other in host.networks.values()}
    yield from _between([name for name in out if name in bridges], own)
    named = [other for name in _names(network) if (other := host.networks.get(name))]
    for other in (*named, *(other for other in host.networks.values() if other.mode.bridge_of(other) in (side.out or ()))):
        yield from other.mode.admits(other, own)
    others = [[f'"{name}"'] for name in links(network)]
    others += [_ends(other, other.mode.side(other, host)) for other in named]
    for theirs in others:
        yield from _between(own, theirs)
        yield from _between(theirs, own)


def admitted(network: Network, host: Host) -> list[str]:
    """Return the ends of all ways into a network, its own bridge among them: of what it reaches, and of what reaches it."""
    others = [other for name in _names(network) if (other := host.networks.get(name))]
    bridge = network.mode.bridge_of(network)
    ways_out = ((other, other.mode.side(other, host).out or ()) for other in host.networks.values() if other is not network)
    others += [other for other, out in ways_out if network.name in _names(other) or bridge in out]
    found = [f'"{name}"' for name in (bridge, *links(network)) if name]
    for other in others:
        found += _ends(other, other.mode.side(other, host))
    return list(dict.fromkeys(found))


def _ends(network: Network, side: Side) -> list[str]:
    """Return the ends of a network: a bridge is one even where it is not known that the host routes for it."""
    names = dict.fromkeys(filter(None, (*side.links, network.mode.bridge_of(network))))
    return [*([group(network.name)] if side.taps else []), *(f'"{name}"' for name in names)]


def _between(ends: Sequence[str], others: Sequence[str]) -> Iterator[Resource]:
    """Yield the elements that let packets pass from each of some ends to each of others."""
    for end, other in product(ends, others):
        match end.startswith('"'), other.startswith('"'):
            case True, True:
                yield NftElement("inet", "passages", (end, other))
            case True, False:
                yield NftElement("inet", "entries", (end, other))
            case False, True:
                yield NftElement("inet", "ways", (other, end))
            case _:
                yield NftElement("inet", "reached", (end, other))
