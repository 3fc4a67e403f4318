"""Assigns rows to boxes: the first row and the height of each."""

import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from .model import NBSP, Edge, Graph, Node


def cells(text: str) -> int:
    """Return the number of terminal cells that a text takes."""
    return sum(0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)


def wrapped(lines: Iterable[str], width: int) -> list[str]:
    """Return `lines` broken at spaces to `width` cells. A longer word is not broken."""
    result = []
    for line in lines:
        row = ""
        for word in line.split(" "):
            if row and cells(row) + 1 + cells(word) > width:
                result.append(row)
                row = word
            else:
                row = f"{row} {word}" if row else word
        result.append(row)
    return [row.replace(NBSP, " ") for row in result]


@dataclass
class Box:
    """The place of a node. A box without a node reserves a row for an edge that passes through the column."""

    node: Node | None
    column: int
    lines: list[str]
    height: int
    x: int = 0
    y: int = -1
    width: int = 0

    @property
    def bottom(self) -> int:
        """The last row."""
        return self.y + self.height - 1


@dataclass
class Plan:
    """The graph, with each edge split into steps between adjacent columns."""

    boxes: dict[str, Box] = field(default_factory=dict)
    steps: list[tuple[str, str, Edge]] = field(default_factory=list)
    up: dict[str, list[str]] = field(default_factory=dict)
    down: dict[str, list[str]] = field(default_factory=dict)


def plan_of(graph: Graph, columns: Mapping[str, int], widths: Sequence[int]) -> Plan:
    plan = Plan()
    for node in graph.nodes:
        lines = wrapped(node.lines, widths[columns[node.name]])
        plan.boxes[node.name] = Box(node, columns[node.name], lines, len(lines) + 2)
    for number, edge in enumerate(graph.edges):
        trail = [edge.source]
        for column in range(columns[edge.source] + 1, columns[edge.target]):
            trail.append(f"{number} {column}")
            plan.boxes[trail[-1]] = Box(None, column, [], 3)
        trail.append(edge.target)
        if columns[edge.source] < columns[edge.target]:
            plan.steps += [(a, b, edge) for a, b in zip(trail, trail[1:], strict=False)]
    for name in plan.boxes:
        plan.up[name], plan.down[name] = [], []
    for a, b, _ in plan.steps:
        plan.up[b].append(a)
        plan.down[a].append(b)
    return plan


class Placer:
    """Assigns rows to the boxes of one component, from `top` down."""

    def __init__(self, plan: Plan, top: int, spacing: int) -> None:
        self.plan = plan
        self.spacing = spacing
        self.top = top
        self.free: dict[int, int] = {}
        """The first free row of each column."""
        self.last: dict[int, str] = {}

    def place(self, names: Sequence[str]) -> int:
        """Place the boxes; return the first row below them."""
        for name in sorted(names, key=lambda name: self.plan.boxes[name].column):
            self._visit(name)
        return max(self.free.values(), default=self.top)

    def _closure(self, name: str, neighbours: Mapping[str, list[str]]) -> set[str]:
        found, todo = set(), [name]
        while todo:
            current = todo.pop()
            if current not in found and self.plan.boxes[current].y < 0:
                found.add(current)
                todo += neighbours[current]
        return found

    def _put(self, name: str, at: int, neighbours: Mapping[str, list[str]]) -> None:
        box = self.plan.boxes[name]
        columns = {self.plan.boxes[other].column for other in self._closure(name, neighbours)}
        box.y = max([at, *(self.free.get(column, self.top) for column in columns)])
        self._occupy(name)

    def _occupy(self, name: str) -> None:
        box = self.plan.boxes[name]
        self.free[box.column] = box.y + box.height + self.spacing
        self.last[box.column] = name

    def _visit(self, name: str, at: int = 0) -> None:
        box = self.plan.boxes[name]
        if box.y >= 0:
            return
        self._put(name, at, self.plan.down)
        raised = self._raise(name)
        for other in self.plan.down[name]:
            self._visit(other, box.y)
        self._stretch(name)
        for other in raised:
            for child in self.plan.down[other]:
                self._visit(child, self.plan.boxes[other].y)
            self._stretch(other)

    def _raise(self, name: str) -> list[str]:
        """Place the other boxes that lead to a box beside it; return their names."""
        placed = []
        for other in self.plan.up[name]:
            if self.plan.boxes[other].y < 0:
                self._put(other, self.plan.boxes[name].y, self.plan.up)
                placed += [other, *self._raise(other)]
        return placed

    def _stretch(self, name: str) -> None:
        """Extend a box down to the last box that it is joined to, if the rows are free."""
        box = self.plan.boxes[name]
        joined = [self.plan.boxes[other] for other in (*self.plan.up[name], *self.plan.down[name])]
        lowest = max((other.y + 2 for other in joined if other.y >= 0), default=0)
        if box.node and self.last[box.column] == name and lowest > box.bottom:
            box.height = lowest - box.y + 1
            self._occupy(name)
