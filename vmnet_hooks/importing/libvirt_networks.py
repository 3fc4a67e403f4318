"""Converts libvirt's networks to drafts of networks in vmnet.toml.

https://libvirt.org/formatnetwork.html
"""

import ipaddress
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from lxml import etree

from .. import values
from ..errors import InputError, one_line
from .draft import Block, Draft, Left, shown

_FORWARDS = {"nat": "nat", "route": "routed", "open": "open", "": "isolated"}
"""The value of `forward`, by libvirt's mode."""
_LEASES = {"seconds": 1, "minutes": 60, "hours": 3600}
_PORTS = ("1024", "65535")
"""The ports of libvirt's own default."""
_LEASE, _NEVER = 3600, 2**31 - 1
"""Seconds: of a lease where libvirt has none, by dnsmasq's default; and of one that does not end."""
_RATES = "rates of networks are not set; see tc(8)"


@dataclass(frozen=True)
class LibvirtNetwork:
    """A network as libvirt defines it."""

    name: str
    xml: str


def convert(networks: Sequence[LibvirtNetwork], way_out: str) -> list[Block]:
    """Return the drafts. `way_out` is the link of the host's default route, "" if there is none. Raise InputError for XML that is
    none."""
    return [block for network in networks for block in _Converter(network, way_out).blocks()]


class _Converter:
    def __init__(self, network: LibvirtNetwork, way_out: str) -> None:
        try:
            # No entities, no network: the document may come from anywhere.
            parser = etree.XMLParser(resolve_entities=False, no_network=True, remove_comments=True, remove_pis=True)
            self.root = etree.fromstring(network.xml.encode(), parser)
        except etree.XMLSyntaxError as error:
            raise InputError(f"libvirt's network {one_line(network.name)}: not XML: {one_line(error)}") from None
        self.where = f"network {shown(network.name)}"
        self.way_out = way_out
        self.block = Block(Draft("networks", network.name))
        self.options = self.draft.options
        self.pooled = False
        self.draft.headers.append((self.where, f"<network> {network.name}"))

    @property
    def draft(self) -> Draft:
        assert self.block.draft
        return self.block.draft

    def blocks(self) -> Iterator[Block]:
        forward = self.root.find("forward")
        way = "" if forward is None else forward.get("mode", "nat")
        if way == "bridge" and self._bridge().get("name"):
            yield from self._bridged()
            return
        if way not in _FORWARDS:
            self._left(forward, "guests are on a NIC of its own kind (macvtap or passed through), which the host does not route")
            self.block.draft = None
            yield self.block
            return
        self._set("mode", "virtual", self.root)
        self._bridge_and_out(way, forward)
        self._addresses(way, forward)
        self._names()
        self._rest()
        yield self.block

    # --- a bridge that is there ----------------------------------------------------------------------------------------

    def _bridged(self) -> Iterator[Block]:
        """A portgroup is a network of its own, with its VLANs."""
        bridge = self._bridge()
        self._set("mode", "bridged", self.root)
        self._set("bridge", bridge.get("name"), bridge)
        self._vlan(self.draft, self.root.find("vlan"))
        self._rest()
        yield self.block
        for group in self.root.iterfind("portgroup"):
            name = f"{self.draft.name}-{group.get('name', '')}"
            block = Block(Draft("networks", name, {"mode": "bridged", "bridge": bridge.get("name")}))
            assert block.draft
            block.draft.headers.append((self.where, _text(group)))
            if group.get("default") == "yes":
                block.notes.append("NICs that name no portgroup are in this one")
            self._vlan(block.draft, group.find("vlan"))
            block.left += [Left(self.where, _text(found), _RATES) for found in group.iterfind("bandwidth")]
            yield block

    def _vlan(self, draft: Draft, vlan: Any) -> None:
        if vlan is None:
            return
        tags = [(tag.get("id", ""), tag.get("nativeMode")) for tag in vlan.iterfind("tag")]
        for option, found in (
            ("vlan", [number for number, native in tags if native or (len(tags) == 1 and vlan.get("trunk") != "yes")]),
            ("tagged", [number for number, native in tags if not native and (len(tags) > 1 or vlan.get("trunk") == "yes")]),
        ):
            if numbers := [int(number) for number in found if number.isdecimal()]:
                draft.set(option, numbers[0] if option == "vlan" else numbers, self.where, _text(vlan))

    # --- a network of libvirt's own ------------------------------------------------------------------------------------

    def _bridge(self) -> Any:
        found = self.root.find("bridge")
        return etree.Element("bridge") if found is None else found

    def _bridge_and_out(self, way: str, forward: Any) -> None:
        bridge = self._bridge()
        if bridge.get("name"):
            self._set("bridge", bridge.get("name"), bridge)
        if bridge.get("zone"):
            self._left(
                bridge, "firewalld's zones are its own; add the bridge there: firewall-cmd --zone=ZONE --add-interface=BRIDGE"
            )
        for tag, option, attribute in (("mac", "mac", "address"), ("mtu", "mtu", "size")):
            if (found := self.root.find(tag)) is not None and found.get(attribute):
                text = found.get(attribute)
                self._set(option, int(text) if text.isdecimal() else text, found)
        if way in ("nat", "route"):
            named = [found.get("dev") for found in (forward, *forward.iterfind("interface")) if found.get("dev")]
            out = named[0] if named else self.way_out
            if out:
                self._set("out", out, forward)
            if not named:
                self.block.notes.append(
                    f"libvirt lets guests out by any interface: out is that of the default route now ({out or 'there is none'})"
                )

    def _addresses(self, way: str, forward: Any) -> None:
        found: dict[int, dict[str, Any]] = {}
        for ip in self.root.iterfind("ip"):
            try:
                address = values.address(ip.get("address"))
                length = ip.get("prefix") or ip.get("netmask") or _assumed(address)
                net = ipaddress.ip_interface(f"{address}/{length}").network
            except ValueError as error:
                self._left(ip, one_line(error))
                continue
            if address.version in found:
                self._left(ip, f"a network has one subnet of IPv{address.version}; declare a second one for it")
                continue
            table = found[address.version] = {"subnet": str(net), "gateway": str(address)}
            self.draft.sources[f"ipv{address.version}"] = [(self.where, _text(ip, deep=False))]
            self._leases(ip, table)
        self._settle_leases()
        forward_here = _FORWARDS[way] if found or way else "none"
        if way == "nat":
            nat = forward.find("nat")
            if nat is not None and nat.get("ipv6") == "yes" and 6 in found:
                found[6]["nat"] = True
            elif 6 in found:
                self.block.notes.append('libvirt lets IPv6 in from outside, which forward = "nat" does not')
            self._translation(nat)
        if way == "open":
            reaching = f'reach = ["{self.draft.name}"]'
            self.block.notes.append(f"libvirt's other networks reach this one; here, those with {shown(reaching)} do, both ways")
        if forward_here != "nat":
            self._set("forward", forward_here, self.root if forward is None else forward)
        for version, table in found.items():
            self.options[f"ipv{version}"] = table

    def _translation(self, nat: Any) -> None:
        if nat is None:
            return
        for address in nat.iterfind("address"):
            if address.get("start") and address.get("start") == address.get("end", address.get("start")):
                self._set("snat", address.get("start"), address)
            else:
                self._left(address, "guests are translated to one address: name it in snat")
        for port in nat.iterfind("port"):
            if (port.get("start"), port.get("end")) != _PORTS:
                self._left(port, f"ports from {_PORTS[0]} on are used")

    def _leases(self, ip: Any, table: dict[str, Any]) -> None:
        dhcp = ip.find("dhcp")
        for tftp in ip.iterfind("tftp"):
            self._boot(tftp_root=tftp.get("root", ""))
        if dhcp is None or not (dhcp.findall("range") or dhcp.findall("host")):
            if ":" in table["gateway"]:
                self._formed(ip, table)
            return
        lease = None
        for found in dhcp.iterfind("range"):
            if found.get("start") and found.get("end"):
                table.setdefault("pool", []).append(f"{found.get('start')}-{found.get('end')}")
                self.pooled = True
            lease = lease or found.find("lease")
        if lease is not None and lease.get("expiry", "").isdecimal():
            seconds = int(lease.get("expiry")) * _LEASES.get(lease.get("unit", "minutes"), 60)
            self._in("dhcp", lease)["lease"] = min(max(seconds, 120), _NEVER) if seconds else _NEVER
        elif ":" not in table["gateway"]:
            self._in("dhcp", dhcp).setdefault("lease", _LEASE)
        for host in dhcp.iterfind("host"):
            if not host.get("mac"):
                self._left(host, "a static lease goes to a MAC; name it in dhcp.hosts")
                continue
            mine = {"mac": host.get("mac").lower()}
            if host.get("ip"):
                mine["ips"] = [host.get("ip")]
            if host.get("name"):
                mine["name"] = host.get("name").partition(".")[0]
            self._in("dhcp", host).setdefault("hosts", []).append(mine)
        for bootp in dhcp.iterfind("bootp"):
            self._boot(file=bootp.get("file", ""), server=bootp.get("server", ""))

    def _formed(self, ip: Any, table: dict[str, Any]) -> None:
        """Have guests form their IPv6 addresses, as they do where libvirt leases none."""
        if not table["subnet"].endswith("/64"):
            self._left(ip, "guests form no addresses of that length; give ipv6.pool, or addresses to each guest")
            return
        self._in("dhcp", ip)["slaac"] = True

    def _settle_leases(self) -> None:
        """Leave out what is of no use without leases, or without a file to boot."""
        offer = self.options.get("dhcp")
        if offer is None:
            return
        if "boot" in offer and not offer["boot"].get("file"):
            del offer["boot"]
            for tftp in self.root.iterfind("ip/tftp"):
                self._left(tftp, "there is no file to boot from it; give dhcp.boot")
        if offer.get("slaac") and not (self.pooled or offer.get("hosts")):
            self.block.notes.append("guests without declared addresses form IPv6 addresses only beside a pool: give one")
        if not offer:
            del self.options["dhcp"]

    def _boot(self, **found: str) -> None:
        there = self._in("dhcp", self.root).setdefault("boot", {})
        there.update({key: value for key, value in found.items() if value})
        if there.get("tftp_root"):
            # The host itself is the server.
            there.pop("server", None)

    def _names(self) -> None:
        domain = self.root.find("domain")
        if domain is not None and domain.get("name"):
            self._set("domain", domain.get("name"), domain)
        dns = self.root.find("dns")
        if dns is not None and dns.get("enable") == "no":
            self.block.notes.append("libvirt answers no DNS queries there")
            # A pool of the network's own stands for dns too.
            for version in (4, 6):
                if ranges := self.options.get(f"ipv{version}", {}).pop("pool", None):
                    self._in("dhcp", dns).setdefault("pool", []).extend(ranges)
            return
        has_addresses = any(f"ipv{version}" in self.options for version in (4, 6))
        if not has_addresses:
            return
        offer = self._in("dns", self.root if dns is None else dns)
        if domain is not None and domain.get("name") and domain.get("localOnly") != "yes":
            offer["local"] = False
        for forwarder in () if dns is None else dns.iterfind("forwarder"):
            if not forwarder.get("addr"):
                self._left(forwarder, "names of that domain go where all others do")
                continue
            text = forwarder.get("addr") + (f"#{forwarder.get('port')}" if forwarder.get("port") else "")
            prefix = f"{forwarder.get('domain')}=" if forwarder.get("domain") else ""
            offer.setdefault("forwarders", []).append(prefix + text)
        for record in self._records(dns):
            offer.setdefault("records", []).append(record)

    def _records(self, dns: Any) -> Iterator[str]:
        for host in () if dns is None else dns.iterfind("host"):
            for name in host.iterfind("hostname"):
                if name.text and host.get("ip"):
                    yield f"{_complete(name.text.strip())} {'AAAA' if ':' in host.get('ip') else 'A'} {host.get('ip')}"
        for txt in () if dns is None else dns.iterfind("txt"):
            yield f"{_complete(txt.get('name', ''), always=True)} TXT {txt.get('value', '')}"
        for srv in () if dns is None else dns.iterfind("srv"):
            if not srv.get("target"):
                self._left(srv, "a service that is not there has no target")
                continue
            name = f"_{srv.get('service', '').lstrip('_')}._{srv.get('protocol', '').lstrip('_')}"
            name += f".{srv.get('domain')}." if srv.get("domain") else ""
            numbers = " ".join(srv.get(key, "0") for key in ("priority", "weight", "port"))
            yield f"{name} SRV {numbers} {_complete(srv.get('target'))}"

    def _rest(self) -> None:
        for found in (*self.root.iterfind("bandwidth"), *(group.find("bandwidth") for group in self.root.iterfind("portgroup"))):
            if found is not None:
                self._left(found, _RATES)
        for route in self.root.iterfind("route"):
            if self.options.get("mode") == "virtual":
                self._route(route)
            else:
                self._left(route, "routes by a bridge that is there are its own; see [bridges], routes")
        port = self.root.find("port")
        if port is not None and port.get("isolated") == "yes":
            self._set("isolated", True, port)
        if self.options.get("mode") == "virtual":
            for found in (*self.root.iterfind("vlan"), *self.root.iterfind("virtualport")):
                self._left(found, "a virtual network has no VLANs; see [bridges], vlan_filtering")
            for group in self.root.iterfind("portgroup"):
                self._left(group, "guests name the network alone")
        for found in self.root:
            if isinstance(found.tag, str) and found.tag.startswith("{") and "dnsmasq" in found.tag:
                self._left(found, "options of dnsmasq's are not passed on")

    def _route(self, route: Any) -> None:
        try:
            length = route.get("prefix") or route.get("netmask") or _assumed(values.address(route.get("address")))
            net = ipaddress.ip_network(f"{route.get('address')}/{length}")
        except ValueError as error:
            self._left(route, one_line(error))
            return
        made: dict[str, Any] = {"to": str(net), "via": route.get("gateway", "")}
        if route.get("metric", "").isdecimal():
            made["metric"] = int(route.get("metric"))
        self.options.setdefault("routes", []).append(made)
        self.draft.sources.setdefault("routes", []).append((self.where, _text(route)))

    # --- what is made of what ------------------------------------------------------------------------------------------

    def _set(self, option: str, value: object, source: Any) -> None:
        self.draft.set(option, value, self.where, _text(source, deep=False))

    def _in(self, option: str, source: Any) -> dict[str, Any]:
        """Return the table of a service, which begins with this element."""
        if option not in self.options:
            self.draft.set(option, {}, self.where, _text(source, deep=False))
        table: dict[str, Any] = self.options[option]
        return table

    def _left(self, element: Any, why: str) -> None:
        self.block.left.append(Left(self.where, _text(element), why))


def _complete(name: str, always: bool = False) -> str:
    """Return a name as records have it: libvirt adds the domain to names of one label alone, and never with `always`."""
    return f"{name.rstrip('.')}." if always or "." in name else name


def _assumed(address: values.IPAddress) -> int:
    """Return the length of the prefix that libvirt takes where none is given: of IPv4, that of the address's class (RFC 791,
    2.3)."""
    if address.version == 6:
        return 64
    first = address.packed[0]
    return 8 if first < 128 else 16 if first < 192 else 24


def _text(element: Any, deep: bool = True) -> str:
    """Return an element as a line of XML; without `deep`, its first tag."""
    text = one_line(re.sub(r"\s+", " ", etree.tostring(element, encoding="unicode", with_tail=False)))
    return text if deep else text.partition(">")[0] + ">"
