"""What every installed hook runs. Decides with next to no imports whether a call matters: most do not."""

import posix
import sys

from ..frontends import CONFIGURATION, FRONTENDS, VARIABLES, of


def matters(path: str, argv: list[str]) -> str:
    """The front end of a call of the hook at `path`; "" if the call is nothing to us. Raises SystemExit if there is none."""
    name = of(path)
    if not name:
        print(f"vmnet-hook: {path!r} is no front end; call one of its links: {', '.join(FRONTENDS)}", file=sys.stderr)
        raise SystemExit(2)
    _, position, operations, _ = FRONTENDS[name]
    if position and len(argv) > position and argv[position] not in operations:
        return ""
    if name in VARIABLES and not posix.environ.get(VARIABLES[name]) and not brought_up(posix.environ):
        return ""
    if position and argv[position : position + 1] == ["prepare"] and not has_bridges(CONFIGURATION):
        return ""
    return name


def has_bridges(directory: str) -> bool:
    """Whether the configuration may declare a bridge, which a guest may need before its tap exists: every guest's start asks.
    A file that can't be read is for others to complain about."""
    paths = [f"{directory}/vmnet.toml"]
    try:
        paths += [f"{directory}/conf.d/{name}" for name in posix.listdir(f"{directory}/conf.d")]
    except OSError:
        pass
    for path in paths:
        try:
            file = posix.open(path, posix.O_RDONLY | posix.O_CLOEXEC)
        except OSError:
            continue
        try:
            text = b""
            while more := posix.read(file, 1 << 20):
                text += more
        except OSError:
            return True
        finally:
            posix.close(file)
        if b"bridges" in text or (b"bridged" in text and b"uplink" in text):
            return True
    return False


def brought_up(environ: dict[bytes, bytes]) -> bool:
    """Whether a stanza that is none of ours was one before it was edited: actions.py leaves a mark."""
    try:
        posix.stat(b"/run/vmnet-hooks/ifupdown:%b-%b" % (environ.get(b"IFACE", b""), environ.get(b"ADDRFAM", b"")))
    except (OSError, ValueError):
        return False
    return True
