"""`vmnet-hook leases`: who has which address on the networks that give out addresses."""

import time
from typing import TYPE_CHECKING, Any

import click

from ..errors import one_line
from .arguments import JSON
from .output import as_json, columns
from .session import complain, opened

if TYPE_CHECKING:
    from ..engine import Session


MANY = 500
"""Leases. With names, dnsmasq takes 0.5 ms of a processor for each of the first 200, 10 ms on the way to 2,000, then 30 ms."""


@click.command()
@click.argument("network", default="")
@JSON
def leases(network: str, to_json: bool) -> None:
    """List the addresses that guests have by DHCP: those that they are declared with, and those that they leased; of all
    networks, or of NETWORK."""
    # Not needed for completion.
    from ..declared import configuration

    declared = configuration.survey()
    with opened(declared) as session:
        if network:
            declared.network(network, "leases")
        rows = [row for name in ([network] if network else sorted(declared.networks)) for row in of_network(session, name)]
    if to_json:
        as_json(rows)
    elif not rows:
        click.echo("no address is given out")
    else:
        columns(
            ("NETWORK", "ADDRESS", "MAC", "NAME", "DOMAIN", "EXPIRES"),
            [
                (
                    row["network"],
                    row["address"],
                    row["mac"] or "-",
                    one_line(row["name"]) or "-",
                    one_line(row["domain"]) or "-",
                    _time(row["expires"]) if row["leased"] else "declared",
                )
                for row in rows
            ],
        )
    complain(declared)


def crowded(session: "Session") -> list[str]:
    """Return a warning for each network with more leases than dnsmasq gives quickly while it answers for names. Raise
    KernelError."""
    # Not needed for completion.
    from ..kernel import leases as files
    from ..services import pool

    found = []
    for name, network in session.config.networks.items():
        is_asked = network.options.get("dns") is not None and network.options.get("dhcp") is not None
        count = len(files.of(name, time.time())) if is_asked and pool.is_leased(network) else 0
        if count > MANY:
            found.append(
                f"network {name} has {count} leases: with names, dnsmasq takes the longer for each the more there are; declare "
                "addresses (domains.d), which the agent gives, or remove dns there"
            )
    return found


def _time(expires: int) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(expires)) if expires else "never"


def of_network(session: "Session", name: str) -> list[dict[str, Any]]:
    """Return the rows of a network: of its guests' declared addresses, then of leases. Raise KernelError."""
    # Not needed for completion.
    from ..kernel import leases as files
    from ..services import pool
    from ..services.dhcp import host_name

    network = session.config.networks[name]
    if network.options.get("dhcp") is None:
        return []
    nics = session.records.nics(network=name)
    rows = [
        {
            **{"network": name, "address": address, "mac": nic.mac, "name": host_name(nic.domain), "domain": nic.domain},
            **{"ifname": nic.ifname, "leased": False, "expires": None},
        }
        for nic in nics
        for address in nic.addresses
        if "/" not in address
    ]
    owners = {nic.mac: nic for nic in nics if not nic.addresses}
    for lease in files.of(name, time.time()) if pool.is_leased(network) else ():
        owner = owners.get(lease.mac)
        about = {"domain": owner.domain if owner else "", "ifname": owner.ifname if owner else ""}
        rows.append({"network": name, **lease._asdict(), **about, "leased": True})
    return rows
