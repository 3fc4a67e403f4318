"""What the agent answers on guests' links: neighbour solicitations for whole prefixes, DHCP, router solicitations.

The kernel's proxy knows single addresses only, so a guest whose /64 is on-link would not find its peers. The agent answers each
solicitation for an address of the subnet with the tap's MAC, and the host routes what the guest then sends. It does not answer
for the guest's own addresses, for what the kernel proxies on the tap (the gateway), or for link-local addresses, and never to
duplicate address detection.

What a guest is told by DHCP and router advertisements is in its record and the configuration, see services/dhcp.py. A guest that
is awaited from another node is told nothing: it asks there.
"""

import errno
import heapq
import ipaddress
import os
import queue
import random
import select
import socket
import syslog
import threading
import time
from collections import deque
from collections.abc import Collection, Iterable
from contextlib import suppress
from typing import TYPE_CHECKING

from .. import values
from ..errors import ConfigError, VmnetError
from ..kernel import announcement, sysfs
from ..kernel.guest_socket import GuestSocket
from ..kernel.neighbour_solicitation import Solicitation, on_link, parse
from ..kernel.netlink import Netlink, NetlinkError
from ..model.declaration import Config, Network
from ..model.mode import Around
from ..model.objects import ProxyNeighbour
from ..model.owner import Nic, Owner, nics
from ..services import dhcp, router_advertisement
from ..services import responder as answers
from ..services.terms import Terms

if TYPE_CHECKING:
    from .main import Agent

TAP_RATE, TAP_BURST = 200.0, 400
"""Frames read per second, from one guest. More of them wait in the socket's buffer; the kernel drops what does not fit."""

RATE, BURST = 4000.0, 400
"""The same from all guests together; they take turns."""

PAUSE_SECONDS = 0.25
REST_SECONDS = 0.005
"""How long nothing is read from one tap, or from any, when there are no tokens left."""

CONFIG_SECONDS = 2.0
"""Between checks of the configuration and of the host's own prefixes."""

PROXIED_SECONDS = 60.0
"""How long the proxy entries of a tap, as recorded, are cached."""

TERMS_SECONDS = 10.0
"""How long what a guest is told is cached: addresses and MTUs of the host's links may change."""

ADVERTISE_SECONDS = (200, router_advertisement.INTERVAL)
"""Between unsolicited router advertisements: the least and the most, as RFC 4861, 6.2.1 has them by default."""

ROUTERLESS_SECONDS = 30.0
"""Between looks for a router of a guest that has none to be told of."""

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

    def __init__(self, owner: Nic, listener: GuestSocket, bucket: Bucket) -> None:
        self.owner = owner
        self.listener = listener
        self.bucket = bucket
        self.terms: Terms | None = None
        self.told_until = 0.0
        self.due = 0.0
        self.mac = bytes.fromhex(owner.mac.replace(":", ""))
        self.hwaddr = b""
        """The MAC of the link, when what the guest is told was found out."""
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


class Responder:
    """A part of the agent: one thread that answers and advertises, and one that closes sockets: each close takes about 12 ms."""

    def __init__(self, agent: "Agent") -> None:
        self.agent = agent
        self._guests: dict[int, Guest] = {}
        self._sockets: dict[str, int] = {}
        self._paused: dict[int, float] = {}
        self._bucket = Bucket(RATE, BURST)
        self._changes: deque[tuple[Collection[Owner], Collection[Owner]]] = deque()
        self._declared: Config | None = None
        self._prefixes: dict[str, Prefixes] = {}
        self._served: frozenset[str] = frozenset()
        self._looked = 0.0
        self._full = False
        self._deaf: dict[str, Nic] = {}
        self._ended = False
        self._done: queue.SimpleQueue[GuestSocket | None] = queue.SimpleQueue()
        self._due: list[tuple[float, int, Guest]] = []
        self._netlink: Netlink | None = None
        self._own: dict[str, list[values.Interface]] = {}
        self._epoll = select.epoll()
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._epoll.register(self._wake, select.EPOLLIN)
        self._threads = (
            threading.Thread(target=self._run, name="responder", daemon=True),
            threading.Thread(target=self._close, name="responder-closer", daemon=True),
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

    def deaf(self) -> list[str]:
        """Return the links on which nothing is answered, as they could not be listened to."""
        return sorted(owner.ifname for owner in list(self._deaf.values()))

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
                self.agent.note("error", f"responder: {error!r}", syslog.LOG_ERR)
                self.agent.stopping.wait(1)
        for fd in list(self._guests):
            self._drop(fd)
        self._done.put(None)

    def _close(self) -> None:
        while listener := self._done.get():
            listener.close()

    def _turn(self) -> None:
        """Wait for a frame, a change, the end of a pause or the time of an advertisement, and handle what there is."""
        now = time.monotonic()
        for fd in [fd for fd, until in self._paused.items() if until <= now]:
            del self._paused[fd]
            self._epoll.modify(fd, select.EPOLLIN)
        if now - self._looked >= CONFIG_SECONDS:
            self._looked = now
            self._look()
        while self._due and self._due[0][0] <= now:
            due, _, told = heapq.heappop(self._due)
            self._advertise(due, told)
        until = min((self._looked + CONFIG_SECONDS, *self._paused.values(), *(due[0] for due in self._due[:1])))
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
        before, served = self._prefixes, self._served
        self._own = {}
        self._prefixes = {
            name: found
            for name, network in declared.networks.items()
            if (found := Prefixes(network.mode.proxied6(network, on_link))).networks
        }
        offers = ((name, network.options.get(dhcp.OPTION.name)) for name, network in declared.networks.items())
        self._served = frozenset(name for name, offer in offers if offer is not None)
        if declared is not self._declared:
            self._declared = declared
            for guest in self._guests.values():
                guest.proxied_until = 0.0
                self._tell(guest)
        if (before.keys(), served) != (self._prefixes.keys(), self._served):
            self._follow(tuple(self.agent.index.owners.values()), ())

    def _follow(self, added: Collection[Owner], removed: Iterable[Owner]) -> None:
        stay = {owner.id for owner in added}
        for owner in (*removed, *added):
            self._deaf.pop(owner.id, None)
        for owner in removed:
            if owner.id not in stay and (fd := self._sockets.get(owner.id)) is not None:
                self._drop(fd)
        for owner in nics(added):
            hears = (owner.network in self._served, owner.network in self._prefixes)
            wanted = owner.ifindex and any(hears) and not owner.is_left_over
            if (fd := self._sockets.get(owner.id)) is not None:
                known = self._guests[fd]
                is_same = (known.owner.ifname, known.owner.ifindex) == (owner.ifname, owner.ifindex)
                if wanted and is_same and known.listener.hears == hears:
                    # The tap is the same; the phase or the addresses have changed.
                    self._guests[fd] = Guest(owner, known.listener, known.bucket)
                    self._tell(self._guests[fd])
                    continue
                self._drop(fd)
            if wanted:
                self._listen(owner)

    def _listen(self, owner: Nic) -> None:
        try:
            listener = GuestSocket(owner.ifname, owner.ifindex, owner.network in self._served, owner.network in self._prefixes)
        except OSError as error:
            # The tap has gone, and its record will go too.
            if error.errno not in (errno.ENODEV, errno.ENXIO):
                if not (self._full or owner.id in self._deaf):
                    self.agent.note("error", f"{owner.ifname}: no neighbour discovery, no DHCP: {error.strerror}", syslog.LOG_ERR)
                self._full = error.errno in (errno.EMFILE, errno.ENFILE)
                self._deaf[owner.id] = owner
            return
        self._deaf.pop(owner.id, None)
        fd = listener.fileno()
        self._guests[fd], self._sockets[owner.id] = Guest(owner, listener, Bucket(TAP_RATE, TAP_BURST)), fd
        self._epoll.register(fd, select.EPOLLIN)
        self._tell(self._guests[fd])

    def _drop(self, fd: int) -> None:
        guest = self._guests.pop(fd)
        self._sockets.pop(guest.owner.id, None)
        self._paused.pop(fd, None)
        self._epoll.unregister(fd)
        self._full = False
        self._done.put(guest.listener)

    # --- one tap -----------------------------------------------------------------------------------------------------------

    def _serve(self, guest: Guest) -> None:
        """Answer one frame that waits. The next one has to wait for the other guests' turns."""
        fd, now = guest.listener.fileno(), time.monotonic()
        if not guest.bucket.take(now):
            # Do not wait for this socket for a while, so that a flood does not keep the agent busy.
            self._paused[fd] = now + PAUSE_SECONDS
            self._epoll.modify(fd, 0)
            self._complain(guest, now)
            return
        if not self._bucket.take(now):
            guest.bucket.give_back()
            time.sleep(REST_SECONDS)
            return
        try:
            frame = guest.listener.receive()
            if frame is None:
                guest.bucket.give_back()
                self._bucket.give_back()
            else:
                self._send(guest, self._answer(guest, frame, now))
        except OSError as error:
            # The link is down or has gone, which epoll reports next, or its queue is full.
            if error.errno not in (errno.ENETDOWN, errno.ENODEV, errno.ENXIO, errno.ENOBUFS, errno.EAGAIN):
                raise
            if not guest.listener.mac():
                self._drop(fd)

    def _answer(self, guest: Guest, frame: bytes, now: float) -> bytes | None:
        """Return the answer to a frame; None if there is none. Raises OSError (EAGAIN)."""
        if guest.listener.hears[1] and (asked := parse(frame)):
            mac = guest.listener.mac()
            if not mac or not self._is_ours(guest, asked, now):
                return None
            self.agent.count("solicitations_answered")
            return announcement.proxy_advertisement(mac, asked.target, asked.lladdr, asked.source)
        if now >= guest.told_until:
            self._tell(guest)
        answer = answers.answer(frame, guest.terms, guest.hwaddr) if guest.terms else None
        if answer:
            self.agent.count("requests_answered")
        return answer

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
            text = f"{who}: more than {TAP_RATE:.0f} solicitations and requests a second; the rest is lost"
            self.agent.note("discovery", text, syslog.LOG_WARNING)

    # --- DHCP and router advertisements --------------------------------------------------------------------------------------

    def _tell(self, guest: Guest) -> None:
        """Find out what a guest is told. If its router has changed, advertise the new one, and withdraw the old one."""
        before, guest.terms = guest.terms, None
        now = time.monotonic()
        guest.told_until = now + TERMS_SECONDS
        network = self._declared.networks.get(guest.owner.network) if self._declared else None
        if network and guest.owner.network in self._served and guest.owner.phase != "incoming":
            try:
                found = self._terms(guest, network)
            except Exception as error:
                # The others are told all the same.
                self.agent.note("error", f"{guest.owner.ifname}: no DHCP: {error!r}", syslog.LOG_ERR)
                found = None
            # The old one, if it is the same, holds what the guest asks for.
            guest.terms = before if found == before else found
        if guest.terms is before:
            return
        if before and before.router6 and not (guest.terms and guest.terms.router6 == before.router6):
            self._send(guest, router_advertisement.unsolicited(before, guest.listener.mac(), 0))
        if guest.terms and guest.terms.addresses6:
            # A guest that starts asks by itself.
            self._plan(guest, now + random.uniform(0, 1))

    def _terms(self, guest: Guest, network: Network) -> Terms | None:
        ifname = guest.owner.ifname
        guest.hwaddr = hwaddr = guest.listener.mac()
        declared = self._declared
        if not (hwaddr and declared):
            return None
        try:
            mtu = guest.listener.mtu()
        except OSError:
            # It has gone since.
            return None

        def router_on(link: str) -> tuple[ipaddress.IPv6Address, bytes] | None:
            if link == ifname:
                # The kernel makes it when the tap comes up.
                return ipaddress.IPv6Address(announcement.link_local(hwaddr)), hwaddr
            own = next((found.ip for found in self._addresses(link) if found.version == 6 and found.ip.is_link_local), None)
            return (own, bytes.fromhex((sysfs.read(link, "address") or "").replace(":", ""))) if own else None

        around = Around(declared.links, declared.nats)
        return dhcp.terms(guest.owner.vif, network, around, self._addresses, mtu, router_on)

    def _addresses(self, link: str) -> list[values.Interface]:
        """Return the host's own addresses on a link, as they were at most CONFIG_SECONDS ago; none if there is no such link."""
        if link not in self._own:
            self._own[link] = []
            try:
                self._netlink = self._netlink or Netlink()
                found = self._netlink.addresses(self._netlink.index(link)) if link else {}
                self._own[link] = [ipaddress.ip_interface(address.partition(" peer ")[0]) for address in found]
            except (OSError, NetlinkError):
                # It has gone, or is not there yet.
                pass
        return self._own[link]

    def _plan(self, guest: Guest, due: float) -> None:
        """Set the time of a guest's next advertisement, whatever it was."""
        guest.due = due
        heapq.heappush(self._due, (due, id(guest), guest))

    def _advertise(self, due: float, guest: Guest) -> None:
        """Advertise the router to one guest, and set the time of the next advertisement."""
        if self._guests.get(guest.listener.fileno()) is not guest or guest.due != due:
            return
        if due >= guest.told_until:
            self._tell(guest)
        if not guest.terms or guest.due != due:
            return
        # A router may be found later: its link may have no link-local address yet.
        self._plan(guest, due + (random.uniform(*ADVERTISE_SECONDS) if guest.terms.router6 else ROUTERLESS_SECONDS))
        self._send(guest, router_advertisement.unsolicited(guest.terms, guest.listener.mac()))

    def _send(self, guest: Guest, frame: bytes | None) -> None:
        """Send a frame to a guest, which may be lost."""
        if frame:
            with suppress(OSError):
                guest.listener.send(frame)
