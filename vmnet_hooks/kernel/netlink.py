"""Links, addresses, neighbours, routes and rules through pyroute2.

Look-ups ask the kernel for one object (or a dump that the kernel filters: strict_check), so that they cost the same with
ten guests and with four thousand.
"""

import errno
import socket
from collections.abc import Callable, Iterable
from typing import Any

from ..compose import Link
from ..state import (
    ALIAS,
    MAIN_TABLE,
    PROTO,
    Address,
    Adoption,
    Device,
    FdbEntry,
    LinkAttribute,
    Neighbour,
    PortVlans,
    ProxyNeighbour,
    Resource,
    Route,
    Rule,
)
from . import adoption, device, sysfs
from .rtnl import NLM_F_DUMP, NLM_F_REQUEST, RTM_GETADDR, IPRoute, NetlinkDumpInterrupted, NetlinkError, ifaddrmsg

_ABSENT = (errno.ENOENT, errno.ENODEV, errno.ESRCH, errno.EADDRNOTAVAIL)
_NTF_PROXY, _NUD_PERMANENT, _RTPROT_RA, _IFA_F_NODAD = 8, 0x80, 9, 2
_UNIVERSE, _LINK = 0, 253
_RTPROT_KERNEL, _RTPROT_BOOT, _RTPROT_STATIC = 2, 3, 4
_ATTEMPTS = 50
_OTHER_SELECTORS = tuple(
    f"FRA_{name}"
    for name in ("FWMARK", "IIFNAME", "OIFNAME", "L3MDEV", "UID_RANGE", "IP_PROTO", "SPORT_RANGE", "DPORT_RANGE", "TUN_ID")
)
_FAMILY = {4: socket.AF_INET, 6: socket.AF_INET6}


def dump(ask: Callable[..., Any], *command: Any, **match: Any) -> list[Any]:
    """A whole dump. The kernel says so when something changed under it (a routing daemon is at work): asked again."""
    for _ in range(_ATTEMPTS - 1):
        try:
            return list(ask(*command, **match))
        except NetlinkDumpInterrupted:
            continue
    return list(ask(*command, **match))


class Netlink:
    """An rtnetlink socket."""

    def __init__(self) -> None:
        self._ip = IPRoute(strict_check=True)
        if hasattr(self._ip, "asyncore"):
            # pyroute2 0.9's synchronous face does not set what its own nlm_request reads.
            self._ip.asyncore.status.setdefault("nlm_generator", False)

    def close(self) -> None:
        self._ip.close()

    def _get(self, ifname: str) -> Any | None:
        try:
            return next(iter(self._ip.link("get", ifname=ifname)), None)
        except NetlinkError as error:
            if error.code in _ABSENT:
                return None
            raise

    def link(self, ifname: str) -> Link | None:
        message = self._get(ifname)
        if message is None:
            return None
        kind, data = device.info(message)
        return Link(
            message["index"],
            message.get_attr("IFLA_MTU"),
            message.get_attr("IFLA_ADDRESS") or "",
            kind,
            bool(message["flags"] & 1),
            self._name(master) if (master := message.get_attr("IFLA_MASTER")) else "",
            message.get_attr("IFLA_IFALIAS") == ALIAS,
            kind == "bridge" and data is not None and bool(data.get_attr("IFLA_BR_VLAN_FILTERING")),
        )

    def rename(self, ifname: str, name: str) -> None:
        """Gives a link another name. Raises NetlinkError or OSError."""
        self._ip.link("set", index=self._index(ifname), ifname=name)

    def _index(self, ifname: str) -> int:
        message = self._get(ifname)
        if message is None:
            raise OSError(errno.ENODEV, f"{ifname} does not exist (any more)")
        return message["index"]

    def _name(self, index: int) -> str:
        if not index:
            return ""
        for message in self._ip.link("get", index=index):
            return message.get_attr("IFLA_IFNAME")
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
        found = []
        for message in dump(self._ip.link, "dump"):
            if message.get_attr("IFLA_IFALIAS") == ALIAS:
                found.append(device.read(Device(message.get_attr("IFLA_IFNAME"), ""), message, self._name))
        return found

    def ra_links(self) -> tuple[str, ...]:
        """Links with a default route that was learned from a router advertisement."""
        routes = dump(self._ip.route, "dump", family=socket.AF_INET6, table=MAIN_TABLE, proto=_RTPROT_RA)
        indexes = {r.get_attr("RTA_OIF") for r in routes if r["dst_len"] == 0 and r["proto"] == _RTPROT_RA}
        return tuple(sorted(self._name(index) for index in indexes if index))

    # --- reading ---------------------------------------------------------------------------------------------------

    def read(self, wanted: Iterable[Resource]) -> dict[str, Resource]:
        """What the kernel holds under the keys of `wanted`."""
        cache: dict[Any, Any] = {}
        found: dict[str, Resource] = {}
        for resource in wanted:
            have: Resource | None
            match resource:
                case Device():
                    message = self._cached(resource.ifname, cache)
                    have = device.read(resource, message, self._name) if message else None
                case LinkAttribute():
                    have = self._read_attribute(resource, cache)
                case FdbEntry():
                    message = self._cached(resource.ifname, cache)
                    have = device.read_fdb(self._ip, resource, message["index"]) if message else None
                case PortVlans():
                    have = device.read_vlans(resource) if self._cached(resource.ifname, cache) else None
                case Adoption():
                    message = self._cached(resource.ifname, cache)
                    master = message.get_attr("IFLA_MASTER") if message else 0
                    have = adoption.read(resource, self._name(master) if master else "")
                case Address():
                    addresses = self._addresses(resource.ifname, cache)
                    have = resource if resource.address in addresses else None
                case Neighbour():
                    have = self._read_neighbour(resource, cache)
                case ProxyNeighbour():
                    have = self._read_proxy(resource, cache)
                case Route():
                    have = self._read_route(resource, cache)
                case Rule():
                    if "rules" not in cache:
                        cache["rules"] = {rule.key: rule for rule in self.rules()}
                    have = cache["rules"].get(resource.key)
                case _:
                    raise TypeError(f"not a netlink resource: {resource}")
            if have is not None:
                found[resource.key] = have
        return found

    def _cached(self, ifname: str, cache: dict[Any, Any]) -> Any | None:
        if ("link", ifname) not in cache:
            cache["link", ifname] = self._get(ifname)
        return cache["link", ifname]

    def _read_attribute(self, want: LinkAttribute, cache: dict[Any, Any]) -> LinkAttribute | None:
        message = self._cached(want.ifname, cache)
        if message is None:
            return None
        match want.name:
            case "mtu":
                value = str(message.get_attr("IFLA_MTU"))
            case "address":
                value = message.get_attr("IFLA_ADDRESS")
            case "state":
                value = "up" if message["flags"] & 1 else "down"
            case "master":
                master = message.get_attr("IFLA_MASTER")
                value = self._name(master) if master else ""
            case "isolated":
                isolated = self._isolated(want.ifname)
                if isolated is None:
                    return None
                value = "on" if isolated else "off"
            case "primary":
                _, data = device.info(message)
                value = self._name(data.get_attr("IFLA_BOND_PRIMARY") or 0) if data else ""
            case "tx":
                return device.read_tx(want.ifname)
            case "no_linklocal_learn":
                return device.read_no_linklocal_learn(want.ifname)
            case "lladdr":
                addresses = self._addresses(want.ifname, cache)
                value = ",".join(sorted(a for a in addresses if a.startswith("fe80:")))
            case _:
                raise TypeError(f"not a link attribute: {want}")
        return LinkAttribute(want.ifname, want.name, value)

    def _isolated(self, ifname: str) -> bool | None:
        # From sysfs: pyroute2 leaves IFLA_INFO_SLAVE_DATA of a bridge's port undecoded.
        value = sysfs.read(ifname, "brport/isolated")
        return None if value is None else value == "1"

    def _addresses(self, ifname: str, cache: dict[Any, Any]) -> list[str]:
        if ("addr", ifname) not in cache:
            message = self._cached(ifname, cache)
            cache["addr", ifname] = self._dump_addresses(message["index"]) if message else []
        return cache["addr", ifname]

    def _dump_addresses(self, index: int) -> list[str]:
        # In the header: pyroute2's own `index` filters what has come, and that would be every link's addresses.
        request = ifaddrmsg()
        request["index"] = index
        messages = dump(self._ip.nlm_request, request, RTM_GETADDR, NLM_F_REQUEST | NLM_F_DUMP)
        return [
            f"{m.get_attr('IFA_LOCAL') or m.get_attr('IFA_ADDRESS')}/{m['prefixlen']}" for m in messages if m["index"] == index
        ]

    def _read_neighbour(self, want: Neighbour, cache: dict[Any, Any]) -> Neighbour | None:
        for message in self._neigh(want, cache, 0):
            if message["state"] & _NUD_PERMANENT:
                return Neighbour(want.ifname, want.address, message.get_attr("NDA_LLADDR"))
        return None

    def _read_proxy(self, want: ProxyNeighbour, cache: dict[Any, Any]) -> ProxyNeighbour | None:
        return want if self._neigh(want, cache, _NTF_PROXY) else None

    def _neigh(self, want: Neighbour | ProxyNeighbour, cache: dict[Any, Any], flags: int) -> list[Any]:
        link = self._cached(want.ifname, cache)
        if link is None:
            return []
        try:
            return list(self._ip.neigh("get", family=_family(want.address), dst=want.address, ifindex=link["index"], flags=flags))
        except NetlinkError as error:
            if error.code in _ABSENT:
                return []
            raise

    def _read_route(self, want: Route, cache: dict[Any, Any]) -> Route | None:
        # The dump is filtered by the kernel to one table and one device. A route through another device is not looked for:
        # the kernel itself refuses to add a second one.
        key = ("route", want.family, want.table, want.dev)
        if key not in cache:
            link = self._cached(want.dev, cache)
            # In the main table only by those who may have put our subnet there: a router may hold a million other routes.
            protos = (PROTO, _RTPROT_KERNEL, _RTPROT_BOOT, _RTPROT_STATIC) if want.table == MAIN_TABLE else (0,)
            cache[key] = {}
            if link:
                for proto in protos:
                    match = {"proto": proto} if proto else {}
                    found = self._routes(want.family, table=want.table, oif=link["index"], **match)
                    cache[key].update((route.key, route) for route in found)
        return cache[key].get(want.key)

    def _routes(self, family: int, **match: int) -> list[Route]:
        routes = []
        names: dict[int, str] = {}
        for m in dump(self._ip.route, "dump", family=_FAMILY[family], **match):
            if m["type"] != 1 or m["tos"]:
                continue
            metric = m.get_attr("RTA_PRIORITY") or 0
            dst = m.get_attr("RTA_DST") or ("::" if family == 6 else "0.0.0.0")
            index = m.get_attr("RTA_OIF")
            route = Route(
                m.get_attr("RTA_TABLE"),
                f"{dst}/{m['dst_len']}",
                (names.get(index) or names.setdefault(index, self._name(index))) if index else "",
                m.get_attr("RTA_GATEWAY") or "",
                m["proto"],
                m.get_attr("RTA_PREFSRC") or "",
                0 if metric == (1024 if family == 6 else 0) else metric,
            )
            routes.append(route)
        return routes

    def our_routes(self) -> list[Route]:
        """Every route that carries our protocol number, in any table."""
        return [r for family in (4, 6) for r in self._routes(family, proto=PROTO) if r.proto == PROTO]

    def rules(self) -> list[Rule]:
        """Every rule that selects by one subnet."""
        result = []
        for constant in _FAMILY.values():
            for m in dump(self._ip.rule, "dump", family=constant):
                if any(m.get_attr(selector) for selector in _OTHER_SELECTORS) or (m["src_len"] and m["dst_len"]):
                    continue
                for selector, attribute, length in (("from", "FRA_SRC", m["src_len"]), ("to", "FRA_DST", m["dst_len"])):
                    if address := m.get_attr(attribute):
                        result.append(
                            Rule(
                                m.get_attr("FRA_PRIORITY") or 0,
                                selector,
                                f"{address}/{length}",
                                m.get_attr("FRA_TABLE") or m["table"],
                                m.get_attr("FRA_PROTOCOL") or 0,
                            )
                        )
        return result

    # --- changing --------------------------------------------------------------------------------------------------

    def set(self, want: Resource, have: Resource | None) -> None:
        """Brings one object to `want`. Raises NetlinkError or OSError."""
        match want:
            case Device():
                if isinstance(have, Device):
                    device.change(self._ip, self._index(want.ifname), want, have)
                else:
                    device.create(self._ip, want, self._index(want.parent) if want.parent else 0)
            case LinkAttribute():
                self._set_attribute(want)
            case FdbEntry():
                device.set_fdb(self._ip, "add", want, self._index(want.ifname))
            case PortVlans():
                # As they are now: a port that has just joined has the bridge's default PVID.
                device.set_vlans(self._ip, want, device.read_vlans(want), self._index(want.ifname))
            case Adoption():
                adoption.move(want, to_bridge=True)
            case Address():
                self._addr("add", self._index(want.ifname), want.address, want.broadcast)
            case Neighbour():
                self._ip.neigh(
                    "replace",
                    family=_family(want.address),
                    dst=want.address,
                    lladdr=want.lladdr,
                    ifindex=self._index(want.ifname),
                    state=_NUD_PERMANENT,
                )
            case ProxyNeighbour():
                self._ip.neigh(
                    "replace",
                    family=_family(want.address),
                    dst=want.address,
                    ifindex=self._index(want.ifname),
                    flags=_NTF_PROXY,
                )
            case Route():
                self._route("replace" if have else "add", want)
            case Rule():
                self._rule("add", want)

    def unset(self, have: Resource) -> None:
        """Removes one object; that it is gone already is no error. Raises NetlinkError or OSError."""
        try:
            match have:
                case Device():
                    if have.type == "bridge" and (left := self.ports(have.ifname)):
                        raise OSError(errno.EBUSY, f"{have.ifname} still has ports: {', '.join(left)}; stop those guests first")
                    self._ip.link("del", index=self._index(have.ifname))
                case LinkAttribute():
                    if have.name in ("isolated", "master"):
                        self._set_attribute(LinkAttribute(have.ifname, have.name, "off" if have.name == "isolated" else ""))
                case FdbEntry():
                    device.set_fdb(self._ip, "del", have, self._index(have.ifname))
                case PortVlans():
                    device.set_vlans(self._ip, PortVlans(have.ifname, 0, "", have.own), have, self._index(have.ifname))
                case Adoption():
                    adoption.move(have, to_bridge=False)
                case Address():
                    self._unset_address(have)
                case Neighbour():
                    self._ip.neigh("del", family=_family(have.address), dst=have.address, ifindex=self._index(have.ifname))
                case ProxyNeighbour():
                    self._ip.neigh(
                        "del",
                        family=_family(have.address),
                        dst=have.address,
                        ifindex=self._index(have.ifname),
                        flags=_NTF_PROXY,
                    )
                case Route():
                    self._route("del", have)
                case Rule():
                    self._rule("del", have)
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
                self._ip.link("set", index=index, mtu=int(want.value))
            case "address":
                self._ip.link("set", index=index, address=want.value)
            case "master":
                self._set_master(want, index)
            case "primary":
                self._ip.link("set", index=index, kind="bond", bond_primary=self._index(want.value) if want.value else 0)
            case "tx":
                device.set_tx(want)
            case "no_linklocal_learn":
                device.set_no_linklocal_learn(want)
            case "isolated":
                self._ip.brport("set", index=index, isolated=int(want.value == "on"))
            case "state":
                self._ip.link("set", index=index, state=want.value)
            case "lladdr":
                have = {a for a in self._dump_addresses(index) if a.startswith("fe80:")}
                # New before old: killed in between, the link has both, which still shows (and covers) what we put there.
                for address in sorted(want.addresses - have):
                    self._addr("add", index, address)
                for address in sorted(have - want.addresses):
                    self._addr("del", index, address)

    def _set_master(self, want: LinkAttribute, index: int) -> None:
        message = self._get(want.ifname)
        is_up = message is not None and message["flags"] & 1
        before = message.get_attr("IFLA_MASTER") if message else 0
        bonds = [
            link for name in (self._name(before or 0), want.value) if name and (link := self.link(name)) and link.kind == "bond"
        ]
        if bonds and want.value:
            # A bond takes no port that is up.
            self._ip.link("set", index=index, state="down")
        self._ip.link("set", index=index, master=self._index(want.value) if want.value else 0)
        if bonds and is_up:
            # A bond that lets a port go takes it down. Not in one message: kernels differ in what they do first.
            self._ip.link("set", index=index, state="up")

    def _unset_address(self, have: Address) -> None:
        index = self._index(have.ifname)
        routes: list[str] = []
        ipv4 = [address for address in self._dump_addresses(index) if ":" not in address]
        if ipv4 == [have.address] and not have.address.endswith("/32"):
            # With the last IPv4 address of a link the kernel drops every route through it, whoever made it.
            routes = adoption.routes(have.ifname, "-4")
        self._addr("del", index, have.address)
        adoption.add_routes(routes, have.ifname)

    def _addr(self, verb: str, index: int, address: str, broadcast: str = "") -> None:
        host, length = address.split("/")
        more: dict[str, Any] = {"broadcast": broadcast} if broadcast else {}
        if ":" in host and verb == "add":
            # Without duplicate detection: the address must work when the hook returns.
            more["flags"] = _IFA_F_NODAD
        self._ip.addr(verb, index=index, address=host, prefixlen=int(length), family=_family(host), **more)

    def _route(self, verb: str, route: Route) -> None:
        match: dict[str, Any] = {"oif": self._index(route.dev), "table": route.table, "proto": route.proto, "type": 1}
        match["scope"] = _UNIVERSE if route.via or route.family == 6 else _LINK
        if route.via:
            match["gateway"] = route.via
            if verb != "del":
                match["flags"] = 4  # RTNH_F_ONLINK
        if route.src:
            match["prefsrc"] = route.src
        if route.priority:
            match["priority"] = route.priority
        self._ip.route(verb, family=_FAMILY[route.family], dst=route.dst, **match)

    def _rule(self, verb: str, rule: Rule) -> None:
        address, length = rule.subnet.split("/")
        side = "src" if rule.selector == "from" else "dst"
        self._ip.rule(
            verb,
            family=_FAMILY[rule.family],
            priority=rule.priority,
            table=rule.table,
            protocol=rule.proto,
            **{side: address, f"{side}_len": int(length)},
        )


def _family(address: str) -> int:
    return socket.AF_INET6 if ":" in address else socket.AF_INET
