"""`vmnet-hook`: the command line. Exit status: 0 done; 1 the kernel, another guest or libvirt said no, or `check` found drift;
2 the command line, the configuration or the domain's description can't be used."""

import json
import os
import syslog
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from typing import Any, NoReturn, TypeVar

import click

from .. import __version__, values
from ..declared import compose, configuration
from ..declared.configuration import INTERFACE_OPTIONS
from ..declared.sections import SECTIONS
from ..engine import session, takeover
from ..engine.engine import Drift, Engine, activate, label_of
from ..errors import InputError, MissingLink, VmnetError, one_line, shortened
from ..frontends import FRONT_ENDS, libvirt, libvirt_connection
from ..frontends.front_end import load
from ..frontends.running import gone
from ..hook import client
from ..hook import events as events_module
from ..kernel import packet
from ..model import declaration
from ..model.declaration import Option, Required
from ..model.guest import Domain
from ..model.owner import Owner
from ..networks import MODES
from ..records import store
from .draw import graph
from .import_ import import_
from .output import table
from .xen_scripts import xen_scripts

F = TypeVar("F", bound=Callable[..., None])


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
def engine(declared: declaration.Config | None = None) -> Iterator[Engine]:
    if os.geteuid() != 0:
        raise VmnetError("not root: kernel state and records can't be read; use sudo")
    opened = session.engine(declared)
    try:
        yield opened
    finally:
        opened.close()


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
        return [name for name in configuration.load(SECTIONS).networks if name.startswith(incomplete)]
    except VmnetError:
        return []


def part_names(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    try:
        declared = configuration.load(SECTIONS)
    except VmnetError:
        return []
    names = [*declared.networks, *(part.name for part in declared.parts.values())]
    return sorted(name for name in names if name.startswith(incomplete))


DOMAIN = click.argument("domain", shell_complete=domain_names)
OPTIONAL_DOMAIN = click.argument("domain", default="", shell_complete=domain_names)
PARTS = click.argument("names", metavar="[NAME]...", nargs=-1, shell_complete=part_names)
XML = click.option(
    "--xml",
    metavar="FILE",
    help="Read the domain from a libvirt XML file instead of from libvirt.",
    type=click.Path(dir_okay=False),
)
JSON = click.option("--json", "to_json", is_flag=True, help="Print JSON.")


def described(command: F) -> F:
    """Options of `start`, one for each front end that describes its guests itself."""
    for row in FRONT_ENDS:
        if row.described:
            command = click.option(f"--{row.name}", "by", flag_value=row.name, help=row.described)(command)
    return command


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
@described
def start(domain: str, xml: str | None, by: str | None) -> None:
    """Set up every claimed NIC of a running DOMAIN, and announce its addresses."""
    if by:
        start_described(domain, by)
        return
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
    with engine(events_module.RECORDS_ALONE) as opened:
        owners = opened.unplug(guest)
        events_module.withdraw(opened)
    if not owners:
        raise InputError(f"{domain}: nothing is set up for it; see `vmnet-hook status`")
    report("stop", domain, owners)


def start_described(domain: str, by: str) -> None:
    """Set up every NIC of a guest that a front end describes, as its hook does."""
    if os.geteuid() != 0:
        raise VmnetError("not root: kernel state and the guest's description can't be read; use sudo")
    front_end = next(load(row) for row in FRONT_ENDS if row.name == by)
    for event in front_end.nics(domain, configuration.load(SECTIONS)):
        click.echo(one_line(f"start {domain}: {events_module.act(event, front_end.conclude)}"))


def report(verb: str, name: str, owners: Sequence[Owner]) -> None:
    line = f"{verb} {name}: {events_module.described(owners)}"
    syslog.syslog(syslog.LOG_INFO, one_line(line))
    click.echo(one_line(line))


@main.command()
@click.argument("words", metavar="DOMAIN | start DOMAIN | stop DOMAIN | up [NAME]... | down [NAME]...", nargs=-1, required=True)
@XML
@click.option("--stop", "stopping", is_flag=True, help="The same as `plan stop DOMAIN`.")
@JSON
def plan(words: tuple[str, ...], xml: str | None, stopping: bool, to_json: bool) -> None:
    """Show what a start (or stop) of DOMAIN, or what up (or down), would change now: a shell script with the same effect."""
    verb, *names = words if words[0] in ("up", "down") or len(words) > 1 else ("stop" if stopping else "start", *words)
    if verb not in ("start", "stop", "up", "down") or (verb in ("start", "stop") and len(names) != 1):
        raise InputError(f"plan {' '.join(words)}: write `plan DOMAIN`, `plan start|stop DOMAIN` or `plan up|down [NAME]...`")
    with engine(None if verb in ("start", "up") else events_module.RECORDS_ALONE) as opened:
        if verb == "up":
            changes = opened.plan_up(names)
        elif verb == "down":
            changes = opened.plan_down(names)
        elif verb == "stop":
            changes = opened.plan_unplug(describe(names[0], xml) if xml else Domain(names[0]))
        else:
            changes = opened.plan_plug(describe(names[0], xml), "cli")
    if to_json:
        as_json([{"key": change.subject.key, "command": str(change)} for change in changes])
        return
    what = one_line(" ".join(names) or verb)
    click.echo(f"# {what}: {'nothing to do' if not changes else f'{len(changes)} changes'}")
    for change in changes:
        click.echo(str(change))


@main.command()
@OPTIONAL_DOMAIN
@JSON
def status(domain: str, to_json: bool) -> None:
    """List what is set up: every vif (of DOMAIN) with its network, addresses and state; and whether the agent runs."""
    with engine() as opened:
        owners = opened.store.owners(domain=domain) if domain else opened.store.owners()
        drifts = opened.check(domain, gone(owners))
    drifted = {drift.owner for drift in drifts}
    rows: list[dict[str, Any]] = []
    for owner in owners:
        name = label_of(owner)
        rows.append(
            {
                "domain": owner.domain,
                "ifname": owner.ifname,
                "name": owner.domain or owner.id,
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
                    one_line(r["domain"]) or "-",
                    r["ifname"] or "-",
                    r["name"] if r["domain"] == "" else r["network"],
                    r["mac"] or "-",
                    " ".join(r["addresses"]) or "-",
                    r["phase"],
                    r["state"],
                )
                for r in rows
            ],
            lambda column, cell: click.style(cell, fg="green" if cell == "ok" else "red") if column == "STATE" else cell,
        )
    click.echo(agent(), err=True)
    if drifts:
        click.echo(f"{len(drifts)} difference{'s' if len(drifts) > 1 else ''}; see `vmnet-hook check`", err=True)


def agent() -> str:
    """One line about the agent."""
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
    return f"agent: runs since {since}, process {found['pid']}: {did}"


@main.command()
def monitor() -> None:
    """Follow what the agent does, a line for each event, until interrupted."""
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


@main.command()
@OPTIONAL_DOMAIN
@JSON
def check(domain: str, to_json: bool) -> None:
    """Compare records, configuration and kernel (of DOMAIN). Exit status 1 and a list if they differ."""
    with engine() as opened:
        drifts = opened.check(domain, gone(opened.store.owners()))
        hazards = [] if domain else opened.hazards()
    for hazard in hazards:
        click.echo(f"warning: {hazard}", err=True)
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
@PARTS
@click.option(
    "--confirm-within",
    metavar="SECONDS",
    type=click.FloatRange(1, 86400),
    help="Put everything back unless `vmnet-hook confirm` is run in time.",
)
@click.option(
    "--wait",
    metavar="SECONDS",
    type=click.FloatRange(0, 3600),
    default=0.0,
    help="Wait for interfaces that do not exist yet (at boot).",
)
def up(names: tuple[str, ...], confirm_within: float | None, wait: float) -> None:
    """Bring up what is declared: links, bridges, bonds, NAT, routed networks. All of it, or NAME and what it needs.

    A bridge that takes over an interface with live addresses is put back if the default gateway does not answer any more.
    """
    with engine() as opened:
        if not (names or opened.config.parts or opened.config.networks or opened.store.owners(domain="")):
            click.echo("nothing is declared")
            return
        end = time.monotonic() + wait
        while True:
            try:
                changed = opened.up(names, takeover.Watch(), confirm_within or 0)
                break
            except MissingLink:
                if time.monotonic() > end:
                    raise
                time.sleep(0.5)
    for owner in changed:
        report_part("up", owner)
    if not changed:
        click.echo("up: nothing to do")
    elif confirm_within:
        click.echo(f"run `vmnet-hook confirm` within {confirm_within:g} s, or everything is put back")


@main.command()
def confirm() -> None:
    """Keep what `up --confirm-within` changed."""
    with engine(events_module.RECORDS_ALONE) as opened:
        if not opened.confirm():
            raise InputError("nothing waits to be confirmed; was it put back? See `journalctl -t vmnet-hook`")
    click.echo("confirmed")


@main.command()
@PARTS
def down(names: tuple[str, ...]) -> None:
    """Take down what `up` brought up: all of it, or NAME. What guests that run need stays until they have stopped."""
    with engine(events_module.RECORDS_ALONE) as opened:
        gone = opened.down(names)
        kept = [owner for owner in opened.store.owners(domain="") if names and {owner.id, owner.network} & set(names)]
    for owner in gone:
        report_part("down", owner)
    for owner in kept:
        click.echo(f"{part_label(owner)} stays until nobody needs it", err=True)
    if not gone and not kept:
        click.echo("down: nothing to do")


def report_part(verb: str, owner: Owner) -> None:
    click.echo(f"{verb} {part_label(owner)}")
    syslog.syslog(syslog.LOG_INFO, f"{verb} {part_label(owner)}")


def part_label(owner: Owner) -> str:
    return one_line(label_of(owner))


@main.command()
@click.option("--config-dir", default=declaration.DIRECTORY, show_default=True, type=click.Path(file_okay=False))
@JSON
def validate(config_dir: str, to_json: bool) -> None:
    """Check every configuration file, the ones in domains.d included."""
    declared = configuration.load(SECTIONS, config_dir)
    domains = [os.path.basename(path).removesuffix(".toml") for path in configuration.toml_files(f"{config_dir}/domains.d")]
    seen: dict[tuple[str, str], str] = {}
    for name in domains:
        for claim in configuration.claims(declared, name):
            network = declared.network(claim.network, f"{claim.source}.network")
            vif = compose.Vif(claim.mac or "02:00:00:00:00:01", claim.ifname).claimed(claim)
            for address in compose.held(vif, network):
                if other := seen.get((network.name, address)):
                    raise InputError(f"{claim.source}: {address} is also given in {other}; change one")
                seen[network.name, address] = claim.source
            MODES[network.mode].bind(vif, network, claim.source)
    if to_json:
        as_json({"networks": list(declared.networks), "parts": list(declared.parts), "domains": domains})
    else:
        parts = f", {len(declared.parts)} host parts" if declared.parts else ""
        click.echo(f"ok: {len(declared.networks)} networks{parts}, {len(domains)} domains")


@main.command()
@JSON
def options(to_json: bool) -> None:
    """List every key of the configuration, with its default and meaning."""
    rows = [{"key": "networks.NAME.mode", "default": None, "required": True, "doc": f"one of {', '.join(MODES)}"}]
    for mode, module in MODES.items():
        rows += _option_rows(module.OPTIONS, f"networks.NAME({mode})")
    for section, module in SECTIONS.items():
        if section != "networks":
            rows += _option_rows(module.OPTIONS, f"{section}.NAME")
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
@click.option("--vlan", type=click.IntRange(1, 4094), help="The NIC's untagged VLAN, on a VLAN-aware bridge.")
@click.option("--tagged", multiple=True, help="A VLAN, or a range as 20-30, that the NIC gets tagged (may be repeated).")
def set_(
    domain: str, mac: str, network: str, addresses: tuple[str, ...], is_open: bool, vlan: int | None, tagged: tuple[str, ...]
) -> None:
    """Put the NIC with MAC of DOMAIN on a network: written into libvirt's metadata, live and persistent.

    A domain that runs is changed at once by the agent if the NIC is not set up yet, else by the next start of it, or by
    `vmnet-hook start DOMAIN`.
    """
    mac = _mac(mac)
    declared = configuration.load(SECTIONS).network(network, "--network")
    try:
        trunk = values.vids([int(t) if t.isdecimal() else t for t in tagged]) if tagged else None
    except ValueError as error:
        raise InputError(f"--tagged {error}") from None
    vif = compose.Vif(mac, network=network, addresses=addresses, filter=not is_open, vlan=vlan, tagged=trunk)
    MODES[declared.mode].bind(vif, declared, "--ip")
    libvirt_connection.claim(domain, replace(vif, addresses=tuple(values.source(a) for a in addresses)))
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


main.add_command(import_)
main.add_command(graph)
main.add_command(xen_scripts)
