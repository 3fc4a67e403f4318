"""A graph as text: boxes and lines from the wire on the left to the guests on the right, or a tree if that is too wide."""

from collections.abc import Callable, Iterator

from .layout import Layout, Style, layout
from .model import Graph, Node
from .placement import Box, cells, wrapped

N, E, S, W = 1, 2, 4, 8
UNICODE = " ╵╶└╷│┌├╴┘─┴┐┤┬┼"
ASCII = " ''+.|++`+-++++++"
"""Line characters, indexed by the set of directions (N=1, E=2, S=4, W=8) in which lines leave a cell."""
DASHED = {E | W: ("╌", "."), N | S: ("╎", ":")}
STYLES = (Style(pad=1, gap=5), Style(pad=1, gap=4), Style(pad=1, gap=2), Style(pad=0, gap=2))
"""From wide to narrow."""


def text(graph: Graph, width: int = 80, unicode: bool = True, paint: Callable[[str], str] = str) -> str:
    """Return the drawing. No line is wider than `width` cells, unless a single word is. `paint` is applied to text that differs,
    for example to colour it."""
    parts = [_drawing(graph, width, unicode, paint) if graph.nodes else []]
    if graph.unrelated:
        parts.append(list(_hanging("not drawn: ", ", ".join(graph.unrelated), width)))
    marked = [line for difference in graph.notes() for line in _hanging("! ", difference, width)]
    parts.append([paint(line) for line in marked])
    result = "\n\n".join("\n".join(part) for part in parts if part)
    return "".join(line + "\n" for line in (result if unicode else _ascii(result)).splitlines())


def _ascii(text: str) -> str:
    return text.replace("…", "...").encode("ascii", "backslashreplace").decode()


def _hanging(first: str, text: str, width: int) -> Iterator[str]:
    for row in wrapped([text], width - len(first)):
        yield first + row
        first = " " * len(first)


def _drawing(graph: Graph, width: int, unicode: bool, paint: Callable[[str], str]) -> list[str]:
    for style in STYLES:
        if (placed := layout(graph, style)) and placed.width <= width:
            return _Canvas(placed, style, unicode, paint).rows()
    for style in STYLES[2:]:
        if placed := layout(graph, style, width):
            return _Canvas(placed, style, unicode, paint).rows()
    return _tree(graph, width, unicode, paint)


class _Canvas:
    """A grid of characters. Lines are kept as sets of directions and become characters at the end, so that they join where they
    meet."""

    def __init__(self, placed: Layout, style: Style, unicode: bool, paint: Callable[[str], str]) -> None:
        self.width = placed.width
        self.unicode = unicode
        self.paint = paint
        self.directions = [[0] * placed.width for _ in range(placed.height)]
        self.letters: list[list[str | None]] = [[None] * placed.width for _ in range(placed.height)]
        self.marks = [[False] * placed.width for _ in range(placed.height)]
        self.dashed: set[tuple[int, int]] = set()
        for box in placed.boxes:
            self._frame(box)
        # Solid lines are drawn over dashed ones.
        for line in sorted(placed.lines, key=lambda line: not line.edge.standby):
            dashed = line.edge.standby
            if line.y1 == line.y2:
                self._horizontal(line.x1, line.x2, line.y1, dashed)
            else:
                self._horizontal(line.x1, line.x, line.y1, dashed)
                self._vertical(line.x, line.y1, line.y2, dashed)
                self._horizontal(line.x, line.x2, line.y2, dashed)
        for box in placed.boxes:
            self._fill(box, style)

    def _horizontal(self, x1: int, x2: int, y: int, dashed: bool = False) -> None:
        for x in range(x1, x2 + 1):
            self._join(x, y, (E if x < x2 else 0) | (W if x > x1 else 0), dashed)

    def _vertical(self, x: int, y1: int, y2: int, dashed: bool = False) -> None:
        low, high = min(y1, y2), max(y1, y2)
        for y in range(low, high + 1):
            self._join(x, y, (S if y < high else 0) | (N if y > low else 0), dashed)

    def _join(self, x: int, y: int, directions: int, dashed: bool) -> None:
        self.directions[y][x] |= directions
        if dashed:
            self.dashed.add((x, y))
        else:
            self.dashed.discard((x, y))

    def _frame(self, box: Box) -> None:
        right = box.x + box.width - 1
        for y in (box.y, box.bottom):
            self._horizontal(box.x, right, y)
        for x in (box.x, right):
            self._vertical(x, box.y, box.bottom)
        if box.node and box.node.differs:
            for y in range(box.y, box.bottom + 1):
                self.marks[y][box.x : right + 1] = [True] * box.width

    def _fill(self, box: Box, style: Style) -> None:
        assert box.node
        title = ("!" if box.node.differs else "") + box.node.heading
        self._write(box.x + 1, box.y, f" {title} " if style.pad else title)
        for number, line in enumerate(box.lines, 1):
            self._write(box.x + 1 + style.pad, box.y + number, line)

    def _write(self, x: int, y: int, text: str) -> None:
        for letter in text if self.unicode else _ascii(text):
            taken = cells(letter)
            if taken == 0 and x and self.letters[y][x - 1]:
                self.letters[y][x - 1] = f"{self.letters[y][x - 1]}{letter}"
            elif x + taken < self.width:
                self.letters[y][x : x + taken] = [letter, *([""] * (taken - 1))]
                x += taken

    def _cell(self, x: int, y: int) -> str:
        letter = self.letters[y][x]
        if letter is not None:
            return letter
        directions = self.directions[y][x]
        if (x, y) in self.dashed and directions in DASHED:
            return DASHED[directions][not self.unicode]
        return (UNICODE if self.unicode else ASCII)[directions]

    def rows(self) -> list[str]:
        result = []
        for y in range(len(self.letters)):
            row, x = "", 0
            end = max((x for x in range(self.width) if self._cell(x, y) not in (" ", "")), default=-1) + 1
            while x < end:
                start, mark = x, self.marks[y][x]
                while x < end and self.marks[y][x] == mark:
                    x += 1
                run = "".join(self._cell(i, y) for i in range(start, x))
                row += self.paint(run) if mark else run
            result.append(row)
        return result


def _tree(graph: Graph, width: int, unicode: bool, paint: Callable[[str], str]) -> list[str]:
    """Return the graph as a tree, one line per node, with the nodes that it leads to below it. A node with several parents is
    below the first one and names all of them."""
    children: dict[str, list[str]] = {node.name: [] for node in graph.nodes}
    parents: dict[str, list[str]] = {node.name: [] for node in graph.nodes}
    for edge in graph.edges:
        children[edge.source].append(edge.target)
        parents[edge.target].append(edge.source)
    nodes = {node.name: node for node in graph.nodes}
    seen: set[str] = set()
    fork, last, bar = ("├─ ", "└─ ", "│  ") if unicode else ("+- ", "`- ", "|  ")
    result: list[str] = []

    def draw(name: str, first: str, rest: str) -> None:
        node = nodes[name]
        if name in seen:
            result.append(f"{first}{_marked(node)} (above)")
            return
        seen.add(name)
        words, below = list(node.lines), children[name]
        if len(parents[name]) > 1:
            words.append(f"on {' '.join(nodes[parent].heading for parent in parents[name])}")
        inner = f"{rest}{bar if below else '   '}"
        rows = wrapped([f"{_marked(node)}: {', '.join(words)}"], width - len(inner))
        for number, row in enumerate(rows):
            result.append((inner if number else first) + (paint(row) if node.differs else row))
        for child in below:
            end = child is below[-1]
            draw(child, rest + (last if end else fork), rest + ("   " if end else bar))

    for component in graph.components():
        for node in component:
            if node.name not in seen and (not parents[node.name] or all(p in seen for p in parents[node.name])):
                draw(node.name, "", "")
        for node in component:
            if node.name not in seen:
                draw(node.name, "", "")
    return result


def _marked(node: Node) -> str:
    return ("!" if node.differs else "") + node.heading
