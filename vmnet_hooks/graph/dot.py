"""A graph in the language of Graphviz."""

from ..errors import one_line
from .model import NBSP, Graph, Node
from .svg import COLOURS, OTHER


def dot(graph: Graph, host: str = "") -> str:
    """Return the source of a drawing from left to right. Nodes have numbers as identifiers, because names may contain any
    character."""
    numbers = {node.name: f"n{number}" for number, node in enumerate(graph.nodes)}
    foot = [f"! {line}" for line in graph.notes()]
    foot += [f"not drawn: {', '.join(graph.unrelated)}"] if graph.unrelated else []
    around = _label([*([host] if host else []), *foot])
    lines = [
        "graph networks {",
        f'  graph [rankdir=LR, fontname="monospace", labelloc=b, labeljust=l, label={around}];',
        '  node [shape=box, style="rounded,filled", fillcolor=white, fontname="monospace", fontsize=10];',
        '  edge [fontname="monospace", fontsize=9];',
    ]
    lines += [f"  {numbers[node.name]} [label={_label(_lines(node))}, {_look(node)}];" for node in graph.nodes]
    for edge in graph.edges:
        look = f" [style=dashed, label={_label([edge.state], end='')}]" if edge.standby else ""
        lines.append(f"  {numbers[edge.source]} -- {numbers[edge.target]}{look};")
    return "\n".join([*lines, "}"]) + "\n"


def _lines(node: Node) -> list[str]:
    return [("! " if node.differs else "") + node.heading, *(line.replace(NBSP, " ") for line in node.lines)]


def _look(node: Node) -> str:
    colour = "#c62828" if node.differs else COLOURS.get(node.kind, OTHER)
    style = '"rounded,filled,dashed"' if node.state != "up" else '"rounded,filled"'
    return f'color="{colour}", penwidth={3 if node.differs else 1.5}, style={style}'


def _label(lines: list[str], end: str = "\\l") -> str:
    """Return lines as a quoted string, each followed by `end` (by default, Graphviz's left-aligned line break). Backslashes and
    HTML entities in it are escaped, because Graphviz interprets them."""
    return '"' + "".join(_quoted(line) + end for line in lines) + '"'


def _quoted(text: str) -> str:
    return one_line(text).replace("&", "&amp;").replace("\\", "\\\\").replace('"', '\\"')
