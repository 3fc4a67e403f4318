"""The configuration of dnsmasq, the server of a network: leases for guests without declared addresses, router advertisements,
names, network boot.

It serves the bridge alone (bind-dynamic and interface: what comes in by another link is dropped, CVE-2012-3411), and a bridge
that is made anew. Names and values are checked where they are read: a comma or a line end would be taken for dnsmasq's own.
"""

from collections.abc import Iterator
from functools import cache
from typing import Any

from .. import values
from ..model.declaration import Declared, Network
from ..model.facts import Host, Server
from ..model.objects.dnsmasq import Dnsmasq
from . import dns, pool

_MOST_LEASES = 65536
"""Pools are the limit: dnsmasq's own, 1000, is for both families together. What one guest may ask for is limited elsewhere, see
model/port_rules.py."""

_NAMES = ("wpad", "isatap", "localhost")
"""Names that programs look up by themselves (CERT VU#598349)."""

_HASH = 65599
"""dnsmasq's hash (sdbm) of a MAC: each byte is added to this number times what came before."""
_BLOCK = 256
"""MACs that differ in the last byte have hashes in sequence."""


def server(network: Network, host: Host, key: str) -> Dnsmasq:
    """Return the server of a network. Raise ConfigError, for `key`, if it can't be started."""
    part = host.parts.get(network.mode.bridge_of(network))
    if part is None:
        raise network.error(key, f"bridge {network.mode.bridge_of(network)} is not declared; declare it in [bridges]")
    found = host.servers.get(network.name, Server())
    if found.obstacle:
        raise network.error(key, found.obstacle)
    offer = network.options.get("dhcp")
    lines = [*_common(network), *dns.settings(network, part), *(_leasing(network, part, host) if pool.is_leased(network) else ())]
    conf = "".join(f"{line}\n" for line in lines)
    keep = offer["keep_leases"] if offer else True
    return Dnsmasq(network.name, conf, _hosts(network), found.unit, keep)


def _common(network: Network) -> Iterator[str]:
    name = network.name
    yield f"# Network {name}: written by vmnet-hook, which takes back what others change."
    yield "bind-dynamic"
    yield f"interface={network.mode.bridge_of(network)}"
    yield "except-interface=lo"
    yield "no-hosts"
    yield f"hostsdir={Dnsmasq.names_of(name)}"
    yield f"pid-file={Dnsmasq.pid_of(name)}"
    if domain := dns.domain_of(network):
        yield f"domain={domain}"


def _hosts(network: Network) -> str:
    """Return the static leases, a line for each."""
    offer = network.options.get("dhcp")
    lines = []
    for host in offer["hosts"] if offer else ():
        ips = [f"[{ip}]" if ip.version == 6 else str(ip) for ip in host["ips"]]
        lines.append(",".join(filter(None, (host["mac"], *ips, host["name"]))))
    return "".join(f"{line}\n" for line in lines)


def _leasing(network: Network, part: Declared, host: Host) -> Iterator[str]:
    offer, name = network.options["dhcp"], network.name
    is_router = bool(network.mode.side(network, host).links)
    yield f"dhcp-leasefile={Dnsmasq.leases_of(name)}"
    yield f"dhcp-hostsfile={Dnsmasq.hosts_of(name)}"
    yield "dhcp-authoritative"
    yield "dhcp-rapid-commit"
    yield "dhcp-no-override"
    # Another's client identifier would get another's lease: the MAC tells, to which the port is held.
    yield "dhcp-ignore-clid"
    # Instead of waiting for an answer to a ping before each lease.
    yield "no-ping"
    yield "quiet-ra"
    # No guest gives itself the name of a static lease, or one by which others find their proxy or router.
    for taken in (*_NAMES, *filter(None, (fixed["name"] for fixed in offer["hosts"]))):
        yield f"dhcp-name-match=set:taken,{taken}"
        yield f"dhcp-name-match=set:taken,{taken}.*"
    yield "dhcp-ignore-names=tag:taken"
    if dns.domain_of(network):
        yield "dhcp-fqdn"
    yield f"dhcp-lease-max={_MOST_LEASES}"
    yield from _ranges(network, part)
    if offer["ra"] and any(
        own.version == 6 and (pool.is_leased_in(network, own.network) or _is_formed_in(offer, own.network))
        for own in part["addresses"]
    ):
        yield "enable-ra"
        if not is_router:
            # A lifetime of 0: no router by default (RFC 4861, 6.2.3).
            yield f"ra-param={part.name},0,0"
    yield from _options4(network, part, is_router)
    yield from _options6(offer)
    if offer["boot"]:
        yield from _boot(offer["boot"])


def _ranges(network: Network, part: Declared) -> Iterator[str]:
    offer = network.options["dhcp"]
    for own in part["addresses"]:
        subnet, is_formed = own.network, _is_formed_in(offer, own.network)
        if not pool.is_leased_in(network, subnet):
            if is_formed:
                yield f"dhcp-range={subnet.network_address},ra-stateless,{subnet.prefixlen}"
            continue
        lease, six = f"{offer['lease']}", own.version == 6
        length = str(subnet.prefixlen) if six else str(subnet.netmask)
        pools = (part for item in offer["pool"] if item.first in subnet for part in _parts(item))
        found = [f"{part.first},{part.last}" for part in pools]
        mode = "slaac," if is_formed else ""
        for bounds in found or [f"{subnet.network_address},static"]:
            yield f"dhcp-range={bounds},{mode}{length},{lease}"


def _parts(whole: pool.Range) -> Iterator[pool.Range]:
    """Yield a pool as the ranges that dnsmasq gets.

    What a client is offered first is its hash modulo the size of the first range with free addresses, and the next free address
    if that one is taken. An offer takes nothing, so guests that ask at once and have the same hash are offered the same, and all
    but one of them are refused, again and again: 158 of 500 with MACs in sequence had no lease of a pool of 1,024 in a minute.
    """
    size = whole.size if whole.first.version == 6 else _told_apart(whole.size)
    yield pool.Range(whole.first, whole.first + (size - 1))
    if size < whole.size:
        yield pool.Range(whole.first + size, whole.last)


@cache
def _told_apart(size: int) -> int:
    """Return the size, near this one and not above it, by which MACs in sequence have the fewest hashes in common."""
    if size <= _BLOCK:
        return size
    return max(range(size - min(_BLOCK, size // 4), size + 1), key=lambda candidate: (_gap(candidate), candidate))


def _gap(size: int) -> int:
    """Return the least distance of the hashes of blocks of MACs."""
    blocks = min(-(-size // _BLOCK), 64)
    starts = sorted(number * _HASH % size for number in range(blocks))
    return min(after - before for before, after in zip(starts, [*starts[1:], size], strict=True))


def _is_formed_in(offer: Any, subnet: values.Subnet) -> bool:
    """Return whether guests form addresses of a subnet (SLAAC: RFC 4862, 5.5.3, for interface identifiers of 64 bits)."""
    return bool(offer["slaac"] and subnet.version == 6 and subnet.prefixlen == 64)


def _options4(network: Network, part: Declared, is_router: bool) -> Iterator[str]:
    """Yield the options of DHCPv4. By itself dnsmasq tells its own address as router, and as name server if it serves names."""
    offer = network.options["dhcp"]
    four = next((own.ip for own in part["addresses"] if own.version == 4), None)
    gateway = offer["gateway"] or (four if is_router else None)
    yield f"dhcp-option=option:router,{gateway}" if gateway else "dhcp-option=option:router"
    routes = [(route["to"], route["via"]) for route in offer["routes"] if route["to"].version == 4]
    if routes:
        # RFC 3442: a client that takes these takes no other, the default route included.
        routes += [("0.0.0.0/0", gateway)] if gateway else []
        yield f"dhcp-option=option:classless-static-route,{','.join(f'{to},{via}' for to, via in routes)}"
    for word, servers in (("dns-server", offer["dns"]), ("ntp-server", offer["ntp"])):
        if found := [str(server) for server in servers if server.version == 4]:
            yield f"dhcp-option=option:{word},{','.join(found)}"
    if offer["domain"] and offer["domain"] != dns.domain_of(network):
        yield f"dhcp-option=option:domain-name,{offer['domain']}"
    if offer["search"]:
        yield f"dhcp-option=option:domain-search,{','.join(offer['search'])}"
    if mtu := network.options.get("mtu") or part["mtu"]:
        yield f"dhcp-option=option:mtu,{mtu}"


def _options6(offer: Any) -> Iterator[str]:
    for word, servers in (("dns-server", offer["dns"]), ("sntp-server", offer["ntp"])):
        if found := [f"[{server}]" for server in servers if server.version == 6]:
            yield f"dhcp-option=option6:{word},{','.join(found)}"
    if offer["search"]:
        yield f"dhcp-option=option6:domain-search,{','.join(offer['search'])}"


def _boot(boot: Any) -> Iterator[str]:
    yield f"dhcp-boot={boot['file']}" + (f",,{boot['server']}" if boot["server"] else "")
    if boot["tftp_root"]:
        yield "enable-tftp"
        yield f"tftp-root={boot['tftp_root']}"
        # A folder that is missing now may come: guests get their leases all the same.
        yield "tftp-no-fail"
