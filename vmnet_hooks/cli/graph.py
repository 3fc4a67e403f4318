"""`vmnet-hook graph`: draw the present state of the host, with differences from the declaration marked."""

import json
import os
import shutil
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, TextIO

import click

from . import registration
from .session import complain, opened

if TYPE_CHECKING:
    from ..graph.model import Graph
    from ..model.declaration import Config
    from ..model.topology import Facts

COLUMNS = 100
"""The width of the drawing in characters if standard output is not a terminal."""
DRAWING = click.File("w", encoding="utf-8")


@click.command()
@click.option("--svg", "svg_file", metavar="FILE", type=DRAWING, help="Write an SVG picture (- is standard output).")
@click.option("--dot", "dot_file", metavar="FILE", type=DRAWING, help="Write Graphviz source (- is standard output).")
@click.option("--ascii", "plain", is_flag=True, help="Draw with +, - and |, the default where the locale is not UTF-8.")
@click.option("--json", "to_json", is_flag=True, help="Print JSON.")
def graph(svg_file: TextIO | None, dot_file: TextIO | None, plain: bool, to_json: bool) -> None:
    """Draw the host's networks as they are now, from the wire to the guests.

    What differs from the declaration is red and has a `!`; `vmnet-hook check` names the remedy.
    """
    # Not needed for completion.
    from ..declared import configuration
    from ..graph.dot import dot
    from ..graph.svg import svg
    from ..graph.text import text

    declared = configuration.survey()
    facts, drawn = look(declared)
    name = os.uname().nodename
    for file, draw in ((svg_file, svg), (dot_file, dot)):
        if file:
            file.write(draw(drawn, name))
    if to_json:
        click.echo(json.dumps({**asdict(facts), **asdict(drawn)}, indent=2))
    elif not svg_file and not dot_file:
        columns = shutil.get_terminal_size((COLUMNS, 0)).columns
        click.echo(text(drawn, columns, not plain and _fancy(), _red) or "nothing to draw\n", nl=False)
    complain(declared)


def look(declared: "Config") -> tuple["Facts", "Graph"]:
    """Return the facts about the host and their graph. Raise VmnetError."""
    # Not needed for completion.
    from ..engine.check import check
    from ..frontends.running import gone
    from ..graph.build import build
    from ..kernel import graph_facts
    from ..links.forward import shown
    from ..model.objects import Device, NftElement
    from ..model.objects.dnsmasq import Dnsmasq
    from ..model.resource import FORWARD_MAPS
    from ..model.topology import Facts, LinkDetails, Nat

    with opened(declared) as session:
        owners = session.records.owners()
        drifts = check(session, "", gone(owners))
        links, tables = graph_facts.read()
        resources = session.records.resources()
        names = registration.by_address(session)
    there = {link.name for link in links}
    nats, absent = [], []
    forwards: dict[str, list[str]] = {}
    servers: dict[str, list[str]] = {}
    for resource in resources.values():
        if isinstance(resource, NftElement) and resource.set.startswith(("snat", "masquerade")):
            subnet, out = resource.parts
            nats.append(Nat(subnet, out.strip('"'), resource.value))
        elif isinstance(resource, NftElement) and resource.set in FORWARD_MAPS:
            forwards.setdefault(resource.value.partition(" . ")[0], []).append(shown(resource))
        elif isinstance(resource, Dnsmasq):
            servers.setdefault(resource.interface, []).append(resource.serves)
        elif isinstance(resource, Device) and resource.ifname not in there:
            absent.append(LinkDetails(resource.ifname, kind=resource.type, up=False, parent=resource.parent))
    facts = Facts(links, tables, nats, absent, forwards, servers, names)
    return facts, build(facts, owners, declared, drifts)


def _fancy() -> bool:
    """Return whether the terminal shows box-drawing characters. Only the locale tells: Python writes UTF-8 even in the C
    locale."""
    locale = next((value for key in ("LC_ALL", "LC_CTYPE", "LANG") if (value := os.environ.get(key))), "")
    utf8 = "utf" in locale.lower() and "utf" in (sys.stdout.encoding or "").lower()
    return utf8 and os.environ.get("TERM") != "dumb"


def _red(marked: str) -> str:
    return click.style(marked, fg="red")
