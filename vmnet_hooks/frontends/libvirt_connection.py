"""Requests to libvirtd, for the command line and the agent. A hook must not make any: libvirtd waits for it.

Metadata: https://libvirt.org/formatdomain.html#custom-metadata
"""

import copy
from collections.abc import Iterator, Set
from contextlib import contextmanager
from typing import Any

from lxml import etree

from .. import values
from ..errors import InputError, one_line
from ..model.guest import Vif
from .libvirt import NAMESPACE
from .watch import Unreachable

try:
    import libvirt
except ImportError:
    libvirt = None

URI = "qemu:///system"


class LibvirtError(Unreachable):
    """libvirt refused the request, or can't be reached."""


class NoDomain(LibvirtError):
    """libvirt knows no domain of that name."""


@contextmanager
def _connection() -> Iterator[Any]:
    if libvirt is None:
        raise LibvirtError("the Python module libvirt is missing; install python3-libvirt, or use --xml FILE")
    libvirt.registerErrorHandler(lambda *_: None, None)
    try:
        try:
            connection = libvirt.open(URI)
        except libvirt.libvirtError as error:
            raise LibvirtError(f"libvirt: {one_line(error)}; start it: systemctl start libvirtd") from None
        try:
            yield connection
        finally:
            connection.close()
    except libvirt.libvirtError as error:
        if error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN:
            raise NoDomain(f"libvirt: {one_line(error)}; see `virsh list --all`") from None
        raise LibvirtError(f"libvirt: {one_line(error)}") from None


def domain_xml(name: str) -> bytes:
    """Return the XML of a domain: the live one if it runs, else the persistent one. Raise LibvirtError."""
    with _connection() as connection:
        return connection.lookupByName(name).XMLDesc(0).encode()


def networks() -> list[tuple[str, str]]:
    """Return the names of all networks that libvirt has defined, each with its XML as it is defined. Raise LibvirtError."""
    with _connection() as connection:
        inactive = libvirt.VIR_NETWORK_XML_INACTIVE
        return sorted((network.name(), network.XMLDesc(inactive)) for network in connection.listAllNetworks())


def known_macs() -> set[str]:
    """Return the MACs of all NICs of all domains of this host; none if libvirt can't be reached."""
    try:
        with _connection() as connection:
            documents = [etree.fromstring(domain.XMLDesc(0)) for domain in connection.listAllDomains()]
    except LibvirtError:
        return set()
    return {mac.get("address", "").lower() for document in documents for mac in document.iterfind("devices/interface/mac")}


def alive(uuids: Set[str]) -> Set[str]:
    """Return the UUIDs of the domains that run; all UUIDs if libvirt can't be asked, because then the guests may still run."""
    if not uuids or libvirt is None:
        return uuids
    try:
        with _connection() as connection:
            return uuids & {domain.UUIDString() for domain in connection.listAllDomains(libvirt.VIR_CONNECT_LIST_DOMAINS_ACTIVE)}
    except LibvirtError:
        return uuids


def live_xml(domain: Any) -> bytes | None:
    """Return the live XML of a domain; None if it is off, still starting, or migrating from or to this host. Raise
    libvirtError."""
    state, reason = domain.state()
    if state in (libvirt.VIR_DOMAIN_NOSTATE, libvirt.VIR_DOMAIN_SHUTOFF, libvirt.VIR_DOMAIN_CRASHED):
        return None
    if state == libvirt.VIR_DOMAIN_PAUSED and reason in (
        libvirt.VIR_DOMAIN_PAUSED_MIGRATION,
        libvirt.VIR_DOMAIN_PAUSED_STARTING_UP,
    ):
        return None
    xml: bytes = domain.XMLDesc(0).encode()
    return xml


def running() -> list[tuple[str, str, bytes]]:
    """Return UUID, name and live XML of the domains that run, see `live_xml`; none if libvirt can't be asked."""
    try:
        with _connection() as connection:
            domains = connection.listAllDomains(libvirt.VIR_CONNECT_LIST_DOMAINS_ACTIVE)
            return [(d.UUIDString(), d.name(), xml) for d in domains if (xml := _live_xml_or_none(d))]
    except LibvirtError:
        return []


def _live_xml_or_none(domain: Any) -> bytes | None:
    try:
        return live_xml(domain)
    except libvirt.libvirtError as error:
        # It has ended since it was listed.
        if error.get_error_code() in (libvirt.VIR_ERR_NO_DOMAIN, libvirt.VIR_ERR_OPERATION_INVALID):
            return None
        raise


def names() -> set[str]:
    """Return the names of all domains of this host, running or not; none if libvirt can't be asked."""
    try:
        with _connection() as connection:
            return {domain.name() for domain in connection.listAllDomains()}
    except LibvirtError:
        return set()


def set_carrier(uuid: str, mac: str, up: bool) -> bool:
    """Give a NIC of a domain a carrier, or take it away. Return False, with nothing done, if the domain does not run, or not yet.
    Raise LibvirtError."""
    with _connection() as connection:
        try:
            domain = connection.lookupByUUIDString(uuid)
            xml = live_xml(domain)
        except libvirt.libvirtError as error:
            if error.get_error_code() in (libvirt.VIR_ERR_NO_DOMAIN, libvirt.VIR_ERR_OPERATION_INVALID):
                return False
            raise
        for nic in etree.fromstring(xml).iterfind("devices/interface") if xml else ():
            element = nic.find("mac")
            if element is None or element.get("address", "").lower() != mac:
                continue
            link = nic.find("link")
            if (link is None or link.get("state") != "down") == up:
                continue
            link = etree.SubElement(nic, "link") if link is None else link
            link.set("state", "up" if up else "down")
            domain.updateDeviceFlags(etree.tostring(nic).decode(), libvirt.VIR_DOMAIN_AFFECT_LIVE)
        return xml is not None


def claim(domain: str, vif: Vif) -> None:
    """Write a NIC's claim into the domain's metadata, live and persistent. It replaces an older claim of that NIC."""
    # libvirt itself adds the namespace to metadata, and removes it.
    interface = etree.Element("interface", {"mac": vif.mac, "network": vif.network})
    if not vif.filter:
        interface.set("filter", "no")
    if vif.vlan:
        interface.set("vlan", str(vif.vlan))
    if vif.tagged:
        interface.set("tagged", values.ranges(vif.tagged))
    if vif.roles is not None:
        interface.set("roles", ",".join(vif.roles))
    for address in vif.addresses:
        etree.SubElement(interface, "ip", {"address": address})
    _edit(domain, vif.mac, interface)


def unclaim(domain: str, mac: str) -> None:
    """Remove a NIC's claim from the domain's metadata. Raise InputError if there is none."""
    _edit(domain, mac, None)


def _edit(domain: str, mac: str, interface: Any | None) -> None:
    with _connection() as connection:
        handle = connection.lookupByName(domain)
        changed = False
        scopes = [libvirt.VIR_DOMAIN_AFFECT_LIVE] if handle.isActive() else []
        scopes += [libvirt.VIR_DOMAIN_AFFECT_CONFIG] if handle.isPersistent() else []
        for scope in scopes:
            flags = libvirt.VIR_DOMAIN_XML_INACTIVE if scope == libvirt.VIR_DOMAIN_AFFECT_CONFIG else 0
            macs = [
                m.get("address", "").lower() for m in etree.fromstring(handle.XMLDesc(flags)).iterfind("devices/interface/mac")
            ]
            if interface is not None and mac not in macs:
                raise InputError(f"{domain} has no NIC with MAC {mac}; it has {', '.join(macs) or 'none'}")
            element = _metadata(handle, scope)
            old = [child for child in element if child.get("mac", "").lower() == mac]
            if interface is None and not old:
                continue
            for child in old:
                element.remove(child)
            if interface is not None:
                element.append(copy.deepcopy(interface))
            text = etree.tostring(element).decode() if len(element) else None
            handle.setMetadata(libvirt.VIR_DOMAIN_METADATA_ELEMENT, text, "vmnet", NAMESPACE, scope)
            changed = True
        if not changed:
            raise InputError(f"{domain}: nothing is set for MAC {mac}; see `virsh metadata {domain} {NAMESPACE}`")


def _metadata(handle: Any, scope: int) -> Any:
    try:
        text = handle.metadata(libvirt.VIR_DOMAIN_METADATA_ELEMENT, NAMESPACE, scope)
    except libvirt.libvirtError as error:
        if error.get_error_code() != libvirt.VIR_ERR_NO_DOMAIN_METADATA:
            raise
        return etree.Element("domain")
    return etree.fromstring(text)
