"""Commands that show: status, check, monitor, options."""

import json
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import click

from .. import __version__
from ..errors import VmnetError, one_line
from . import domains, registration
from .arguments import JSON, OPTIONAL_DOMAIN
from .output import as_json, columns, differences
from .session import complain, opened

if TYPE_CHECKING:
    from ..engine import Session
    from ..engine.drift import Drift
    from ..model.declaration import Config, Option
    from ..model.guest import Domain, Vif
    from ..model.owner import Owner


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
    from ..model.owner import Nic

    declared = configuration.survey()
    with opened(declared) as session:
        running = described()
        if domain:
            domains.require(session, domain, running)
        owners = session.records.owners(domain=domain) if domain else session.records.owners()
        drifts = engine.check(session, domain, gone(owners), running)
        forwards = {owner.id: found for owner in owners if (found := _forwards(session, owner.id))} if declared.forwards else {}
        ends = {owner.id: end for owner in owners if (end := _other_end(session, owner))} if declared.ends else {}
        leased = _leased(session)
        drifts += registration.owed(session, domain)
        names = registration.shown(session)
        names = {owner.domain: names[owner.domain] for owner in owners if isinstance(owner, Nic) and owner.domain in names}
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
            "leased": leased.get(row["ifname"], []),
            "filter": _is_filtered(owner, declared),
            "roles": list(getattr(owner, "roles", ())),
            "forwards": forwards.get(owner.id, []),
            "other_end": ends.get(owner.id, ""),
            "names": names.get(row["domain"], []),
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
                    " ".join([*r["addresses"], *(f"{address}*" for address in r["leased"])]) or "-",
                    r["phase"] or "-",
                    r["state"],
                )
                for r in rows
            ],
            lambda column, cell: click.style(cell, fg=_COLOURS.get(cell, "red")) if column == "STATE" else cell,
        )
    for row in rows:
        for forward in row["forwards"]:
            click.echo(f"{one_line(row['domain'])} {row['ifname']}: forwards {forward}")
    for row in rows:
        if row["other_end"]:
            click.echo(f"{one_line(row['domain'])} {row['ifname']}: wire {row['network']} {row['other_end']}")
    if any(row["leased"] for row in rows):
        click.echo("*: leased; see `vmnet-hook leases`", err=True)
    for guest, found in names.items():
        for name in found:
            click.echo(f"{one_line(guest)}: {name}")
    click.echo(_agent(), err=True)
    if idle:
        click.echo("unclaimed: no network claims it; see `vmnet-hook set --help`, and GUESTS in vmnet.toml(5)", err=True)
    if drifts:
        click.echo(f"{len(drifts)} difference{'s' if len(drifts) > 1 else ''}; see `vmnet-hook check`", err=True)
    complain(declared)


def _leased(session: "Session") -> dict[str, list[str]]:
    """Return the addresses that guests have leased, by their taps."""
    # Not needed for completion.
    from .leases import of_network

    found: dict[str, list[str]] = {}
    for row in (row for name in session.config.networks for row in of_network(session, name)):
        if row["leased"] and row["ifname"]:
            found.setdefault(row["ifname"], []).append(row["address"])
    return found


def _forwards(session: "Session", owner_id: str) -> list[str]:
    """Return the ports that are forwarded to a NIC, as text."""
    # Not needed for completion.
    from ..links.forward import shown
    from ..model.objects import NftElement
    from ..model.resource import FORWARD_MAPS

    claims = session.records.claims(owner_id).values()
    return [shown(r) for r in claims if isinstance(r, NftElement) and r.set in FORWARD_MAPS]


def _other_end(session: "Session", owner: "Owner") -> str:
    """Return what is at the other end of the wire that a NIC is at, as text; "" if it is at none."""
    # Not needed for completion.
    from ..engine import wires
    from ..model.owner import Nic

    return wires.other_end(session, owner) if isinstance(owner, Nic) else ""


def _is_filtered(owner: "Owner", config: "Config") -> bool:
    """Whether what a NIC's guest sends is filtered; of a part, True."""
    # Not needed for completion.
    from ..model.owner import Nic

    network = config.networks.get(owner.network) if isinstance(owner, Nic) else None
    return network.mode.is_filtered(owner.vif, network) if network and isinstance(owner, Nic) else bool(owner.columns()["filter"])


def _unclaimed(guest: "Domain", vif: "Vif") -> dict[str, Any]:
    """Return the row of a running guest's NIC that no network claims."""
    there = {"domain": guest.name, "ifname": vif.ifname, "name": guest.name, "mac": vif.mac, "frontend": "", "phase": ""}
    return {
        **there,
        "network": "",
        "addresses": [],
        "leased": [],
        "filter": False,
        "roles": [],
        "forwards": [],
        "other_end": "",
        "names": [],
        "state": "unclaimed",
    }


def _absent(part_id: str, state: str) -> dict[str, Any]:
    """Return the row of a declared part that is not up."""
    blank = {
        "domain": "",
        "ifname": "",
        "mac": "",
        "addresses": [],
        "leased": [],
        "filter": True,
        "roles": [],
        "frontend": "",
        "phase": "-",
    }
    return {
        **blank,
        "forwards": [],
        "other_end": "",
        "names": [],
        "name": part_id,
        "network": part_id.partition(":")[2],
        "state": state,
    }


def _agent() -> str:
    """Return one line about the agent."""
    # Not needed for completion.
    from ..hook import client

    if (connection := client.connected()) is None:
        return "agent: not running; hooks do their work by themselves, more slowly, see vmnet-hookd(8)"
    connection.close()
    if (found := _status()) is None:
        return f"agent: does not answer, or is not version {__version__}; restart it: systemctl restart vmnet-hookd"
    since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(found["since"]))
    did = f"{found['served']} calls served, {found['healed']} objects put back"
    stands = f"; {found['configuration']}" if found["configuration"] else ""
    return one_line(f"agent: runs since {since}, process {found['pid']}: {did}{stands}")


def _status() -> dict[str, Any] | None:
    """Return what the agent says of itself; None if there is none, or it does not answer."""
    # Not needed for completion.
    from ..hook import client

    connection = client.connected()
    if connection is None:
        return None
    try:
        answer: dict[str, Any] = json.loads(client.asked(connection, "agent/status").partition(b"\n")[2])
    except (OSError, ValueError):
        return None
    finally:
        connection.close()
    return answer


@click.command()
@OPTIONAL_DOMAIN
@JSON
def check(domain: str, to_json: bool) -> None:
    """Compare the kernel with the records and the configuration. If they differ, list the differences and exit with 1."""
    # Not needed for completion.
    from ..declared import configuration
    from ..engine import check as engine
    from ..frontends.running import described, gone
    from . import leases

    declared = configuration.survey()
    with opened(declared) as session:
        running = described()
        if domain:
            domains.require(session, domain, running)
        drifts = [*engine.check(session, domain, gone(session.records.owners()), running), *_unserved(session, domain)]
        drifts += registration.owed(session, domain)
        hazards = [] if domain else [*engine.hazards(session), *leases.crowded(session)]
        fine = f"nothing is set up for {one_line(domain)}" if domains.nothing(session, domain) else "ok"
    for hazard in hazards:
        click.echo(f"warning: {hazard}", err=True)
    differences(drifts, to_json, fine)
    complain(declared)
    if drifts:
        raise SystemExit(1)


def _unserved(session: "Session", domain: str) -> "Iterator[Drift]":
    """Yield for each guest's network, or NIC, that the agent does not answer what guests ask by DHCP."""
    # Not needed for completion.
    from ..engine.drift import Drift
    from ..model.objects import NftElement
    from ..services import dhcp

    told = []
    for nic in session.records.nics():
        network = session.config.networks.get(nic.network)
        if network and domain in ("", nic.domain) and network.options.get(dhcp.OPTION.name) is not None:
            tap = f'"{nic.ifname}"'
            keys = {NftElement.key_of(family, name, tap, nic.mac) for family in ("inet", "bridge") for name in dhcp.SETS}
            if not keys.isdisjoint(session.records.claimed(nic.id)):
                told.append((nic, network))
    if not told:
        return
    agent = _status()
    if agent is None:
        what = "the agent does not run, or does not answer; it tells guests their addresses by DHCP"
        for label, network_id in dict.fromkeys((network.label, network.id) for _, network in told):
            yield Drift("hindered", what, "systemctl restart vmnet-hookd", label, network_id)
        return
    for nic, _ in told:
        if nic.ifname in agent.get("deaf", ()):
            what = f"{nic.ifname}: the agent can't listen there, to answer by DHCP; see its log"
            yield Drift("hindered", what, "systemctl restart vmnet-hookd", nic.label, nic.id)


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
