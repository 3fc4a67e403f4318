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
    if name in VARIABLES and not posix.environ.get(VARIABLES[name]) and not brought_up(posix.environ):
        return 0
    return import_module("vmnet_hooks.handle").handle(name, argv)


def brought_up(environ: dict[bytes, bytes]) -> bool:
    """Whether a stanza that is none of ours was one before it was edited: actions.py leaves a mark."""
    try:
        posix.stat(b"/run/vmnet-hooks/ifupdown:%b-%b" % (environ.get(b"IFACE", b""), environ.get(b"ADDRFAM", b"")))
    except (OSError, ValueError):
        return False
    return True
