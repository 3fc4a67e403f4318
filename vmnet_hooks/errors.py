"""The error taxonomy. A message is one line: it names the object and the remedy."""

import errno


class VmnetError(Exception):
    """Base of the errors that are shown to the admin. `exit_code` is the exit status of the process."""

    exit_code = 1


class InputError(VmnetError):
    """The input (arguments, XML, metadata) is not valid."""

    exit_code = 2


class ConfigError(InputError):
    """A configuration file is not valid. The message starts with the file's name and the key. `more` are further mistakes in the
    same table."""

    more: tuple["ConfigError", ...] = ()


class Unread(ConfigError):
    """A file can't be read at all, or is no TOML: what it declares is not known."""


class NotYet(ConfigError):
    """The host lacks what a declared part stands on. At boot it may still come."""

    exit_code = 1


class MissingLink(NotYet):
    """A declared interface does not exist (yet)."""


class ConflictError(VmnetError):
    """The request collides with another guest, or with a kernel object of another program."""


class KernelError(VmnetError):
    """The kernel refused a step."""


class InTheWay(KernelError):
    """Another program made the link between our look-up and our attempt to make it. The step changed nothing."""


class StoreError(VmnetError):
    """The records under /run/vmnet-hooks can't be read or written."""


class Damaged(StoreError):
    """The records hold what we do not write: another program, or a fault of the machine, has changed them."""


class Abandoned(StoreError):
    """The hook that handed this call to the agent has gone and serves the call in its own process. The agent must neither carry
    it out nor undo what was done of it."""


def exhausted(error: OSError) -> str:
    """Return what is wrong, with the remedy, if a process or the host has no file descriptors left; else ""."""
    if error.errno not in (errno.EMFILE, errno.ENFILE):
        return ""
    return f"{error.strerror}; raise the limit (LimitNOFILE of the unit, or ulimit -n)"


def shortened(reason: str) -> str:
    """Return `reason` as one line of about 1200 characters at most: a hostile value of 10 kB must hide neither the problem nor
    the remedy."""
    line = one_line(reason)
    return line if len(line) <= 1200 else f"{line[:700]} … {line[-400:]}"


def one_line(text: object) -> str:
    """Return `text` with control characters and line breaks escaped, so that it stays one line in a log or a terminal."""
    line = str(text)
    return line if line.isprintable() else "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in line)
