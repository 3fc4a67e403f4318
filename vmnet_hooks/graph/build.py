"""From facts, records and declaration to the graph. Pure."""

import re
from collections.abc import Iterable, Sequence

from ..errors import one_line
from ..model.declaration import Config, Network
from ..model.owner import Owner
from ..model.topology import Difference, Facts, LinkDetails, Nat, Table
from .labels import cleaned, destination, guest_words, home, inside, link_words, natural, to_guest
from .model import MISSING, NBSP, Edge, Graph, Node

DRAWN_AS = {"": "nic", "tun": "tap", "vif": "tap", "macvtap": "tap", "ipvlan": "macvlan"}
"""What a link is drawn as, where that is not the kernel's word."""
BEHIND = re.compile(r"(vif\d+\.|vnet\d|tap|veth)")
"""Names that hypervisors and container engines give to the host's side of a guest's link."""


def build(facts: Facts, owners: Sequence[Owner], declared: Config, differences: Sequence[Difference] = ()) -> Graph:
    """The graph of a host. What `owners` (the records) and `declared` know of a link decides where it is drawn, and how."""
    return _Builder(facts, owners, declared, differences).graph()


class _Builder:
    def __init__(self, facts: Facts, owners: Sequence[Owner], declared: Config, differences: Sequence[Difference]) -> None:
        self.facts = facts
        links = sorted(facts.links, key=lambda link: natural(link.name))
        self.links = {link.name: link for link in links if link.name != "lo"}
        self.guests = {owner.ifname: owner for owner in owners if owner.domain and owner.ifname}
        self.declared = declared
        self.routed = {n.mode.table_of(n): n for n in declared.networks.values() if n.mode.table_of(n)}
        self.absent = {link.name: link for link in facts.absent if link.name not in self.links}
        self.named = self._declared_names()
        self.wires = self.named | {link.parent for link in facts.links}
        self.differences = differences
        self.marked = {name for difference in differences for name in self._concerned(difference)}

    # --- nodes -----------------------------------------------------------------------------------------------------

    def graph(self) -> Graph:
        tables = [table for table in self.facts.tables if table.rules or table.routes]
        absent = sorted(self.marked - self.links.keys() - self.guests.keys())
        found = [
            *map(self._link, self.links.values()),
            *(self._ghost(owner) for owner in self.guests.values() if owner.ifname not in self.links),
            *(node for name in absent if (node := self._missing(name))),
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
        """Links that the declaration puts on the side of the wire."""
        declared = (*self.declared.parts.values(), *self.declared.networks.values())
        return {name for part in declared for name in (*part.links(), *part.stands_on())}

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
            lines = [*guest_words(owner), *port, f"{state} {mtu}"]
        else:
            lines = [f"{link_words(link, kind)} {state}", mtu, *port, *link.addresses]
        more = [f"MAC {link.mac}"] if link.mac else []
        more += [f"alias {link.alias}"] if link.alias else []
        return Node(link.name, kind, cleaned(lines), link.state, link.name in self.marked, more=cleaned(more))

    def _port(self, link: LinkDetails, guest: bool) -> list[str]:
        """What a link is as a port: its state where that is worth a word, and its VLANs."""
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

    def _ghost(self, owner: Owner) -> Node:
        return Node(owner.ifname, "guest", cleaned([*guest_words(owner), f"tap{NBSP}is{NBSP}gone"]), MISSING, True)

    def _missing(self, name: str) -> Node | None:
        """What stands for a link that is gone; None if that was none of ours."""
        part, link = self.declared.links.get(name), self.absent.get(name)
        if not part and not link and name not in self.named:
            return None
        kind = link.kind if link else part.kind.word if part else "nic"
        return Node(name, kind, (MISSING,), MISSING, True)

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
        # The gateway's macvlan is the bridge's other face.
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
        yield from self._lost()

    def _lost(self) -> Iterable[Edge]:
        """Lines that should be there: to what is gone, and to ports that were taken out."""
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

    def _by_host_routes(self, owner: Owner) -> bool:
        network = self.declared.networks.get(owner.network)
        return network.mode.routes_plainly if network else owner.network.startswith(("route:", "nat:"))

    def _loose(self, ifname: str) -> bool:
        return ifname not in self.links or not self.links[ifname].master

    # --- differences -----------------------------------------------------------------------------------------------

    def _told(self) -> list[Difference]:
        """The differences without those that only follow from a link that is gone."""
        gone = self.absent.keys() & {d.what.removeprefix("device ").removesuffix(": missing") for d in self.differences}
        return [
            difference
            for difference in self.differences
            if not difference.what.endswith(": missing")
            or difference.what.startswith("device ")
            or not gone & set(re.split("[ /:]", difference.what))
        ]

    def _concerned(self, difference: Difference) -> set[str]:
        """The nodes that a difference is of, by the words of the resource's key; else by its owner."""
        key = difference.what.partition(": ")[0]
        words = [word.strip('"') for word in key.replace("vmnet-", " ").split()]
        found: set[str] = set()
        match words:
            case ["nft", "inet", "nat"]:
                found = {nat.name for nat in self.facts.nats}
            case ["route" | "table-name", number, *_]:
                found = {f"table {number}"}
            case ["rule", *_, number]:
                found = {f"table {number}"}
            case ["nft", *_]:
                found = {nat.name for nat in self.facts.nats if {nat.subnet, nat.out} <= set(words)}
                found = found or {word for word in words if word in self.links}
            case ["sysctl", path, *_]:
                found = {word for word in path.split("/") if word in self.links}
            case [_, name, *_] if name in self.links or name in self.wires or name in self.absent:
                found = {name}
        return found or self._owned(difference.owner)

    def _owned(self, label: str) -> set[str]:
        """The nodes of an owner, by what it is called: a domain's name, or `bridge br0`."""
        found = {ifname for ifname, owner in self.guests.items() if owner.domain == label}
        part = self.declared.part(label.replace(" ", ":", 1))
        name = part.node() if part else label.replace(":", " ", 1).rpartition(" ")[2]
        if isinstance(part, Network) or name in self.links or name in (nat.name for nat in self.facts.nats):
            found.add(name)
        return found
