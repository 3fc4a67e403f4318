"""A kernel that is a dictionary: engine.Kernel's protocol over `world`, with the side effects that matter, and faults.

Faithful where undo and clean-up could go wrong: nft transactions are atomic and take their table's elements along,
adding what is there already and deleting nft elements that are not fail, a link that goes takes everything bound to it
(also the links on top of it, and it lets its ports go), one that goes down loses its routes, neighbours and IPv6 addresses,
`isolated` and VLANs exist only for a bridge's port, a bond gives its ports its MAC and MTU, and takes only ports that are
down. What the edge does in several system calls happens here in several small steps, with room for a fault between any two.
"""

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from ipaddress import ip_address, ip_interface, ip_network

from vmnet_hooks import values
from vmnet_hooks.errors import InTheWay, KernelError
from vmnet_hooks.kernel.objects import adoption
from vmnet_hooks.model.facts import DefaultRoute, Host, Link, Listener, Server, WayTo
from vmnet_hooks.model.objects import (
    Address,
    Device,
    LinkAttribute,
    Neighbour,
    NftChain,
    NftElement,
    NftTable,
    ProxyNeighbour,
    Route,
    Rule,
    Sysctl,
    TableName,
)
from vmnet_hooks.model.objects.bridge import Adoption, PortMac, PortVlans
from vmnet_hooks.model.objects.dnsmasq import Dnsmasq
from vmnet_hooks.model.plan import Change, Plan
from vmnet_hooks.model.resource import ALIAS, MAIN_TABLE, Resource
from vmnet_hooks.model.ruleset import TABLES
from vmnet_hooks.model.world import Question, Seen, Way


class Killed(BaseException):
    """SIGKILL: from here on this kernel answers nothing, so that no undo can run."""


# Unlike what any mode wants, so that every value must be put back.
PORT_FLAGS = {"isolated": "off", "guard": "off", "hairpin": "off", "learning": "on"}
"""What only ports of bridges have, and begin with."""
_DEVICE_SYSCTLS = {
    "net/ipv4/conf/{}/forwarding": "0",
    "net/ipv4/conf/{}/proxy_arp": "0",
    "net/ipv4/conf/{}/send_redirects": "1",
    "net/ipv4/conf/{}/rp_filter": "2",
    "net/ipv4/conf/{}/arp_ignore": "0",
    "net/ipv4/neigh/{}/proxy_delay": "80",
}
_DEVICE_SYSCTLS6 = {
    "net/ipv6/conf/{}/forwarding": "0",
    "net/ipv6/conf/{}/accept_ra": "1",
    "net/ipv6/conf/{}/accept_dad": "1",
    "net/ipv6/conf/{}/addr_gen_mode": "0",
    "net/ipv6/conf/{}/disable_ipv6": "0",
    "net/ipv6/conf/{}/proxy_ndp": "0",
    "net/ipv6/neigh/{}/proxy_delay": "80",
}
_DEFAULTS = {
    "bridge": {
        "stp_state": "0",
        "forward_delay": "1500",
        "hello_time": "200",
        "max_age": "2000",
        "ageing_time": "30000",
        "priority": "32768",
        "group_fwd_mask": "0",
        "mcast_snooping": "1",
        "vlan_filtering": "0",
        "vlan_default_pvid": "1",
    },
    "bond": {"miimon": "0", "updelay": "0", "downdelay": "0", "lacp_rate": "slow", "xmit_hash_policy": "layer2"},
}
Micro = Callable[[], None]


class FakeKernel:
    """`fail_at` and `kill_at` count calls of `apply` from 0; `late` lets the step happen first. With `after`, the fault comes
    after so many of the step's small steps (`small` counts them by call). `stuck` keys can't be changed, `lost` keys are
    changed without effect, `vanish` = (call, link) takes a link away before that call. `obstacles` are reasons by port,
    `underway` ports that ifup has only begun to configure,
    `heard` taps whose guests have sent something."""

    def __init__(self, ipv6: bool = True, ra_links: tuple[str, ...] = (), rp_filter: int = 0) -> None:
        self.world: dict[str, Resource] = {}
        self.links: dict[str, Link] = {}
        self.vlans: dict[str, dict[int, bool]] = {}
        """By port (and bridge, as the host's own): VID → untagged; the PVID is in `pvids`."""
        self.pvids: dict[str, int] = {}
        self.enslaved: dict[str, tuple[str, str]] = {}
        """By port of a bond: the MAC and the MTU that it gets back."""
        self.unnamed: set[str] = set()
        """Links with no MAC of their own: a bond takes its first port's, a bridge the lowest of its ports', a VLAN device its
        parent's."""
        self.ifb = self.fdb_limit = True
        self.ipv6, self.ra_links, self.rp_filter = ipv6, ra_links, rp_filter
        self.machine = "4c4c4544"
        self.bridged = False
        """br_netfilter."""
        self.listening: set[Listener] = set()
        self.servers: dict[str, str] = {}
        """Why the servers of networks can't start."""
        self.leases: dict[str, dict[str, tuple[str, ...]]] = {}
        """What these have leased, by MAC."""
        self.obstacles: dict[str, str] = {}
        self.underway: set[str] = set()
        self.heard: set[str] = set()
        self.in_use: dict[tuple[str, str], str] = {}
        """The MACs of other machines, by (link, address)."""
        self.asked: set[tuple[str, str]] = set()
        self._last_index = 0
        self.put(Sysctl("net/ipv4/conf/all/send_redirects", "1"))
        if ipv6:
            self.put(Sysctl("net/ipv6/conf/all/forwarding", "0"))
        self.clear_faults()

    def clear_faults(self) -> None:
        self.calls = 0
        self.steps: list[Plan] = []
        self.small: list[int] = []
        self.fail_at: int | None = None
        self.kill_at: int | None = None
        self.late = False
        self.after: int | None = None
        self.stuck: set[str] = set()
        self.lost: set[str] = set()
        self.vanish: tuple[int, str] | None = None
        self.dead = False

    def copy(self) -> "FakeKernel":
        """Another kernel with the same world, and no faults."""
        other = copy.copy(self)
        for name, value in vars(self).items():
            setattr(other, name, copy.copy(value))
        other.vlans = {port: dict(vids) for port, vids in self.vlans.items()}
        other.clear_faults()
        return other

    # --- building the world ------------------------------------------------------------------------------------------

    def put(self, *resources: Resource) -> None:
        for resource in resources:
            if isinstance(resource, TableName):
                # One file has one line.
                self.world = {k: r for k, r in self.world.items() if getattr(r, "path", "") != resource.path}
            self.world[resource.key] = resource

    def add_link(
        self,
        name: str,
        kind: str = "",
        mtu: int = 1500,
        address: str = "",
        up: bool = False,
        made: Device | None = None,
        master: str = "",
        **options: str,
    ) -> Link:
        """A link of somebody else's, or the one of ours that is `made`."""
        self._last_index = index = self._last_index + 1
        if kind in ("bond", "vlan") or (kind == "bridge" and not made and not address):
            self.unnamed.add(name)
        address = address or f"02:00:00:00:00:{index % 256:02x}"
        self.links[name] = Link(index, mtu, address, kind, up=False)
        defaults = _DEFAULTS.get(kind, {})
        fixed, parent, given = (made.fixed, made.parent, dict(made.options)) if made else ((), options.pop("parent", ""), options)
        if kind == "vlan" and not made:
            fixed = (("protocol", "802.1Q"), ("id", str(given.pop("id"))))
        self.put(
            Device(name, kind, parent, fixed, tuple({**defaults, **given}.items()), alias=""),
            LinkAttribute(name, "mtu", str(mtu)),
            LinkAttribute(name, "group", "0"),
            LinkAttribute(name, "address", address),
            LinkAttribute(name, "master", ""),
            LinkAttribute(name, "lladdr", ""),
            LinkAttribute(name, "tx", "on"),
            LinkAttribute(name, "promisc", "off"),
            LinkAttribute(name, "state", "down"),
        )
        if kind == "bond":
            self.put(LinkAttribute(name, "primary", ""))
        if kind == "bridge":
            self.put(LinkAttribute(name, "no_linklocal_learn", "0"), LinkAttribute(name, "fdb_max_learned", "0"))
            self._default_vlan(name, name)
        for path, value in {**_DEVICE_SYSCTLS, **(_DEVICE_SYSCTLS6 if self.ipv6 else {})}.items():
            self.put(Sysctl(path.format(name), value))
        if up:
            self._set_link(LinkAttribute(name, "state", "up"))
        if master:
            self._set_link(LinkAttribute(name, "master", master))
        return self.links[name]

    def remove_link(self, name: str) -> None:
        if self.links.pop(name, None) is None:
            return
        for other in [r.ifname for r in self.world.values() if isinstance(r, Device) and r.parent == name]:
            self.remove_link(other)
        for port in self.ports(name):
            self._leave(port, name)
        for key, resource in list(self.world.items()):
            if _device(resource) == name:
                del self.world[key]
            elif isinstance(resource, NftTable) and f'device "{name}"' in resource.body:
                # The chains go with their device, the table stays.
                self.put(replace(resource, rules=()))
        self.unnamed.discard(name)
        for table in (self.vlans, self.pvids, self.enslaved):
            table.pop(name, None)

    def snapshot(self) -> dict[str, object]:
        # The protocol number of a route or rule counts too, though == leaves a rule's out.
        world: dict[str, object] = {key: (resource, getattr(resource, "proto", None)) for key, resource in self.world.items()}
        world |= {f"vlans {name}": (dict(vids), self.pvids.get(name)) for name, vids in self.vlans.items() if vids}
        return world

    # --- engine.Kernel -----------------------------------------------------------------------------------------------

    def close(self) -> None:
        pass

    def link(self, ifname: str) -> Link | None:
        self._alive()
        if ifname not in self.links:
            return None
        made = self._made(ifname)
        return replace(
            self.links[ifname],
            name=self.links[ifname].name or ifname,
            master=self.master(ifname),
            ours=made.alias == ALIAS,
            vlan_filtering=dict(made.options).get("vlan_filtering") == "1",
        )

    def name_of(self, index: int) -> str:
        self._alive()
        return next((name for name, link in self.links.items() if link.index == index), "")

    def has_sent(self, ifname: str, surely: bool = True) -> bool:
        return ifname in self.heard

    def ports(self, ifname: str) -> list[str]:
        return sorted(name for name in self.links if self.master(name) == ifname)

    def below(self, ifname: str) -> set[str]:
        parent = self._made(ifname).parent if ifname in self.links else ""
        lower = {*self.ports(ifname), *([parent] if parent else [])}
        return lower.union(*map(self.below, lower))

    def default_routes(self) -> list[DefaultRoute]:
        there = (*self.world.values(), *self._learned())
        routes = [r for r in there if isinstance(r, Route) and r.table == MAIN_TABLE and r.dst.endswith("/0")]
        return [DefaultRoute(r.dev, r.via, r.family) for r in routes]

    def _learned(self) -> list[Route]:
        """The default routes from router advertisements."""
        return [Route(MAIN_TABLE, "::/0", name, "fe80::1", 9) for name in self.ra_links]

    def master(self, ifname: str) -> str:
        return self._value(f"link {ifname} master")

    def host(self, links: Iterable[str], ports: Iterable[str] = ()) -> Host:
        self._alive()
        found = {name: link for name in dict.fromkeys(links) if name and (link := self.link(name))}
        addresses = {name: tuple(self._addresses(name)) for name in ports if name in found}
        vlans = {
            (r.parent, int(dict(r.fixed)["id"])): r.ifname
            for r in self.world.values()
            if isinstance(r, Device) and r.type == "vlan"
        }
        return Host(
            found,
            self.ipv6,
            self.ra_links,
            self.rp_filter,
            self._gate(),
            addresses,
            vlans,
            machine=self.machine,
            ifb=self.ifb,
            fdb_limit=self.fdb_limit,
        )

    def _addresses(self, ifname: str) -> list[str]:
        """In the kernel's order: IPv4 first; without link-local ones."""
        there = [r for r in self.world.values() if isinstance(r, Address) and r.ifname == ifname]
        found = [r.address for r in there if not r.address.startswith("fe80:")]
        return sorted(found, key=lambda address: ":" in address)

    def unusable(
        self, destinations: Sequence[str], links: Iterable[str], tap: str, asked: Mapping[tuple[str, str], bool]
    ) -> tuple[str, Route | str] | None:
        self._alive()
        own = {r.address.partition("/")[0] for r in self.world.values() if isinstance(r, Address)}
        if kept := [dst for dst in destinations if values.single(dst) in own]:
            return kept[0], "local"
        routes = [r for r in self.world.values() if isinstance(r, Route) and r.via and r.dev != tap]
        pairs = [(dst, route) for route in routes for dst in destinations if ip_address(route.via) in ip_network(dst)]
        return pairs[0] if pairs else None

    def next_hops(self, links: Iterable[str]) -> list[Route]:
        self._alive()
        return [r for r in self.world.values() if isinstance(r, Route) and r.via]

    def ask(self, pairs: Sequence[tuple[str, str]]) -> dict[tuple[str, str], bool]:
        self._alive()
        self.asked |= set(pairs)
        return dict.fromkeys(pairs, False)

    def answers(self, pairs: Iterable[tuple[str, str]]) -> list[tuple[str, str, str]]:
        self._alive()
        return [(*pair, self.in_use[pair]) for pair in pairs if pair in self.in_use and pair in self.asked]

    def forget(self, pairs: Iterable[tuple[str, str]]) -> None:
        self._alive()
        self.asked -= set(pairs)

    def survey(self, port: str, bridge: str) -> Adoption:
        self._alive()
        items = [r for r in self.world.values() if _device(r) == port]
        routes = [r for r in items if isinstance(r, Route) and r.proto != 2]
        sysctls = []
        for path, default in {**_DEVICE_SYSCTLS, **_DEVICE_SYSCTLS6}.items():
            value = self._value(f"sysctl {path.format(port)}")
            if not path.endswith(("/disable_ipv6", "/addr_gen_mode")) and value not in ("", default):
                sysctls.append(f"{path.replace('{}', '{dev}')}={value}")
        return Adoption(
            port,
            bridge,
            tuple(_address_words(Address(port, address)) for address in self._addresses(port)),
            tuple(_route_words(r) for r in sorted(routes, key=_dump_order)),
            tuple(f"{r.address} lladdr {r.lladdr} nud permanent" for r in items if isinstance(r, Neighbour)),
            tuple(sysctls),
            self._value(f"sysctl net/ipv6/conf/{port}/disable_ipv6") == "0",
        )

    def is_underway(self, port: str) -> bool:
        return port in self.underway

    def obstacle(self, port: str, bridge: str) -> str:
        self._alive()
        return self.obstacles.get(port, "")

    def lladdrs(self, ifname: str) -> tuple[str, ...] | None:
        self._alive()
        if self._value(f"sysctl net/ipv6/conf/{ifname}/addr_gen_mode") != "1":
            return None
        return tuple(r.address for r in self.world.values() if isinstance(r, Address) and _is_link_local(r, ifname))

    def holders(self, addresses: Iterable[str]) -> dict[str, str]:
        self._alive()
        held = {values.bare(r.address): r.ifname for r in reversed(self.world.values()) if isinstance(r, Address)}
        return {address: held[address] for address in addresses if address in held}

    def listeners(self) -> frozenset[Listener]:
        self._alive()
        return frozenset(self.listening)

    def ways_to(self, subnet: values.Subnet, link: str) -> list[WayTo]:
        routes = [r for r in self.world.values() if isinstance(r, Route) and r.table == MAIN_TABLE and r.dev != link]
        there = [(ip_network(route.dst), route) for route in routes]
        return [
            WayTo(str(net), route.dev)
            for net, route in there
            if net.prefixlen and values.overlap(net, subnet) and (net.prefixlen >= subnet.prefixlen or route.proto == 2)
        ]

    def server(self, name: str, addresses: Sequence[str]) -> Server:
        self._alive()
        return Server(False, self.servers.get(name, ""))

    def leased(self, network: str) -> dict[str, tuple[str, ...]]:
        self._alive()
        return self.leases.get(network, {})

    def granted(self) -> list[NftElement]:
        self._alive()
        return []

    def filters_bridges(self) -> bool:
        return self.bridged

    def seen(self) -> dict[str, Seen]:
        self._alive()
        found = {"all": Seen()}
        for name, link in self.links.items():
            own = bool(self._value(f"link {name} lladdr")) or any(_is_link_local(r, name) for r in self.world.values())
            settings = {"arp_ignore": int(self._value(f"sysctl net/ipv4/conf/{name}/arp_ignore"))}
            found[name] = Seen(
                link.kind, link.address, link.up, True, self.master(name), tuple(self._addresses(name)), own, settings
            )
        return found

    def ways(self, questions: Sequence[Question]) -> list[Way]:
        """By the rules that select by one subnet, then the main table; of each table the longest prefix."""
        self._alive()
        return [self._way(question) for question in questions]

    def _way(self, question: Question) -> Way:
        address, source = (ip_address(text) if text else None for text in (question.address, question.source))
        rules = [r for r in self.world.values() if isinstance(r, Rule) and not r.mark]
        own = [r for r in self.world.values() if isinstance(r, Address) and " " not in r.address]
        connected = [Route(MAIN_TABLE, str(ip_interface(r.address).network), r.ifname, proto=2) for r in own]
        routes = [
            r
            for r in (*self.world.values(), *connected, *self._learned())
            if isinstance(r, Route) and address in ip_network(r.dst)
        ]
        for rule in (*sorted(rules, key=lambda rule: rule.priority), Rule(32766, "to", "0.0.0.0/0", MAIN_TABLE)):
            at = source if rule.selector == "from" else address
            if rule.priority == 32766 or (at and at in ip_network(rule.subnet)):
                if not rule.table:
                    break
                found = [route for route in routes if route.table == rule.table]
                if found:
                    best = min(found, key=lambda route: (-ip_network(route.dst).prefixlen, route.metric))
                    return Way("unicast", best.dev, best.table, best.dst)
        return Way("", reason="Network is unreachable")

    def policy(self, version: int, table: int) -> list[int]:
        self._alive()
        rules = [r for r in self.world.values() if isinstance(r, Rule) and r.table == table and not r.mark]
        return sorted(rule.priority for rule in rules if (":" in rule.subnet) == (version == 6))

    def hazards(self, bridged: bool, anycast: bool, permanent: tuple[int, int], routed: object, ports: object) -> list[str]:
        return []

    def read(self, wanted: Iterable[Resource]) -> dict[str, Resource]:
        self._alive()
        return {resource.key: have for resource in wanted if (have := self._read(resource)) is not None}

    def _read(self, want: Resource) -> Resource | None:
        have = self.world.get(want.key)
        match want:
            case Device():
                return _seen(want, have) if isinstance(have, Device) else None
            case PortVlans():
                vids = self.vlans.get(want.ifname, {})
                untagged = [vid for vid, is_untagged in vids.items() if is_untagged or self.pvids.get(want.ifname) == vid]
                tagged = values.ranges(vid for vid in vids if vid not in untagged)
                return PortVlans(want.ifname, max(untagged, default=0), tagged, want.own) if vids else None
            case Adoption():
                return self._read_adoption(want)
        return have

    def _read_adoption(self, want: Adoption) -> Adoption | None:
        master = self.master(want.ifname)
        there = self.survey(want.bridge, want.bridge) if want.bridge in self.links else Adoption("", "")

        def found(wanted: tuple[str, ...], present: tuple[str, ...]) -> tuple[str, ...]:
            have = {adoption._identity(item) for item in present}
            return tuple(item for item in wanted if adoption._identity(item) in have)

        have = replace(
            want,
            addresses=found(want.addresses, there.addresses),
            routes=found(want.routes, there.routes),
            neighbours=found(want.neighbours, there.neighbours),
            master=master,
        )
        return have if (master == want.joins and not want.bond) or have.addresses or have.routes or have.neighbours else None

    def ours(self) -> dict[str, Resource]:
        self._alive()
        marked = [resource for resource in self.world.values() if resource.ours]
        return {resource.key: shown for resource in marked if (shown := _shown(resource)) is not None}

    def finish(self) -> None:
        self._alive()

    @contextmanager
    def reserve(self) -> Iterator[Callable[[], None]]:
        yield lambda: None

    def apply(self, step: Plan) -> None:
        self._alive()
        call, self.calls = self.calls, self.calls + 1
        self.steps.append(list(step))
        if self.vanish and self.vanish[0] == call:
            self.remove_link(self.vanish[1])
        limit = None
        if call in (self.kill_at, self.fail_at):
            limit = self.after if self.after is not None else None if self.late else 0
        if limit == 0:
            self._fault(call, step)
        for change in step:
            if change.subject.key in self.stuck:
                raise KernelError(f"{label(step)}: stuck")
        done = 0
        try:
            for micro in self._micro(step):
                micro()
                done += 1
                if done == limit:
                    break
        except KernelError:
            if limit is None:
                raise
        self.small.append(done)
        self._fault(call, step)

    def _fault(self, call: int, step: Plan) -> None:
        if call == self.kill_at:
            self.dead = True
            raise Killed
        if call == self.fail_at:
            raise KernelError(f"{label(step)}: injected")

    def _alive(self) -> None:
        if self.dead:
            raise Killed

    def _micro(self, step: Plan) -> Iterator[Micro]:
        """The step as small steps, each of which happens or does not."""
        first = step[0]
        if any(isinstance(change.subject, NftElement | NftTable) for change in step):
            yield lambda: self._transaction(step)
            return
        assert len(step) == 1, "only nft changes share a step"
        if isinstance(first.subject, Device | Adoption | PortVlans) and first.subject.key in self.lost:
            return
        match first.subject:
            case Device():
                yield from self._change_device(first)
            case Adoption():
                yield from self._move(first)
            case PortVlans():
                yield from self._change_vlans(first)
            case Dnsmasq() if first.subject.key not in self.lost:
                yield from self._change_server(first)
            case LinkAttribute(name="master") if first.want and first.want.key not in self.lost:
                yield from self._change_master(first)
            case _:
                yield lambda: self._one(step)

    # --- nft ---------------------------------------------------------------------------------------------------------

    def _transaction(self, step: Plan) -> None:
        saved = dict(self.world)
        try:
            for change in step:
                self._nft(change, step)
        except KernelError:
            self.world = saved
            raise

    def _nft(self, change: Change, step: Plan) -> None:
        subject, want, have = change.subject, change.want, change.have
        if subject.key in self.lost:
            return
        if isinstance(subject, NftTable):
            if want is None and subject.key not in self.world:
                raise KernelError(f"{label(step)}: no such table")
            for key, resource in list(self.world.items()):
                if isinstance(resource, NftElement) and resource.table == subject.key:
                    del self.world[key]
            self.world.pop(subject.key, None)
            if isinstance(want, NftTable):
                for line in want.body.splitlines():
                    _, found, rest = line.partition('device "')
                    if found and rest.partition('"')[0] not in self.links:
                        raise KernelError(f"{label(step)}: No such file or directory")
                self.put(want)
            return
        assert isinstance(subject, NftElement)
        if subject.table not in self.world:
            raise KernelError(f"{label(step)}: no such table")
        if have is not None:
            if subject.key not in self.world:
                raise KernelError(f"{label(step)}: no such element {subject.key}")
            del self.world[subject.key]
        if want is not None:
            if self.world.get(subject.key, want) != want:
                raise KernelError(f"{label(step)}: element exists with another value {subject.key}")
            self.put(want)

    # --- links that we make ------------------------------------------------------------------------------------------

    def _made(self, ifname: str) -> Device:
        made = self.world[f"device {ifname}"]
        assert isinstance(made, Device)
        return made

    def _change_device(self, change: Change) -> Iterator[Micro]:
        want, have = change.want, change.have
        if want is None:
            yield lambda: self._delete(change)
            return
        assert isinstance(want, Device)
        if have is None:
            yield lambda: self._create(want)
            yield lambda: self.put(replace(self._made(want.ifname), alias=want.alias))
            return
        assert isinstance(have, Device)
        changed = dict(option for option in want.options if option not in have.options)
        if changed.get("stp_state") == "0":
            yield lambda: self._set_options(want.ifname, {"stp_state": changed["stp_state"]})
        yield lambda: self._set_options(want.ifname, changed)

    def _set_options(self, ifname: str, changed: dict[str, str]) -> None:
        if ifname not in self.links:
            raise KernelError(f"{ifname} does not exist (any more)")
        made = self._made(ifname)
        options = {**dict(made.options), **changed}
        if options.get("stp_state") == "1" and int(options["forward_delay"]) < 200:
            raise KernelError("Numerical result out of range")
        self.put(replace(made, options=tuple(options.items())))

    def _create(self, want: Device) -> None:
        if want.ifname in self.links:
            raise InTheWay(f"ip link add {want.ifname}: File exists")
        if want.parent and want.parent not in self.links:
            raise KernelError(f"{want.parent} does not exist (any more)")
        for other in self.world.values():
            if want.type == "vlan" and isinstance(other, Device) and (other.parent, other.fixed) == (want.parent, want.fixed):
                raise InTheWay(f"ip link add {want.ifname}: File exists")
        below = self.links.get(want.parent)
        inherited = below.address if below and want.type == "vlan" else ""
        self.add_link(want.ifname, want.type, below.mtu if below else 1500, inherited, made=want)

    def _delete(self, change: Change) -> None:
        device = change.subject
        assert isinstance(device, Device)
        if device.type == "bridge" and (left := self.ports(device.ifname)):
            raise KernelError(f"{device.ifname} still has ports: {', '.join(left)}; stop those guests first")
        self.remove_link(device.ifname)

    # --- ports -------------------------------------------------------------------------------------------------------

    def _change_master(self, change: Change) -> Iterator[Micro]:
        want = change.want
        assert isinstance(want, LinkAttribute)
        name = want.ifname
        for link in filter(None, (name, want.value)):
            if link not in self.links:
                raise KernelError(f"{label([change])}: {link} does not exist (any more)")
        kinds = {self.links[link].kind for link in (self.master(name), want.value) if link in self.links}
        is_up = self._value(f"link {name} state") == "up"
        if "bond" in kinds and want.value:
            yield lambda: self._set_link(LinkAttribute(name, "state", "down"))
        # In one message: a bond that lets a port go takes it down.
        wants = [want, LinkAttribute(name, "state", "up")] if "bond" in kinds and is_up else [want]
        yield lambda: [self._set_link(each) for each in wants] and None

    def _join(self, port: str, master: str) -> None:
        if self.links[master].kind == "bond":
            if self._value(f"link {port} state") == "up":
                raise KernelError(f"ip link set dev {port} master {master}: Operation not permitted")
            if master in self.unnamed and not self.ports(master):
                self._set_link(LinkAttribute(master, "address", self._value(f"link {port} address")))
            self.enslaved[port] = self._value(f"link {port} address"), self._value(f"link {port} mtu")
            self._set_link(LinkAttribute(port, "address", self._value(f"link {master} address")))
            self._set_link(LinkAttribute(port, "mtu", self._value(f"link {master} mtu")))
            self._set_link(LinkAttribute(port, "state", "up"))
        else:
            for flag, value in PORT_FLAGS.items():
                self.world.setdefault(f"link {port} {flag}", LinkAttribute(port, flag, value))
            self._default_vlan(port, master)

    def _name_bridge(self, name: str) -> None:
        """A bridge with no MAC of its own takes the lowest of its ports'; without ports it has none."""
        if name in self.unnamed and self.links[name].kind == "bridge":
            ports = [self.links[port].address for port in self.ports(name)]
            self._set_link(LinkAttribute(name, "address", min(ports, default="00:00:00:00:00:00")))
            self.unnamed.add(name)

    def _default_vlan(self, port: str, bridge: str) -> None:
        pvid = int(dict(self._made(bridge).options).get("vlan_default_pvid", "0"))
        self.vlans[port] = {pvid: True} if pvid else {}
        self.pvids[port] = pvid

    def _leave(self, port: str, master: str) -> None:
        self.put(LinkAttribute(port, "master", ""))
        for flag in PORT_FLAGS:
            self.world.pop(f"link {port} {flag}", None)
        self.world = {key: r for key, r in self.world.items() if not (isinstance(r, PortMac) and r.ifname == port)}
        self.vlans.pop(port, None)
        self.pvids.pop(port, None)
        if port in self.enslaved:
            # The kernel closes it before it gets its own MAC back.
            self._set_link(LinkAttribute(port, "state", "down"))
            address, mtu = self.enslaved.pop(port)
            self._set_link(LinkAttribute(port, "address", address))
            self._set_link(LinkAttribute(port, "mtu", mtu))

    def _change_vlans(self, change: Change) -> Iterator[Micro]:
        subject, have = change.subject, change.have
        assert isinstance(subject, PortVlans) and (have is None or isinstance(have, PortVlans))
        if change.want is None and subject.ifname not in self.links:
            return
        target = change.want or PortVlans(subject.ifname, 0, "", subject.own)
        assert isinstance(target, PortVlans)
        # As they are now, like the real one: the port may have joined, and got the default PVID, since the plan was made.
        have = self._read(target) if target.ifname in self.links else None
        for verb, text, untagged in target.commands(have):
            for vid in values.numbers(text) if verb == "add" else ():
                yield lambda vid=vid, untagged=untagged: self._add_vlan(subject, vid, untagged)  # type: ignore[misc]
            if verb == "del":
                yield lambda text=text: self._delete_vlans(subject, text)  # type: ignore[misc]

    def _add_vlan(self, subject: PortVlans, vid: int, untagged: bool) -> None:
        name = subject.ifname
        bridge = name if subject.own else self.master(name) if name in self.links else ""
        if bridge not in self.links or self.links[bridge].kind != "bridge":
            raise KernelError(f"bridge vlan add dev {name} vid {vid}: Operation not supported")
        self.vlans.setdefault(name, {})[vid] = untagged
        if untagged:
            self.pvids[name] = vid

    def _delete_vlans(self, subject: PortVlans, text: str) -> None:
        for vid in values.numbers(text):
            self.vlans.get(subject.ifname, {}).pop(vid, None)
            if self.pvids.get(subject.ifname) == vid:
                self.pvids[subject.ifname] = 0

    # --- adoption ----------------------------------------------------------------------------------------------------

    def _move(self, change: Change) -> Iterator[Micro]:
        item, to_bridge = change.subject, change.want is not None
        assert isinstance(item, Adoption)
        for path, value in item.sysctl_writes(to_bridge):
            yield lambda path=path, value=value: self._write(path, value)  # type: ignore[misc]
        must, may = item.commands(to_bridge)
        for line in must:
            yield lambda line=line: self._ip(line)  # type: ignore[misc]
        for line in may:
            yield lambda line=line: self._ip(line, force=True)  # type: ignore[misc]
        if to_bridge and item.ipv6:
            yield lambda: self._write(f"net/ipv6/conf/{item.ifname}/disable_ipv6", "1")

    def _write(self, path: str, value: str) -> None:
        if f"sysctl {path}" in self.world:
            self._one([Change(self.world[f"sysctl {path}"], Sysctl(path, value))])

    def _ip(self, line: str, force: bool = False) -> None:
        """One line of `ip -batch`, as Adoption writes them."""
        subject, verb, *words = line.split()
        option = dict(zip(words, words[1:], strict=False))
        dev = option["dev"]
        if dev not in self.links:
            if force:
                return
            raise KernelError(f'ip {line}: Cannot find device "{dev}"')
        match subject, verb:
            case "link", "set":
                if words[-1] in ("up", "down"):
                    self._set_link(LinkAttribute(dev, "state", words[-1]))
                else:
                    self._set_link(LinkAttribute(dev, "master", option.get("master", "")))
            case "addr", "replace":
                self._may_have(dev, words[0], line)
                self.put(Address(dev, words[0]))
            case "addr", "del":
                self.world.pop(Address(dev, words[0]).key, None)
            case "neigh", "replace":
                self.put(Neighbour(dev, words[0], option["lladdr"]))
            case "neigh", "del":
                self.world.pop(f"neigh {dev} {words[0]}", None)
            case "route", "replace":
                self._may_have(dev, words[0], line)
                via = option.get("via", "")
                mine = [r.address for r in self.world.values() if isinstance(r, Address) and r.ifname == dev]
                if via and "onlink" not in words and not any(ip_address(via) in ip_interface(a).network for a in mine):
                    raise KernelError(f"ip {line}: Nexthop has invalid gateway")
                metric = Route.declared_metric(int(option.get("metric", "0")), ":" in words[0])
                more = (option.get("src", ""), metric)
                table, proto = int(option.get("table", "254")), int(option.get("proto", "3"))
                self.put(Route(table, words[0], dev, via, proto, *more))
            case _:
                raise AssertionError(line)

    def _may_have(self, dev: str, what: str, line: str) -> None:
        if ":" in what and self._value(f"sysctl net/ipv6/conf/{dev}/disable_ipv6") != "0":
            raise KernelError(f"ip {line}: Permission denied")

    # --- servers -----------------------------------------------------------------------------------------------------

    def _change_server(self, change: Change) -> Iterator[Micro]:
        want, there = change.want, self.world.get(change.subject.key)
        assert isinstance(change.subject, Dnsmasq) and isinstance(there, Dnsmasq | None)
        if want is None:
            if there:
                yield lambda: self.put(replace(there, runs=False))
                yield lambda: self.world.pop(there.key, None) and None
            return
        assert isinstance(want, Dnsmasq)
        yield lambda: self.put(replace(want, runs=bool(there and there.runs), conf=there.conf if there else ""))
        yield lambda: self.put(replace(want, runs=bool(there and there.runs)))
        yield lambda: self.put(want)

    # --- everything else ---------------------------------------------------------------------------------------------

    def _value(self, key: str) -> str:
        return getattr(self.world.get(key), "value", "")

    def _gate(self) -> bool:
        return self._value("sysctl net/ipv6/conf/all/forwarding") == "1"

    def _one(self, step: Plan) -> None:
        change = step[0]
        subject, want = change.subject, change.want
        dev = _device(subject)
        if want is None:
            if dev is None or dev in self.links:
                if isinstance(subject, LinkAttribute):
                    if subject.name in PORT_FLAGS and subject.key in self.world and subject.key not in self.lost:
                        self.put(replace(subject, value=PORT_FLAGS[subject.name]))
                    elif subject.name == "fdb_max_learned" and subject.key not in self.lost:
                        self.put(replace(subject, value="0"))
                    elif subject.name == "master" and subject.key not in self.lost:
                        self._set_link(LinkAttribute(subject.ifname, "master", ""))
                elif isinstance(subject, Sysctl):
                    pass
                elif subject.key not in self.lost:
                    self.world.pop(subject.key, None)
            return
        if dev is not None and dev not in self.links and not dev.startswith("all"):
            raise KernelError(f"{label(step)}: {dev} does not exist (any more)")
        if isinstance(want, Sysctl) and want.key not in self.world:
            raise KernelError(f"{label(step)}: No such file or directory")
        if isinstance(want, Route) and change.have is None and want.key in self.world:
            raise KernelError(f"{label(step)}: File exists")
        if isinstance(want, Rule | Address) and want.key in self.world:
            raise KernelError(f"{label(step)}: File exists")
        if isinstance(want, Route) and self.world[f"link {want.dev} state"].value == "down":
            raise KernelError(f"{label(step)}: Network is down")
        if isinstance(want, Address | Route):
            self._may_have(dev, getattr(want, "address", getattr(want, "dst", "")), label(step))
        if isinstance(want, LinkAttribute) and want.name in (*PORT_FLAGS, "primary") and want.key not in self.world:
            raise KernelError(f"{label(step)}: Operation not supported")
        if isinstance(want, PortMac) and not self.master(want.ifname):
            raise KernelError(f"{label(step)}: Operation not supported")
        if want.key in self.lost:
            return
        if isinstance(want, LinkAttribute):
            self._set_link(want)
            return
        self.put(want)
        if isinstance(want, Sysctl) and want.path == f"net/ipv6/conf/{dev}/disable_ipv6":
            self._ipv6_switched(dev, off=want.value == "1")

    def _set_link(self, want: LinkAttribute) -> None:
        name, link = want.ifname, self.links[want.ifname]
        was = self._value(want.key)
        below = self._made(name).parent
        if want.name == "state" and want.value == "up" and below and self._value(f"link {below} state") == "down":
            raise KernelError(f"{want.set_command(None)}: Network is down")
        if want.name == "mtu" and self.links.get(below) and int(want.value) > self.links[below].mtu:
            raise KernelError(f"{want.set_command(None)}: Numerical result out of range")
        if want.name == "master" and want.value != was and was:
            self._leave(name, was)
        if want.name == "master" and want.value and want.value != was:
            self._join(name, want.value)
        self.put(LinkAttribute(name, want.name, want.value))
        match want.name:
            case "master":
                for bridge in filter(None, (was, want.value)):
                    self._name_bridge(bridge)
                    self._make_link_local(bridge)
            case "mtu":
                self.links[name] = replace(link, mtu=int(want.value))
            case "address":
                self.unnamed.discard(name)
                self.links[name] = replace(link, address=want.value)
                if master := self.master(name):
                    self._name_bridge(master)
                for other in [r.ifname for r in self.world.values() if isinstance(r, Device) and r.parent == name]:
                    if other in self.unnamed:
                        self._set_link(LinkAttribute(other, "address", want.value))
                        self.unnamed.add(other)
            case "state":
                self.links[name] = replace(link, up=want.value == "up")
                if want.value == "down":
                    self._down(name)
                elif was in ("", "down"):
                    self._make_link_local(name)
                    if master := self.master(name):
                        self._make_link_local(master)
        if want.name in ("mtu", "address") and link.kind == "bond":
            for port in self.ports(name):
                self._set_link(LinkAttribute(port, want.name, want.value))

    def _down(self, dev: str) -> None:
        for key, resource in list(self.world.items()):
            gone = isinstance(resource, Route | Neighbour | ProxyNeighbour)
            gone = gone or (isinstance(resource, Address) and ":" in resource.address)
            if gone and _device(resource) == dev:
                del self.world[key]
        self.put(LinkAttribute(dev, "lladdr", ""))

    def _make_link_local(self, dev: str) -> None:
        disabled = self.world.get(f"sysctl net/ipv6/conf/{dev}/disable_ipv6")
        mode = self.world.get(f"sysctl net/ipv6/conf/{dev}/addr_gen_mode")
        up = self.world[f"link {dev} state"].value == "up"
        have = self.world[f"link {dev} lladdr"]
        if not up or not disabled or disabled.value != "0" or mode.value != "0" or have.value:
            return
        if self.links[dev].kind == "bridge" and not any(self._value(f"link {port} state") == "up" for port in self.ports(dev)):
            # It has no carrier.
            return
        made = values.eui64(values.LINK_LOCAL, self.links[dev].address)
        self.put(LinkAttribute(dev, "lladdr", f"{made}/64"))

    def _ipv6_switched(self, dev: str, off: bool) -> None:
        if not off:
            self._make_link_local(dev)
            return
        for key, resource in list(self.world.items()):
            six = isinstance(resource, Route) and resource.family == 6
            six = six or isinstance(resource, ProxyNeighbour)
            six = six or (isinstance(resource, Address | Neighbour) and ":" in resource.address)
            if six and _device(resource) == dev:
                del self.world[key]
        self.put(LinkAttribute(dev, "lladdr", ""))


def _is_link_local(resource: Resource, dev: str) -> bool:
    return isinstance(resource, Address) and resource.ifname == dev and resource.address.startswith("fe80:")


def label(step: Plan) -> str:
    """The step as kernel.Kernel.apply names it."""
    if len(step) == 1:
        return str(step[0]).splitlines()[0]
    return f"nft transaction of {len(step)} changes on {step[0].subject.key}"


def _seen(want: Device, have: Device) -> Device:
    """A link as the edge reads it: with the settings that `want` names, if it is of that kind at all."""

    def named(pairs: tuple[tuple[str, str], ...], there: dict[str, str]) -> tuple[tuple[str, str], ...]:
        return tuple((word, there[word]) for word, _ in pairs if word in there) if have.type == want.type else ()

    parent = have.parent if want.parent else ""
    fixed, options = named(want.fixed, dict(have.fixed)), named(want.options, dict(have.options))
    return Device(have.ifname, have.type, parent, fixed, options, have.alias, want.level)


def _address_words(address: Address) -> str:
    """An address as iproute2 shows it."""
    broadcast = f" broadcast {address.broadcast}" if address.broadcast else ""
    return f"{address.address}{broadcast} scope 0" + (" nodad" if ":" in address.address else "")


def _dump_order(route: Route) -> tuple:
    """The order in which adoption.routes has them: those without a gateway first, then as the kernel walks its tables."""
    return route.family, bool(route.via), route.table, ip_interface(route.dst)


def _route_words(route: Route) -> str:
    """A route as iproute2 shows it: it leaves out the main table, and the protocol that it has from iproute2."""
    is_ipv6 = route.family == 6
    words = [
        route.dst,
        f"via {route.via}" if route.via else "",
        "dev {dev}",
        f"table {route.table}" if route.table != MAIN_TABLE else "",
        f"proto {route.proto}" if route.proto != 3 else "",
        "scope 253" if not route.via and not is_ipv6 else "",
        f"src {route.src}" if route.src else "",
        f"metric {route.priority}" if route.priority else "",
        "onlink" if route.via else "",
        "pref medium" if is_ipv6 else "",
    ]
    return " ".join(filter(None, words))


def _shown(resource: Resource) -> Resource | None:
    """What the edge finds of a resource of ours without records: by its mark alone."""
    match resource:
        case Device():
            return Device(resource.ifname, resource.type)
        case NftTable():
            # The others are known by name.
            return None if resource.key in {table.key for table in TABLES} else NftTable(resource.family, "", (), resource.name)
    return resource


def _device(resource: Resource) -> str | None:
    """The link that a resource dies with."""
    # The chains of a table go with their link, the table does not; that of a guest's port stays, since Linux 6.16.
    return None if isinstance(resource, NftTable | NftChain) else resource.link or None
