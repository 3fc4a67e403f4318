"""Commands about the host's own networks: up, down, confirm, revert."""

import syslog
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from ..errors import InputError, NotYet, one_line
from . import problem
from .arguments import PARTS
from .session import opened

if TYPE_CHECKING:
    from ..engine.host import Brought
    from ..model.owner import Owner


@click.command()
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
    help="At boot: wait for missing interfaces, and for an address on the port of `adopt`.",
)
def up(names: tuple[str, ...], confirm_within: float | None, wait: float) -> None:
    """Bring up what is declared: links, bridges, bonds, NAT, routed networks. All of it, or NAME and what it needs.

    Without NAME, a part that can't be brought up fails alone, with those that stand on it.

    A bridge with `adopt` takes over its port's addresses and routes. If a default gateway that
    answered before does not answer afterwards, the whole change is rolled back.
    """
    # Not needed for completion.
    from ..declared import configuration
    from ..engine import host, takeover

    # All that is declared: nothing of it may be broken. But a host that boots must come up as far as it can.
    with opened(None if names or wait else configuration.load()) as session:
        broken = [] if names else session.config.errors
        if not (broken or names or session.config.parts or session.config.networks or session.records.of_host()):
            click.echo("nothing is declared")
            return
        end, said = time.monotonic() + wait, False
        while True:
            try:
                done = host.up(session, names, takeover.Watch(), confirm_within or 0)
            except NotYet as error:
                done = host.Brought(failed=[error])
            said |= _brought(done)
            if confirm_within or time.monotonic() > end or not any(isinstance(error, NotYet) for error in done.failed):
                break
            time.sleep(0.5)
    if said and confirm_within:
        click.echo(
            f"run `vmnet-hook confirm` within {confirm_within:g} s, or everything is put back (`vmnet-hook revert`: at once)"
        )
    failed = [*broken, *done.failed]
    if not said and not failed:
        click.echo("up: nothing to do")
    for reason in failed:
        problem(reason)
    if failed:
        raise SystemExit(failed[0].exit_code)


def _brought(done: "Brought") -> bool:
    """Report what a call of `up` did. Return whether it did anything."""
    for owner in done.up:
        _report("up", owner)
    for owner in done.down:
        _report("down", owner, " (declared no more)")
    for gateway, seconds in done.answers.items():
        click.echo(f"gateway {gateway} answers ({1000 * seconds:.2g} ms)")
    _unasked(done.silent)
    return bool(done.up or done.down)


def _unasked(gateways: Sequence[str]) -> None:
    for gateway in gateways:
        click.echo(f"gateway {gateway} did not answer before; whether the host reaches it now was not asked", err=True)


@click.command()
def confirm() -> None:
    """Keep what `up --confirm-within` changed."""
    # Not needed for completion.
    from ..engine import takeover
    from ..hook.events import RECORDS_ALONE

    with opened(RECORDS_ALONE) as session:
        if not takeover.confirm(session):
            raise InputError("nothing waits to be confirmed; was it put back? See `journalctl -t vmnet-hook`")
    click.echo("confirmed")


@click.command()
def revert() -> None:
    """Put back at once what `up --confirm-within` changed."""
    # Not needed for completion.
    from ..engine import takeover
    from ..hook.events import RECORDS_ALONE

    with opened(RECORDS_ALONE) as session:
        if not takeover.revert(session):
            raise InputError("nothing waits to be confirmed, so that nothing can be put back; see `vmnet-hook down`")
    click.echo("put back")


@click.command()
@PARTS
@click.option("--force", is_flag=True, help="Also if the host then has no default route or does not reach its gateway.")
def down(names: tuple[str, ...], force: bool) -> None:
    """Take down what `up` brought up: all of it, or NAME. What running guests need stays until they have stopped.

    If a default gateway that answered before does not answer afterwards, everything is put back.
    """
    # Not needed for completion.
    from ..engine import host, takeover
    from ..hook.events import RECORDS_ALONE

    with opened(RECORDS_ALONE) as session:
        done = host.down(session, names, None if force else takeover.Watch())
    for owner in done.down:
        _report("down", owner)
    _unasked(done.silent)
    for owner, users in done.stays:
        click.echo(one_line(f"{owner.label} stays: {_listed(users)} {'needs' if len(users) == 1 else 'need'} it"), err=True)
    if not done.down and not done.stays:
        click.echo("down: nothing to do")


NAMED = 5
"""Users of a part that a line names, at most."""


def _listed(users: Sequence[str]) -> str:
    more = f" and {len(users) - NAMED} more" if len(users) > NAMED else ""
    return ", ".join(users[:NAMED]) + more


def _report(verb: str, owner: "Owner", why: str = "") -> None:
    line = one_line(f"{verb} {owner.label}{why}")
    click.echo(line)
    syslog.syslog(syslog.LOG_INFO, line)
