"""`vmnet-hook import`."""

import click

from ..errors import InputError
from . import interfaces, stanzas
from .draft import settle, toml

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
    blocks = stanzas.convert(interfaces.read(path))
    settle(blocks)
    header = [f"What {path} declares, by `vmnet-hook import`."]
    click.echo(toml(header, blocks), nl=False)
