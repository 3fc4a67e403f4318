"""Opens a session for a command."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from . import problem

if TYPE_CHECKING:
    from ..engine import Session
    from ..model.declaration import Config


@contextmanager
def opened(declared: "Config | None" = None) -> Iterator["Session"]:
    """Open a session, see engine.open. Raise VmnetError, also if the command is not run as root."""
    # Files of commands are loaded for completion, which does not need the engine.
    from .. import engine
    from ..kernel import root

    root.require("kernel state and records can't be read")
    with engine.open(declared) as session:
        yield session


def complain(declared: "Config") -> None:
    """If the configuration has mistakes, print them and exit with 2. For commands that show what there is all the same."""
    for error in declared.errors:
        problem(error)
    if declared.errors:
        raise SystemExit(2)
