"""`vmnet-hook import`."""

import click

from ..errors import InputError, one_line
from ..importing import interfaces, stanzas
from ..importing.draft import settle, toml
from ..importing.live import convert
from ..kernel import import_facts

INTERFACES = "/etc/network/interfaces"


@click.command("import")
@click.option(
    "--interfaces",
    "path",
    metavar="FILE",
    help=f"Read stanzas of interfaces(5) from here.  [default: {INTERFACES}]",
    type=click.Path(dir_okay=False),
)
@click.option("--live", is_flag=True, help="Read the kernel's links, addresses and routes instead.")
def import_(path: str | None, live: bool) -> None:
    """Print, as TOML of vmnet.toml(5), what ifupdown's files or the kernel say of the host's networks.

    What can't be carried over is printed as a comment that says why. Nothing is changed.
    """
    if live and path:
        raise InputError("--live reads the kernel, not a file; leave --interfaces out")
    path = path or INTERFACES
    if live:
        blocks = convert(import_facts.read())
        header = [
            "The kernel's links as they are now, by `vmnet-hook import --live`.",
            "`vmnet-hook up` takes no link over that somebody else made: let nobody else make them at the next boot.",
        ]
    else:
        blocks = stanzas.convert(interfaces.read(path))
        header = [f"What {one_line(path)} declares, by `vmnet-hook import`."]
    settle(blocks)
    click.echo(toml(header, blocks), nl=False)
