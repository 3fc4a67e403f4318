"""libvirt's events: NICs that came and went, guests that have arrived, domains whose claims changed.

For the agent alone: a hook that talks to libvirt waits for itself. Callbacks come from the thread in `loop` and must only take
note. A call to libvirtd waits for the hooks that libvirtd runs, those of the same domain above all, so its caller must hold no
lock that a hook's work needs. https://libvirt.org/html/libvirt-libvirt-domain.html#virConnectDomainEventRegisterAny
"""

import threading
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import Any

from lxml import etree

from ..errors import one_line
from ..model.guest import Domain
from .libvirt import NAMESPACE, parse_domain
from .libvirt_connection import URI, LibvirtError, libvirt

LOOP_MS = 1000
"""How often the event loop returns, and can end."""

KEEPALIVE_SECONDS, KEEPALIVE_COUNT = 5, 3
"""Keepalive interval, and how many missed replies mean that the connection is dead."""

available = libvirt is not None
"""Whether there is a Python module to talk to libvirt with."""


@contextmanager
def _ours() -> Iterator[None]:
    """Turn libvirt's errors into LibvirtError."""
    try:
        yield
    except libvirt.libvirtError as error:
        raise LibvirtError(f"libvirt: {one_line(error)}") from None


def watch(changed: Callable[[str, str], None], arrived: Callable[[str], None], lost: Callable[[], None]) -> "Events":
    """Return what listens to libvirt. Raises LibvirtError without the Python module."""
    if not available:
        raise LibvirtError(
            "no Python module libvirt: NICs that are attached to running guests are not seen; install python3-libvirt"
        )
    return Events(changed, arrived, lost)


class Events:
    """See watch.Watch and watch.Watcher. One connection, made anew when it was lost.

    One object in a process, made before any other connection: libvirt knows a single event loop."""

    def __init__(self, changed: Callable[[str, str], None], arrived: Callable[[str], None], lost: Callable[[], None]) -> None:
        self._changed, self._arrived, self._lost = changed, arrived, lost
        self._connection: Any = None
        libvirt.registerErrorHandler(lambda *_: None, None)
        libvirt.virEventRegisterDefaultImpl()
        self._timer = libvirt.virEventAddTimeout(LOOP_MS, lambda *_: None, None)

    def loop(self, ended: threading.Event) -> None:
        """Run the event loop until `ended`. Raises LibvirtError."""
        while not ended.is_set():
            with _ours():
                libvirt.virEventRunDefaultImpl()

    def connect(self) -> None:
        """Connect, and listen from then on. Raises LibvirtError; then there is no connection."""
        with _ours():
            connection = libvirt.openReadOnly(URI)
            try:
                connection.registerCloseCallback(lambda *_: self._lost(), None)
                connection.setKeepAlive(KEEPALIVE_SECONDS, KEEPALIVE_COUNT)
                for event, callback in (
                    (libvirt.VIR_DOMAIN_EVENT_ID_DEVICE_ADDED, self._on_added),
                    (libvirt.VIR_DOMAIN_EVENT_ID_DEVICE_REMOVED, self._on_removed),
                    (libvirt.VIR_DOMAIN_EVENT_ID_METADATA_CHANGE, self._on_metadata),
                    (libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE, self._on_lifecycle),
                ):
                    connection.domainEventRegisterAny(None, event, callback, None)
            except libvirt.libvirtError:
                _close(connection)
                raise
        self._connection = connection

    def domains(self) -> list[str]:
        """Return the UUIDs of the domains that run. Waits for every hook that libvirt runs now. Raises LibvirtError."""
        with _ours():
            running = self._connected().listAllDomains(libvirt.VIR_CONNECT_LIST_DOMAINS_ACTIVE)
            return [domain.UUIDString() for domain in running]

    def _connected(self) -> Any:
        connection = self._connection
        if connection is None:
            raise LibvirtError("libvirt: not connected")
        return connection

    def wake(self) -> None:
        """Have the event loop return."""
        libvirt.virEventUpdateTimeout(self._timer, 0)

    def close(self) -> None:
        """Close the connection, whatever is left of it."""
        connection, self._connection = self._connection, None
        if connection is not None:
            _close(connection)

    def running(self, uuid: str, attached: Collection[str]) -> tuple[Domain, set[str]] | None:
        """See watch.Watch. Raises LibvirtError or InputError."""
        xml = self._xml(uuid)
        return None if xml is None else (parse_domain(xml, f"{uuid}: XML"), macs(xml, attached))

    def _xml(self, uuid: str) -> bytes | None:
        """The live XML of a domain that runs."""
        connection = self._connected()
        try:
            domain = connection.lookupByUUIDString(uuid)
            state, reason = domain.state()
            if state in (libvirt.VIR_DOMAIN_NOSTATE, libvirt.VIR_DOMAIN_SHUTOFF, libvirt.VIR_DOMAIN_CRASHED):
                return None
            if state == libvirt.VIR_DOMAIN_PAUSED and reason in (
                libvirt.VIR_DOMAIN_PAUSED_MIGRATION,
                libvirt.VIR_DOMAIN_PAUSED_STARTING_UP,
            ):
                return None
            return domain.XMLDesc(0).encode()
        except libvirt.libvirtError as error:
            if error.get_error_code() in (libvirt.VIR_ERR_NO_DOMAIN, libvirt.VIR_ERR_OPERATION_INVALID):
                return None
            raise LibvirtError(f"libvirt: {one_line(error)}") from None

    def is_active(self, uuid: str) -> bool:
        """Return whether a domain runs here in any way. Raises LibvirtError."""
        connection = self._connected()
        try:
            return bool(connection.lookupByUUIDString(uuid).isActive())
        except libvirt.libvirtError as error:
            if error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN:
                return False
            raise LibvirtError(f"libvirt: {one_line(error)}") from None

    def _on_added(self, _connection: Any, domain: Any, alias: str, _: object) -> None:
        if _is_nic(alias):
            self._changed(domain.UUIDString(), alias)

    def _on_removed(self, _connection: Any, domain: Any, alias: str, _: object) -> None:
        if _is_nic(alias):
            self._changed(domain.UUIDString(), "")

    def _on_metadata(self, _connection: Any, domain: Any, kind: int, uri: str | None, _: object) -> None:
        if uri == NAMESPACE:
            self._changed(domain.UUIDString(), "")

    def _on_lifecycle(self, _connection: Any, domain: Any, event: int, detail: int, _: object) -> None:
        if (event, detail) == (libvirt.VIR_DOMAIN_EVENT_RESUMED, libvirt.VIR_DOMAIN_EVENT_RESUMED_MIGRATED):
            self._arrived(domain.UUIDString())


def macs(xml: bytes, aliases: Collection[str]) -> set[str]:
    """Return the MACs of the NICs with these aliases."""
    found = {}
    for interface in etree.fromstring(xml).iterfind("devices/interface"):
        alias, mac = interface.find("alias"), interface.find("mac")
        if alias is not None and mac is not None:
            found[alias.get("name", "")] = mac.get("address", "").lower()
    return {found[alias] for alias in aliases if alias in found}


def _is_nic(alias: str) -> bool:
    """Maybe: aliases are libvirt's own (net0), or the admin's, which begin with ua-."""
    return alias.startswith(("net", "ua-"))


def _close(connection: Any) -> None:
    try:
        connection.close()
    except libvirt.libvirtError:
        pass
