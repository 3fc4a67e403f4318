"""The error taxonomy. A message is one line: it names the object and the remedy."""


class VmnetError(Exception):
    """Base of every error that a user is meant to read. `exit_code` is the process's status."""

    exit_code = 1


class InputError(VmnetError):
    """What we were given (arguments, XML, metadata) can't be used."""

    exit_code = 2


class ConfigError(InputError):
    """A configuration file can't be used. The message starts with the file's name and the key."""


class MissingLink(ConfigError):
    """A declared interface does not exist (yet)."""


class ConflictError(VmnetError):
    """The wish collides with another guest or with somebody else's kernel object."""


class KernelError(VmnetError):
    """The kernel refused a step."""


class InTheWay(KernelError):
    """Somebody else made, meanwhile, the link that we were about to make. Nothing was changed by the step."""


class StoreError(VmnetError):
    """The records under /run/vmnet-hooks can't be read or written."""


class Abandoned(StoreError):
    """Whoever asked has gone, and does it himself: nothing may be done for him any more, nor be taken back."""


def shortened(reason: str) -> str:
    """`reason` as one line for a terminal: a hostile value of 10 kB must not hide what is wrong with it, nor the remedy."""
    line = one_line(reason)
    return line if len(line) <= 1200 else f"{line[:700]} … {line[-400:]}"


def one_line(text: object) -> str:
    """`text` with control characters and line breaks made visible, so that it stays one line in a log or a terminal."""
    line = str(text)
    return line if line.isprintable() else "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in line)
