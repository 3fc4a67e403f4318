"""libvirt's events: NICs that were attached or detached, guests that arrived by live migration, changed claims.

Only the agent uses them: a hook must not call libvirt, which waits for the hook. Callbacks run in the thread of `loop` and must
return at once. A request to libvirtd waits until libvirtd's hooks have ended, in particular those of the same domain, so the
caller must not hold a lock that a hook needs.
https://libvirt.org/html/libvirt-libvirt-domain.html#virConnectDomainEventRegisterAny
"""

import threading
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import Any

from lxml import etree

from ..errors import one_line
from ..model.guest import Domain
from .libvirt import NAMESPACE, parse_domain
from .libvirt_connection import URI, LibvirtError, libvirt, live_xml

LOOP_MS = 1000
"""Interval in milliseconds at which the event loop returns, so that it can end."""

KEEPALIVE_SECONDS, KEEPALIVE_COUNT = 5, 3
"""Keepalive interval, and how many missed replies mean that the connection is dead."""

available = libvirt is not None
"""Whether the Python module libvirt is installed."""


@contextmanager
def _ours() -> Iterator[None]:
    """Turn libvirt's errors into LibvirtError."""
    try:
        yield
    except libvirt.libvirtError as error:
        raise LibvirtError(f"libvirt: {one_line(error)}") from None


def watch(changed: Callable[[str, str], None], arrived: Callable[[str], None], lost: Callable[[], None]) -> "Events":
    """Return an object that listens to libvirt's events. Raise LibvirtError if the Python module libvirt is not installed."""
    if not available:
        raise LibvirtError(
            "no Python module libvirt: NICs that are attached to running guests are not seen; install python3-libvirt"
        )
    return Events(changed, arrived, lost)


class Events:
    """A watch.Watch on one connection, which `connect` makes again after it was lost.

    A process has only one such object, made before any connection to libvirt: libvirt has one event loop per process.
    """

    def __init__(self, changed: Callable[[str, str], None], arrived: Callable[[str], None], lost: Callable[[], None]) -> None:
        self._changed, self._arrived, self._lost = changed, arrived, lost
        self._connection: Any = None
        libvirt.registerErrorHandler(lambda *_: None, None)
        libvirt.virEventRegisterDefaultImpl()
        self._timer = libvirt.virEventAddTimeout(LOOP_MS, lambda *_: None, None)

    def loop(self, ended: threading.Event) -> None:
        """Run the event loop until `ended` is set. Raise LibvirtError."""
        while not ended.is_set():
            with _ours():
                libvirt.virEventRunDefaultImpl()

    def connect(self) -> None:
        """Connect and register for events. Raise LibvirtError; then there is no connection."""
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
        """Return the UUIDs of the running domains. This waits for all hooks that libvirt runs now. Raise LibvirtError."""
        with _ours():
            running = self._connected().listAllDomains(libvirt.VIR_CONNECT_LIST_DOMAINS_ACTIVE)
            return [domain.UUIDString() for domain in running]

    def _connected(self) -> Any:
        connection = self._connection
        if connection is None:
            raise LibvirtError("libvirt: not connected")
        return connection

    def wake(self) -> None:
        """Make the event loop return."""
        libvirt.virEventUpdateTimeout(self._timer, 0)

    def close(self) -> None:
        """Close the connection, if there is one. A broken connection is no error."""
        connection, self._connection = self._connection, None
        if connection is not None:
            _close(connection)

    def running(self, uuid: str, attached: Collection[str]) -> tuple[Domain, set[str]] | None:
        """See watch.Watch. Raise LibvirtError or InputError."""
        xml = self._xml(uuid)
        return None if xml is None else (parse_domain(xml, f"{uuid}: XML"), macs(xml, attached))

    def _xml(self, uuid: str) -> bytes | None:
        """Return the live XML of a domain; None unless it runs here (see watch.Watch.running). Raise LibvirtError."""
        connection = self._connected()
        try:
            return live_xml(connection.lookupByUUIDString(uuid))
        except libvirt.libvirtError as error:
            if error.get_error_code() in (libvirt.VIR_ERR_NO_DOMAIN, libvirt.VIR_ERR_OPERATION_INVALID):
                return None
            raise LibvirtError(f"libvirt: {one_line(error)}") from None

    def is_active(self, uuid: str) -> bool:
        """Return whether a domain is active here: running, paused or starting. Raise LibvirtError."""
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
    """Return whether an alias may be that of a NIC: libvirt's own aliases of NICs begin with net, an admin's aliases with ua-."""
    return alias.startswith(("net", "ua-"))


def _close(connection: Any) -> None:
    try:
        connection.close()
    except libvirt.libvirtError:
        pass
