"""What dnsmasq has leased, from its files: a line for each lease; those of IPv6 come after one with the server's identifier."""

import os
import re
import time
from collections.abc import Iterator
from typing import NamedTuple

from .. import values
from ..errors import KernelError
from ..model.objects.dnsmasq import Dnsmasq

_DUID = re.compile(r"00:(?:01:00:01(?::[0-9a-f]{2}){4}|03:00:01)((?::[0-9a-f]{2}){6})", re.ASCII)
"""A client identifier that has a MAC in it (RFC 8415, 11.2 and 11.4)."""
_MAC = re.compile(r"[0-9a-f]{2}(?::[0-9a-f]{2}){5}", re.ASCII)

_SECONDS = re.compile(r"\d{1,11}", re.ASCII)

_AT_REST, _PAUSE, _READS = 0.05, 0.01, 10
"""Seconds since the last change, seconds between looks, and looks. 1,000 leases are written in about a millisecond."""


class Lease(NamedTuple):
    """A lease. `expires` is in seconds since the epoch, 0 if it never does. By IPv6, `mac` is what the client names in its
    identifier, "" if nothing; no filter holds it to that."""

    address: str
    mac: str
    name: str
    expires: int


def of(network: str, now: float) -> list[Lease]:
    """Return what is leased to guests of a network; nothing if it has no server. Raise KernelError."""
    path = Dnsmasq.leases_of(network)
    try:
        return [lease for lease in parsed(_read(path)) if lease.expires == 0 or lease.expires > now]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise KernelError(f"{path}: {error.strerror}; use sudo") from None


def _read(path: str) -> str:
    """Return what is in the file, without the gap in which the server has emptied it and writes it anew: of a file that does not
    come to rest, the longest that was found. Raise OSError."""
    longest = ""
    for _ in range(_READS):
        with open(path, errors="replace", opener=_opened) as file:
            text = file.read()
            age = time.time_ns() - os.fstat(file.fileno()).st_mtime_ns
        if age > _AT_REST * 1e9:
            return text
        longest = max(longest, text, key=len)
        time.sleep(_PAUSE)
    return longest


def _opened(path: str, flags: int) -> int:
    """Open a file of the server's user, who may put a pipe there, which has no end, or a link to what others may not read."""
    return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK)


def parsed(text: str) -> Iterator[Lease]:
    """Yield the leases of a file. Other lines are left out."""
    for line in text.splitlines():
        words = line.split(" ")
        if len(words) < 5 or not (_SECONDS.fullmatch(words[0]) and values.is_address(words[2])):
            continue
        address, name = words[2], "" if words[3] == "*" else words[3]
        if ":" not in address:
            mac = words[1] if _MAC.fullmatch(words[1]) else ""
        else:
            found = _DUID.fullmatch(words[4])
            mac = found[1].removeprefix(":") if found else ""
        yield Lease(address, mac, name, int(words[0]))
