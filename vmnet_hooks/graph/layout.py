"""Where the boxes and lines of a drawing go, in cells of a character grid: columns from the wire to the guests.

A box starts in the row of the first box that leads to it and reaches down to the last one that it is joined with, so that
nearly every line is straight; what can't be gets a lane of its own between the columns.
"""

import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from .model import Edge, Graph, Node

FIRST = {"bond": 1, "vlan": 2, "bridge": 3, "table": 3, "macvlan": 4, "tap": 4, "guest": 4, "nat": 4}
"""The leftmost column of a kind; 0 is the wire."""


def cells(text: str) -> int:
    """How many cells of a terminal a text takes."""
    return sum(0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)


def wrapped(lines: Iterable[str], width: int) -> list[str]:
    """`lines` broken at blanks to `width` cells; a longer word stays whole."""
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
    return [row.replace("\N{NO-BREAK SPACE}", " ") for row in result]


@dataclass
class Box:
    """A node's place. Without a node it only lets a long line through its column."""

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


@dataclass(frozen=True)
class Line:
    """One line between two neighbouring columns: from (x1, y1), in lane `x` to row y2, to (x2, y2)."""

    edge: Edge
    x1: int
    y1: int
    x: int
    x2: int
    y2: int


@dataclass(frozen=True)
class Layout:
    boxes: Sequence[Box]
    lines: Sequence[Line]
    width: int
    height: int


@dataclass(frozen=True)
class Style:
    """How much room there is: `pad` cells on each side inside a box, `gap` cells between columns (lanes come on top),
    `spacing` rows between boxes, `label` whether a gap must hold the state of a port."""

    pad: int = 1
    gap: int = 2
    spacing: int = 0
    label: bool = False


@dataclass
class _Plan:
    """The graph with every edge cut into steps of one column."""

    boxes: dict[str, Box] = field(default_factory=dict)
    steps: list[tuple[str, str, Edge]] = field(default_factory=list)
    order: list[str] = field(default_factory=list)
    up: dict[str, list[str]] = field(default_factory=dict)
    down: dict[str, list[str]] = field(default_factory=dict)


def layout(graph: Graph, style: Style, limit: int = 0) -> Layout | None:
    """Places everything. With a `limit` of cells lines are broken until it fits; None if it can't."""
    columns = _columns(graph)
    count = max(columns.values(), default=-1) + 1
    natural, least = [0] * count, [0] * count
    for node in graph.nodes:
        column = columns[node.name]
        natural[column] = max(natural[column], *_widths(node, lambda line: [line]))
        least[column] = max(least[column], *_widths(node, lambda line: line.split(" ")))
    while True:
        result = _arrange(graph, columns, natural, style)
        excess = result.width - limit if limit else 0
        if excess <= 0:
            return result
        for _ in range(excess):
            slack = [(have, column) for column, have in enumerate(natural) if have > least[column]]
            if not slack:
                return None
            natural[max(slack)[1]] -= 1


def _widths(node: Node, parts) -> list[int]:
    heading = cells(node.heading) + (1 if node.differs else 0)
    return [heading + 1, *(cells(part) for line in node.lines for part in parts(line))]


def _columns(graph: Graph) -> dict[str, int]:
    """The column of every node: right of all that lead to it. Columns that nobody is in are left out."""
    above: dict[str, list[str]] = {node.name: [] for node in graph.nodes}
    for edge in graph.edges:
        above[edge.target].append(edge.source)
    kinds = {node.name: node.kind for node in graph.nodes}
    found: dict[str, int] = {}

    def column(name: str, trail: tuple[str, ...]) -> int:
        if name not in found:
            others = [column(other, (*trail, name)) + 1 for other in above[name] if other not in (*trail, name)]
            found[name] = max([FIRST.get(kinds[name], 0), *others])
        return found[name]

    for node in graph.nodes:
        column(node.name, ())
    used = sorted(set(found.values()))
    return {name: used.index(value) for name, value in found.items()}


def _arrange(graph: Graph, columns: Mapping[str, int], widths: Sequence[int], style: Style) -> Layout:
    plan = _plan(graph, columns, widths)
    top = 0
    for component in graph.components():
        placed = _Placer(plan, top, style.spacing).place([node.name for node in component])
        top = placed + 1
    ends = {column: len(widths) for column in range(len(widths))}
    bends = {(a, b): _rows(plan.boxes[a], plan.boxes[b]) for a, b, _ in plan.steps}
    lanes = _lanes(plan, bends)
    x, lefts, gaps = 0, [], []
    for column in ends:
        lefts.append(x)
        here = [e for a, b, e in plan.steps if plan.boxes[a].column == column]
        label = max((len(e.state) + 2 for e in here if e.standby), default=0) if style.label else 0
        count = max((lane + 1 for (a, _), lane in lanes.items() if plan.boxes[a].column == column), default=0)
        gaps.append(max(style.gap + count, label + count) if here else style.gap)
        x += widths[column] + 2 + 2 * style.pad + gaps[-1]
    for box in plan.boxes.values():
        box.x, box.width = lefts[box.column], widths[box.column] + 2 + 2 * style.pad
    lines = []
    for a, b, edge in plan.steps:
        one, other = plan.boxes[a], plan.boxes[b]
        y1, y2 = bends[a, b]
        right = one.x + one.width - 1
        lane = right + gaps[one.column] - style.gap // 2 - lanes.get((a, b), 0)
        lines.append(Line(edge, right if one.node else one.x, y1, lane, other.x, y2))
    boxes = [box for box in plan.boxes.values() if box.node]
    width = max((box.x + box.width for box in boxes), default=0)
    return Layout(boxes, lines, width, max((box.bottom + 1 for box in boxes), default=0))


def _plan(graph: Graph, columns: Mapping[str, int], widths: Sequence[int]) -> _Plan:
    plan = _Plan()
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


class _Placer:
    """Gives the boxes of one component their rows, from `top` down."""

    def __init__(self, plan: _Plan, top: int, spacing: int) -> None:
        self.plan = plan
        self.spacing = spacing
        self.top = top
        self.free: dict[int, int] = {}
        """The first free row of each column."""
        self.last: dict[int, str] = {}

    def place(self, names: Sequence[str]) -> int:
        """Returns the first row below."""
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
        """Places what else leads to a box beside it."""
        placed = []
        for other in self.plan.up[name]:
            if self.plan.boxes[other].y < 0:
                self._put(other, self.plan.boxes[name].y, self.plan.up)
                placed += [other, *self._raise(other)]
        return placed

    def _stretch(self, name: str) -> None:
        """Lets a box reach down to the last one that it is joined with, if nothing is in the way."""
        box = self.plan.boxes[name]
        joined = [self.plan.boxes[other] for other in (*self.plan.up[name], *self.plan.down[name])]
        lowest = max((other.y + 2 for other in joined if other.y >= 0), default=0)
        if box.node and self.last[box.column] == name and lowest > box.bottom:
            box.height = lowest - box.y + 1
            self._occupy(name)


def _rows(one: Box, other: Box) -> tuple[int, int]:
    """The rows at which a line leaves and arrives: the same one if there is one that both boxes cover."""
    row = max(one.y, other.y) + 1
    if row < one.bottom and row < other.bottom:
        return row, row
    return one.y + 1, other.y + 1


def _lanes(plan: _Plan, bends: Mapping[tuple[str, str], tuple[int, int]]) -> dict[tuple[str, str], int]:
    """The lane of every line that bends. Lines to one box share a lane; else no two overlap in one."""
    lanes: dict[tuple[str, str], int] = {}
    taken: dict[tuple[int, int], list[tuple[int, int, str]]] = {}
    for (a, b), (y1, y2) in sorted(bends.items(), key=lambda item: item[1]):
        if y1 == y2:
            continue
        column, group = plan.boxes[a].column, b if len(plan.up[b]) > 1 else a
        low, high = min(y1, y2), max(y1, y2)
        lane = 0
        while any(g != group and low <= h and l <= high for l, h, g in taken.get((column, lane), ())):  # noqa: E741
            lane += 1
        taken.setdefault((column, lane), []).append((low, high, group))
        lanes[a, b] = lane
    return lanes
