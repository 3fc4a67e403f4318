"""The privilege that kernel state and our files take."""

import os

from ..errors import VmnetError


def require(refused: str, remedy: str = "use sudo") -> None:
    """Raise VmnetError unless the process runs as root: `refused` names what is impossible without it."""
    if os.geteuid() != 0:
        raise VmnetError(f"not root: {refused}; {remedy}")
