"""This host: its configuration, its kernel and its records, made into one engine. Importing this is what costs (pyroute2)."""

from . import config
from .engine import Engine
from .kernel.linux import Kernel
from .sections import SECTIONS
from .store import Store


def engine(declared: config.Config | None = None) -> Engine:
    """The engine, with the configuration if it was read already. Raises VmnetError."""
    return Engine(declared or config.load(SECTIONS), Kernel(), Store())
