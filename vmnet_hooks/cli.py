"""`vmnet-hook`: the command line. Exit status: 0 done; 1 the kernel, another guest or libvirt said no, or `check` found drift;
2 the command line, the configuration or the domain's description can't be used."""

import json
import os
import syslog
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any, NoReturn

import click

from . import __version__, actions, compose, config, host, store, values
from .config import INTERFACE_OPTIONS, Option, Required
from .domain import Domain, Owner
from .engine import Drift, Engine, activate
from .errors import InputError, VmnetError, one_line, shortened
from .frontends import libvirt, libvirt_connection
from .kernel import packet
from .modes import MODES

RECORDS_ALONE = config.Config({})
"""Clean-up needs no configuration: a broken one must not keep it from happening."""


class Commands(click.Group):
    """Turns our errors into one line on stderr and an exit status."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except VmnetError as error:
            fail(str(error), error.exit_code)


def fail(reason: str, status: int) -> NoReturn:
    click.echo(f"vmnet-hook: {shortened(reason)}", err=True)
    raise SystemExit(status)


@contextmanager
def engine(declared: config.Config | None = None) -> Iterator[Engine]:
    if os.geteuid() != 0:
        raise VmnetError("not root: kernel state and records can't be read; use sudo")
    opened = host.engine(declared)
    try:
        yield opened
    finally:
        opened.close()


def table(
    header: Sequence[str], rows: Sequence[Sequence[object]], paint: Callable[[str, str], str] = lambda _, cell: cell
) -> None:
    """Aligned columns; `paint(column, cell)` may colour a cell (click drops colours where there is no terminal)."""
    cells = [[str(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(header, *cells, strict=True)]
    last = len(header) - 1

    def padded(row: Sequence[str]) -> list[str]:
        return [cell if i == last else cell.ljust(width) for i, (cell, width) in enumerate(zip(row, widths, strict=True))]

    click.echo(click.style("  ".join(padded(list(header))), bold=True))
    for row in cells:
        click.echo("  ".join(paint(name, cell) for name, cell in zip(header, padded(row), strict=True)))


def as_json(value: object) -> None:
    click.echo(json.dumps(value, indent=2))


def describe(name: str, xml: str | None) -> Domain:
    """The domain, from a file or from libvirt. Raises VmnetError."""
    if xml is None:
        return libvirt.parse_domain(libvirt_connection.domain_xml(name), name)
    try:
        with open(xml, "rb") as file:
            data = file.read(libvirt.MAX_BYTES + 1)
    except OSError as error:
        raise InputError(f"{xml}: {error.strerror}") from None
    domain = libvirt.parse_domain(data, xml)
    if domain.name != name:
        raise InputError(f"{xml}: describes domain {one_line(repr(domain.name))}, not {one_line(repr(name))}")
    return domain


def domain_names(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    try:
        records = store.Store()
        return sorted({owner.domain for owner in records.owners() if owner.domain.startswith(incomplete)})
    except (VmnetError, OSError):
        return []


def network_names(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    try:
        return [name for name in config.load(MODES).networks if name.startswith(incomplete)]
    except VmnetError:
        return []


DOMAIN = click.argument("domain", shell_complete=domain_names)
OPTIONAL_DOMAIN = click.argument("domain", default="", shell_complete=domain_names)
NETWORK = click.argument("network", shell_complete=network_names)
XML = click.option(
    "--xml",
    metavar="FILE",
    help="Read the domain from a libvirt XML file instead of from libvirt.",
    type=click.Path(dir_okay=False),
)
JSON = click.option("--json", "to_json", is_flag=True, help="Print JSON.")


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="vmnet-hook")
def main() -> None:
    """Wire guests to the host's networks: what the hooks do, by hand.

    Networks are declared in /etc/vmnet-hooks/vmnet.toml; see vmnet.toml(5) and vmnet-hook(8).
    """
    syslog.openlog("vmnet-hook", syslog.LOG_PID, syslog.LOG_DAEMON)


@main.command()
@DOMAIN
@XML
def start(domain: str, xml: str | None) -> None:
    """Set up every claimed NIC of a running DOMAIN, and announce its addresses."""
    guest = describe(domain, xml)
    with engine() as opened:
        owners = opened.plug(guest, "cli")
        if not owners:
            raise InputError(f"{domain}: nothing claims any of its NICs; see `vmnet-hook set --help`")
        activate(opened.config, opened.store, packet.announce, guest)
    report("start", domain, owners)


@main.command()
@DOMAIN
@XML
def stop(domain: str, xml: str | None) -> None:
    """Remove everything that was set up for DOMAIN. Needs only the records: neither libvirt nor the taps."""
    guest = describe(domain, xml) if xml else Domain(domain)
    with engine(RECORDS_ALONE) as opened:
        owners = opened.unplug(guest)
    if not owners:
        raise InputError(f"{domain}: nothing is set up for it; see `vmnet-hook status`")
    report("stop", domain, owners)


def report(verb: str, name: str, owners: Sequence[Owner]) -> None:
    line = f"{verb} {name}: {actions.described(owners)}"
    syslog.syslog(syslog.LOG_INFO, one_line(line))
    click.echo(one_line(line))


@main.command()
@DOMAIN
@XML
@click.option("--stop", "stopping", is_flag=True, help="Show what stop would do.")
@JSON
def plan(domain: str, xml: str | None, stopping: bool, to_json: bool) -> None:
    """Print what start (or stop) would do now, as a shell script. Nothing is changed."""
    guest = Domain(domain) if stopping and not xml else describe(domain, xml)
    with engine() as opened:
        changes = opened.plan_unplug(guest) if stopping else opened.plan_plug(guest, "cli")
    if to_json:
        as_json([{"key": change.subject.key, "command": str(change)} for change in changes])
        return
    click.echo(f"# {one_line(domain)}: {'nothing to do' if not changes else f'{len(changes)} changes'}")
    for change in changes:
        click.echo(str(change))


@main.command()
@OPTIONAL_DOMAIN
@JSON
def status(domain: str, to_json: bool) -> None:
    """List what is set up: every vif (of DOMAIN) with its network, addresses and state."""
    with engine() as opened:
        owners = opened.store.owners(domain=domain) if domain else opened.store.owners()
        drifts = opened.check(domain, gone(owners))
    drifted = {drift.owner for drift in drifts}
    rows: list[dict[str, Any]] = []
    for owner in owners:
        name = owner.domain or f"network {owner.network}"
        rows.append(
            {
                "domain": owner.domain,
                "ifname": owner.ifname,
                "network": owner.network,
                "mac": owner.mac,
                "addresses": list(owner.addresses),
                "filter": owner.filter,
                "frontend": owner.frontend,
                "phase": owner.phase,
                "state": "drift" if name in drifted else "ok",
            }
        )
    if to_json:
        as_json(rows)
        return
    if not rows:
        click.echo(f"nothing is set up{f' for {domain}' if domain else ''}")
    else:
        table(
            ("DOMAIN", "VIF", "NETWORK", "MAC", "ADDRESSES", "PHASE", "STATE"),
            [
                (
                    r["domain"] or "-",
                    r["ifname"] or "-",
                    r["network"],
                    r["mac"] or "-",
                    " ".join(r["addresses"]) or "-",
                    r["phase"],
                    r["state"],
                )
                for r in rows
            ],
            lambda column, cell: click.style(cell, fg="green" if cell == "ok" else "red") if column == "STATE" else cell,
        )
    if drifts:
        click.echo(f"{len(drifts)} differences; see `vmnet-hook check`", err=True)


@main.command()
@OPTIONAL_DOMAIN
@JSON
def check(domain: str, to_json: bool) -> None:
    """Compare records, configuration and kernel (of DOMAIN). Exit status 1 and a list if they differ."""
    with engine() as opened:
        drifts = opened.check(domain, gone(opened.store.owners()))
    show(drifts, to_json, "ok")
    if drifts:
        raise SystemExit(1)


@main.command()
@OPTIONAL_DOMAIN
@JSON
def repair(domain: str, to_json: bool) -> None:
    """Make check clean: set up again what is missing, remove what belongs to nobody any more."""
    with engine() as opened:
        drifts = opened.repair(domain, gone(opened.store.owners()))
    for drift in drifts:
        syslog.syslog(syslog.LOG_NOTICE, one_line(f"repair {drift.owner}: {drift.what}"))
    show(drifts, to_json, "nothing to repair")


def gone(owners: Sequence[Owner]) -> set[str]:
    """Ids of libvirt's domains that run no more, as far as libvirt can be asked."""
    return libvirt_connection.not_running({owner.domain_id for owner in owners if owner.frontend == "libvirt"})


def show(drifts: Sequence[Drift], to_json: bool, nothing: str) -> None:
    if to_json:
        as_json([asdict(drift) for drift in drifts])
    elif not drifts:
        click.echo(nothing)
    else:
        table(
            ("DOMAIN", "DIFFERENCE", "REMEDY"),
            [(one_line(d.owner) or "-", one_line(d.what), d.remedy.splitlines()[0]) for d in drifts],
        )


@main.command()
@NETWORK
def up(network: str) -> None:
    """Bring a routed NETWORK up without any guest: a router node."""
    with engine() as opened:
        opened.up(network)
    click.echo(f"up {network}")


@main.command()
@NETWORK
def down(network: str) -> None:
    """Take down a NETWORK that was brought up. Guests that run keep what they need."""
    with engine(RECORDS_ALONE) as opened:
        opened.down(network)
    click.echo(f"down {network}")


@main.command()
@click.option("--config-dir", default=config.DIRECTORY, show_default=True, type=click.Path(file_okay=False))
@JSON
def validate(config_dir: str, to_json: bool) -> None:
    """Check every configuration file, the ones in domains.d included."""
    declared = config.load(MODES, config_dir)
    domains = [os.path.basename(path).removesuffix(".toml") for path in config.toml_files(f"{config_dir}/domains.d")]
    seen: dict[tuple[str, str], str] = {}
    for name in domains:
        for claim in declared.claims(name):
            network = declared.network(claim.network, f"{claim.source}.network")
            for address in claim.addresses:
                if other := seen.get((network.name, address)):
                    raise InputError(f"{claim.source}: {address} is also given in {other}; change one")
                seen[network.name, address] = claim.source
            vif = compose.Vif(claim.mac or "02:00:00:00:00:01", claim.ifname).claimed(claim)
            MODES[network.mode].bind(vif, network, claim.source)
    if to_json:
        as_json({"networks": list(declared.networks), "domains": domains})
    else:
        click.echo(f"ok: {len(declared.networks)} networks, {len(domains)} domains")


@main.command()
@JSON
def options(to_json: bool) -> None:
    """List every key of the configuration, with its default and meaning."""
    rows = [{"key": "networks.NAME.mode", "default": None, "required": True, "doc": f"one of {', '.join(MODES)}"}]
    for mode, module in MODES.items():
        rows += _option_rows(module.OPTIONS, f"networks.NAME({mode})")
    rows += _option_rows(INTERFACE_OPTIONS, "domains.d/DOMAIN.toml: interfaces[]")
    if to_json:
        as_json(rows)
    else:
        table(
            ("KEY", "DEFAULT", "MEANING"),
            [(r["key"], "required" if r["required"] else _toml(r["default"]), r["doc"]) for r in rows],
        )


def _option_rows(rows: Sequence[Option], prefix: str) -> list[dict[str, Any]]:
    result: list[dict[str, Any]] = []
    for row in rows:
        default = None if row.default is Required else row.default
        result.append({"key": f"{prefix}.{row.name}", "default": default, "required": row.required, "doc": row.doc})
        result += _option_rows(row.keys, f"{prefix}.{row.name}")
    return result


def _toml(value: object) -> str:
    return "-" if value is None else json.dumps(value)


@main.command("set")
@DOMAIN
@click.argument("mac")
@click.option("--network", required=True, help="The network that the NIC is on.", shell_complete=network_names)
@click.option("--ip", "addresses", multiple=True, help="An address of the guest's (may be repeated; IPv4 and IPv6).")
@click.option("--no-filter", "is_open", is_flag=True, help="Let the NIC send from any address.")
def set_(domain: str, mac: str, network: str, addresses: tuple[str, ...], is_open: bool) -> None:
    """Put the NIC with MAC of DOMAIN on a network: written into libvirt's metadata, live and persistent.

    A domain that runs is changed by the next start of it, or by `vmnet-hook start DOMAIN`.
    """
    mac = _mac(mac)
    declared = config.load(MODES).network(network, "--network")
    vif = compose.Vif(mac, network=network, addresses=addresses, filter=not is_open)
    MODES[declared.mode].bind(vif, declared, "--ip")
    libvirt_connection.claim(domain, mac, network, [str(values.address(a)) for a in addresses], is_open)
    click.echo(f"{domain}: {mac} on {network}" + (f" ({', '.join(addresses)})" if addresses else ""))


@main.command()
@DOMAIN
@click.argument("mac")
def unset(domain: str, mac: str) -> None:
    """Undo set: remove the NIC with MAC from DOMAIN's metadata."""
    mac = _mac(mac)
    libvirt_connection.unclaim(domain, mac)
    click.echo(f"{domain}: {mac} unset")


def _mac(text: str) -> str:
    try:
        return values.mac(text)
    except ValueError as error:
        raise InputError(f"MAC {text!r} {error}") from None


@main.command()
@click.option("--oui", default="52:54:00", show_default=True, help="The first three octets (QEMU: 52:54:00, Xen: 00:16:3e).")
def mac(oui: str) -> None:
    """Print a MAC address that no guest of this host uses."""
    prefix = _mac(f"{oui}:00:00:01")[:8] if oui.count(":") == 2 else _mac(oui)[:8]
    taken = libvirt_connection.known_macs()
    if os.path.exists(f"{store.DIRECTORY}/state.db") and os.geteuid() == 0:
        taken |= {owner.mac for owner in store.Store().owners()}
    while (found := f"{prefix}:{os.urandom(3).hex(':')}") in taken:
        pass
    click.echo(found)


if __name__ == "__main__":
    main(prog_name="vmnet-hook")
