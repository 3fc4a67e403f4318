"""Commands about guests: start, stop, set, unset, mac, plan, repair."""

import os
import syslog
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

import click

from .. import values
from ..errors import ConfigError, InputError, one_line
from ..frontends import FRONT_ENDS
from ..model.guest import Domain, NicEvent, Vif
from ..model.owner import Owner
from . import domains, problem, registration
from .arguments import DOMAIN, JSON, OPTIONAL_DOMAIN, network_names
from .output import as_json, as_rows, columns, differences
from .session import complain, opened

if TYPE_CHECKING:
    from ..declared.compose import Bound
    from ..engine import Session
    from ..model.plan import Plan

F = TypeVar("F", bound=Callable[..., None])
XML = click.option(
    "--xml",
    metavar="FILE",
    help="Read the domain from a libvirt XML file instead of from libvirt.",
    type=click.Path(dir_okay=False),
)


def _describers(command: F) -> F:
    """Add the options of `start` and `plan`: one for each front end whose guests are not described by XML."""
    for row in FRONT_ENDS:
        if row.described:
            command = click.option(f"--{row.name}", "by", flag_value=row.name, help=row.described)(command)
    return command


@click.command()
@DOMAIN
@XML
@_describers
def start(domain: str, xml: str | None, by: str | None) -> None:
    """Set up every NIC of a running DOMAIN that is assigned to a network, and announce its addresses."""
    # Not needed for completion.
    from ..engine import guests
    from ..frontends.watch import Unreachable
    from ..kernel import announcement

    if by:
        _start_described(domain, by)
        return
    with opened() as session:
        if xml is None and (known := _described_by(session, domain)):
            _start_described(domain, known)
            return
        try:
            guest, frontend = _describe(session, domain, xml)
        except Unreachable:
            if not (known := _known_to(domain)):
                raise
            _start_described(domain, known)
            return
        bound = guests.bind(guest, session.config)
        if not bound:
            stays = f"; `vmnet-hook repair {domain}` takes down what is set up" if session.records.owners(domain=domain) else ""
            raise InputError(
                f"{domain}: nothing claims any of its NICs; see `vmnet-hook set --help`, and GUESTS in vmnet.toml(5){stays}"
            )
        owners = guests.plug(session, guest, frontend, bound=bound)
        guests.activate(session.config, session.records, announcement.announce, guest)
    _report("start", domain, owners)


def _described_by(session: "Session", domain: str) -> str:
    """Return the front end, of those whose guests are not described by XML, that set up a guest which is set up; "" if none."""
    described = {row.name for row in FRONT_ENDS if row.described}
    return next((nic.frontend for nic in session.records.nics(domain=domain) if nic.frontend in described), "")


def _known_to(domain: str) -> str:
    """Return the front end, of those whose guests are not described by XML, that knows a guest of that name; "" if none."""
    # Not needed for completion.
    from ..frontends.front_end import load

    return next((row.name for row in FRONT_ENDS if row.described and domain in load(row).names()), "")


def _start_described(domain: str, by: str) -> None:
    """Set up every NIC of a guest that the front end `by` describes, as its hook does."""
    # Not needed for completion.
    from ..declared import configuration
    from ..frontends.front_end import load
    from ..hook import events
    from ..kernel import root

    root.require("kernel state and the guest's description can't be read")
    front_end = next(load(row) for row in FRONT_ENDS if row.name == by)
    for event in front_end.nics(domain, configuration.usable()):
        click.echo(one_line(f"start {domain}: {events.act(event, front_end.conclude)}"))


@click.command()
@DOMAIN
@XML
def stop(domain: str, xml: str | None) -> None:
    """Remove everything that was set up for DOMAIN. Only the records are needed: neither libvirt nor the taps."""
    # Not needed for completion.
    from ..engine import guests
    from ..hook.events import RECORDS_ALONE, withdraw

    guest = _parsed(xml, domain) if xml else Domain(domain)
    with opened(RECORDS_ALONE) as session:
        owners = guests.unplug(session, guest)
        withdraw(session)
    if not owners:
        raise InputError(f"{domain}: nothing is set up for it; see `vmnet-hook status`")
    _report("stop", domain, owners)


@click.command("set")
@DOMAIN
@click.argument("mac")
@click.option("--network", required=True, help="The network that the NIC is on.", shell_complete=network_names)
@click.option("--ip", "addresses", multiple=True, help="An address of the guest, IPv4 or IPv6 (may be repeated).")
@click.option("--no-filter", "is_open", is_flag=True, help="Let the NIC send from any address.")
@click.option("--vlan", type=click.IntRange(1, 4094), help="The NIC's untagged VLAN, on a VLAN-aware bridge.")
@click.option("--tagged", multiple=True, help="A tagged VLAN of the NIC, or a range as 20-30 (may be repeated).")
@click.option(
    "--role", "roles", multiple=True, type=click.Choice((*values.ROLES, "client")), help="What the guest is (may be repeated)."
)
def set_(
    domain: str,
    mac: str,
    network: str,
    addresses: tuple[str, ...],
    is_open: bool,
    vlan: int | None,
    tagged: tuple[str, ...],
    roles: tuple[str, ...],
) -> None:
    """Assign the NIC with this MAC to a network, in libvirt's metadata: in the running domain and in its definition.

    If DOMAIN runs and the NIC is not set up yet, the agent sets it up at once. Otherwise the change takes effect at the next
    start of DOMAIN, or by `vmnet-hook start DOMAIN`.
    """
    # Not needed for completion.
    from ..declared import compose, configuration
    from ..frontends import libvirt_connection

    mac = _mac(mac)
    config = configuration.usable()
    declared = config.network(network, "--network")
    if declared.mode.ends(declared):
        raise InputError(f"--network: {declared.label} is a wire, and its ends are in {declared.source}; name the NIC there")
    if "client" in roles and len(roles) > 1:
        raise InputError("--role client: a client has no other role; leave one out")
    try:
        trunk = values.vids([int(t) if t.isdecimal() else t for t in tagged]) if tagged else None
    except ValueError as error:
        raise InputError(f"--tagged {error}") from None
    told = values.roles([role for role in roles if role != "client"]) if roles else None
    vif = Vif(mac, network=network, addresses=addresses, filter=not is_open, vlan=vlan, tagged=trunk, roles=told)
    compose.bind_nic(vif, declared, config, "--ip")
    libvirt_connection.claim(domain, replace(vif, addresses=tuple(values.source(a) for a in addresses)))
    click.echo(f"{domain}: {mac} on {network}" + (f" ({', '.join(addresses)})" if addresses else ""))


@click.command()
@DOMAIN
@click.argument("mac")
def unset(domain: str, mac: str) -> None:
    """Undo `set`: remove the assignment of the NIC with this MAC from DOMAIN's metadata."""
    # Not needed for completion.
    from ..frontends import libvirt_connection

    mac = _mac(mac)
    libvirt_connection.unclaim(domain, mac)
    click.echo(f"{domain}: {mac} unset")


@click.command()
@click.option("--oui", default="52:54:00", show_default=True, help="The first three octets (QEMU: 52:54:00, Xen: 00:16:3e).")
def mac(oui: str) -> None:
    """Print a MAC address that no guest of this host uses."""
    # Not needed for completion.
    from ..frontends import libvirt_connection
    from ..records import store

    try:
        prefix = values.mac(f"{oui}:00:00:01")[:8]
    except ValueError:
        raise InputError(f"--oui {one_line(oui)!r} is not the start of a unicast MAC address; write it as 52:54:00") from None
    taken = libvirt_connection.known_macs()
    if os.path.exists(f"{store.DIRECTORY}/state.db") and os.geteuid() == 0:
        with closing(store.Store()) as records:
            taken |= {nic.mac for nic in records.nics()}
    while (found := f"{prefix}:{os.urandom(3).hex(':')}") in taken:
        pass
    click.echo(found)


@click.command()
@click.argument("words", metavar="DOMAIN | start DOMAIN | stop DOMAIN | up [NAME]... | down [NAME]...", nargs=-1, required=True)
@XML
@_describers
@click.option("--stop", "stopping", is_flag=True, help="The same as `plan stop DOMAIN`.")
@JSON
def plan(words: tuple[str, ...], xml: str | None, by: str | None, stopping: bool, to_json: bool) -> None:
    """Show what `start` or `stop` of DOMAIN, or `up` or `down`, would change now, as a shell script with the same effect."""
    # Not needed for completion.
    from ..declared import configuration
    from ..engine import guests, host
    from ..frontends.watch import Unreachable
    from ..hook.events import RECORDS_ALONE

    if words[0] in ("up", "down") and (xml or by or stopping):
        raise InputError(f"plan {words[0]}: takes neither --xml nor --stop nor a hypervisor; leave them out")
    verb, *names = words if words[0] in ("up", "down") or len(words) > 1 else ("stop" if stopping else "start", *words)
    if verb not in ("start", "stop", "up", "down") or (verb in ("start", "stop") and len(names) != 1):
        raise InputError(f"plan {' '.join(words)}: write `plan DOMAIN`, `plan start|stop DOMAIN` or `plan up|down [NAME]...`")
    failed: list[ConfigError] = []
    told: list[tuple[str, str]] = []
    # All that is declared: nothing of it may be broken.
    declared = configuration.load() if verb == "up" and not names else None
    with opened(declared if verb in ("start", "up") else RECORDS_ALONE) as session:
        if verb == "up":
            commands = _commands(host.plan_up(session, names, failed))
        elif verb == "down":
            commands = _commands(host.plan_down(session, names))
        elif verb == "stop":
            commands = _commands(guests.plan_unplug(session, _parsed(xml, names[0]) if xml else Domain(names[0])))
            told += registration.withdrawn(session, names[0])
        elif by or (xml is None and (by := _described_by(session, names[0]))):
            commands = _plan_described(session, names[0], by, told)
        else:
            try:
                guest, frontend = _describe(session, names[0], xml)
                commands = _commands(guests.plan_plug(session, guest, frontend))
                told += registration.planned(session, guests.bind(guest, session.config))
            except Unreachable:
                if not (by := _known_to(names[0])):
                    raise
                commands = _plan_described(session, names[0], by, told)
    if to_json:
        as_json([{"key": key, "command": command} for key, command in (*commands, *told)])
    else:
        what = one_line(" ".join(names) or verb)
        click.echo(f"# {what}: {'nothing to do' if not commands else f'{len(commands)} changes'}")
        for _, command in (*commands, *told):
            click.echo(command)
    for reason in failed:
        problem(reason)
    if failed:
        raise SystemExit(failed[0].exit_code)


def _plan_described(session: "Session", domain: str, by: str, told: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """Return the keys and the commands of what `_start_described` would change. Append to `told` what the agent would do."""
    # Not needed for completion.
    from ..engine import guests
    from ..frontends.front_end import load
    from ..hook import events

    front_end = next(load(row) for row in FRONT_ENDS if row.name == by)
    found: list[tuple[str, str]] = []
    bound: list[Bound] = []
    for event in front_end.nics(domain, session.config):
        if isinstance(event, NicEvent):
            if event.rename:
                found.append((f"link {event.rename} name", f"ip link set dev {event.rename} name {event.ifname}"))
            here = session._replace(config=events.with_network(session.config, event))
            # What its NICs share is done for the first of them.
            known = {key for key, _ in found}
            found += [row for row in _commands(guests.plan_plug(here, event.domain, event.frontend)) if row[0] not in known]
            bound += guests.bind(event.domain, here.config)
    told += registration.planned(session, bound)
    return found


def _commands(changes: "Plan") -> list[tuple[str, str]]:
    return [(change.subject.key, str(change)) for change in changes]


@click.command()
@OPTIONAL_DOMAIN
@JSON
def repair(domain: str, to_json: bool) -> None:
    """Remove every difference that `check` finds: restore what is missing, remove what has no owner any more."""
    # Not needed for completion.
    from ..declared import configuration
    from ..engine import repair as engine
    from ..frontends.running import described, gone
    from ..kernel import announcement, root
    from ..records import damage

    root.require("kernel state and records can't be read")
    for path in damage.set_aside():
        problem(f"the records were damaged; what they were is in {path}")
    declared = configuration.usable()
    with opened(declared) as session:
        owners = session.records.owners()
        running = described()
        if domain:
            domains.require(session, domain, running)
        fine = f"nothing is set up for {one_line(domain)}" if domains.nothing(session, domain) else "nothing to repair"
        done, left = engine.repair(session, domain, gone(owners), running, announcement.announce, owners)
        registered, unregistered = registration.retried(session, domain)
    done, left = [*done, *registered], [*left, *unregistered]
    for drift in done:
        syslog.syslog(syslog.LOG_NOTICE, one_line(f"repair {drift.owner}: {drift.what}"))
    if to_json:
        as_json([{**row, "repaired": found is done} for found in (done, left) for row in as_rows(found)])
    elif not done and not left:
        click.echo(fine)
    else:
        if done:
            columns(("DOMAIN", "REPAIRED"), [(one_line(drift.owner) or "-", one_line(drift.what)) for drift in done])
        differences(left, False, f"{len(done)} difference{'s' if len(done) > 1 else ''} repaired; all is as declared")
    complain(declared)
    if left:
        raise SystemExit(1)


def _describe(session: "Session", name: str, xml: str | None) -> tuple[Domain, str]:
    """Return the guest that a file, libvirt, or the records and domains.d (plain QEMU's, or if libvirt can't be asked) describe,
    and its front end. Raise VmnetError."""
    # Not needed for completion.
    from ..engine import claims
    from ..frontends import libvirt, libvirt_connection

    if xml is not None:
        return _parsed(xml, name), "cli"
    try:
        return libvirt.parse_domain(libvirt_connection.domain_xml(name), name), "cli"
    except libvirt_connection.LibvirtError as error:
        found = claims.by_name(session, name)
        if found is None or (found[0].uuid and isinstance(error, libvirt_connection.NoDomain)):
            waiting = "" if found else _without_tap(session, name)
            raise type(error)(waiting or f"{error}{_other_hypervisors(name)}") from None
        if found[0].uuid:
            click.echo(f"{error}; taken from the records and domains.d", err=True)
        return found


def _parsed(xml: str, name: str) -> Domain:
    """Return the domain that a file describes. Raise InputError."""
    # Not needed for completion.
    from ..frontends import libvirt

    try:
        with open(xml, "rb") as file:
            data = file.read(libvirt.MAX_BYTES + 1)
    except OSError as error:
        raise InputError(f"{xml}: {error.strerror}") from None
    domain = libvirt.parse_domain(data, xml)
    if domain.name != name:
        raise InputError(f"{xml}: describes domain {one_line(repr(domain.name))}, not {one_line(repr(name))}")
    return domain


def _without_tap(session: "Session", name: str) -> str:
    """Return what a guest of plain QEMU lacks that does not run; "" if domains.d describes none."""
    # Not needed for completion.
    from ..declared import configuration

    claims = [claim for claim in configuration.claims(session.config, name) if claim.mac and claim.ifname]
    return f"{claims[0].source} names tap {claims[0].ifname}, which does not exist; start the guest first" if claims else ""


def _other_hypervisors(name: str) -> str:
    """Return a hint at the options for hypervisors that this host has; "" if there are none."""
    # Not needed for completion.
    from ..frontends.front_end import load

    here = [row for row in FRONT_ENDS if row.described and load(row).is_here()]
    return "".join(f"; if {row.described.partition(':')[0].replace('DOMAIN', name, 1)}, add --{row.name}" for row in here)


def _mac(text: str) -> str:
    try:
        return values.mac(text)
    except ValueError as error:
        raise InputError(f"MAC {one_line(text)!r} {error}") from None


def _report(verb: str, name: str, owners: Sequence[Owner]) -> None:
    # Not needed for completion.
    from ..hook.events import described

    line = one_line(f"{verb} {name}: {described(owners)}")
    syslog.syslog(syslog.LOG_INFO, line)
    click.echo(line)
