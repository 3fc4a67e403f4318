"""`vmnet-hook xen-scripts`: whose scripts xl runs."""

import json
import os

import click

from ..errors import InputError, VmnetError
from ..frontends import xen_diversion
from ..frontends.xen_diversion import At, Script
from .output import table


@click.command("xen-scripts")
@click.option(
    "--divert", is_flag=True, help="Set Xen's scripts aside as NAME.xen, with dpkg-divert, and put ours in their place."
)
@click.option("--undivert", is_flag=True, help="Put Xen's scripts back.")
@click.option("--json", "to_json", is_flag=True, help="Print JSON.")
def xen_scripts(divert: bool, undivert: bool, to_json: bool) -> None:
    """List the scripts that xl finds by name, and who answers: Xen's own, or vmnet-hooks.

    Ours are vmnet-vif-bridge and so on, beside Xen's own. Diverted, they also answer to the names of Xen's own.
    """
    if divert and undivert:
        raise InputError("--divert and --undivert are each other's inverse; give one")
    if not (divert or undivert):
        show(xen_diversion.directory(), to_json)
        return
    if os.geteuid() != 0:
        raise VmnetError("not root: Xen's scripts can't be diverted; use sudo")
    changed, warnings = xen_diversion.divert(xen_diversion.directory()) if divert else xen_diversion.undivert()
    verb = "divert" if divert else "undivert"
    for warning in warnings:
        click.echo(f"warning: {warning}", err=True)
    for script in changed:
        click.echo(f"{verb} {script.path}")
    if not changed:
        click.echo(f"{verb}: nothing to do")


def show(where: str, to_json: bool) -> None:
    known = xen_diversion.registered()
    scripts = [xen_diversion.look(f"{where}/{name}", known) for name in (*xen_diversion.DIVERTED, *xen_diversion.UNTOUCHED)]
    ours = [xen_diversion.look(f"{where}/vmnet-{script.name}", known) for script in scripts]
    rows = [(script.name, *answers(script)) for script in (*scripts, *ours)]
    if to_json:
        click.echo(json.dumps([{"script": name, "answers": who, "path": path} for name, who, path in rows], indent=2))
    else:
        table(("SCRIPT", "ANSWERS", "PATH"), [(name, who or "none", path or "-") for name, who, path in rows])
    for script in scripts:
        if xen_diversion.half_done(script):
            click.echo(f"warning: {script.path} is half diverted; run xen-scripts --divert or --undivert again", err=True)


def answers(script: Script) -> tuple[str, str]:
    """Who answers to the script's name ("": nobody), and the path of what is run."""
    if not os.path.exists(script.path):
        return "", ""
    if script.is_ours:
        return "vmnet-hooks", script.target
    return "somebody else" if script.at is At.FILE and script.name in xen_diversion.DROPPED else "Xen", script.path
