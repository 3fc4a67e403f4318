"""The graph: boxes and lines, and the differences that are listed below them."""

from dataclasses import dataclass

from ..errors import one_line

NBSP = "\N{NO-BREAK SPACE}"
"""A space at which a line is not broken."""
MISSING = "missing"
"""The state of a link that should exist."""
WAITING = "waiting"
"""The state of an end of a wire whose guest does not run, and of the wire."""
NOT_UP = f"not{NBSP}up"
"""What the box of a declared part says that is not up."""
STANDBY = frozenset(("backup", "blocking", "disabled", "learning", "listening", MISSING, WAITING))
"""The states of ports that carry no traffic."""
MOST = 20
"""Differences that a drawing lists, at most."""


@dataclass(frozen=True)
class Node:
    """A box. `name` is unique: that of a link, a routing table or NAT. `lines` describe it and can be broken at spaces (not at
    no-break spaces). `more` are lines for a tooltip. `title` replaces the name as heading. `differs` marks the box."""

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
    """A line, from the side of the wire to the side of the guests. `state` is the state of the port."""

    source: str
    target: str
    state: str = ""

    @property
    def standby(self) -> bool:
        return self.state in STANDBY


@dataclass(frozen=True)
class Graph:
    """The drawing's content. `unrelated` are links that are only listed by name. `differences` are one line each."""

    nodes: tuple[Node, ...]
    edges: tuple[Edge, ...]
    unrelated: tuple[str, ...] = ()
    differences: tuple[str, ...] = ()

    def notes(self) -> list[str]:
        """Return the differences as lines below a drawing."""
        more = len(self.differences) - MOST
        return [*self.differences[:MOST], *([f"and {more} more; see `vmnet-hook check`"] if more > 0 else [])]

    def components(self) -> list[list[Node]]:
        """Return the connected components, each with its nodes in the order of `nodes`."""
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
