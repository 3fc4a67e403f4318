"""This host: its configuration, its kernel and its records, made into one engine. Importing this is what costs (pyroute2)."""

from . import config
from .engine import Engine
from .kernel import Kernel
from .modes import MODES
from .store import Store


def engine() -> Engine:
    """Raises VmnetError."""
    return Engine(config.load(MODES), Kernel(), Store())
