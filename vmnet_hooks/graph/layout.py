"""Places boxes and lines in cells of a character grid, in columns from the wire to the guests.

A box starts in the row of the first box that leads to it, and extends down to the last box that it is joined to, so that most
lines are straight. A line that bends gets a lane between the columns.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from .model import Edge, Graph, Node
from .placement import Box, Placer, Plan, cells, plan_of

FIRST = {"bond": 1, "vlan": 2, "bridge": 3, "table": 3, "macvlan": 4, "tap": 4, "guest": 4, "nat": 4}
"""The leftmost column of a kind of node; 0 is the wire."""


@dataclass(frozen=True)
class Line:
    """A line between two adjacent columns: from (x1, y1) to lane `x`, there to row y2, then to (x2, y2)."""

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
    """Distances, in cells: `pad` on each side inside a box, `gap` between columns (plus one for each lane), `spacing` rows
    between boxes. With `label`, gaps are wide enough for the state of a port."""

    pad: int = 1
    gap: int = 2
    spacing: int = 0
    label: bool = False


def layout(graph: Graph, style: Style, limit: int = 0) -> Layout | None:
    """Return the places of all boxes and lines. With a `limit` (cells), break lines of text until the drawing is no wider;
    return None if that is impossible."""
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


def _widths(node: Node, parts: Callable[[str], Iterable[str]]) -> list[int]:
    heading = cells(node.heading) + (1 if node.differs else 0)
    return [heading + 1, *(cells(part) for line in node.lines for part in parts(line))]


def _columns(graph: Graph) -> dict[str, int]:
    """Return the column of each node, right of all nodes that lead to it. There are no empty columns."""
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
    plan = plan_of(graph, columns, widths)
    top = 0
    for component in graph.components():
        placed = Placer(plan, top, style.spacing).place([node.name for node in component])
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


def _rows(one: Box, other: Box) -> tuple[int, int]:
    """Return the rows at which a line leaves one box and enters the other: the same row if both boxes cover one."""
    row = max(one.y, other.y) + 1
    if row < one.bottom and row < other.bottom:
        return row, row
    return one.y + 1, other.y + 1


def _lanes(plan: Plan, bends: Mapping[tuple[str, str], tuple[int, int]]) -> dict[tuple[str, str], int]:
    """Return the lane of each line that bends. Lines to one box share a lane; other lines do not overlap within a lane."""
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
