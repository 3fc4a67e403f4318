"""The kernel of this process's network namespace: what the engine reads and changes, and the facts that it asks for.

What is known of one kind of object is in objects/; here the kinds are only told apart.
"""

import errno
import os
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache, partial
from ipaddress import ip_network
from typing import TYPE_CHECKING, Any

from .. import values
from ..errors import ConflictError, KernelError, exhausted
from ..model.facts import DefaultRoute, Host, Link, Listener, Server, WayTo
from ..model.objects import FORWARDING_GATE, KINDS, NftElement, Route
from ..model.plan import Plan
from ..model.resource import ALIAS, IFB, MAIN_TABLE, Resource
from . import free_files, wire
from .netlink import Netlink, NetlinkError, View
from .objects import Edge, edge, sysctl
from .objects.nft import Nft

if TYPE_CHECKING:
    from ..model.objects.bridge import Adoption
    from ..model.world import Question, Seen, Way
    from .monitor.table_cache import TableCache

RESERVED = 6
"""File descriptors that are needed at the same time, at most, to take changes back: a setting's file, the sockets of nftables
and its library, and what an import opens."""

_RTPROT_KERNEL, _RTPROT_RA = 2, 9
_ABSENT = (errno.ENOENT, errno.ENODEV, errno.ESRCH, errno.EADDRNOTAVAIL)


class Kernel:
    """Reads and changes the network namespace of this process. With a `memory` (in a process that stays), our nft tables and
    the networks' routes are read again only after a change."""

    def __init__(self, memory: "TableCache | None" = None) -> None:
        try:
            self.netlink = Netlink(stays=memory is not None)
        except (NetlinkError, OSError) as error:
            raise KernelError(f"no rtnetlink socket: {error}") from None
        self.nft = Nft(memory)

    def close(self) -> None:
        self.netlink.close()
        self.nft.close()

    # --- objects -----------------------------------------------------------------------------------------------------

    def read(self, wanted: Iterable[Resource]) -> dict[str, Resource]:
        """What there is now under the keys of `wanted`. Raises KernelError."""
        by_kind: dict[str, list[Resource]] = {}
        for resource in wanted:
            by_kind.setdefault(resource.kind, []).append(resource)
        view = View(self.netlink, self.nft)
        found: dict[str, Resource] = {}
        try:
            for kind, group in by_kind.items():
                for have in edge(kind).read(group, view):
                    found[have.key] = have
        except (NetlinkError, OSError) as error:
            raise _unreadable(error) from None
        return found

    def apply(self, step: Plan) -> None:
        """Do one step of `plan.batches`: one change, or several nft changes as one transaction. Raises KernelError that names
        the step."""
        subject = step[0].subject
        kind, view = edge(subject.kind), View(self.netlink, self.nft)
        try:
            if subject.batched:
                kind.apply(step, view)
            elif (want := step[0].want) is not None:
                kind.set(want, step[0].have, view)
            else:
                _unset(kind, subject, view)
        except (KernelError, NetlinkError, OSError) as error:
            label = str(step[0]) if len(step) == 1 else f"nft transaction of {len(step)} changes on {subject.key}"
            exists = isinstance(error, NetlinkError) and error.code == errno.EEXIST
            reason = kind.in_the_way if exists else _reason(error)
            raise (kind.refused if exists else KernelError)(f"{label.splitlines()[0]}: {reason}") from None

    def ours(self) -> dict[str, Resource]:
        """Everything in the kernel that carries a mark of ours: what is found without records. Raises KernelError."""
        view = View(self.netlink, self.nft)
        try:
            marked = (kind for kind, row in KINDS.items() if row.resource.marked)
            return {found.key: found for kind in marked for found in edge(kind).ours(view)}
        except (NetlinkError, OSError) as error:
            raise _unreadable(error) from None

    def finish(self) -> None:
        """Complete the one step that a process can be killed in the middle of. Needs the lock. Raises KernelError."""
        try:
            sysctl.finish()
        except OSError as error:
            raise KernelError(f"{sysctl.SAVED}: {_reason(error)}") from None

    @contextmanager
    def reserve(self) -> Iterator[Callable[[], None]]:
        """Hold the file descriptors that taking a transaction back needs, until the end of the context or the call of what it
        gives. Raises KernelError if there are none."""
        try:
            held = free_files.held(RESERVED)
        except OSError as error:
            raise KernelError(f"nothing was changed: {_reason(error)}") from None
        try:
            yield partial(free_files.release, held)
        finally:
            free_files.release(held)

    # --- facts -------------------------------------------------------------------------------------------------------

    def link(self, ifname: str) -> Link | None:
        """The facts of a link; None if there is none of that name."""
        found = self.netlink.link(ifname)
        return None if found is None else self._facts(found)

    def _facts(self, link: wire.LinkMessage) -> Link:
        up, master = bool(link.flags & wire.UP), self.netlink.name(link.master)
        return Link(
            link.index, link.mtu, link.address, link.kind, up, master, link.alias == ALIAS, link.vlan_filtering, link.name
        )

    def name_of(self, index: int) -> str:
        """The name of the link of an index; "" if there is none."""
        return self.netlink.name(index)

    def has_sent(self, ifname: str, surely: bool = True) -> bool:
        """Whether a tap's guest has sent anything, see sysfs.has_sent."""
        # Only asked of guests that come by live migration, or were not announced.
        from . import sysfs

        return sysfs.has_sent(ifname, surely)

    def ports(self, ifname: str) -> list[str]:
        """The links that `ifname` stands on: a bridge's or bond's ports."""
        # Only asked where parts of the host change.
        from . import sysfs

        return sysfs.ports(ifname)

    def below(self, ifname: str) -> set[str]:
        """The links that a link stands on, directly or not: ports, and the parents of VLAN devices."""
        found: set[str] = set()
        waiting = self.ports(ifname)
        while waiting:
            if (name := waiting.pop()) not in found:
                found.add(name)
                waiting += self.ports(name)
        return found

    def default_routes(self) -> list[DefaultRoute]:
        """The default routes of the main table, one for each next hop. Raises KernelError."""
        found = []
        try:
            for family, version in ((wire.AF_INET, 4), (wire.AF_INET6, 6)):
                routes = self.netlink.default_routes(family, MAIN_TABLE)
                found += [DefaultRoute(self.netlink.name(r.oif), r.via, version) for r in routes if r.oif]
        except (NetlinkError, OSError) as error:
            raise _unreadable(error) from None
        return found

    def rename(self, ifname: str, name: str) -> None:
        """Rename a link, which must be down. Raises ConflictError if there is a link of that name, or KernelError."""
        try:
            self.netlink.set_link(self.netlink.index(ifname), wire.name(name))
        except (NetlinkError, OSError) as error:
            if isinstance(error, NetlinkError) and error.code == errno.EEXIST:
                reason = "there is an interface of that name already; choose another vifname, or remove that one"
                raise ConflictError(f"{ifname} can't be called {name}: {reason}") from None
            raise KernelError(f"{ifname} can't be called {name}: {_reason(error)}") from None

    def host(self, links: Iterable[str], ports: Iterable[str] = ()) -> Host:
        """The facts that a composition depends on. Links that do not exist are left out; of `ports`, the addresses are read
        too. Raises KernelError."""
        ipv6 = os.path.exists(f"{sysctl.ROOT}/net/ipv6/conf")
        found = {name: link for name in dict.fromkeys(links) if name and (link := self.link(name))}
        ra_links = self._ra_links() if ipv6 else ()
        rp_filter = int(sysctl.read("net/ipv4/conf/all/rp_filter") or 0)
        router6 = sysctl.read(FORWARDING_GATE) == "1"
        addresses = {name: self._addresses(found[name]) for name in ports if name in found}
        machine, ifb = _machine(), self._has_ifb()
        return Host(
            found, ipv6, ra_links, rp_filter, router6, addresses, _vlans(), machine=machine, ifb=ifb, fdb_limit=_limits_fdb()
        )

    def _has_ifb(self) -> bool:
        """Whether the kernel has ifb. Raises KernelError."""
        if os.path.exists(f"/sys/class/net/{IFB}"):
            return True
        if not os.path.exists("/sys/module/ifb"):
            # Where it is not built in. Loaded by the kernel itself, it would make two links, ifb0 and ifb1.
            _load("ifb", "numifbs=0")
        return self.netlink.makes("ifb")

    def _ra_links(self) -> tuple[str, ...]:
        """Links with a default route that was learned from a router advertisement."""
        routes = self.netlink.dump_routes((wire.AF_INET6, MAIN_TABLE, 0, _RTPROT_RA))
        names = {self.netlink.name(route.oif) for route in routes if route.dst == "::/0"}
        return tuple(sorted(filter(None, names)))

    def _addresses(self, link: Link) -> tuple[str, ...]:
        """The addresses of a link, without link-local ones, in the kernel's order: IPv4 first, primary ones before others. One
        with a peer is a single address."""
        found = [address.partition(" peer ") for address in self.netlink.addresses(link.index)]
        return tuple(values.host(own) if peer else own for own, peer, _ in found if not own.startswith("fe80:"))

    def unusable(
        self, destinations: Sequence[str], links: Iterable[str], tap: str, asked: Mapping[tuple[str, str], bool]
    ) -> tuple[str, Route | str] | None:
        """The first of the destinations that no guest can have, and the route of the host whose next hop it contains, or why the
        kernel keeps what is for it: see next_hops. Raises KernelError."""
        # Only asked for guests with routes of their own, and only once.
        from . import next_hops

        try:
            found = next_hops.unusable(self.netlink, destinations, links, tap, asked)
        except (NetlinkError, OSError) as error:
            raise _unreadable(error) from None
        if found is None:
            return None
        dst, why = found
        return dst, why if isinstance(why, str) else self._route(why)

    def _route(self, route: wire.RouteMessage) -> Route:
        return Route(route.table, route.dst, self.netlink.name(route.oif), route.via, route.proto)

    def next_hops(self, links: Iterable[str]) -> list[Route]:
        """The routes with a next hop that no routing daemon made, ours on `links` among them. Raises KernelError."""
        # Only `check` asks.
        from . import next_hops

        try:
            found = next_hops.all_of_hand(self.netlink, links)
        except (NetlinkError, OSError) as error:
            raise _unreadable(error) from None
        return [self._route(route) for route in found]

    def ask(self, pairs: Sequence[tuple[str, str]]) -> dict[tuple[str, str], bool]:
        """Ask on a link whether an address is in use, for each (link, address). Does not wait: see duplicates. Returns whether
        the kernel knew a MAC before, for each that was asked for."""
        # Only asked for addresses that are announced, and only once.
        from . import duplicates

        return duplicates.ask(self.netlink, pairs)

    def answers(self, pairs: Iterable[tuple[str, str]]) -> list[tuple[str, str, str]]:
        """(link, address, MAC) of each address that was asked for and that a machine has answered for."""
        # See `ask`.
        from . import duplicates

        return [(*pair, mac) for pair, mac in duplicates.answers(self.netlink, pairs).items()]

    def forget(self, pairs: Iterable[tuple[str, str]]) -> None:
        """Ask no longer, and forget the answers."""
        # See `ask`.
        from . import duplicates

        duplicates.forget(self.netlink, pairs)

    def survey(self, port: str, bridge: str) -> "Adoption":
        """What `bridge` takes over if it adopts `port`. Raises KernelError."""
        # Few bridges adopt a port.
        from .objects import adoption

        return adoption.survey(port, bridge)

    def is_underway(self, port: str) -> bool:
        """Whether another program has only begun to configure `port`."""
        # Few bridges adopt a port.
        from . import adoption_obstacle

        return adoption_obstacle.is_underway(port)

    def obstacle(self, port: str, bridge: str) -> str:
        """Why `bridge` must not adopt `port`; "" if it may. Raises KernelError."""
        # Few bridges adopt a port.
        from . import adoption_obstacle

        return adoption_obstacle.obstacle(port, bridge)

    def lladdrs(self, ifname: str) -> tuple[str, ...] | None:
        """The link-local IPv6 addresses, with prefix lengths, of a link to which the kernel gives none (addr_gen_mode none); None
        for any other link."""
        if sysctl.read(f"net/ipv6/conf/{ifname}/addr_gen_mode") != "1":
            return None
        return tuple(address for address in self.netlink.addresses(self.netlink.index(ifname)) if address.startswith("fe80:"))

    def holders(self, addresses: Iterable[str]) -> dict[str, str]:
        """The link that has each of the host's own among the addresses. Raises KernelError."""
        # Few hosts forward ports, here and below.
        from . import listeners

        try:
            return listeners.holders(self.netlink, addresses)
        except (NetlinkError, OSError) as error:
            raise _unreadable(error) from None

    def listeners(self) -> frozenset[Listener]:
        """The host's sockets that listen. Raises KernelError."""
        from . import listeners  # See above.

        try:
            return listeners.listeners()
        except (NetlinkError, OSError) as error:
            raise _unreadable(error) from None

    def ways_to(self, subnet: values.Subnet, link: str) -> list[WayTo]:
        """The routes of the main table to some of a subnet, and those of addresses of the host's with a wider subnet, by other
        links than `link`. Raises KernelError."""
        found = []
        family = wire.AF_INET if subnet.version == 4 else wire.AF_INET6
        try:
            for route in self.netlink.routes(family, MAIN_TABLE, 0, 0):
                there = ip_network(route.dst) if route.oif and "/" in route.dst else None
                if there is None or not there.prefixlen or not there.overlaps(subnet):
                    continue
                if (there.prefixlen >= subnet.prefixlen or route.proto == _RTPROT_KERNEL) and (
                    name := self.netlink.name(route.oif)
                ) != link:
                    found.append(WayTo(str(there), name))
        except (NetlinkError, OSError) as error:
            raise _unreadable(error) from None
        return found

    def server(self, name: str, addresses: Sequence[str]) -> Server:
        """What the server of a network depends on; `addresses` are those at which it serves DNS. Raises KernelError."""
        # Few networks have one.
        from . import dnsmasq

        try:
            return dnsmasq.facts(name, addresses)
        except (NetlinkError, OSError) as error:
            raise _unreadable(error) from None

    def leased(self, network: str) -> dict[str, tuple[str, ...]]:
        """The addresses of IPv4 that the server of a network has leased, by the guest's MAC. Raises KernelError."""
        # Few networks hold their guests to them.
        from . import leases

        return {lease.mac: (lease.address,) for lease in leases.of(network, time.time()) if ":" not in lease.address}

    def granted(self) -> list[NftElement]:
        """What guests may send from by the last word of their network's server, for a minute. Raises KernelError."""
        try:
            return list(self.nft.granted())
        except (NetlinkError, OSError) as error:
            raise _unreadable(error) from None

    def filters_bridges(self) -> bool:
        """Whether bridged packets pass the chains of IP (br_netfilter)."""
        return any(sysctl.read(f"net/bridge/bridge-nf-call-{name}") == "1" for name in ("iptables", "ip6tables"))

    def seen(self) -> "dict[str, Seen]":
        """Every link by name, and as `all` the settings of all links together. Raises KernelError."""
        # Only `check` asks, here and below.
        from . import world

        try:
            return world.links(self.netlink)
        except (NetlinkError, OSError) as error:
            raise _unreadable(error) from None

    def ways(self, questions: "Sequence[Question]") -> "list[Way]":
        """Where the kernel sends packets, see kernel.world. Raises KernelError."""
        from . import world  # See above.

        try:
            return world.ways(self.netlink, questions)
        except (NetlinkError, OSError) as error:
            raise _unreadable(error) from None

    def policy(self, version: int, table: int) -> list[int]:
        """The priorities of the rules of an IP version that lead to a table. Raises KernelError."""
        from . import world  # See above.

        try:
            return world.policy(self.netlink, version, table)
        except (NetlinkError, OSError) as error:
            raise _unreadable(error) from None

    def hazards(
        self, bridged: bool, anycast: bool, permanent: tuple[int, int], routed: Collection[str], ports: Collection[str]
    ) -> list[str]:
        """What of other firewalls breaks what we set up, and what is nearly full: see other_firewalls and limits. `routed` are
        guests' links whose packets are routed, `ports` those that are ports of bridges."""
        # Only `check` asks.
        from . import limits, other_firewalls

        guests = other_firewalls.Guests(routed, ports)
        return [*other_firewalls.hazards(self.nft, bridged, anycast, guests), *limits.ceilings(permanent)]


def _unset(kind: Edge[Any], have: Resource, view: View) -> None:
    """Remove an object, unless it is gone already."""
    try:
        kind.unset(have, view)
    except NetlinkError as error:
        if error.code not in _ABSENT:
            raise
    except OSError as error:
        if error.errno != errno.ENODEV:
            raise


def _vlans() -> dict[tuple[str, int], str]:
    """The VLAN devices of this namespace by (parent, ID). From /proc: a dump of all links costs more with every guest."""
    try:
        with open("/proc/net/vlan/config") as file:
            rows = [[cell.strip() for cell in line.split("|")] for line in file if line.count("|") == 2]
    except FileNotFoundError:
        return {}
    return {(parent, int(vid)): name for name, vid, parent in rows if vid.isdecimal()}


@cache
def _load(module: str, *settings: str) -> None:
    """Load a module of the running kernel, if there is a file of it. What fails shows when the module is used."""
    try:
        with open(f"/lib/modules/{os.uname().release}/modules.dep") as file:
            if not any(f"/{module}.ko" in line.partition(":")[0] for line in file):
                return
        os.waitpid(os.posix_spawnp("modprobe", ["modprobe", "-q", module, *settings], os.environ), 0)
    except OSError:
        return


@cache
def _limits_fdb() -> bool:
    """Whether bridges have fdb_max_learned. A kernel without it takes the attribute and does nothing."""
    major, minor = (int(word) for word in os.uname().release.replace("-", ".").replace("+", ".").split(".")[:2])
    return (major, minor) >= (6, 7)


def _machine() -> str:
    """What tells this machine from others, machine-id(5); "" while it has none."""
    try:
        return _machine_id()
    except OSError:
        return ""


@cache
def _machine_id() -> str:
    with open("/etc/machine-id") as file:
        if not (text := file.read().strip()):
            raise FileNotFoundError
        return text


def _unreadable(error: Exception) -> KernelError:
    return KernelError(f"reading the kernel's state: {_reason(error)}")


def _reason(error: Exception) -> str:
    if isinstance(error, NetlinkError):
        return os.strerror(error.code) + ("; run as root" if error.code == errno.EPERM else "")
    if isinstance(error, FileNotFoundError):
        return "no such setting; is the link gone, or its MTU below 1280 (IPv6)?"
    if isinstance(error, PermissionError):
        return f"{error.strerror}; run as root"
    if isinstance(error, OSError):
        return exhausted(error) or error.strerror or str(error)
    return str(error)
