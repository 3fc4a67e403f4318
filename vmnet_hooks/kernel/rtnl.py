"""The parts of pyroute2 that we use, for what is rare. What every guest needs is in wire.py.

`import pyroute2` runs its `__init__`, which imports all of the library: half of the run time of a hook. So we pre-register an
empty `pyroute2` package, from which submodules are imported without `__init__`; it runs on first use of anything else. The
program imports pyroute2 through this module alone.
"""

import sys
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec, module_from_spec
from typing import Any


def _enter(name: str) -> None:
    spec = find_spec(name)
    if spec is None or spec.loader is None:
        # Not installed: its first import raises the error.
        return
    package, loader = module_from_spec(spec), spec.loader

    def missing(attribute: str) -> Any:
        if attribute.startswith("__"):
            raise AttributeError(attribute)
        if find_spec(f"{name}.{attribute}"):
            return import_module(f"{name}.{attribute}")
        vars(package).pop("__getattr__", None)
        loader.exec_module(package)
        return getattr(package, attribute)

    package.__getattr__ = missing  # type: ignore[method-assign]
    sys.modules[name] = package


if "pyroute2" not in sys.modules:
    _enter("pyroute2")

_exceptions = import_module("pyroute2.netlink.exceptions")
IPRoute: Any = import_module("pyroute2.iproute.linux").IPRoute
IoctlEthtool: Any = import_module("pyroute2.ethtool.ioctl").IoctlEthtool
NetlinkError: Any = _exceptions.NetlinkError
NetlinkDumpInterrupted: Any = _exceptions.NetlinkDumpInterrupted
_ATTEMPTS = 50


def connect() -> Any:
    """Return an IPRoute whose `get` and `dump` requests the kernel checks strictly."""
    opened = IPRoute(strict_check=True)
    if hasattr(opened, "asyncore"):
        # The synchronous face of pyroute2 0.9 does not set what its own nlm_request reads.
        opened.asyncore.status.setdefault("nlm_generator", False)
    return opened


def dump(ask: Callable[..., Any], *command: Any, **match: Any) -> list[Any]:
    """Return all answers of a dump. Ask again if the kernel reports that it was interrupted by a change (a routing daemon is at
    work). Raises NetlinkError; NetlinkDumpInterrupted if that goes on."""
    for _ in range(_ATTEMPTS - 1):
        try:
            return list(ask(*command, **match))
        except NetlinkDumpInterrupted:
            continue
    return list(ask(*command, **match))
