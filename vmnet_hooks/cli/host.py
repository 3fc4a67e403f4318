"""Commands about the host's own networks: up, down, confirm."""

import syslog
import time

import click

from ..errors import InputError, MissingLink, one_line
from ..model.owner import Owner
from .arguments import PARTS
from .session import opened


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
    help="Wait for interfaces that do not exist yet (at boot).",
)
def up(names: tuple[str, ...], confirm_within: float | None, wait: float) -> None:
    """Bring up what is declared: links, bridges, bonds, NAT, routed networks. All of it, or NAME and what it needs.

    A bridge with `adopt` takes over its port's addresses and routes. If a default gateway that
    answered before does not answer afterwards, the whole change is rolled back.
    """
    # Not needed for completion.
    from ..declared import configuration
    from ..engine import host, takeover

    # All that is declared: nothing of it may be broken.
    with opened(None if names else configuration.load()) as session:
        if not (names or session.config.parts or session.config.networks or session.records.of_host()):
            click.echo("nothing is declared")
            return
        end = time.monotonic() + wait
        while True:
            try:
                changed = host.up(session, names, takeover.Watch(), confirm_within or 0)
                break
            except MissingLink:
                if time.monotonic() > end:
                    raise
                time.sleep(0.5)
    for owner in changed:
        _report("up", owner)
    if not changed:
        click.echo("up: nothing to do")
    elif confirm_within:
        click.echo(f"run `vmnet-hook confirm` within {confirm_within:g} s, or everything is put back")


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
@PARTS
def down(names: tuple[str, ...]) -> None:
    """Take down what `up` brought up: all of it, or NAME. What running guests need stays until they have stopped."""
    # Not needed for completion.
    from ..engine import host
    from ..hook.events import RECORDS_ALONE

    with opened(RECORDS_ALONE) as session:
        gone = host.down(session, names)
        kept = [owner for owner in session.records.of_host() if {owner.id, owner.name} & set(names)]
    for owner in gone:
        _report("down", owner)
    for owner in kept:
        click.echo(f"{_label(owner)} stays until nothing needs it", err=True)
    if not gone and not kept:
        click.echo("down: nothing to do")


def _report(verb: str, owner: Owner) -> None:
    line = f"{verb} {_label(owner)}"
    click.echo(line)
    syslog.syslog(syslog.LOG_INFO, line)


def _label(owner: Owner) -> str:
    return one_line(owner.label)
