"""libvirt's qemu hook (https://libvirt.org/hooks.html): argv DOMAIN OPERATION SUB-OPERATION EXTRA, the domain's XML on stdin.

A hook must not call libvirt, which waits for the hook: that is a deadlock.
"""

import re
from collections.abc import Callable, Sequence, Set
from dataclasses import replace
from typing import TYPE_CHECKING

from lxml import etree

from .. import values
from ..errors import InputError, one_line
from ..model.guest import Action, Claim, Domain, GuestEvent, Vif
from .front_end import FrontEnd, Request

if TYPE_CHECKING:
    from .watch import Watch

NAMESPACE = "urn:vmnet-hooks:domain:1"
MAX_BYTES = 8 << 20
"""Bytes of a domain's XML, at most. Usual domains have some 10 kB."""

_ACTIONS = {
    "migrate": Action.INCOMING,
    "prepare": Action.PREPARE,
    "start": Action.PLUG,
    "started": Action.ACTIVATE,
    "stopped": Action.UNPLUG,
    "release": Action.UNPLUG,
    "reconnect": Action.RECONNECT,
}
_WITHOUT_TAP = frozenset(("direct", "hostdev", "vdpa", "vhostuser", "user", "null", "vds", "mcast", "server", "client", "udp"))
"""Types of interfaces without a tap that we can set up: macvtap, devices that are passed through, user-mode networks. In the XML
of a hook, an interface on a network of libvirt's has the type that the network gives it."""
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.ASCII)


def parse(request: Request) -> GuestEvent:
    """Return the event of a call. Raise InputError. For clean-up, XML that can't be read is no error: the domain's name is
    enough."""
    argv = request.argv
    if len(argv) < 3:
        raise InputError("usage: qemu DOMAIN OPERATION SUB-OPERATION EXTRA <domain.xml (libvirt calls this, see vmnet-hook(8))")
    name, action = argv[1], _ACTIONS[argv[2]]
    try:
        domain = parse_domain(request.stdin.read(MAX_BYTES + 1), f"{one_line(name)}: XML")
    except InputError as error:
        if action is not Action.UNPLUG:
            raise
        return GuestEvent(action, "libvirt", Domain(name), warning=f"{error}; cleaned up by name")
    return GuestEvent(action, "libvirt", domain)


def parse_domain(data: bytes, where: str) -> Domain:
    """Return the domain that libvirt's XML describes. Raise InputError, for `where`."""
    if len(data) > MAX_BYTES:
        raise InputError(f"{where}: larger than {MAX_BYTES >> 20} MiB; not a domain of libvirt's")
    if b"\0" in data:
        # libxml2 would stop at the NUL byte, or take the data for UTF-16.
        raise InputError(f"{where}: holds NUL bytes; libvirt writes UTF-8 without any")
    parser = etree.XMLParser(resolve_entities=False, no_network=True, load_dtd=False, huge_tree=False, remove_comments=True)
    try:
        root = etree.fromstring(data, parser)
    except (etree.XMLSyntaxError, ValueError) as error:
        raise InputError(f"{where}: not XML: {one_line(error)}") from None
    if root.getroottree().docinfo.doctype:
        raise InputError(f"{where}: has a DOCTYPE; libvirt never writes one")
    if root.tag != "domain":
        raise InputError(f"{where}: the root element is <{one_line(root.tag)}>, not <domain>")
    name = root.findtext("name") or ""
    uuid = (root.findtext("uuid") or "").strip().lower()
    if not name:
        raise InputError(f"{where}: no <name>; is it a domain of libvirt's?")
    if uuid and not _UUID.fullmatch(uuid):
        raise InputError(f"{where}: uuid {one_line(repr(uuid))} is not a UUID")
    vifs = [_vif(index, element) for index, element in enumerate(root.iterfind("devices/interface"))]
    passed_through = {vif.mac for vif in vifs if vif.without_tap}
    vifs = [replace(vif, shares_mac=vif.shares_mac or vif.mac in passed_through) for vif in vifs]
    return Domain(name, uuid, tuple(vifs), tuple(_claims(root, where)))


def _vif(index: int, element: etree._Element) -> Vif:
    def attribute(path: str, key: str) -> str:
        found = element.find(path)
        return (found.get(key) or "") if found is not None else ""

    kind = element.get("type") or ""
    has_tap, device = kind not in _WITHOUT_TAP, attribute("target", "dev")
    return Vif(
        mac=attribute("mac", "address").strip().lower(),
        ifname=device if has_tap else "",
        index=index,
        bridge=attribute("source", "bridge"),
        shares_mac=element.find("teaming") is not None,
        without_tap="" if has_tap else kind,
        device="" if has_tap else device,
    )


def _claims(root: etree._Element, where: str) -> list[Claim]:
    element = root.find(f"metadata/{{{NAMESPACE}}}domain")
    if element is None:
        return []
    claims = []
    for interface in _children(element, "interface", f"{where}: metadata"):
        at = f"{where}: metadata: interface {one_line(interface.get('mac', '(no mac)'))}"
        _known(interface, ("mac", "network", "filter", "vlan", "tagged", "roles"), at)
        try:
            mac, network = values.mac(interface.get("mac", "")), values.name(interface.get("network", ""))
        except ValueError as error:
            raise InputError(f"{at}: mac or network {error}; see `vmnet-hook set`") from None
        if (is_open := interface.get("filter", "yes")) not in ("yes", "no"):
            raise InputError(f"{at}: filter is {one_line(repr(is_open))}; use yes or no")
        addresses = []
        for ip in _children(interface, "ip", at):
            _known(ip, ("address",), at)
            try:
                addresses.append(values.address_or_prefix(ip.get("address", "")))
            except ValueError as error:
                raise InputError(f"{at}: ip {one_line(repr(ip.get('address', '')))} {error}") from None
        claims.append(
            Claim(network, mac, "", tuple(addresses), is_open == "yes", at, *_trunk(interface, at), _roles(interface, at))
        )
    return claims


def _trunk(interface: etree._Element, where: str) -> tuple[int | None, tuple[int, ...] | None]:
    """Return the NIC's `vlan='10'` and `tagged='20,30-39'`; None for an absent attribute, so that the network's VLANs apply."""
    vlan, tagged = interface.get("vlan"), interface.get("tagged")
    try:
        untagged = None if vlan is None else values.integer(1, 4094)(int(vlan) if vlan.isdecimal() else vlan)
        trunk = None if tagged is None else values.vids([int(t) if t.isdecimal() else t for t in tagged.split(",") if t])
    except ValueError as error:
        raise InputError(f"{where}: vlan or tagged {error}") from None
    return untagged, trunk


def _roles(interface: etree._Element, where: str) -> tuple[str, ...] | None:
    """Return the NIC's `roles='router,querier'`; None for an absent attribute, so that the network's roles apply."""
    text = interface.get("roles")
    try:
        return None if text is None else values.roles([role for role in text.split(",") if role])
    except ValueError as error:
        raise InputError(f"{where}: roles {error}") from None


def _children(element: etree._Element, tag: str, where: str) -> list[etree._Element]:
    result = []
    for child in element:
        if child.tag != f"{{{NAMESPACE}}}{tag}":
            name = child.tag if isinstance(child.tag, str) else str(child)
            raise InputError(f"{where}: unknown element {one_line(name)}; only <vmnet:{tag}> goes there")
        result.append(child)
    return result


def _known(element: etree._Element, attributes: Sequence[str], where: str) -> None:
    for key in element.attrib:
        if key not in attributes:
            raise InputError(f"{where}: unknown attribute {one_line(repr(key))}; known: {', '.join(attributes)}")


def alive(uuids: Set[str]) -> Set[str]:
    """Return the running ones of the domains; all of them if libvirt can't be asked."""
    # libvirt's library is large, and no hook calls this.
    from . import libvirt_connection

    return libvirt_connection.alive(uuids)


def running() -> dict[str, Domain | InputError]:
    """See FrontEnd.running."""
    # libvirt's library is large, and no hook calls this.
    from . import libvirt_connection

    return {uuid: _parsed(xml, f"{one_line(name)}: XML") for uuid, name, xml in libvirt_connection.running()}


def _parsed(xml: bytes, where: str) -> Domain | InputError:
    try:
        return parse_domain(xml, where)
    except InputError as error:
        return error


def names() -> set[str]:
    """See FrontEnd.names."""
    # libvirt's library is large, and no hook calls this.
    from . import libvirt_connection

    return libvirt_connection.names()


def watch(changed: Callable[[str, str], None], arrived: Callable[[str], None], lost: Callable[[], None]) -> "Watch":
    """See watch.Watcher."""
    # libvirt's library is large, and only the agent calls this.
    from . import libvirt_events

    return libvirt_events.watch(changed, arrived, lost)


def carrier(uuid: str, mac: str, up: bool) -> bool:
    """See FrontEnd."""
    # libvirt's library is large, and no hook calls this.
    from . import libvirt_connection

    return libvirt_connection.set_carrier(uuid, mac, up)


FRONT_END = FrontEnd(parse, alive=alive, watch=watch, running=running, names=names, carrier=carrier)
