"""What the links of this process's network namespace show under /sys/class/net, where netlink's messages say less."""

import os

ROOT = "/sys/class/net"
_IFF_PERSIST = 0x0800


def exists(ifname: str) -> bool:
    """Whether there is a link of that name."""
    return os.path.exists(f"{ROOT}/{ifname}")


def read(ifname: str, file: str) -> str | None:
    """A link's attribute, as `mtu` or `brport/isolated`; None if it has none of that name, or it can't be read."""
    try:
        with open(f"{ROOT}/{ifname}/{file}") as opened:
            return opened.read().strip()
    except (OSError, UnicodeDecodeError):
        return None


def files(ifname: str, folder: str = "") -> list[str]:
    """The names in a link's folder, or in one below it; none if it has no such folder."""
    try:
        return os.listdir(f"{ROOT}/{ifname}/{folder}")
    except OSError:
        return []


def has_sent(ifname: str) -> bool:
    """Whether a tap's guest has sent anything: the tap lives no longer than its QEMU, and counts. One that is made to stay may
    have counted another guest's frames."""
    flags = read(ifname, "tun_flags")
    if flags is None or int(flags, 16) & _IFF_PERSIST:
        return False
    return int(read(ifname, "statistics/rx_packets") or 0) > 0
