"""Arguments and options that commands share, and how the shell completes them. A configuration or records that can't be read
complete to nothing."""

import os
from contextlib import closing

import click

from ..errors import VmnetError


def domain_names(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """Return the domains in the records. If there are no records, do not create them."""
    # Needed for completion only.
    from ..model.owner import GuestOwner
    from ..records import store

    if not os.path.exists(f"{store.DIRECTORY}/state.db"):
        return []
    try:
        with closing(store.Store()) as records:
            names = {owner.domain for owner in records.owners() if isinstance(owner, GuestOwner)}
            return sorted(name for name in names if name.startswith(incomplete))
    except (VmnetError, OSError):
        return []


def network_names(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """Return the names of the declared networks."""
    # Needed for completion only.
    from ..declared import configuration

    try:
        return [name for name in configuration.survey().networks if name.startswith(incomplete)]
    except VmnetError:
        return []


def part_names(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """Return the names of the parts that `up` brings up: the declared networks and host links."""
    # Needed for completion only.
    from ..declared import configuration

    try:
        declared = configuration.survey()
    except VmnetError:
        return []
    names = [*declared.networks, *(part.name for part in declared.parts.values())]
    return sorted(name for name in names if name.startswith(incomplete))


DOMAIN = click.argument("domain", shell_complete=domain_names)
OPTIONAL_DOMAIN = click.argument("domain", default="", shell_complete=domain_names)
PARTS = click.argument("names", metavar="[NAME]...", nargs=-1, shell_complete=part_names)
JSON = click.option("--json", "to_json", is_flag=True, help="Print JSON.")
