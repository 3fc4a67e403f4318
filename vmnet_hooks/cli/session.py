"""Open the host for a command of the admin."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..engine.engine import Engine
    from ..model.declaration import Config


@contextmanager
def opened(declared: "Config | None" = None) -> Iterator["Engine"]:
    """See engine/session.py. Raises VmnetError, also where the command is not run as root."""
    # Commands' files are loaded for completion, which does without the kernel edge.
    from ..engine import session
    from ..kernel import root

    root.require("kernel state and records can't be read")
    with session.open(declared) as engine:
        yield engine
