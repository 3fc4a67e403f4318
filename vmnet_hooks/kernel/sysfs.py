"""/sys/class/net, for what netlink's messages do not say of links. It shows the network namespace in which /sys was mounted."""

import os

ROOT = "/sys/class/net"
_IFF_PERSIST = 0x0800


def exists(ifname: str) -> bool:
    """Whether there is a link of that name."""
    return os.path.exists(f"{ROOT}/{ifname}")


def read(ifname: str, file: str) -> str | None:
    """A link's attribute, as `mtu` or `brport/isolated`; None if the link has none of that name, or it can't be read."""
    try:
        with open(f"{ROOT}/{ifname}/{file}") as opened:
            return opened.read().strip()
    except (OSError, UnicodeDecodeError):
        return None


def files(ifname: str, folder: str = "") -> list[str]:
    """The names in a link's folder, or in one below it; none if there is no such folder."""
    try:
        return os.listdir(f"{ROOT}/{ifname}/{folder}")
    except OSError:
        return []


def write(ifname: str, file: str, value: str) -> None:
    """Set a link's attribute. Raises OSError."""
    with open(f"{ROOT}/{ifname}/{file}", "w") as opened:
        opened.write(value)


def ports(ifname: str) -> list[str]:
    """The links whose master is `ifname`."""
    return sorted(name.removeprefix("lower_") for name in files(ifname) if name.startswith("lower_"))


def has_sent(ifname: str, surely: bool = True) -> bool:
    """Whether a tap's guest has sent anything, by the tap's counter. A persistent tap may have counted another guest's frames:
    that is not `surely`, nor is any frame of a link that is no tap."""
    if not surely:
        return int(read(ifname, "statistics/rx_packets") or 0) > 0
    flags = read(ifname, "tun_flags")
    if flags is None or int(flags, 16) & _IFF_PERSIST:
        return False
    return int(read(ifname, "statistics/rx_packets") or 0) > 0
