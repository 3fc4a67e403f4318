"""`vmnet-hook xen-scripts`: list the scripts that xl runs, or divert them."""

import os
from typing import TYPE_CHECKING

import click

from ..errors import InputError
from .arguments import JSON
from .output import as_json, columns

if TYPE_CHECKING:
    from ..frontends.xen_diversion import Script


@click.command("xen-scripts")
@click.option(
    "--divert", is_flag=True, help="Set Xen's scripts aside as NAME.xen, with dpkg-divert, and put ours in their place."
)
@click.option("--undivert", is_flag=True, help="Put Xen's scripts back.")
@JSON
def xen_scripts(divert: bool, undivert: bool, to_json: bool) -> None:
    """List the scripts that xl can run, and for each name whose script it is: Xen's or ours.

    Ours are beside Xen's, as vmnet-vif-bridge and so on. With --divert they replace Xen's, under the names of these.
    """
    # Not needed for completion.
    from ..frontends import xen_diversion
    from ..kernel import root

    if divert and undivert:
        raise InputError("--divert and --undivert are each other's inverse; give one")
    if not (divert or undivert):
        _show(xen_diversion.directory(), to_json)
        return
    root.require("Xen's scripts can't be diverted")
    changed, warnings = xen_diversion.divert(xen_diversion.directory()) if divert else xen_diversion.undivert()
    verb = "divert" if divert else "undivert"
    for warning in warnings:
        click.echo(f"warning: {warning}", err=True)
    for script in changed:
        click.echo(f"{verb} {script.path}")
    if not changed:
        click.echo(f"{verb}: nothing to do")
    if divert:
        for path, name in xen_diversion.sourcing(xen_diversion.directory()):
            click.echo(f"note: {path} sources {name}, which is ours now; write {name}.xen there to keep Xen's")
    if divert and not all(script.is_ours for script in changed):
        click.echo("guests that name no script= start with ours from now on; those that run stay as they are")
        click.echo("back to Xen's: vmnet-hook xen-scripts --undivert")


def _show(where: str, to_json: bool) -> None:
    # Not needed for completion.
    from ..frontends import xen_diversion

    known = xen_diversion.registered()
    scripts = [xen_diversion.look(f"{where}/{name}", known) for name in (*xen_diversion.DIVERTED, *xen_diversion.UNTOUCHED)]
    ours = [xen_diversion.look(f"{where}/vmnet-{script.name}", known) for script in scripts]
    rows = [(script.name, *_answers(script)) for script in (*scripts, *ours)]
    if to_json:
        as_json([{"script": name, "answers": who, "path": path} for name, who, path in rows])
    else:
        columns(("SCRIPT", "ANSWERS", "PATH"), [(name, who or "none", path or "-") for name, who, path in rows])
    for script in scripts:
        if xen_diversion.half_done(script):
            click.echo(f"warning: {script.path} is half diverted; run xen-scripts --divert or --undivert again", err=True)


def _answers(script: "Script") -> tuple[str, str]:
    """Return the owner and the path of the program that runs under the script's name; "" and "" if there is none."""
    # Not needed for completion.
    from ..frontends.xen_diversion import DROPPED, At

    if not os.path.exists(script.path):
        return "", ""
    if script.is_ours:
        return "vmnet-hooks", script.target
    return "another" if script.at is At.FILE and script.name in DROPPED else "Xen", script.path
