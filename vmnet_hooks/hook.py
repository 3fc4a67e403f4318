"""What every installed hook runs. Decides with next to no imports whether a call matters: most do not."""

import posix
import sys
from importlib import import_module

from .frontends import FRONTENDS, VARIABLES, of


def main(path: str, argv: list[str]) -> int:
    """Handles one call of the hook at `path`. Returns the exit status."""
    name = of(path)
    if not name:
        print(f"vmnet-hook: {path!r} is no front end; call one of its links: {', '.join(FRONTENDS)}", file=sys.stderr)
        return 2
    _, position, operations = FRONTENDS[name]
    if position and len(argv) > position and argv[position] not in operations:
        return 0
    if name in VARIABLES and not posix.environ.get(VARIABLES[name]):
        return 0
    return import_module("vmnet_hooks.handle").handle(name, argv)
