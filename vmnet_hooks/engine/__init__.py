"""Make it so: transactions on the kernel and the records, for guests and for the host. Every function takes a session first: the
configuration, the kernel and the records of one host, and what they tell about it for a composition.

transaction  work a transaction out;  apply: carry it out, undo it, remove what owners claim
parts        declared parts of the host as owners;  owners: what owners in the records shall have
guests       plug and unplug NICs;  migration: cut a guest over that comes in
host         bring parts up and down;  takeover: guard a bridge that takes over a live port
names        give a tap its name again;  forwards: what forwarded ports depend on, and whether they work
check        compare configuration, records and kernel;  world: ask what of the world keeps it from working
claims       compare what claims say now with what running guests were given
repair       remove the differences;  healing: the agent's share of that
"""

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import replace
from functools import lru_cache, partial
from ipaddress import ip_interface
from typing import TYPE_CHECKING, NamedTuple, Protocol

from .. import values
from ..declared import compose, configuration
from ..model import facts
from ..model.declaration import Config, Declared, Network
from ..model.objects import FORWARDING_GATE, Address, LinkAttribute, NftElement, Route, Sysctl
from ..model.owner import GuestOwner, Nic
from ..model.plan import Plan
from ..model.resource import Resource
from ..model.ruleset import CLOSED6
from ..networks import reach
from ..records.store import Store

if TYPE_CHECKING:
    from ..model.objects.bridge import Adoption
    from ..model.world import Question, Seen, Way


class Kernel(Protocol):
    """What the engine needs of a kernel: kernel.linux.Kernel, or a fake one."""

    def close(self) -> None: ...
    def link(self, ifname: str) -> facts.Link | None: ...
    def name_of(self, index: int) -> str: ...
    def has_sent(self, ifname: str, surely: bool = True) -> bool: ...
    def ports(self, ifname: str) -> list[str]: ...
    def below(self, ifname: str) -> set[str]: ...
    def default_routes(self) -> list[facts.DefaultRoute]: ...
    def host(self, links: Iterable[str], ports: Iterable[str] = ()) -> facts.Host: ...
    def unusable(
        self, destinations: Sequence[str], links: Iterable[str], tap: str, asked: Mapping[tuple[str, str], bool]
    ) -> tuple[str, Route | str] | None: ...
    def next_hops(self, links: Iterable[str]) -> list[Route]: ...
    def ask(self, pairs: Sequence[tuple[str, str]]) -> dict[tuple[str, str], bool]: ...
    def answers(self, pairs: Iterable[tuple[str, str]]) -> list[tuple[str, str, str]]: ...
    def forget(self, pairs: Iterable[tuple[str, str]]) -> None: ...
    def survey(self, port: str, bridge: str) -> "Adoption": ...
    def is_underway(self, port: str) -> bool: ...
    def obstacle(self, port: str, bridge: str) -> str: ...
    def lladdrs(self, ifname: str) -> tuple[str, ...] | None: ...
    def holders(self, addresses: Iterable[str]) -> Mapping[str, str]: ...
    def listeners(self) -> frozenset[facts.Listener]: ...
    def server(self, name: str, addresses: Sequence[str]) -> facts.Server: ...
    def leased(self, network: str) -> Mapping[str, tuple[str, ...]]: ...
    def granted(self) -> Sequence[NftElement]: ...
    def filters_bridges(self) -> bool: ...
    def ways_to(self, subnet: values.Subnet, link: str) -> list[facts.WayTo]: ...
    def seen(self) -> "Mapping[str, Seen]": ...
    def ways(self, questions: "Sequence[Question]") -> "list[Way]": ...
    def policy(self, version: int, table: int) -> list[int]: ...
    def hazards(
        self, bridged: bool, anycast: bool, permanent: tuple[int, int], routed: Collection[str], ports: Collection[str]
    ) -> list[str]: ...
    def rename(self, ifname: str, name: str) -> None: ...
    def read(self, wanted: Iterable[Resource]) -> dict[str, Resource]: ...
    def apply(self, step: Plan) -> None: ...
    def ours(self) -> dict[str, Resource]: ...
    def finish(self) -> None: ...
    def reserve(self) -> AbstractContextManager[Callable[[], None]]: ...


class Session(NamedTuple):
    """One per process and call. `kernel` and `records` are the edges; tests bring their own."""

    config: Config
    kernel: Kernel
    records: Store

    def close(self) -> None:
        self.kernel.close()
        self.records.close()


@contextmanager
def open(declared: Config | None = None) -> Iterator[Session]:
    """A session on this host with sockets and records of its own, which are closed at the end. Without `declared`, what can be
    used of the configuration. Raises VmnetError."""
    declared = declared or configuration.usable()
    with closing(edge()()) as kernel, closing(Store()) as records:
        yield Session(declared, kernel, records)


def edge() -> Callable[[], Kernel]:
    """Load the kernel edge, and return what opens it."""
    # It costs as much as the rest of a call, and most calls concern guests that are none of ours.
    from ..kernel import linux

    return linux.Kernel


def preload(kinds: Iterable[str]) -> None:
    """Load the kernel edge and what it needs for these kinds of objects, before there is no time for it."""
    edge()
    # Loaded with the edge.
    from ..kernel import objects

    for kind in kinds:
        objects.edge(kind)


# --- facts --------------------------------------------------------------------------------------------------------------


def gather(session: Session, links: Iterable[str], adopt: bool = False) -> facts.Host:
    """The kernel's facts about `links` and all links below them, and what is declared. What we changed ourselves is no fact: the
    records have the value from before. With `adopt`, what declared bridges take over from their ports is read."""
    config, kernel = session.config, session.kernel
    names = compose.links_below(links, config)
    parts = {part.name: part for name in names if (part := config.links.get(name))}
    ports = [port for part in parts.values() for port in part.ports if port not in parts]
    # A network whose gateway is another link's address.
    networks = config.networks.values()
    hinted = [part for part in config.hints if isinstance(part, Network)]
    ports += [name for network in networks for name in network.mode.addressed(network) if name in names]
    host = kernel.host(names, ports)
    if reached := {name for network in networks for name in reach.links(network)} - host.links.keys():
        host = replace(host, links={**kernel.host(tuple(reached)).links, **host.links})
    masters = [link.master for name in dict.fromkeys(ports) if (link := host.links.get(name))]
    if outer := [master for master in masters if master and master not in host.links]:
        host = replace(host, links={**kernel.host(outer).links, **host.links})
    members = {name: part for part in parts.values() for name in part.ports if name in host.links}
    members |= {part.adopts: part for part in parts.values() if part.adopts in host.links}
    return replace(
        host,
        links={**host.links, **_unbridged(session, names, host)},
        router6=_forwards6(session, host),
        parts=parts,
        networks=config.networks,
        vids={part.name: config.vids_on(part.name) for part in parts.values()},
        nats=(*config.nats, *(part for part in config.hints if part.kind.translates)),
        adoptions=_adoptions(session, members, host, adopt) if members else {},
        adopters={part.adopts: part.name for part in config.links.values() if part.adopts},
        surveyed=adopt,
        shared_uplinks=_shared_uplinks(session, host),
        uplinks6=frozenset(name for network in (*networks, *hinted) for name in network.mode.links6(network)),
        bare6=_bare6(session, host),
        servers={network.name: found for network in networks if (found := _server(session, network, parts))},
    )


def _server(session: Session, network: Network, parts: Mapping[str, Declared]) -> facts.Server | None:
    """What the server of a network on one of these parts depends on; None if it has none."""
    part = parts.get(network.mode.bridge_of(network))
    if part is None or not compose.has_server(network):
        return None
    addresses = [str(own.ip) for own in part.options.get("addresses") or ()]
    found = session.kernel.server(network.name, addresses if network.options.get("dns") is not None else ())
    return found._replace(leased=session.kernel.leased(network.name)) if network.mode.follows_leases(network) else found


def _shared_uplinks(session: Session, host: facts.Host) -> frozenset[str]:
    """The links on which the sender of ARP requests depends on the subnet: of several networks, or of one and the host."""
    networks = session.config.networks.values()
    senders = Counter(name for network in networks for name in network.mode.senders(network))
    found = {name for name, count in senders.items() if count > 1}
    if senders:
        # An address that comes and goes changes nothing each time.
        found |= {key.split('"')[1] for key in session.records.keys_under(NftElement.key_of("arp", "senders"))}
    for network in networks:
        for name in network.mode.senders(network):
            own = [address for address in host.addresses.get(name, ()) if ":" not in address] if name not in found else ()
            subnets = network.mode.subnets(network, session.config.links) if own else ()
            found |= {name for address in own if not any(_ip(address) in subnet for subnet in subnets)}
    return frozenset(found)


@lru_cache(64)
def _ip(address: str) -> values.IPAddress:
    """The address of an ADDRESS/LENGTH."""
    return ip_interface(address).ip


def _unbridged(session: Session, names: Iterable[str], host: facts.Host) -> dict[str, facts.Link]:
    """Those of the taps that we made ports of a bridge, as they were before."""
    found = {}
    for name in names:
        link = host.links.get(name)
        if link and link.master and name not in session.config.links:
            ours, before = session.records.recorded(LinkAttribute.key_of(name, "master")) or (None, None)
            if ours == LinkAttribute(name, "master", link.master) and isinstance(before, LinkAttribute):
                found[name] = replace(link, master=before.value)
    return found


def _bare6(session: Session, host: facts.Host) -> frozenset[str]:
    """Those of the links to the outside to which the kernel gives no link-local address, and that have none but what we gave."""
    found = []
    for name in {network.mode.way_in(network) for network in session.config.networks.values()} & host.links.keys():
        there = session.kernel.lladdrs(name)
        if there is not None and all(session.records.recorded(Address.key_of(name, address)) for address in there):
            found.append(name)
    return frozenset(found)


def _forwards6(session: Session, host: facts.Host) -> bool:
    """Whether the host forwarded IPv6 before us."""
    gate = session.records.recorded(Sysctl.key_of(FORWARDING_GATE))
    if gate and isinstance(gate[1], Sysctl):
        return gate[1].value == "1"
    # If the records are lost, the filter for a host that did not forward is still there.
    return host.router6 and not session.kernel.read([CLOSED6])


def _adoptions(session: Session, members: Mapping[str, Declared], host: facts.Host, adopt: bool) -> "dict[str, Adoption]":
    """What bridges have taken over from ports; with `adopt`, also what there is to take over. `members` is the part by port."""
    # Few links have declared ports.
    from ..model.objects.bridge import Adoption

    there = session.records.records(map(Adoption.key_of, members))
    found = {}
    for port, part in members.items():
        recorded = there.get(Adoption.key_of(port), (None, None))[0]
        taken = recorded if isinstance(recorded, Adoption) else None
        if part.adopts != port:
            late = None
        elif taken:
            taken, late = replace(taken, bridge=part.name), session.kernel.survey(port, part.name) if adopt else None
        else:
            late = _survey(session, port, part.name, host) if adopt else None
            late = late if late and late.addresses and not session.kernel.is_underway(port) else None
        if both := taken.plus(late) if taken and late else taken or late:
            found[port] = both
    return found


def _survey(session: Session, port: str, bridge: str, host: facts.Host) -> "Adoption":
    """What a bridge has to take over from a port, of which there is no record."""
    # Few bridges adopt a port.
    from ..model.objects.bridge import Adoption, address_of

    master = host.links[port].master
    above = host.links[master].master if master in host.links else ""
    is_plain = session.records.recorded(LinkAttribute.key_of(port, "master"))
    if bridge in host.links and host.links[bridge].ours and bridge in (master, above) and not is_plain:
        # The records are lost: the bridge has it.
        there = session.kernel.survey(bridge, bridge)
        routes, neighbours = (
            tuple(item for item in items if not Adoption.is_ours(item)) for items in (there.routes, there.neighbours)
        )
        return replace(there, ifname=port, routes=routes, neighbours=neighbours, sysctls=())
    there = session.kernel.survey(port, bridge)
    # It may have been the uplink of a network.
    ours = [item for item in there.addresses if session.records.recorded(Address.key_of(port, address_of(item)))]
    addresses = tuple(item for item in there.addresses if item not in ours)
    return replace(there, addresses=addresses, routes=tuple(item for item in there.routes if not Adoption.is_ours(item)))


def lives(session: Session, owner: GuestOwner) -> bool:
    """Whether the tap of a record is still there, whatever its name is by now."""
    return owner.is_here(partial(index_of, session), partial(name_now, session))


def name_now(session: Session, nic: Nic) -> str:
    """The name that a NIC's tap has got instead of its own; "" if it has its own, or is gone. The number alone does not tell: the
    records may be of another network namespace."""
    name = "" if index_of(session, nic.ifname) == nic.ifindex else session.kernel.name_of(nic.ifindex)
    link = session.kernel.link(name) if name else None
    given = session.records.recorded(LinkAttribute.key_of(nic.ifname, "address")) if link else None
    return name if link and given and given[0] == LinkAttribute(nic.ifname, "address", link.address) else ""


def index_of(session: Session, ifname: str) -> int | None:
    """The number of a link; None if there is none of that name (an alternative name is none)."""
    link = session.kernel.link(ifname)
    return link.index if link and link.name == ifname else None
