"""`vmnet-hook`: the command line. Exit status: 0 done; 1 the kernel, another guest or libvirt refused, or `check` found a
difference; 2 the command line, the configuration or the domain's description is unusable.

A command is a function in a file of this folder and a row in COMMANDS. --help, --version and the completion of commands need
the rows alone. A file is loaded when one of its commands is run or when its arguments are completed, so what only the run
needs is imported in the function.
"""

import syslog
from importlib import import_module
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, NoReturn

import click

from .. import __version__
from ..errors import VmnetError, shortened

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem


class Row(NamedTuple):
    """A command, the file that defines it, and its heading and its line (at most 60 characters) in --help."""

    name: str
    file: str
    group: Literal["Guests", "Host", "Look", "Files"]
    help: str


COMMANDS = (
    Row("start", "guests", "Guests", "Set up the NICs of a running guest, as the hooks do."),
    Row("stop", "guests", "Guests", "Remove everything that was set up for a guest."),
    Row("set", "guests", "Guests", "Assign a NIC to a network, in libvirt's metadata."),
    Row("unset", "guests", "Guests", "Remove the assignment of a NIC from libvirt's metadata."),
    Row("mac", "guests", "Guests", "Print a MAC address that no guest of this host uses."),
    Row("plan", "guests", "Guests", "Show what start, stop, up or down would change."),
    Row("repair", "guests", "Guests", "Restore what is missing, remove what has no owner."),
    Row("up", "host", "Host", "Bring up the declared links, bridges, bonds, NAT, networks."),
    Row("down", "host", "Host", "Take down what up brought up."),
    Row("confirm", "host", "Host", "Keep what `up --confirm-within` changed."),
    Row("revert", "host", "Host", "Put back at once what `up --confirm-within` changed."),
    Row("status", "look", "Look", "List what is set up, and whether the agent runs."),
    Row("check", "look", "Look", "Compare records, configuration and kernel."),
    Row("leases", "leases", "Look", "List the addresses that guests have by DHCP."),
    Row("graph", "graph", "Look", "Draw the host's networks, from the wire to the guests."),
    Row("monitor", "look", "Look", "Follow what the agent does."),
    Row("options", "look", "Look", "List every key of the configuration."),
    Row("validate", "files", "Files", "Check every configuration file."),
    Row("import", "files", "Files", "Print ifupdown's files or the kernel's links as TOML."),
    Row("xen-scripts", "xen_scripts", "Files", "List the scripts that xl runs, or divert them to ours."),
)


class Commands(click.Group):
    """The commands of COMMANDS, loaded when they are run. A VmnetError becomes one line on stderr and an exit status."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except VmnetError as error:
            fail(str(error), error.exit_code)

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [row.name for row in COMMANDS]

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        for row in COMMANDS:
            if row.name == name:
                defined = vars(import_module(f"vmnet_hooks.cli.{row.file}")).values()
                return next(found for found in defined if isinstance(found, click.Command) and found.name == name)
        return None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        width = max(len(row.name) for row in COMMANDS)
        for group in dict.fromkeys(row.group for row in COMMANDS):
            with formatter.section(group):
                formatter.write_dl([(row.name.ljust(width), row.help) for row in COMMANDS if row.group == group])

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list["CompletionItem"]:
        """Complete commands and options. click's own method loads every command for its line of help."""
        # Needed for completion only.
        from click.shell_completion import CompletionItem

        found = [CompletionItem(row.name, help=row.help) for row in COMMANDS if row.name.startswith(incomplete)]
        return found + click.Command.shell_complete(self, ctx, incomplete)


def problem(reason: object) -> None:
    """Print what went wrong as one line on standard error."""
    click.echo(f"vmnet-hook: {shortened(str(reason))}", err=True)


def fail(reason: str, status: int) -> NoReturn:
    problem(reason)
    raise SystemExit(status)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="vmnet-hook")
def main() -> None:
    """Bring up the host's networks, and set up, show and repair what the hooks set up for guests.

    Networks are declared in /etc/vmnet-hooks/vmnet.toml; see vmnet.toml(5) and vmnet-hook(8).
    """
    syslog.openlog("vmnet-hook", syslog.LOG_PID, syslog.LOG_DAEMON)
