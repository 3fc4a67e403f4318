"""This host: its configuration, its kernel and its records, made into one engine. Importing this is what costs (pyroute2)."""

from ..declared import configuration
from ..declared.sections import SECTIONS
from ..kernel.linux import Kernel
from ..model import declaration
from ..records.store import Store
from .engine import Engine


def engine(declared: declaration.Config | None = None) -> Engine:
    """The engine, with the configuration if it was read already. Raises VmnetError."""
    return Engine(declared or configuration.load(SECTIONS), Kernel(), Store())
