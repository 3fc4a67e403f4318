"""Links, addresses, neighbours, routes and rules: our resources in rtnetlink's words.

Look-ups ask the kernel for one object (or a dump that the kernel filters), so that they cost the same with ten guests and with
four thousand. What only few guests need is in modules that are loaded when it is needed: they take longer to load than a guest
takes to plug in.
"""

import errno
from _socket import AF_INET, AF_INET6, if_indextoname, if_nametoindex
from collections.abc import Iterable
from importlib import import_module
from typing import Any

from ..model.facts import Link
from ..model.objects import (
    Address,
    Adoption,
    Device,
    FdbEntry,
    LinkAttribute,
    Neighbour,
    PortVlans,
    ProxyNeighbour,
    Route,
    Rule,
    Sysctl,
)
from ..model.resource import ALIAS, MAIN_TABLE, PROTO, Resource
from . import bridge_port, sysctl, sysfs, wire
from .framing import NetlinkError
from .wire import PERMANENT, PROXY, UP, Rtnetlink

_ABSENT = (errno.ENOENT, errno.ENODEV, errno.ESRCH, errno.EADDRNOTAVAIL)
_RTPROT_RA, _IFA_F_NODAD = 9, 2
_RTPROT_KERNEL, _RTPROT_BOOT, _RTPROT_STATIC = 2, 3, 4
_FAMILY = {4: AF_INET, 6: AF_INET6}


class Netlink:
    """An rtnetlink socket; one that `stays` keeps what it has read of routes for as long as it holds."""

    def __init__(self, stays: bool = False) -> None:
        self._wire = Rtnetlink()
        self._opened: Any = None
        self._routes: Any = None
        self._read_routes = self._wire.routes
        if stays:
            # Only the agent stays: a hook would load it for nothing.
            from .routes import Routes

            self._routes = Routes(self._wire.routes)
            self._read_routes = self._routes.read

    def close(self) -> None:
        self._wire.close()
        if self._routes is not None:
            self._routes.close()
        if self._opened is not None:
            self._opened.close()

    @property
    def _devices(self) -> Any:
        """A device.Devices."""
        if self._opened is None:
            self._opened = import_module("vmnet_hooks.kernel.device").Devices()
        return self._opened

    def link(self, ifname: str) -> Link | None:
        found = self._wire.link(ifname)
        if found is None:
            return None
        return Link(
            found.index,
            found.mtu,
            found.address,
            found.kind,
            bool(found.flags & UP),
            self._name(found.master),
            found.alias == ALIAS,
            found.vlan_filtering,
        )

    def rename(self, ifname: str, name: str) -> None:
        """Gives a link another name. Raises NetlinkError or OSError."""
        self._wire.set_link(self._index(ifname), wire.name(name))

    def _index(self, ifname: str) -> int:
        try:
            return if_nametoindex(ifname)
        except OSError:
            raise OSError(errno.ENODEV, f"{ifname} does not exist (any more)") from None

    def _name(self, index: int) -> str:
        """The name of a link; "" for 0, and for one that is gone."""
        try:
            return if_indextoname(index) if index else ""
        except OSError:
            return ""

    def addresses(self, ifname: str) -> tuple[str, ...]:
        """The addresses of a link, but for link-local ones, in the kernel's order: IPv4 first, primary ones before others."""
        found = self._addresses(ifname, {})
        return tuple(sorted((address for address in found if not address.startswith("fe80:")), key=lambda a: ":" in a))

    def ports(self, ifname: str) -> list[str]:
        """The links whose master is `ifname`."""
        return sorted(name.removeprefix("lower_") for name in sysfs.files(ifname) if name.startswith("lower_"))

    def our_devices(self) -> list[Device]:
        """Every link that carries our alias."""
        names = [link.name for link in self._wire.links() if link.alias == ALIAS]
        return [found for name in names if (found := self._devices.read(Device(name, ""), self._name))]

    def ra_links(self) -> tuple[str, ...]:
        """Links with a default route that was learned from a router advertisement."""
        routes = self._read_routes(AF_INET6, MAIN_TABLE, 0, _RTPROT_RA)
        names = {self._name(route.oif) for route in routes if route.dst == "::/0"}
        return tuple(sorted(filter(None, names)))

    # --- reading ---------------------------------------------------------------------------------------------------

    def read(self, wanted: Iterable[Resource]) -> dict[str, Resource]:
        """What the kernel holds under the keys of `wanted`."""
        cache: dict[Any, Any] = {}
        found: dict[str, Resource] = {}
        for resource in wanted:
            have: Resource | None
            match resource:
                case Device():
                    have = self._devices.read(resource, self._name)
                case LinkAttribute():
                    have = self._read_attribute(resource, cache)
                case FdbEntry():
                    link = self._cached(resource.ifname, cache)
                    have = self._devices.read_fdb(resource, link.index) if link else None
                case PortVlans():
                    have = bridge_port.read_vlans(resource) if self._cached(resource.ifname, cache) else None
                case Adoption():
                    link = self._cached(resource.ifname, cache)
                    have = _adoption().read(resource, self._name(link.master) if link else "")
                case Address():
                    addresses = self._addresses(resource.ifname, cache)
                    have = resource if resource.address in addresses else None
                case Neighbour():
                    have = self._read_neighbour(resource, cache)
                case ProxyNeighbour():
                    have = self._read_proxy(resource, cache)
                case Route():
                    have = self._read_route(resource, cache)
                case Sysctl():
                    value = self._read_setting(resource, cache)
                    have = Sysctl(resource.path, value) if value is not None else None
                case Rule():
                    have = self._cached_rules(resource.family, cache).get(resource.key)
                case _:
                    raise TypeError(f"not a netlink resource: {resource}")
            if have is not None:
                found[resource.key] = have
        return found

    def _cached(self, ifname: str, cache: dict[Any, Any]) -> wire.LinkMessage | None:
        key = ("link", ifname)
        if key not in cache:
            cache[key] = self._wire.link(ifname)
        return cache[key]

    def _read_setting(self, want: Sysctl, cache: dict[Any, Any]) -> str | None:
        # What is said of the link itself has most of them; each file is three calls, and a walk through /proc.
        _, family, folder, *rest = want.path.split("/")
        if folder != "conf" or not want.link:
            return sysctl.read(want.path)
        key = ("settings", want.link)
        if key not in cache:
            link = self._cached(want.link, cache)
            cache[key] = link.settings if link else {}
        value: str | None = cache[key].get((family, rest[-1]))
        return sysctl.read(want.path) if value is None else value

    def _read_attribute(self, want: LinkAttribute, cache: dict[Any, Any]) -> LinkAttribute | None:
        link = self._cached(want.ifname, cache)
        if link is None:
            return None
        match want.name:
            case "mtu":
                value = str(link.mtu)
            case "address":
                value = link.address
            case "state":
                value = "up" if link.flags & UP else "down"
            case "master":
                value = self._name(link.master)
            case "isolated":
                if link.isolated is None:
                    return None
                value = "on" if link.isolated else "off"
            case "primary":
                value = self._name(link.primary)
            case "tx":
                return _device().read_tx(want.ifname)
            case "no_linklocal_learn":
                return bridge_port.read_no_linklocal_learn(want.ifname)
            case "lladdr":
                addresses = self._addresses(want.ifname, cache)
                value = ",".join(sorted(a for a in addresses if a.startswith("fe80:")))
            case _:
                raise TypeError(f"not a link attribute: {want}")
        return LinkAttribute(want.ifname, want.name, value)

    def _addresses(self, ifname: str, cache: dict[Any, Any]) -> list[str]:
        key = ("addr", ifname)
        if key not in cache:
            link = self._cached(ifname, cache)
            cache[key] = self._wire.addresses(link.index) if link else []
        return cache[key]

    def _read_neighbour(self, want: Neighbour, cache: dict[Any, Any]) -> Neighbour | None:
        link = self._cached(want.ifname, cache)
        found = self._wire.neighbour(link.index, want.address) if link else None
        return Neighbour(want.ifname, want.address, found[1]) if found and found[0] & PERMANENT else None

    def _read_proxy(self, want: ProxyNeighbour, cache: dict[Any, Any]) -> ProxyNeighbour | None:
        link = self._cached(want.ifname, cache)
        return want if link and self._wire.neighbour(link.index, want.address, PROXY) else None

    def _read_route(self, want: Route, cache: dict[Any, Any]) -> Route | None:
        # A route through another device is not looked for: the kernel itself refuses to add a second one.
        link = self._cached(want.dev, cache)
        # The kernel takes none through a link that is down, and drops those that there are.
        if link is None or not link.flags & UP:
            return None
        # A dump takes longer with every route in the table, a look-up does not; but what a look-up does not find may be there.
        met = self._lookup(want, cache)
        if met and (met.table, met.dst, met.oif, met.metric) == (want.table, want.dst, link.index, want.priority):
            return self._route_of(met, want.family, want.dev)
        length = "/128" if want.family == 6 else "/32"
        is_host = want.dst.endswith(length)
        if is_host and met and met.table == want.table and not met.dst.endswith(length) and link.flags & wire.LOWER_UP:
            # The table was asked, and had nothing for this address alone.
            return None
        # In the main table first by our own number, then by those who may have put our subnet there: a router may hold a
        # million other routes.
        protos = (PROTO, _RTPROT_KERNEL, _RTPROT_BOOT, _RTPROT_STATIC) if want.table == MAIN_TABLE else (0,)
        for proto in protos:
            if found := self._dumped(want, link.index, proto, cache).get(want.key):
                return found
        return None

    def _lookup(self, want: Route, cache: dict[Any, Any]) -> wire.RouteMessage | None:
        """What the kernel finds at the start of a destination, where that may be the route itself."""
        address, _, length = want.dst.partition("/")
        if length != "0":
            # The rules of the guests' own table come before the main one's.
            return self._wire.lookup(address) if want.table != MAIN_TABLE or length in ("32", "128") else None
        rules = self._cached_rules(want.family, cache).values()
        source = next((rule.subnet for rule in rules if rule.selector == "from" and rule.table == want.table), "")
        # IPv4 is not asked for a source that is not the host's own.
        return self._wire.lookup(address, source.partition("/")[0]) if source and want.family == 6 else None

    def _dumped(self, want: Route, index: int, proto: int, cache: dict[Any, Any]) -> dict[str, Route]:
        """The routes through a device in a table, by a protocol if it is not 0. The kernel filters them."""
        key = ("route", want.family, want.table, want.dev, proto)
        if key not in cache:
            found = self._read_routes(_FAMILY[want.family], want.table, index, proto)
            cache[key] = {made.key: made for route in found for made in (self._route_of(route, want.family, want.dev),)}
        return cache[key]

    def _route_of(self, found: wire.RouteMessage, family: int, dev: str) -> Route:
        metric = 0 if found.metric == (1024 if family == 6 else 0) else found.metric
        return Route(found.table, found.dst, dev, found.via, found.proto, found.src, metric)

    def our_routes(self) -> list[Route]:
        """Every route that carries our protocol number, in any table."""
        names: dict[int, str] = {}
        found = []
        for family, constant in _FAMILY.items():
            for route in self._wire.routes(constant, proto=PROTO):
                dev = names.get(route.oif) or names.setdefault(route.oif, self._name(route.oif))
                found.append(self._route_of(route, family, dev))
        return found

    def rules(self) -> list[Rule]:
        """Every rule that selects by one subnet."""
        return [rule for family in _FAMILY for rule in self._rules(family)]

    def _cached_rules(self, family: int, cache: dict[Any, Any]) -> dict[str, Rule]:
        key = ("rules", family)
        if key not in cache:
            cache[key] = {rule.key: rule for rule in self._rules(family)}
        return cache[key]

    def _rules(self, family: int) -> list[Rule]:
        return [Rule(*rule) for rule in self._wire.rules(_FAMILY[family])]

    # --- changing --------------------------------------------------------------------------------------------------

    def set(self, want: Resource, have: Resource | None) -> None:
        """Brings one object to `want`. Raises NetlinkError or OSError."""
        match want:
            case Device():
                self._devices.set(want, have if isinstance(have, Device) else None, self._index)
            case LinkAttribute():
                self._set_attribute(want)
            case FdbEntry():
                self._devices.set_fdb("add", want, self._index(want.ifname))
            case PortVlans():
                # As they are now: a port that has just joined has the bridge's default PVID.
                bridge_port.set_vlans(self._wire, want, bridge_port.read_vlans(want), self._index(want.ifname))
            case Adoption():
                _adoption().move(want, to_bridge=True)
            case Address():
                self._add_address(self._index(want.ifname), want.address, want.broadcast)
            case Neighbour():
                self._wire.set_neighbour(self._index(want.ifname), want.address, want.lladdr)
            case ProxyNeighbour():
                self._wire.set_neighbour(self._index(want.ifname), want.address, flags=PROXY)
            case Route():
                self._wire.set_route(self._routed(want), replace=have is not None)
            case Rule():
                self._wire.add_rule(_rule(want))

    def unset(self, have: Resource) -> None:
        """Removes one object; that it is gone already is no error. Raises NetlinkError or OSError."""
        try:
            match have:
                case Device():
                    if have.type == "bridge" and (left := self.ports(have.ifname)):
                        raise OSError(errno.EBUSY, f"{have.ifname} still has ports: {', '.join(left)}; stop those guests first")
                    self._wire.delete_link(self._index(have.ifname))
                case LinkAttribute():
                    if have.name in ("isolated", "master"):
                        self._set_attribute(LinkAttribute(have.ifname, have.name, "off" if have.name == "isolated" else ""))
                case FdbEntry():
                    self._devices.set_fdb("del", have, self._index(have.ifname))
                case PortVlans():
                    bridge_port.set_vlans(self._wire, PortVlans(have.ifname, 0, "", have.own), have, self._index(have.ifname))
                case Adoption():
                    _adoption().move(have, to_bridge=False)
                case Address():
                    self._unset_address(have)
                case Neighbour():
                    self._wire.delete_neighbour(self._index(have.ifname), have.address)
                case ProxyNeighbour():
                    self._wire.delete_neighbour(self._index(have.ifname), have.address, PROXY)
                case Route():
                    self._wire.delete_route(self._routed(have))
                case Rule():
                    self._wire.delete_rule(_rule(have))
        except NetlinkError as error:
            if error.code not in _ABSENT:
                raise
        except OSError as error:
            if error.errno != errno.ENODEV:
                raise

    def _set_attribute(self, want: LinkAttribute) -> None:
        index = self._index(want.ifname)
        match want.name:
            case "mtu":
                self._wire.set_link(index, wire.mtu(int(want.value)))
            case "address":
                self._wire.set_link(index, wire.address(want.value))
            case "master":
                self._set_master(want, index)
            case "primary":
                self._wire.set_link(index, wire.primary(self._index(want.value) if want.value else 0))
            case "tx":
                _device().set_tx(want)
            case "no_linklocal_learn":
                bridge_port.set_no_linklocal_learn(want)
            case "isolated":
                self._wire.set_isolated(index, want.value == "on")
            case "state":
                self._wire.set_link(index, up=want.value == "up")
            case "lladdr":
                have = {a for a in self._wire.addresses(index) if a.startswith("fe80:")}
                # New before old: killed in between, the link has both, which still shows (and covers) what we put there.
                for address in sorted(want.addresses - have):
                    self._add_address(index, address)
                for address in sorted(have - want.addresses):
                    self._wire.delete_address(index, address)

    def _set_master(self, want: LinkAttribute, index: int) -> None:
        link = self._wire.link_at(index)
        before = link.master if link else 0
        masters = [name for name in (self._name(before), want.value) if name]
        has_bond = any((master := self._wire.link(name)) and master.kind == "bond" for name in masters)
        if has_bond and want.value:
            # A bond takes no port that is up.
            self._wire.set_link(index, up=False)
        self._wire.set_link(index, wire.master(self._index(want.value) if want.value else 0))
        if has_bond and link and link.flags & UP:
            # A bond that lets a port go takes it down. Not in one message: kernels differ in what they do first.
            self._wire.set_link(index, up=True)

    def _add_address(self, index: int, address: str, broadcast: str = "") -> None:
        # Without duplicate detection: the address must work when the hook returns.
        self._wire.add_address(index, address, broadcast, _IFA_F_NODAD if ":" in address else 0)

    def _unset_address(self, have: Address) -> None:
        index = self._index(have.ifname)
        routes: list[str] = []
        ipv4 = [address for address in self._wire.addresses(index) if ":" not in address]
        if ipv4 == [have.address] and not have.address.endswith("/32"):
            # With the last IPv4 address of a link the kernel drops every route through it, whoever made it.
            routes = _adoption().routes(have.ifname, "-4")
        self._wire.delete_address(index, have.address)
        if routes:
            _adoption().add_routes(routes, have.ifname)

    def _routed(self, route: Route) -> wire.RouteMessage:
        oif = self._index(route.dev)
        return wire.RouteMessage(route.table, route.dst, oif, route.via, route.proto, route.src, route.priority)


def _rule(rule: Rule) -> wire.RuleMessage:
    return wire.RuleMessage(rule.priority, rule.selector, rule.subnet, rule.table, rule.proto)


def _device() -> Any:
    """What needs pyroute2."""
    return import_module("vmnet_hooks.kernel.device")


def _adoption() -> Any:
    """What needs iproute2."""
    return import_module("vmnet_hooks.kernel.adoption")
