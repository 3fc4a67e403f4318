"""What there is to draw: the facts as kernel and records tell them, and the graph of boxes and lines made from them."""

from dataclasses import dataclass

from ..errors import one_line

MISSING = "missing"
"""The state of what should be there."""
STANDBY = frozenset(("backup", "blocking", "disabled", "learning", "listening", MISSING))
"""States of a port that carries no traffic."""
NBSP = "\N{NO-BREAK SPACE}"
"""A blank where no line breaks."""
MOST = 20
"""Differences that a drawing lists."""


@dataclass(frozen=True)
class Node:
    """A box. `name` is unique: a link's, or that of a table or NAT. `lines` say what it is; a line breaks at blanks (not at
    no-break ones). `more` is what a drawing has room for only elsewhere."""

    name: str
    kind: str
    lines: tuple[str, ...] = ()
    state: str = "up"
    differs: bool = False
    title: str = ""
    more: tuple[str, ...] = ()

    @property
    def heading(self) -> str:
        return self.title or one_line(self.name)


@dataclass(frozen=True)
class Edge:
    """A line, from the side of the wire to the side of the guests. `state` is that of the port."""

    source: str
    target: str
    state: str = ""

    @property
    def standby(self) -> bool:
        return self.state in STANDBY


@dataclass(frozen=True)
class Graph:
    """What is drawn. `unrelated` are links of no concern, `differences` one line each."""

    nodes: tuple[Node, ...]
    edges: tuple[Edge, ...]
    unrelated: tuple[str, ...] = ()
    differences: tuple[str, ...] = ()

    def notes(self) -> list[str]:
        """The differences, as lines below a drawing."""
        more = len(self.differences) - MOST
        return [*self.differences[:MOST], *([f"and {more} more; see `vmnet-hook check`"] if more > 0 else [])]

    def components(self) -> list[list[Node]]:
        """The nodes that hang together, each group in the order of `nodes`."""
        group = {node.name: {node.name} for node in self.nodes}
        for edge in self.edges:
            one, other = group[edge.source], group[edge.target]
            if one is not other:
                one |= other
                for name in other:
                    group[name] = one
        seen: set[int] = set()
        found = []
        for node in self.nodes:
            members = group[node.name]
            if id(members) not in seen:
                seen.add(id(members))
                found.append([n for n in self.nodes if n.name in members])
        return found
