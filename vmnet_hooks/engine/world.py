"""What of the world breaks what is set up here, whichever program did it: one cheap question for each thing that must work. The
records and the kernel may agree on every object of ours, and a guest still get no packet."""

import ipaddress
import shlex
from collections import Counter
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from .. import values
from ..declared.compose import has_server
from ..declared.configuration import RUNTIME
from ..model.declaration import Declared, Network
from ..model.objects import Address, Device, LinkAttribute, NftElement, Route, Rule, Sysctl
from ..model.objects.bridge import Adoption
from ..model.owner import Nic, Owner, nics, part_label
from ..model.resource import MAIN_TABLE, Resource
from ..model.world import Question, Seen, Way
from ..networks import reach
from ..records import taken_down
from . import Session, guests
from .drift import Drift

ANYWHERE = "198.18.0.1"
"""The sender of packets to guests where no address on their way in is known: of a network for tests (RFC 2544)."""

WORLD: Mapping[int, str] = {4: "193.0.14.129", 6: "2001:7fd::1"}
"""An address of the internet by IP version, of k.root-servers.net: no host sorts it out as bogus."""

_KERNELS_OWN = 32766
"""The priority of the rule for the main table; that of the default table comes after it, that of the local one (0) before all."""

_IN_ANY_SUBNET, _NEVER = 2, 8
"""Values of arp_ignore (Documentation/networking/ip-sysctl): no answer to a sender outside the address's own subnet, and none at
all."""


def differences(
    session: Session, living: Sequence[Owner], claimed: Mapping[str, Resource], told: Sequence[Drift], domain: str
) -> Iterator[Drift]:
    """Yield what does not work. `claimed` are the resources of all owners; `living` the owners in question, all of them unless
    they are one `domain`'s; `told` the differences of their own objects, from which others may follow."""
    if not domain:
        yield from _not_up(session)
    if not claimed:
        return
    view = _View(session, living, claimed, told)
    yield from _ports(view)
    yield from _wrong_links(view)
    yield from _cut(view)
    yield from _deaf(view)
    astray = list(_ways(view))
    yield from astray
    yield from _ways_out(view, {(d.owner_id, d.resource.family) for d in astray if isinstance(d.resource, Route)})
    yield from _closed(view)
    yield from _translated(view)
    yield from _next_hops(view)
    yield from _duplicates(view)


@dataclass(frozen=True)
class _View:
    """What the questions have in common."""

    session: Session
    living: Sequence[Owner]
    claimed: Mapping[str, Resource]
    told: Sequence[Drift]

    @cached_property
    def links(self) -> Mapping[str, Seen]:
        return self.session.kernel.seen()

    @cached_property
    def nics(self) -> dict[str, Nic]:
        """The NICs by tap."""
        return {nic.ifname: nic for nic in nics(self.living) if nic.ifname in self.links}

    @cached_property
    def routes(self) -> dict[str, list[Route]]:
        """The routes to guests, by tap."""
        found: dict[str, list[Route]] = {}
        for resource in self.claimed.values():
            if isinstance(resource, Route) and not resource.via:
                found.setdefault(resource.dev, []).append(resource)
        return found

    @cached_property
    def ways_in(self) -> dict[str, list[Nic]]:
        """The links on which packets for guests arrive, each with the NICs."""
        found: dict[str, list[Nic]] = {}
        for nic in self.nics.values():
            if (name := self.way_in(nic)) in self.links:
                found.setdefault(name, []).append(nic)
        return found

    @cached_property
    def lost(self) -> tuple[set[str], set[int]]:
        """The links and the routing tables with differences of which others are a consequence."""
        found = [drift.resource for drift in self.told if drift.resource and drift.kind in ("missing", "different")]
        return {resource.link for resource in found}, {rule.table for rule in found if isinstance(rule, Rule)}

    @cached_property
    def ways_to_the_world(self) -> set[tuple[str, int]]:
        """The links with a default route, each with its IP version."""
        return {(route.link, route.version) for route in self.session.kernel.default_routes()}

    def is_half(self, nic: Nic) -> bool:
        """Whether another NIC has the same addresses: of two halves, the kernel takes packets from the one that its route leads
        to."""
        return any(self.held[address] > 1 for address in nic.addresses)

    @cached_property
    def held(self) -> Counter[str]:
        """How many NICs have each address."""
        return Counter(address for nic in self.nics.values() for address in nic.addresses)

    def network(self, nic: Nic) -> Network | None:
        return self.session.config.networks.get(nic.network)

    def way_in(self, nic: Nic) -> str:
        network = self.network(nic)
        return network.mode.way_in(network) if network else nic.described[1]

    def versions(self, nic: Nic) -> set[int]:
        """The IP versions of a NIC's addresses that are routed to it."""
        return {route.family for route in self.routes.get(nic.ifname, ())}

    def part_of(self, link: str) -> Owner | None:
        """The NIC with this tap, or the declared link of that name."""
        return self.nics.get(link) or next((o for o in self.living if not o.is_on_top and o.id.partition(":")[2] == link), None)


def _hindered(what: str, remedy: str, owner: Owner | None, resource: Resource | None = None) -> Drift:
    return Drift("hindered", what, remedy, owner.label if owner else "", owner.id if owner else "", resource)


# --- what is declared ------------------------------------------------------------------------------------------------------


def _not_up(session: Session) -> Iterator[Drift]:
    """Yield the parts that are declared and not up, without those that the admin took down."""
    asked = taken_down.read(session.records)
    for part in _absent(session):
        if part.id not in asked:
            yield Drift("not-up", "is declared, and not up", f"vmnet-hook up {part.id}", part_label(part.id), part.id)


def down(session: Session) -> list[Declared]:
    """Return the parts that are declared, and that the admin took down."""
    asked = taken_down.read(session.records)
    return [part for part in _absent(session) if part.id in asked] if asked else []


def _absent(session: Session) -> Iterator[Declared]:
    """Yield the parts that are declared and not up. A network serves guests, who bring it up, and with it what it implies. What a
    command declared, and took down again, stays declared for the guests that still use a part of it."""
    up = {owner.id for owner in session.records.of_host()}
    config = session.config
    there = [network for network in config.networks.values() if network.mode.starts_with_host(network)]
    alone = [network for network in there if network.mode.serves_others(network) or has_server(network)]
    for part in (*(part for part in config.parts.values() if not part.implied_by), *alone):
        if (
            part.id in up
            or part.source.startswith(RUNTIME)
            or (isinstance(part, Network) and session.records.nics(network=part.name))
        ):
            continue
        link = session.kernel.link(part.name) if part.kind.is_link else None
        if link is None or not link.ours:
            # Without a record it is told by its objects.
            yield part


# --- links -----------------------------------------------------------------------------------------------------------------


def _ports(view: _View) -> Iterator[Drift]:
    """Yield the addresses on ports: packets for them go to the master, and the kernel sends replies where no port listens."""
    for resource in view.claimed.values():
        if isinstance(resource, Adoption):
            name, master = resource.ifname, resource.joins
        elif isinstance(resource, LinkAttribute) and resource.name == "master" and resource.value:
            name, master = resource.ifname, resource.value
        else:
            continue
        port = view.links.get(name)
        owner = view.part_of(name) or view.part_of(master)
        if port and port.master == master and owner:
            for address in port.addresses:
                what = f"{name} has address {address}, which does not work on a port of {master}; what sets it must not"
                # A takeover moves what has come late.
                late = f"vmnet-hook up {resource.bridge}" if isinstance(resource, Adoption) else ""
                remedy = late or f"ip addr del {address} dev {name}"
                yield _hindered(what, remedy, owner, LinkAttribute(name, "master", master))


def _wrong_links(view: _View) -> Iterator[Drift]:
    """Yield the links that another program made a port: what arrives on them goes to their master, and past our objects."""
    for name, (owner, what) in _outside(view).items():
        link = view.links.get(name)
        master = view.links.get(link.master) if link and link.master else None
        # A VRF does not take packets away.
        if link and master and master.kind != "vrf":
            problem = f"{name}, which {what} leads through, is a port of {link.master}, which gets its packets"
            ours = Device.key_of(link.master) in view.claimed
            remedy = f"name {link.master} in its place, then vmnet-hook repair" if ours else f"ip link set dev {name} nomaster"
            yield _hindered(problem, remedy, owner, LinkAttribute(name, "master", link.master))


def _cut(view: _View) -> Iterator[Drift]:
    """Yield the links that lead guests to the outside, and have no carrier: a bridge's own comes from its guests too."""
    users = {name: there[0] for name, there in view.ways_in.items()}
    for nic in view.nics.values():
        users.setdefault(view.links[nic.ifname].master, nic)
    taps = {nic.ifname for nic in view.nics.values()}
    for name, nic in users.items():
        part, there = view.session.config.links.get(name), view.links.get(name)
        ports = [port for port in part.ports if port in view.links] if part else []
        if there and there.kind == "bridge" and not ports:
            # Taps are guests' own, also of those that are none of ours.
            ports = [port for port, link in view.links.items() if link.master == name and port not in taps and link.kind != "tun"]
        # A bridge of guests alone leads nowhere.
        ways = ports or ([name] if there and there.kind != "bridge" else [])
        dead = [port for port in ways if (link := view.links.get(port)) and link.up and not link.carrier]
        if ways and dead == ways and not {name, *dead} & view.lost[0]:
            what = f"no port of {name} has a carrier: {', '.join(dead)}" if ports else f"{name} has no carrier"
            cable = "plug its cable in, or bring up what is at the other end"
            yield _hindered(f"{what}; network {nic.network} leads through it", cable, nic)


def _outside(view: _View) -> dict[str, tuple[Owner, str]]:
    """Return the links to the outside, each with an owner that uses it, and its network or NAT."""
    found: dict[str, tuple[Owner, str]] = {}
    for owner in view.living:
        if isinstance(owner, Nic) and owner.described[1]:
            found.setdefault(owner.described[1], (owner, f"network {owner.network}"))
        network = owner.network_in(view.session.config)
        part = network or view.session.config.part(owner.id)
        if part and not part.kind.is_link and not (isinstance(part, Network) and part.mode.bridge_of(part)):
            for name in part.links():
                found.setdefault(name, (owner, part_label(part.id)))
    return found


def _deaf(view: _View) -> Iterator[Drift]:
    """Yield the settings with which the kernel does not ask for neighbours, answers not for what it should, or for too much."""
    together = view.links["all"].settings
    for name, there in view.ways_in.items():
        link, versions = view.links[name], {version: nic for nic in there for version in view.versions(nic)}
        own = f"{values.eui64(values.LINK_LOCAL, link.mac)}/64" if link.mac else ""
        if 6 in versions and link.up and not link.link_local and own and Address.key_of(name, own) not in view.claimed:
            what = f"{name} has no link-local IPv6 address: the kernel solicits no neighbour there, and guests reach no gateway"
            yield _hindered(what, Address(name, own).set_command(None), versions[6], LinkAttribute(name, "lladdr", own))
        if 4 in versions:
            for where, settings in ((name, link.settings), ("all", together)):
                if settings.get("proxy_arp_pvlan"):
                    right = Sysctl(f"net/ipv4/conf/{where}/proxy_arp_pvlan", "0")
                    what = f"{right.path} is 1: the host answers ARP for every other node on {name}, and gets its packets"
                    yield _hindered(what, right.set_command(None), versions[4], right)
    yield from _unanswered(view, together)


def _unanswered(view: _View, together: Mapping[str, int]) -> Iterator[Drift]:
    """Yield the values of arp_ignore and medium_id with which the kernel does not answer ARP where it should."""
    said: set[str] = set()
    for resource in view.claimed.values():
        name = resource.link
        if not (isinstance(resource, Address) and values.version(resource.address) == 4 and name in view.links):
            continue
        silent = {_NEVER, _IN_ANY_SUBNET} if resource.address.endswith("/32") else {_NEVER}
        # The kernel takes the larger of both.
        where, value = max(
            ((w, s.get("arp_ignore", 0)) for w, s in ((name, view.links[name].settings), ("all", together))),
            key=lambda found: found[1],
        )
        right = Sysctl(f"net/ipv4/conf/{where}/arp_ignore", "1")
        if value in silent and right.path not in said:
            said.add(right.path)
            what = f"{right.path} is {value}: the kernel does not answer ARP for {resource.address.partition('/')[0]} on {name}"
            yield _hindered(what, right.set_command(None), view.part_of(name), right)
    for resource in view.claimed.values():
        if isinstance(resource, Sysctl) and resource.path.endswith("/proxy_arp") and resource.value == "1":
            link = view.links.get(resource.link)
            if link and link.settings.get("medium_id") == -1:
                right = Sysctl(f"net/ipv4/conf/{resource.link}/medium_id", "0")
                what = f"{right.path} is -1: the kernel answers no ARP on {resource.link} for what is behind other links"
                yield _hindered(what, right.set_command(None), view.part_of(resource.link) or _user(view, resource.link), right)


def _user(view: _View, link: str) -> Owner | None:
    """A NIC whose packets arrive on a link."""
    return next(iter(view.ways_in.get(link, ())), None)


# --- ways ------------------------------------------------------------------------------------------------------------------


def _ways(view: _View) -> Iterator[Drift]:
    """Yield the guests to whose taps the kernel does not send what arrives for them: another program's rule, VPN, VRF, route."""
    links, tables = view.lost
    asked: list[tuple[Question, Nic, Route]] = []
    for name, there in view.ways_in.items():
        if name in links:
            continue
        # By network: several may share the link.
        known: dict[tuple[str, int], str] = {}
        for nic in there:
            # Routes through a tap without a carrier do not count everywhere: its guest does not run yet.
            if nic.ifname in links or not view.links[nic.ifname].carrier:
                continue
            for route in view.routes.get(nic.ifname, ()):
                if route.table not in tables:
                    sender = nic.network, route.family
                    if sender not in known:
                        known[sender] = _sender(route.family, name, nic, view)
                    asked.append((Question(name, route.dst.partition("/")[0], known[sender]), nic, route))
    told: set[tuple[str, int]] = set()
    for (question, nic, route), way in zip(asked, view.session.kernel.ways([q for q, _, _ in asked]), strict=True):
        if way.dev == route.dev and way.type == "unicast":
            continue
        if way.type in guests.KEPT and not values.single(route.dst):
            # One address of a prefix, which has others.
            continue
        if (nic.id, route.family) not in told and not _arrives(way, question, view):
            told.add((nic.id, route.family))
            what, remedy = _astray(question, route, way, view)
            yield Drift("unreached", what, remedy, nic.label, nic.id, route)


def _ways_out(view: _View, astray: Container[tuple[str, int]]) -> Iterator[Drift]:
    """Yield the guests whose own packets the kernel drops, but for the NICs and IP versions that are `astray` already: it drops
    packets whose answers would go elsewhere. Where a rule sends packets is the admin's choice."""
    versions = {version for _, version in view.ways_to_the_world}
    asked: list[tuple[Question, Nic]] = []
    for name, there in view.ways_in.items():
        for nic in there:
            if {name, nic.ifname} & view.lost[0] or not view.links[nic.ifname].carrier:
                continue
            if view.is_half(nic):
                continue
            network = view.network(nic)
            gateways: dict[int, str] = {
                gateway.version: str(gateway) for gateway in (network.mode.beyond(network) if network else ())
            }
            for version, route in {route.family: route for route in view.routes.get(nic.ifname, ())}.items():
                if (nic.id, version) in astray:
                    continue
                if to := gateways.get(version) or (WORLD[version] if version in versions else ""):
                    asked.append((Question(nic.ifname, to, route.dst.partition("/")[0]), nic))
    for (question, nic), way in zip(asked, view.session.kernel.ways([q for q, _ in asked]), strict=True):
        if way.reason or way.type not in ("unicast", "local"):
            ip = "ip -6" if ":" in question.address else "ip"
            what = f"{question.source}: the kernel drops what the guest sends ({way.reason or way.type}); see {ip} rule"
            remedy = f"{ip} route get {question.address} from {question.source} iif {question.link}"
            yield Drift("unreached", what, remedy, nic.label, nic.id)


def _closed(view: _View) -> Iterator[Drift]:
    """Yield the networks whose guests' packets to the outside the host drops, as they leave by a link that the network does not
    name; and links that a network reaches and that do not exist."""
    asked = [*_from_taps(view), *_from_bridges(view)]
    told = set()
    for (question, owner, network), way in zip(asked, view.session.kernel.ways([q for q, *_ in asked]), strict=True):
        version = values.version(question.address)
        leads_out = way.type == "unicast" and not way.reason and (way.dev, version) in view.ways_to_the_world
        if not leads_out or _passes(view, question.link, network.name, way.dev) or (owner.id, version) in told:
            continue
        told.add((owner.id, version))
        what = f"what {network.label} sends to the outside leaves by {way.dev}, which it does not name, and is dropped"
        remedy = f'add "link:{way.dev}" to reach of {network.label}, then vmnet-hook repair'
        if network.options.get("out"):
            ip = "ip -6 route" if version == 6 else "ip route"
            remedy = f"correct out of {network.label}, then vmnet-hook repair; or the host's default route ({ip})"
        if network.mode.beyond(network):
            # Its gateway is elsewhere: a rule or a route of another program leads astray.
            ip = "ip -6" if version == 6 else "ip"
            remedy = f"{ip} rule; {ip} route get {question.address} from {question.source} iif {question.link}"
        yield Drift("unreached", what, remedy, owner.label, owner.id)
    for network in {nic.network: found for nic in view.nics.values() if (found := view.network(nic))}.values():
        for link in reach.links(network):
            if link not in view.links:
                what = f"{link} does not exist, so that guests do not reach it"
                yield Drift("hindered", what, f"create {link}, then vmnet-hook repair", network.label, network.id)


_Asked = tuple[Question, Owner, Network]


def _from_taps(view: _View) -> Iterator[_Asked]:
    """Yield where each guest at a tap sends to the outside from."""
    for nic in view.nics.values():
        network = view.network(nic)
        if network and _is_closed(view, nic.ifname) and view.links[nic.ifname].carrier and not view.is_half(nic):
            for version, route in {route.family: route for route in view.routes.get(nic.ifname, ())}.items():
                yield Question(nic.ifname, WORLD[version], route.dst.partition("/")[0]), nic, network


def _from_bridges(view: _View) -> Iterator[_Asked]:
    """Yield where guests on each bridge that the host routes for send to the outside from."""
    found = {network.mode.bridge_of(network): network for nic in view.nics.values() if (network := view.network(nic))}
    for bridge, network in found.items():
        part = view.part_of(bridge) if bridge in view.links and _is_closed(view, bridge) else None
        for text in view.links[bridge].addresses if part else ():
            own = ipaddress.ip_interface(text.split()[-1])
            guest = next((ip for ip in own.network.hosts() if ip != own.ip), None)
            if part and guest:
                yield Question(bridge, WORLD[own.version], str(guest)), part, network


def _is_closed(view: _View, link: str) -> bool:
    """Whether the host forwards only some of what it gets from a link of guests."""
    closed, open_ = (NftElement.key_of("inet", name, f'"{link}"') for name in ("enclosed", "unbound"))
    return closed in view.claimed and open_ not in view.claimed


def _passes(view: _View, link: str, network: str, out: str) -> bool:
    """Whether the host forwards from a link of guests of a network to another one."""
    group = reach.group(network)
    keys = [NftElement.key_of("inet", "passages", f'"{link}"', f'"{out}"'), NftElement.key_of("inet", "ways", f'"{out}"', group)]
    if guest := view.nics.get(out):
        other = reach.group(guest.network)
        keys += [NftElement.key_of("inet", "reached", group, other), NftElement.key_of("inet", "entries", f'"{link}"', other)]
    return any(key in view.claimed for key in keys)


def _translated(view: _View) -> Iterator[Drift]:
    """Yield the NAT that the kernel's ways from and to the guests' subnet pass by."""
    parts = [(owner, part) for owner in view.living if (part := view.session.config.parts.get(owner.id)) and part.kind.translates]
    for owner, part in parts:
        subnet, out, outs = part["subnet"], part["out"], {other["out"] for _, other in parts if other["subnet"] == part["subnet"]}
        own = {address: name for name, link in view.links.items() for a in link.addresses if (address := values.bare(a))}
        inner, net = _inside(view, subnet, out)
        guest = next((str(ip) for ip in net.hosts() if str(ip) not in own), "") if net else ""
        if not (guest and out in view.links) or {inner, out} & view.lost[0]:
            continue
        leave = Question(inner, WORLD[subnet.version], guest)
        come = Question(out, guest, ANYWHERE if subnet.version == 4 else "")
        leaving, coming = view.session.kernel.ways([leave, come])
        ip = "ip -6" if subnet.version == 6 else "ip"
        asked = f"{ip} route get {leave.address} from {guest} iif {inner}"
        if (out, subnet.version) in view.ways_to_the_world and (leaving.dev not in outs or leaving.type != "unicast"):
            where = f"drops it ({leaving.reason or leaving.type})"
            if leaving.dev and leaving.type == "unicast":
                where = f"sends it to {leaving.dev} (table {leaving.table}, {leaving.dst}), where it is not translated"
            what = f"what {subnet} sends leaves through {out}, but the kernel {where}; see {ip} rule and {ip} route"
            yield Drift("unreached", what, asked, owner.label, owner.id)
        ours = {name for address, name in own.items() if ipaddress.ip_address(address) in subnet and name not in outs}
        if coming.type == "unicast" and coming.dev not in ours and Route.key_of(coming.table, coming.dst) not in view.claimed:
            what = f"{subnet}: the kernel sends packets from {out} to {coming.dev} (table {coming.table}), not to {inner}"
            remedy = f"{ip} route replace {subnet} dev {inner}"
            yield Drift("unreached", what, remedy, owner.label, owner.id)


def _inside(view: _View, subnet: values.Subnet, out: str) -> tuple[str, values.Subnet | None]:
    """Return a link on which guests of a translated subnet are, and the addresses there: those of the subnet that are connected.
    A wide subnet of NAT may hold single guests alone, each with a route of its own."""
    for name, link in view.links.items():
        for text in link.addresses if name != out else ():
            own = ipaddress.ip_interface(text.split()[-1])
            if own.version == subnet.version and own.ip in subnet and own.network.prefixlen < own.max_prefixlen - 1:
                return name, own.network if own.network.prefixlen > subnet.prefixlen else subnet
    return "", None


def _arrives(way: Way, question: Question, view: _View) -> bool:
    """Whether a packet gets to the guest, or a twin of its NIC (with another metric), or one that has a part of its prefix."""
    if way.reason:
        # Where the sender is a guess, the kernel may refuse it as such.
        return question.source == ANYWHERE
    if way.type != "unicast":
        return False
    address = ipaddress.ip_address(question.address)
    routes = () if way.dev in view.ways_in else view.routes.get(way.dev, ())
    return any(address in ipaddress.ip_network(route.dst) for route in routes)


def _sender(version: int, link: str, nic: Nic, view: _View) -> str:
    """Return an address that packets on a link may come from: the kernel refuses its own, and with rp_filter those that it
    would answer elsewhere, as those of guests."""
    network = view.network(nic)
    for address in network.mode.beyond(network) if network else ():
        if address.version == version:
            return str(address)
    # With a peer, the subnet is the peer's.
    own = [
        (ipaddress.ip_interface(words[0]).ip, ipaddress.ip_interface(words[-1]).network)
        for words in (text.split() for text in view.links[link].addresses if values.version(text) == version)
    ]
    taken = {route.dst.partition("/")[0] for routes in view.routes.values() for route in routes} | {str(ip) for ip, _ in own}
    for _, subnet in own:
        hosts = (str(ip) for ip in subnet.hosts())
        if found := next((ip for ip in hosts if ip not in taken), ""):
            return found
    return ANYWHERE if version == 4 else ""


def _astray(question: Question, route: Route, way: Way, view: _View) -> tuple[str, str]:
    """Return what the kernel does instead of what it should, and the remedy."""
    ip = "ip -6" if route.family == 6 else "ip"
    start = f"{route.dst.removesuffix('/32').removesuffix('/128')}: the kernel"
    asked = f"{ip} route get {question.address} from {question.source or '::'} iif {question.link}"
    if way.reason:
        return f"{start} drops packets from {question.link} ({way.reason}); see {ip} rule", asked
    if way.type == "local":
        mine = next(
            (f"{a} dev {n}" for n, link in view.links.items() for a in link.addresses if values.bare(a) == question.address),
            "",
        )
        return (
            f"{start} keeps packets from {question.link}: it is an address of the host",
            f"ip addr del {mine}" if mine else asked,
        )
    if way.type in guests.KEPT:
        return f"{start} drops packets from {question.link}: it {guests.KEPT[way.type]}", "give the guest another address"
    table = {MAIN_TABLE: "main"}.get(way.table, str(way.table))
    where = f"sends packets from {question.link} to {way.dev}" if way.dev else f"sends packets from {question.link} elsewhere"
    if way.type != "unicast":
        where = f"drops packets from {question.link} ({way.type})"
    what = f"{start} {where} (table {table}), not to {route.dev}"
    if way.table == route.table:
        ours = way.dst != route.dst and Route.key_of(way.table, way.dst) in view.claimed
        return f"{what}; see {ip} route", asked if ours else f"{ip} route del {way.dst} dev {way.dev} table {table}"
    ours = any(isinstance(r, Rule) and r.table == way.table and not r.mark for r in view.claimed.values())
    rules = [] if ours else [n for n in view.session.kernel.policy(route.family, way.table) if 0 < n < _KERNELS_OWN]
    return f"{what}; see {ip} rule", f"{ip} rule del pref {rules[0]}" if rules else asked


def _next_hops(view: _View) -> Iterator[Drift]:
    """Yield the guests whose address or prefix is, or contains, the next hop of a route of the host that came after them."""
    config = view.session.config
    there = [(route, nic) for tap, nic in view.nics.items() for route in view.routes.get(tap, ())]
    if not there:
        return
    links = dict.fromkeys((*view.ways_in, *guests.with_next_hops(config)))
    single = {address: (route, nic) for route, nic in there if (address := values.single(route.dst))}
    prefixes = [(ipaddress.ip_network(route.dst), route, nic) for route, nic in there if not values.single(route.dst)]
    told: set[str] = set()
    for hop in view.session.kernel.next_hops(links):
        # By a tap, the guest itself is meant, also if it is none of those in question.
        if hop.dev in view.nics or any(values.single(route.dst) == hop.via for route in view.routes.get(hop.dev, ())):
            continue
        found = [single[hop.via]] if hop.via in single else []
        found += [(route, nic) for net, route, nic in prefixes if ipaddress.ip_address(hop.via) in net]
        for route, nic in found:
            if route.key not in told:
                told.add(route.key)
                yield _hindered(guests.is_next_hop(route.dst, hop), "give the guest another address", nic, route)


# --- addresses in use ------------------------------------------------------------------------------------------------------


def _duplicates(view: _View) -> Iterator[Drift]:
    """Yield the addresses of guests for which another machine answered when they were asked for: too late to refuse the guest, so
    that they are not announced."""
    users = {
        pair: nic
        for nic in view.nics.values()
        if nic.phase != "incoming" and (network := view.network(nic)) and network.options.get("probe")
        for pair in network.mode.announcements(nic.vif, network)
    }
    for link, address, mac in view.session.kernel.answers(list(users)):
        nic = users[link, address]
        what = f"{address} is in use: {mac} answers for it on {link}; it is not announced"
        yield _hindered(what, f"stop that machine, or set probe = false, then vmnet-hook start {shlex.quote(nic.domain)}", nic)
