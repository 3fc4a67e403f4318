"""`vmnet-hook graph`: the host as it is now, drawn. What differs from the declaration is marked."""

import json
import os
import shutil
import sys
from dataclasses import asdict
from typing import TextIO

import click

from ..engine import session
from ..engine.engine import Engine
from ..errors import VmnetError
from ..frontends.running import gone
from ..graph.build import build
from ..graph.dot import dot
from ..graph.model import Graph
from ..graph.svg import svg
from ..graph.text import text
from ..kernel import graph_facts
from ..model.objects import Device, NftElement
from ..model.topology import Difference, Facts, Link, Nat

COLUMNS = 100
"""Where there is no terminal to tell."""
DRAWING = click.File("w", encoding="utf-8")


@click.command()
@click.option("--svg", "svg_file", metavar="FILE", type=DRAWING, help="Write an SVG picture (- is standard output).")
@click.option("--dot", "dot_file", metavar="FILE", type=DRAWING, help="Write Graphviz source (- is standard output).")
@click.option("--ascii", "plain", is_flag=True, help="Draw with +, - and |, as is done where the locale is not UTF-8.")
@click.option("--json", "to_json", is_flag=True, help="Print JSON.")
def graph(svg_file: TextIO | None, dot_file: TextIO | None, plain: bool, to_json: bool) -> None:
    """Draw the host's networks as they are now, from the wire to the guests.

    What differs from the declaration is red and has a `!`; `vmnet-hook check` says what to do about it.
    """
    facts, drawn = look()
    name = os.uname().nodename
    for file, draw in ((svg_file, svg), (dot_file, dot)):
        if file:
            file.write(draw(drawn, name))
    if to_json:
        click.echo(json.dumps({**asdict(facts), **asdict(drawn)}, indent=2))
    elif not svg_file and not dot_file:
        columns = shutil.get_terminal_size((COLUMNS, 0)).columns
        click.echo(text(drawn, columns, not plain and fancy(), red) or "nothing to draw\n", nl=False)


def look() -> tuple[Facts, Graph]:
    """What is there, and its graph. Raises VmnetError."""
    if os.geteuid() != 0:
        raise VmnetError("not root: kernel state and records can't be read; use sudo")
    engine = session.engine()
    try:
        return _look(engine)
    finally:
        engine.close()


def _look(engine: Engine) -> tuple[Facts, Graph]:
    owners = engine.store.owners()
    differences = [Difference(drift.owner, drift.what) for drift in engine.check("", gone(owners))]
    links, tables = graph_facts.read()
    there = {link.name for link in links}
    nats, absent = [], []
    for resource in engine.store.resources().values():
        if isinstance(resource, NftElement) and resource.set.startswith(("snat", "masquerade")):
            subnet, out = resource.parts
            nats.append(Nat(subnet, out.strip('"'), resource.value))
        elif isinstance(resource, Device) and resource.ifname not in there:
            absent.append(Link(resource.ifname, kind=resource.type, up=False, parent=resource.parent))
    facts = Facts(links, tables, nats, absent)
    return facts, build(facts, owners, engine.config, differences)


def fancy() -> bool:
    """Whether the terminal shows box-drawing characters. By the locale: Python writes UTF-8 in the C locale too."""
    locale = next((value for key in ("LC_ALL", "LC_CTYPE", "LANG") if (value := os.environ.get(key))), "")
    utf8 = "utf" in locale.lower() and "utf" in (sys.stdout.encoding or "").lower()
    return utf8 and os.environ.get("TERM") != "dumb"


def red(marked: str) -> str:
    return click.style(marked, fg="red")
