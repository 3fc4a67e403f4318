"""Announcements by the agent: one packet socket that stays open, and one thread. See kernel/announcement.py."""

import heapq
import socket
import syslog
import threading
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..kernel import announcement, duplicates, sysfs
from ..kernel.netlink import Netlink

if TYPE_CHECKING:
    from .main import Agent

Call = tuple[str, str, str]
"""Link, address, tap."""


class Announcer:
    """Sends each announcement at once, and again a second later unless the guest's tap has gone or was replaced."""

    def __init__(self, agent: "Agent") -> None:
        self._agent = agent
        self._due: list[tuple[float, int, Sequence[tuple[Call, int]], bool]] = []
        self._number = 0
        self._news = threading.Condition()

    def start(self) -> None:
        threading.Thread(target=self._run, name="announcer", daemon=True).start()

    def close(self) -> None:
        with self._news:
            self._news.notify()

    def announce(self, calls: Sequence[Call]) -> None:
        """Announce addresses; return at once."""
        if not calls:
            return
        known = [(call, _index(call[2])) for call in calls]
        now = time.monotonic()
        with self._news:
            for delay in announcement.ROUNDS:
                self._number += 1
                heapq.heappush(self._due, (now + delay, self._number, known, delay == announcement.ROUNDS[-1]))
            self._news.notify()

    def _run(self) -> None:
        raw = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        netlink = Netlink()
        while not self._agent.stopping.is_set():
            with self._news:
                wait = self._due[0][0] - time.monotonic() if self._due else None
                if wait is None or wait > 0:
                    self._news.wait(wait)
                    continue
                _, _, calls, is_last = heapq.heappop(self._due)
            there = [call[:2] for call, index in calls if index and _index(call[2]) == index]
            for link, address in duplicates.unanswered(netlink, there):
                try:
                    mac = bytes.fromhex((sysfs.read(link, "address") or "").replace(":", ""))
                    for frame in announcement.announcement(mac, address):
                        raw.sendto(frame, (link, 0))
                except (OSError, ValueError) as error:
                    # The link is down, or has gone; there may be another round.
                    self._agent.note("error", f"{address} was not announced on {link}: {error}", syslog.LOG_WARNING)
            if is_last:
                duplicates.settle(netlink, [call[:2] for call, _ in calls])


def _index(ifname: str) -> int:
    try:
        return socket.if_nametoindex(ifname)
    except OSError:
        return 0
