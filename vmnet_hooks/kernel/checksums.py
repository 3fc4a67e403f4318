"""Checksum offload of a link, by ethtool's ioctl. pyroute2's, as few links need it."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from .rtnl import IoctlEthtool


@contextmanager
def _ethtool(ifname: str) -> Iterator[Any]:
    ethtool = IoctlEthtool(ifname)
    try:
        yield ethtool
    finally:
        ethtool.sock.close()


def are_left_to(ifname: str) -> bool:
    """Whether the device computes any checksum of what is sent. Raises OSError."""
    with _ethtool(ifname) as ethtool:
        return any(value for name, value, *_ in ethtool.get_features() if name.startswith("tx-checksum-"))


def switch(ifname: str, on: bool) -> None:
    """Leave all checksums of what is sent to the device, or none. Raises OSError."""
    with _ethtool(ifname) as ethtool:
        features = ethtool.get_features()
        for name, _, available, *_ in list(features):
            if name.startswith("tx-checksum-") and available:
                features[name] = on
        ethtool.set_features(features)
