"""Makes a graph of facts, records and declaration. Pure."""

import re
from collections.abc import Iterable, Sequence
from itertools import product

from ..engine.drift import Drift
from ..errors import one_line
from ..model.declaration import Config, Declared, Network
from ..model.objects import Device
from ..model.owner import Nic, Owner, nics
from ..model.resource import Resource
from ..model.ruleset import NAT
from ..model.topology import Facts, LinkDetails, Nat, Table, table_name
from ..networks.wire import sides
from .labels import cleaned, destination, guest_words, home, inside, link_words, natural, short, to_guest
from .model import MISSING, NBSP, NOT_UP, WAITING, Edge, Graph, Node

DRAWN_AS = {"": "nic", "tun": "tap", "vif": "tap", "macvtap": "tap", "ipvlan": "macvlan"}
"""The kind of a link's node by IFLA_INFO_KIND, where the two differ."""
BEHIND = re.compile(r"(vif\d+\.|vnet\d|tap|veth)")
"""Names that hypervisors and container engines give to the host's end of a guest's link."""


def build(facts: Facts, owners: Sequence[Owner], declared: Config, differences: Sequence[Drift] = ()) -> Graph:
    """Return the graph of a host. `owners` (the records) and `declared` determine which links are guests' or declared, and so
    where and how a link is drawn. `differences` are those of `vmnet-hook check`; the nodes that they concern are marked."""
    return _Builder(facts, owners, declared, differences).graph()


class _Builder:
    def __init__(self, facts: Facts, owners: Sequence[Owner], declared: Config, differences: Sequence[Drift]) -> None:
        self.facts = facts
        links = sorted(facts.links, key=lambda link: natural(link.name))
        self.links = {link.name: link for link in links if link.name != "lo"}
        self.guests = {nic.ifname: nic for nic in nics(owners)}
        self.declared = declared
        self.routed = {n.mode.table_of(n): n for n in declared.networks.values() if n.mode.table_of(n)}
        self.absent = {link.name: link for link in facts.absent if link.name not in self.links}
        self.named = self._declared_names()
        self.wires = self.named | {link.parent for link in facts.links}
        self.joined = dict(self._joined())
        """The wires with an end that is there: the nodes at each end, and whether they wait for a guest."""
        self.differences = differences
        parts = ((difference, declared.part(difference.owner_id)) for difference in differences if difference.is_of_part)
        self.down = {part.node(): part for _, part in parts if part and part.node() not in self.links}
        """The declared parts that are not up, by node."""
        self.marked = {name for difference in differences for name in self._concerned(difference)}

    # --- nodes -----------------------------------------------------------------------------------------------------

    def graph(self) -> Graph:
        tables = [table for table in self.facts.tables if table.rules or table.routes]
        absent = sorted(self.marked - self.links.keys() - self.guests.keys())
        found = [
            *map(self._link, self.links.values()),
            *(self._ghost(owner) for owner in self.guests.values() if owner.ifname not in self.links),
            *(node for name in absent if (node := self._missing(name))),
            *(
                Node(name, "guest", (f"wire{NBSP}{short(wire)}", WAITING), WAITING)
                for wire, ends in self.joined.items()
                for nodes, waits in ends
                for name in nodes
                if waits
            ),
            *map(self._not_up, self.down.values()),
            *(self._table(table) for table in tables),
            *(self._nat(nat) for nat in self.facts.nats),
        ]
        nodes = list({node.name: node for node in found}.values())
        names = {node.name for node in nodes}
        edges = dict.fromkeys(e for e in self._edges(tables) if e.source in names and e.target in names and e.source != e.target)
        graph = Graph(tuple(nodes), tuple(edges))
        alone = {group[0].name for group in graph.components() if len(group) == 1 and not self._matters(group[0])}
        return Graph(
            tuple(node for node in nodes if node.name not in alone),
            tuple(edges),
            tuple(self._aside(self.links[node.name]) for node in nodes if node.name in alone),
            tuple(one_line(f"{d.owner}: {d.what}" if d.owner else d.what) for d in self._told()),
        )

    def _declared_names(self) -> set[str]:
        """Return the links that the declaration puts on the side of the wire."""
        declared = (*self.declared.parts.values(), *self.declared.networks.values())
        return {name for part in declared for name in (*part.links(), *part.stands_on())}

    def _joined(self) -> Iterable[tuple[str, list[tuple[list[str], bool]]]]:
        for name, network in self.declared.networks.items():
            if not network.mode.ends(network):
                continue
            there = [nic for nic in self.guests.values() if nic.network == name]
            taps = [nic.at_wire for nic in there]
            # A link of the host is drawn before the guest.
            ends = sorted(sides(network, taps), key=lambda side: not side[0].link)
            found = [
                ([end.link] if end.link else [tap.ifname for tap in at_end] or [str(end)], not (end.link or at_end))
                for end, at_end in ends
            ]
            if not all(waits for _, waits in found):
                yield name, found

    def _matters(self, node: Node) -> bool:
        return (
            node.name in self.named
            or node.differs
            or node.name not in self.links
            or node.kind in ("guest", "bridge", "bond", "vlan")
        )

    def kind(self, link: LinkDetails) -> str:
        if link.name in self.guests:
            return "guest"
        if link.kind in ("", "veth", "tun") and link.name not in self.wires and BEHIND.match(link.name):
            return "tap"
        return DRAWN_AS.get(link.kind, link.kind)

    def _link(self, link: LinkDetails) -> Node:
        kind, owner = self.kind(link), self.guests.get(link.name)
        state, mtu = link.state.replace(" ", NBSP), f"mtu{NBSP}{link.mtu}"
        port = self._port(link, owner is not None)
        if owner:
            lines = [*guest_words(owner, self.declared), *port, f"{state} {mtu}"]
            forwards = [text for address in owner.addresses for text in self.facts.forwards.get(address, ())]
            lines += [text.replace(" ", NBSP) for text in forwards]
            # A name has addresses of both families.
            lines += dict.fromkeys(short(name) for address in owner.addresses for name in self.facts.names.get(address, ()))
        else:
            served = [text.replace(" ", NBSP) for text in self.facts.servers.get(link.name, ())]
            lines = [f"{link_words(link, kind)} {state}", mtu, *port, *link.addresses, *served]
        more = [f"MAC {link.mac}"] if link.mac else []
        more += [f"alias {link.alias}"] if link.alias else []
        return Node(link.name, kind, cleaned(lines), link.state, link.name in self.marked, more=cleaned(more))

    def _port(self, link: LinkDetails, guest: bool) -> list[str]:
        """Return the lines about a link as a port: its state unless that is the usual one, and its VLANs."""
        master = self.links.get(link.master)
        lines = []
        if master and link.port_state and (link.port_state != "forwarding" or (master.stp and not guest)):
            lines.append(link.port_state)
        if link.isolated:
            lines.append("isolated")
        if master and master.vlan_aware:
            lines += [f"untagged{NBSP}{link.untagged}"] if link.untagged else []
            lines += [f"tagged{NBSP}{link.tagged.replace(',', ', ')}"] if link.tagged else []
        return lines

    def _ghost(self, owner: Nic) -> Node:
        return Node(owner.ifname, "guest", cleaned([*guest_words(owner, self.declared), f"tap{NBSP}is{NBSP}gone"]), MISSING, True)

    def _missing(self, name: str) -> Node | None:
        """Return the node of a link that is gone; None if the link was not ours."""
        part, link = self.declared.links.get(name), self.absent.get(name)
        if not part and not link and name not in self.named:
            return None
        kind = link.kind if link else part.kind.word if part else "nic"
        return Node(name, kind, (MISSING,), MISSING, True)

    def _not_up(self, part: Declared) -> Node:
        title = "NAT" if part.kind.translates else ""
        kind = "table" if isinstance(part, Network) else part.kind.word
        return Node(part.node(), kind, (NOT_UP,), MISSING, True, title)

    def _table(self, table: Table) -> Node:
        network = self.routed.get(table.number)
        lines = list(network.mode.label(network)) if network else []
        lines += list(table.rules)
        lines += [
            f"{destination(dst)} " + (f"via{NBSP}{via} " if via else "") + f"dev{NBSP}{dev}"
            for dst, via, dev in table.routes
            if not to_guest(dst)
        ]
        return Node(table.name, "table", cleaned(lines), "up", table.name in self.marked)

    def _nat(self, nat: Nat) -> Node:
        found = [link for link in self.links.values() if inside(link, nat.subnet)]
        # A gateway's macvlan has the addresses of its bridge: the bridge is drawn behind the NAT.
        behind = dict.fromkeys(link.parent if link.kind == "macvlan" else link.name for link in found)
        lines = [nat.subnet, f"snat{NBSP}{nat.source}" if nat.source else "masquerade"]
        lines += [f"for {', '.join(behind)}"] if behind else []
        return Node(nat.name, "nat", cleaned(lines), "up", nat.name in self.marked, "NAT")

    def _aside(self, link: LinkDetails) -> str:
        words = [one_line(link.name), *([] if link.state == "up" else [link.state]), *link.addresses[:1]]
        return " ".join(words)

    # --- edges -----------------------------------------------------------------------------------------------------

    def _edges(self, tables: Sequence[Table]) -> Iterable[Edge]:
        for link in self.links.values():
            if link.parent:
                yield Edge(link.parent, link.name)
            if link.master:
                outwards = self.kind(link) in ("guest", "tap")
                ends = (link.master, link.name) if outwards else (link.name, link.master)
                yield Edge(*ends, link.port_state)
        for table in tables:
            for dst, _, dev in table.routes:
                if not to_guest(dst):
                    yield Edge(dev, table.name)
            if network := self.routed.get(table.number):
                yield Edge(network.mode.links(network)[0], table.name)
            for dst, _, dev in table.routes:
                if to_guest(dst) and dev in self.guests:
                    yield Edge(table.name, dev)
        for ifname, owner in self.guests.items():
            if self._by_host_routes(owner) and ifname in self.links:
                yield Edge(home(owner, self.declared), ifname)
        for nat in self.facts.nats:
            yield Edge(nat.out, nat.name)
        for (first, waits), (second, too) in self.joined.values():
            for source, target in product(first, second):
                state = WAITING if waits or too else "" if {source, target} <= self.links.keys() else MISSING
                yield Edge(source, target, state)
        yield from self._lost()

    def _lost(self) -> Iterable[Edge]:
        """Yield the edges that should exist: to links that are gone, and to ports that were removed from their master."""
        reached = {dev for table in self.facts.tables for dst, _, dev in table.routes if to_guest(dst)}
        for ifname, owner in self.guests.items():
            drawn = ifname in reached or (ifname in self.links and self._by_host_routes(owner))
            if self._loose(ifname) and not drawn:
                yield Edge(home(owner, self.declared), ifname, MISSING)
        for part in self.declared.parts.values():
            for port in part.ports:
                if self._loose(port) and {port, part.name} & self.marked:
                    yield Edge(port, part.name, MISSING)
        for name in sorted(self.marked - self.links.keys()):
            absent, declared = self.absent.get(name), self.declared.links.get(name)
            if parent := absent.parent if absent else declared.options.get("parent") if declared else "":
                yield Edge(parent, name, MISSING)
        for name, part in self.down.items():
            for below in part.links() if not part.kind.is_link else part.ports:
                yield Edge(below, name, MISSING)

    def _by_host_routes(self, owner: Nic) -> bool:
        network = self.declared.networks.get(owner.network)
        return network.mode.routes_plainly if network else owner.described[0] in ("route", "nat")

    def _loose(self, ifname: str) -> bool:
        return ifname not in self.links or not self.links[ifname].master

    # --- differences -----------------------------------------------------------------------------------------------

    def _told(self) -> list[Drift]:
        """Return the differences without those that only follow from the removal of a link."""
        lost = {d.resource.ifname for d in self.differences if d.kind == "missing" and isinstance(d.resource, Device)}
        gone = self.absent.keys() & lost

        def follows(drift: Drift) -> bool:
            resource = drift.resource
            return drift.kind == "missing" and not isinstance(resource, Device) and not gone.isdisjoint(self._places(resource))

        return [drift for drift in self.differences if not follows(drift)]

    @staticmethod
    def _places(resource: Resource | None) -> set[str]:
        """Return the names of the nodes that may show an object."""
        if not resource:
            return set()
        places = {resource.link, *resource.drawn_in}
        return {place if isinstance(place, str) else table_name(place) for place in places}

    def _concerned(self, drift: Drift) -> set[str]:
        """Return the nodes that a difference concerns: those that show the object, else those of its owner."""
        places = self._places(drift.resource)
        if drift.resource and drift.resource.key == NAT.key:
            return {nat.name for nat in self.facts.nats}
        return (
            {nat.name for nat in self.facts.nats if {nat.subnet, nat.out} <= places}
            or places & {table.name for table in self.facts.tables}
            or places & (self.links.keys() | self.wires | self.absent.keys())
            or self._owned(drift.owner_id)
        )

    def _owned(self, owner_id: str) -> set[str]:
        """Return the nodes of an owner: a guest's NIC, or a part of the host (KIND:NAME)."""
        found = {ifname for ifname, owner in self.guests.items() if owner.id == owner_id}
        part = self.declared.part(owner_id)
        name = part.node() if part else owner_id.partition(":")[2]
        if isinstance(part, Network) or name in self.links or name in self.down or name in (nat.name for nat in self.facts.nats):
            found.add(name)
        return found
