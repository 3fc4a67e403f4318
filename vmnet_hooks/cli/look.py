"""Commands that show: status, check, monitor, options."""

import json
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from .. import __version__
from ..errors import VmnetError, one_line
from . import domains
from .arguments import JSON, OPTIONAL_DOMAIN
from .output import as_json, columns, differences
from .session import complain, opened

if TYPE_CHECKING:
    from ..model.declaration import Option
    from ..model.guest import Domain, Vif


_COLOURS = {"ok": "green", "down": "yellow"}
"""Those of states; the others are red."""


@click.command()
@OPTIONAL_DOMAIN
@JSON
def status(domain: str, to_json: bool) -> None:
    """List what is set up, for all guests and the host or for DOMAIN, and whether the kernel agrees and the agent runs."""
    # Not needed for completion.
    from ..declared import configuration
    from ..engine import check as engine
    from ..engine import world
    from ..engine.claims import unclaimed
    from ..frontends.running import described, gone

    declared = configuration.survey()
    with opened(declared) as session:
        running = described()
        if domain:
            domains.require(session, domain, running)
        owners = session.records.owners(domain=domain) if domain else session.records.owners()
        drifts = engine.check(session, domain, gone(owners), running)
        idle = unclaimed(session, running, domain)
        down = [] if domain else world.down(session)
    drifted = {drift.owner for drift in drifts}
    rows: list[dict[str, Any]] = [
        {
            "domain": row["domain"],
            "ifname": row["ifname"],
            "name": row["domain"] or owner.id,
            "network": row["network"],
            "mac": row["mac"],
            "addresses": list(row["addresses"]),
            "filter": bool(row["filter"]),
            "roles": list(getattr(owner, "roles", ())),
            "frontend": owner.frontend,
            "phase": owner.phase,
            "state": "drift" if owner.label in drifted else "ok",
        }
        for owner, row in ((owner, owner.columns()) for owner in owners)
    ]
    rows += [_unclaimed(guest, vif) for guest, vif in idle]
    rows += [_absent(drift.owner_id, "not up") for drift in drifts if drift.is_of_part]
    rows += [_absent(part.id, "down") for part in down]
    if to_json:
        as_json(rows)
        complain(declared)
        return
    if not rows:
        click.echo(f"nothing is set up{f' for {domain}' if domain else ''}")
    else:
        columns(
            ("DOMAIN", "VIF", "NETWORK", "MAC", "ADDRESSES", "PHASE", "STATE"),
            [
                (
                    one_line(r["domain"]) or "-",
                    r["ifname"] or "-",
                    (r["name"] if r["domain"] == "" else r["network"]) or "-",
                    r["mac"] or "-",
                    " ".join(r["addresses"]) or "-",
                    r["phase"] or "-",
                    r["state"],
                )
                for r in rows
            ],
            lambda column, cell: click.style(cell, fg=_COLOURS.get(cell, "red")) if column == "STATE" else cell,
        )
    click.echo(_agent(), err=True)
    if idle:
        click.echo("unclaimed: no network claims it; see `vmnet-hook set --help`, and GUESTS in vmnet.toml(5)", err=True)
    if drifts:
        click.echo(f"{len(drifts)} difference{'s' if len(drifts) > 1 else ''}; see `vmnet-hook check`", err=True)
    complain(declared)


def _unclaimed(guest: "Domain", vif: "Vif") -> dict[str, Any]:
    """Return the row of a running guest's NIC that no network claims."""
    there = {"domain": guest.name, "ifname": vif.ifname, "name": guest.name, "mac": vif.mac, "frontend": "", "phase": ""}
    return {**there, "network": "", "addresses": [], "filter": False, "roles": [], "state": "unclaimed"}


def _absent(part_id: str, state: str) -> dict[str, Any]:
    """Return the row of a declared part that is not up."""
    blank = {"domain": "", "ifname": "", "mac": "", "addresses": [], "filter": True, "roles": [], "frontend": "", "phase": "-"}
    return {**blank, "name": part_id, "network": part_id.partition(":")[2], "state": state}


def _agent() -> str:
    """Return one line about the agent."""
    # Not needed for completion.
    from ..hook import client

    connection = client.connected()
    if connection is None:
        return "agent: not running; hooks do their work by themselves, more slowly, see vmnet-hookd(8)"
    try:
        answer = client.asked(connection, "agent/status").partition(b"\n")[2]
        found = json.loads(answer)
    except (OSError, ValueError):
        return f"agent: does not answer, or is not version {__version__}; restart it: systemctl restart vmnet-hookd"
    finally:
        connection.close()
    since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(found["since"]))
    did = f"{found['served']} calls served, {found['healed']} objects put back"
    stands = f"; {found['configuration']}" if found["configuration"] else ""
    return one_line(f"agent: runs since {since}, process {found['pid']}: {did}{stands}")


@click.command()
@OPTIONAL_DOMAIN
@JSON
def check(domain: str, to_json: bool) -> None:
    """Compare the kernel with the records and the configuration. If they differ, list the differences and exit with 1."""
    # Not needed for completion.
    from ..declared import configuration
    from ..engine import check as engine
    from ..frontends.running import described, gone

    declared = configuration.survey()
    with opened(declared) as session:
        running = described()
        if domain:
            domains.require(session, domain, running)
        drifts = engine.check(session, domain, gone(session.records.owners()), running)
        hazards = [] if domain else engine.hazards(session)
        fine = f"nothing is set up for {one_line(domain)}" if domains.nothing(session, domain) else "ok"
    for hazard in hazards:
        click.echo(f"warning: {hazard}", err=True)
    differences(drifts, to_json, fine)
    complain(declared)
    if drifts:
        raise SystemExit(1)


@click.command()
def monitor() -> None:
    """Print a line for each event of the agent, until interrupted."""
    # Not needed for completion.
    from ..hook import client

    connection = client.connected()
    if connection is None:
        raise VmnetError(f"{client.SOCKET}: no agent listens there; start it: systemctl start vmnet-hookd")
    try:
        connection.sendall(client.head("agent/monitor"))
        connection.settimeout(None)
        while lines := connection.recv(1 << 16):
            click.echo(lines, nl=False)
    except KeyboardInterrupt:
        return
    except OSError:
        pass
    finally:
        connection.close()
    raise VmnetError("the agent has ended, or refused; see `systemctl status vmnet-hookd`")


@click.command()
@JSON
def options(to_json: bool) -> None:
    """List every key of the configuration, with its default, an example and its meaning."""
    # Not needed for completion.
    from ..declared import SECTIONS
    from ..declared.configuration import INTERFACE_OPTIONS

    rows = [row for kind in SECTIONS.values() for where, found in kind.listed() for row in _option_rows(found, where)]
    rows += _option_rows(INTERFACE_OPTIONS, "domains.d/DOMAIN.toml: interfaces[]")
    if to_json:
        as_json(rows)
    else:
        columns(
            ("KEY", "DEFAULT", "EXAMPLE", "MEANING"),
            [(r["key"], "required" if r["required"] else _toml(r["default"]), r["example"], r["doc"]) for r in rows],
        )


def _option_rows(rows: Sequence["Option"], prefix: str) -> list[dict[str, Any]]:
    # Not needed for completion.
    from ..model.declaration import Required

    result: list[dict[str, Any]] = []
    for row in rows:
        default = None if row.default is Required else row.default
        about = {"default": default, "required": row.required, "doc": row.doc, "example": row.example}
        result.append({"key": f"{prefix}.{row.name}", **about})
        result += _option_rows(row.keys, f"{prefix}.{row.name}{'[]' if row.listed else ''}")
    return result


def _toml(value: object) -> str:
    return "-" if value is None else json.dumps(value)
