"""The filter of calls, which every installed hook runs first. Most calls do not matter, so it imports next to nothing."""

import posix
import sys

from .. import CONFIGURATION, RUN
from ..frontends import Row, hooks, of


def matters(path: str, argv: list[str]) -> str:
    """Return the name of the hook at `path` if the call matters, else "". Raises SystemExit if there is no such hook."""
    name, known = of(path), hooks()
    if not name:
        print(f"vmnet-hook: {path!r} is no front end; call one of its links: {', '.join(known)}", file=sys.stderr)
        raise SystemExit(2)
    row = known[name]
    operation = row.operation(argv)
    if 0 < row.position < len(argv) and operation not in row.operations:
        return ""
    if row.of_root and posix.geteuid():
        # A user's own hypervisor (qemu:///session) runs the system's hooks as the user, whose guests are none of ours.
        return ""
    if row.variable and not posix.environ.get(row.variable) and not has_mark(row, posix.environ):
        return ""
    if operation in row.preparing and not has_bridges(CONFIGURATION):
        return ""
    return name


def has_bridges(directory: str) -> bool:
    """Return whether the configuration may declare a bridge, which a guest may need before its tap exists. Every start of a guest
    runs this, so the files are searched and not parsed. A file that can't be read is reported when the configuration is
    loaded."""
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


def has_mark(row: Row, environ: dict[bytes, bytes]) -> bool:
    """Return whether an earlier call, with the same values of the variables `row.mark`, set up something that has to be taken
    down. The stanza may have been edited since then, and not be ours any more."""
    values = b"-".join([environ.get(variable, b"") for variable in row.mark])
    try:
        posix.stat(b"%b/%b:%b" % (RUN.encode(), row.name.encode(), values))
    except (OSError, ValueError):
        return False
    return True
