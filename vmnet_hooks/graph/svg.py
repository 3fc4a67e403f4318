"""A graph as a self-contained SVG picture: no scripts, fonts or style sheets are loaded."""

from collections.abc import Iterator
from xml.sax.saxutils import escape, quoteattr

from ..errors import one_line
from .layout import Line, Style, layout
from .model import NBSP, Graph
from .placement import Box, wrapped

X, Y = 8, 18
"""Width and height of a cell in pixels."""
MARGIN, CORNER = 24, 6
NARROWEST = 60
"""Minimum width of the lines below the drawing, in cells."""
STYLE = Style(pad=1, gap=6, spacing=1, label=True)
COLOURS = {
    "nic": "#4b5b6e",
    "bond": "#7750b0",
    "vlan": "#2b6cb0",
    "bridge": "#12806f",
    "macvlan": "#2d7d9a",
    "dummy": "#6b7280",
    "table": "#96690f",
    "nat": "#b3541e",
    "tap": "#5c7f36",
    "guest": "#3b8640",
}
OTHER = "#6b7280"
ABOVE = ("name", "host")
"""Classes of text outside the body of a box. It is set a little higher."""
CSS = """
text { font: 13px "DejaVu Sans Mono", Menlo, Consolas, "Liberation Mono", monospace; fill: #1f2933; white-space: pre }
.paper { fill: #f7f9fb } .body { fill: #ffffff; stroke: #b9c3cf }
.name { fill: #ffffff; font-weight: bold } .host { font-size: 16px; font-weight: bold } .aside { fill: #66727f }
.first { font-weight: bold }
.line { fill: none; stroke: #7b8794; stroke-width: 2 } .standby { stroke-dasharray: 6 4 } .port { fill: #9a6700; font-size: 11px }
.off .head { fill-opacity: 0.7 } .off .body { stroke-dasharray: 4 3 }
.differs .head { fill: #c62828; fill-opacity: 1 } .differs .body { stroke: #c62828; stroke-width: 2.5 }
.difference { fill: #c62828 }
@media (prefers-color-scheme: dark) {
text { fill: #e4e9ef } .paper { fill: #171c22 } .body { fill: #222a33; stroke: #4c5967 } .name { fill: #ffffff }
.aside { fill: #9aa7b4 } .line { stroke: #8a97a5 } .port { fill: #e3b341 } .difference, .differs .first { fill: #ff7b72 }
.differs .body { stroke: #ff7b72 }
}
"""


def svg(graph: Graph, host: str = "") -> str:
    """Return the picture. Colours follow the viewer's light or dark scheme. Nodes that differ are red and have a `!`."""
    placed = layout(graph, STYLE)
    assert placed
    columns = max(placed.width, NARROWEST)
    head = 2 if host else 0
    foot = [("difference", row) for line in graph.notes() for row in wrapped([f"! {one_line(line)}"], columns)]
    if graph.unrelated:
        foot += [("aside", row) for row in wrapped([f"not drawn: {one_line(', '.join(graph.unrelated))}"], columns)]
    rows = head + placed.height + (len(foot) + 1 if foot else 0)
    width, height = columns * X + 2 * MARGIN, rows * Y + 2 * MARGIN
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}">',
        f"<title>{_escaped(f'Networks of {host}' if host else 'Networks')}</title>",
        f"<style>{CSS}</style>",
        f'<rect class="paper" width="{width}" height="{height}"/>',
    ]
    if host:
        parts.append(_text(0, 0, host, "host"))
    parts.append(f'<g transform="translate(0 {head * Y})">')
    # Solid lines are drawn over dashed ones.
    for line in sorted(placed.lines, key=lambda line: not line.edge.standby):
        parts += _line(line)
    for box in placed.boxes:
        parts += _box(box)
    parts += [_text(0, placed.height + 1 + number, row, name) for number, (name, row) in enumerate(foot)]
    return "\n".join([*parts, "</g>", "</svg>"]) + "\n"


def _escaped(text: str) -> str:
    return escape(one_line(text))


def _text(x: int, row: int, text: str, name: str = "") -> str:
    attribute = f" class={quoteattr(name)}" if name else ""
    return f'<text x="{MARGIN + x * X}" y="{MARGIN + row * Y + (13 if name in ABOVE else 15)}"{attribute}>{_escaped(text)}</text>'


def _middle(row: int) -> int:
    return MARGIN + row * Y + Y // 2


def _line(line: Line) -> Iterator[str]:
    x1, x, x2 = (MARGIN + cell * X + X // 2 for cell in (line.x1, line.x, line.x2))
    y1, y2 = _middle(line.y1), _middle(line.y2)
    path = f"M{x1} {y1}H{x2}"
    if y1 != y2:
        turn = CORNER if y2 > y1 else -CORNER
        path = f"M{x1} {y1}H{x - CORNER}Q{x} {y1} {x} {y1 + turn}V{y2 - turn}Q{x} {y2} {x + CORNER} {y2}H{x2}"
    edge = line.edge
    name = "line standby" if edge.standby else "line"
    ends = _escaped(f"{edge.source} – {edge.target}" + (f": {edge.state}" if edge.state else ""))
    yield f'<path class="{name}" d="{path}"><title>{ends}</title></path>'
    if edge.standby:
        yield f'<text class="port" x="{x1 + X}" y="{y1 - 5}">{_escaped(edge.state)}</text>'


def _box(box: Box) -> Iterator[str]:
    node = box.node
    assert node
    x, y = MARGIN + box.x * X + X // 2, MARGIN + box.y * Y - 2
    width, height = (box.width - 1) * X, (box.height - 1) * Y + 6
    names = ["box", node.kind, *(["differs"] if node.differs else []), *(["off"] if node.state != "up" else [])]
    yield f"<g class={quoteattr(one_line(' '.join(names)))}>"
    yield f"<title>{_escaped('; '.join((node.heading, *node.lines, *node.more)).replace(NBSP, ' '))}</title>"
    yield f'<rect class="body" x="{x}" y="{y}" width="{width}" height="{height}" rx="{CORNER}"/>'
    edge = f"v{CORNER - Y - 2}q0 {-CORNER} {CORNER} {-CORNER}h{width - 2 * CORNER}q{CORNER} 0 {CORNER} {CORNER}v{Y + 2 - CORNER}z"
    yield f'<path class="head" fill="{COLOURS.get(node.kind, OTHER)}" d="M{x} {y + Y + 2}{edge}"/>'
    yield _text(box.x + 2, box.y, ("! " if node.differs else "") + node.heading, "name")
    for number, line in enumerate(box.lines, 1):
        yield _text(box.x + 2, box.y + number, line, "first" if number == 1 and node.kind == "guest" else "")
    yield "</g>"
