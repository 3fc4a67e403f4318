"""Neighbour discovery proxy for whole prefixes: on a guest's tap, the agent answers for every address of the guest's subnet.

The kernel's proxy knows single addresses only, so a guest whose /64 is on-link would not find its peers. The agent answers each
solicitation for an address of the subnet with the tap's MAC, and the host routes what the guest then sends. It does not answer
for the guest's own addresses, for what the kernel proxies on the tap (the gateway), or for link-local addresses, and never to
duplicate address detection.
"""

import errno
import ipaddress
import os
import queue
import select
import socket
import syslog
import threading
import time
from collections import deque
from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING

from .. import values
from ..errors import ConfigError, VmnetError
from ..kernel.neighbour_solicitation import Solicitation, SolicitationSocket, on_link, parse
from ..model.declaration import Config
from ..model.objects import ProxyNeighbour
from ..model.owner import Nic, Owner, nics

if TYPE_CHECKING:
    from .main import Agent

TAP_RATE, TAP_BURST = 200.0, 400
"""Solicitations read per second, from one guest. More of them wait in the socket's buffer; the kernel drops what does not fit."""

RATE, BURST = 4000.0, 400
"""The same from all guests together; they take turns."""

PAUSE_SECONDS = 0.25
REST_SECONDS = 0.005
"""How long nothing is read from one tap, or from any, when there are no tokens left."""

TURN = 8
"""Solicitations read from one tap before the next tap's turn."""

CONFIG_SECONDS = 2.0
"""Between checks of the configuration and of the host's own prefixes."""

PROXIED_SECONDS = 60.0
"""How long the proxy entries of a tap, as recorded, are cached."""

COMPLAINT_SECONDS = 60.0
"""Between log lines about a flood on the same tap."""


class Bucket:
    """A token bucket: `rate` tokens per second, at most `burst`."""

    def __init__(self, rate: float, burst: float) -> None:
        self.rate, self.burst, self.tokens, self.since = rate, burst, float(burst), 0.0

    def take(self, now: float) -> bool:
        """Take a token. Return False if there is none."""
        self.tokens = min(self.burst, self.tokens + (now - self.since) * self.rate)
        self.since = now
        if self.tokens < 1:
            return False
        self.tokens -= 1
        return True

    def give_back(self) -> None:
        self.tokens += 1


class Guest:
    """One tap, and the addresses of its guest."""

    def __init__(self, owner: Nic, listener: SolicitationSocket, bucket: Bucket) -> None:
        self.owner = owner
        self.listener = listener
        self.bucket = bucket
        self.mac = bytes.fromhex(owner.mac.replace(":", ""))
        addresses = [ipaddress.ip_network(a) for a in owner.addresses if ":" in a]
        self.own = Prefixes(n for n in addresses if n.version == 6)
        self.sources = Prefixes((*self.own.networks, ipaddress.IPv6Network(values.eui64(values.LINK_LOCAL, owner.mac))))
        self.proxied: frozenset[bytes] = frozenset()
        self.proxied_until = 0.0
        self.complained = -COMPLAINT_SECONDS

    def may_ask(self, asked: Solicitation) -> bool:
        """Whether the source filter would accept the frame. A packet socket receives it before the filter does."""
        return not self.owner.filter or (asked.lladdr == self.mac and asked.source in self.sources)


class Prefixes:
    """A set of IPv6 networks. `in` takes an address of 16 bytes."""

    def __init__(self, networks: Iterable[ipaddress.IPv6Network]) -> None:
        self.networks = tuple(networks)
        self._pairs = tuple((int(n.netmask), int(n.network_address)) for n in self.networks)

    def __contains__(self, address: bytes) -> bool:
        number = int.from_bytes(address, "big")
        return any(number & mask == start for mask, start in self._pairs)


class NeighbourDiscovery:
    """A part of the agent: one thread that answers, and one that closes sockets, as each close takes about 12 ms."""

    def __init__(self, agent: "Agent") -> None:
        self.agent = agent
        self._guests: dict[int, Guest] = {}
        self._sockets: dict[str, int] = {}
        self._paused: dict[int, float] = {}
        self._bucket = Bucket(RATE, BURST)
        self._changes: deque[tuple[Collection[Owner], Collection[Owner]]] = deque()
        self._declared: Config | None = None
        self._prefixes: dict[str, Prefixes] = {}
        self._looked = 0.0
        self._full = False
        self._deaf: dict[str, Nic] = {}
        self._ended = False
        self._done: queue.SimpleQueue[SolicitationSocket | None] = queue.SimpleQueue()
        self._epoll = select.epoll()
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._epoll.register(self._wake, select.EPOLLIN)
        self._threads = (
            threading.Thread(target=self._run, name="neighbour-discovery", daemon=True),
            threading.Thread(target=self._close, name="neighbour-discovery-closer", daemon=True),
        )

    def start(self) -> None:
        self.agent.index.subscribe(self._changed)
        # The owners from before the subscription; some may be reported twice.
        self._changed(tuple(self.agent.index.owners.values()), ())
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        """Stop answering. Return when the thread has ended, after 5 s at most."""
        self._ended = True
        os.eventfd_write(self._wake, 1)
        if self._threads[0].is_alive():
            self._threads[0].join(5)

    def _changed(self, added: Iterable[Owner], removed: Iterable[Owner]) -> None:
        """Queue a change of the index, from the thread of the index."""
        self._changes.append((tuple(added), tuple(removed)))
        os.eventfd_write(self._wake, 1)

    # --- the thread --------------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while not (self._ended or self.agent.stopping.is_set()):
            try:
                self._turn()
            except Exception as error:
                self.agent.note("error", f"neighbour discovery: {error!r}", syslog.LOG_ERR)
                self.agent.stopping.wait(1)
        for fd in list(self._guests):
            self._drop(fd)
        self._done.put(None)

    def _close(self) -> None:
        while listener := self._done.get():
            listener.close()

    def _turn(self) -> None:
        """Wait for a solicitation, a change or the end of a pause, and handle what there is."""
        now = time.monotonic()
        for fd in [fd for fd, until in self._paused.items() if until <= now]:
            del self._paused[fd]
            self._epoll.modify(fd, select.EPOLLIN)
        if now - self._looked >= CONFIG_SECONDS:
            self._looked = now
            self._look()
        until = min((self._looked + CONFIG_SECONDS, *self._paused.values()))
        for fd, happened in self._epoll.poll(max(0.0, until - now), 64):
            guest = self._guests.get(fd)
            if fd == self._wake:
                os.eventfd_read(fd)
            elif guest and happened & select.EPOLLERR:
                # After a link has gone down and come up, its socket works as before. After it has gone, it does not.
                if guest.listener.error() and not guest.listener.mac():
                    self._drop(fd)
            elif guest:
                self._serve(guest)
        while self._changes:
            self._follow(*self._changes.popleft())

    def _look(self) -> None:
        """Follow the configuration and the host's own addresses, and retry to listen where that failed."""
        for owner in list(self._deaf.values()):
            self._listen(owner)
        try:
            declared = self.agent.place.declared()
        except ConfigError:
            # Reported where the configuration is loaded.
            return
        before = self._prefixes
        self._prefixes = {
            name: found
            for name, network in declared.networks.items()
            if (found := Prefixes(network.mode.proxied6(network, on_link))).networks
        }
        if declared is not self._declared:
            self._declared = declared
            for guest in self._guests.values():
                guest.proxied_until = 0.0
        if before.keys() != self._prefixes.keys():
            self._follow(tuple(self.agent.index.owners.values()), ())
            for fd, guest in list(self._guests.items()):
                if guest.owner.network not in self._prefixes:
                    self._drop(fd)

    def _follow(self, added: Collection[Owner], removed: Iterable[Owner]) -> None:
        stay = {owner.id for owner in added}
        for owner in (*removed, *added):
            self._deaf.pop(owner.id, None)
        for owner in removed:
            if owner.id not in stay and (fd := self._sockets.get(owner.id)) is not None:
                self._drop(fd)
        for owner in nics(added):
            wanted = owner.ifindex and owner.network in self._prefixes and not owner.is_left_over
            if (fd := self._sockets.get(owner.id)) is not None:
                known = self._guests[fd]
                if wanted and (known.owner.ifname, known.owner.ifindex) == (owner.ifname, owner.ifindex):
                    # The tap is the same; the phase or the addresses have changed.
                    self._guests[fd] = Guest(owner, known.listener, known.bucket)
                    continue
                self._drop(fd)
            if wanted:
                self._listen(owner)

    def _listen(self, owner: Nic) -> None:
        try:
            listener = SolicitationSocket(owner.ifname, owner.ifindex)
        except OSError as error:
            # The tap has gone, and its record will go too.
            if error.errno not in (errno.ENODEV, errno.ENXIO):
                if not (self._full or owner.id in self._deaf):
                    self.agent.note("error", f"{owner.ifname}: no neighbour discovery: {error.strerror}", syslog.LOG_ERR)
                self._full = error.errno in (errno.EMFILE, errno.ENFILE)
                self._deaf[owner.id] = owner
            return
        self._deaf.pop(owner.id, None)
        fd = listener.fileno()
        self._guests[fd], self._sockets[owner.id] = Guest(owner, listener, Bucket(TAP_RATE, TAP_BURST)), fd
        self._epoll.register(fd, select.EPOLLIN)

    def _drop(self, fd: int) -> None:
        guest = self._guests.pop(fd)
        self._sockets.pop(guest.owner.id, None)
        self._paused.pop(fd, None)
        self._epoll.unregister(fd)
        self._full = False
        self._done.put(guest.listener)

    # --- one tap -----------------------------------------------------------------------------------------------------------

    def _serve(self, guest: Guest) -> None:
        """Answer the solicitations that wait, at most TURN of them."""
        fd = guest.listener.fileno()
        for _ in range(TURN):
            now = time.monotonic()
            if not guest.bucket.take(now):
                # Do not wait for this socket for a while, so that a flood does not keep the agent busy.
                self._paused[fd] = now + PAUSE_SECONDS
                self._epoll.modify(fd, 0)
                self._complain(guest, now)
                return
            if not self._bucket.take(now):
                time.sleep(REST_SECONDS)
                return
            try:
                frame = guest.listener.receive()
                if frame is None:
                    guest.bucket.give_back()
                    self._bucket.give_back()
                    return
                if (asked := parse(frame)) and self._is_ours(guest, asked, now) and (mac := guest.listener.mac()):
                    guest.listener.answer(asked, mac)
                    self.agent.count("solicitations_answered")
            except OSError as error:
                # The link is down or has gone, which epoll reports next, or its queue is full.
                if error.errno not in (errno.ENETDOWN, errno.ENODEV, errno.ENXIO, errno.ENOBUFS, errno.EAGAIN):
                    raise
                if not guest.listener.mac():
                    self._drop(fd)
                return

    def _is_ours(self, guest: Guest, asked: Solicitation, now: float) -> bool:
        """Whether to answer."""
        target = asked.target
        prefixes = self._prefixes.get(guest.owner.network)
        if prefixes is None or target not in prefixes or target in guest.own or not guest.may_ask(asked):
            return False
        if now >= guest.proxied_until:
            guest.proxied = self._proxied(guest.owner)
            guest.proxied_until = now + PROXIED_SECONDS
        return target not in guest.proxied

    def _proxied(self, owner: Nic) -> frozenset[bytes]:
        """Return the addresses that the kernel proxies on a tap, by the records. Raises OSError (EAGAIN)."""
        try:
            with self.agent.place.records() as records:
                claims = records.claims(owner.id).values()
        except VmnetError as error:
            raise OSError(errno.EAGAIN, str(error)) from None
        found = [r.address for r in claims if isinstance(r, ProxyNeighbour) and r.ifname == owner.ifname]
        return frozenset(socket.inet_pton(socket.AF_INET6, address) for address in found if ":" in address)

    def _complain(self, guest: Guest, now: float) -> None:
        self.agent.count("solicitations_throttled")
        if now - guest.complained >= COMPLAINT_SECONDS:
            guest.complained = now
            who = f"{guest.owner.ifname} ({guest.owner.domain})"
            text = f"{who}: more than {TAP_RATE:.0f} solicitations a second; the rest is lost"
            self.agent.note("discovery", text, syslog.LOG_WARNING)
