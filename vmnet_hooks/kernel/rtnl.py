"""What we use of pyroute2, without the rest; wire.py is for what every guest needs.

Its package file imports everything that pyroute2 has, which takes a hook half of its time; an IPRoute needs a part of it. So
the package is entered here without running that file: its modules are imported as they are named, and the file is run for
whoever asks for anything else. Everybody here imports pyroute2 through this module.
"""

import sys
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec, module_from_spec
from typing import Any


def _enter(name: str) -> None:
    spec = find_spec(name)
    if spec is None or spec.loader is None:
        # It is missing, and its first import says so.
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


def dump(ask: Callable[..., Any], *command: Any, **match: Any) -> list[Any]:
    """A whole dump. The kernel says so when something changed under it (a routing daemon is at work): asked again."""
    for _ in range(_ATTEMPTS - 1):
        try:
            return list(ask(*command, **match))
        except NetlinkDumpInterrupted:
            continue
    return list(ask(*command, **match))
