"""Open the host for a command of the admin."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..engine import Session
    from ..model.declaration import Config


@contextmanager
def opened(declared: "Config | None" = None) -> Iterator["Session"]:
    """See engine.open. Raises VmnetError, also where the command is not run as root."""
    # Commands' files are loaded for completion, which does without the engine.
    from .. import engine
    from ..kernel import root

    root.require("kernel state and records can't be read")
    with engine.open(declared) as session:
        yield session
