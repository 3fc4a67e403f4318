"""Forwarded ports: what those of a guest depend on, and what keeps them from working."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

from .. import values
from ..links.forward import chosen, endpoint, unusable
from ..model.declaration import Declared
from ..model.facts import Forwards, Host
from ..model.guest import Vif
from ..model.owner import Nic, Owner, nics
from . import Session, gather
from .drift import Drift


def seen(session: Session, host: Host, vifs: Sequence[Vif]) -> Host:
    """The facts with the ports that are forwarded to the guests of these NICs, which are composed."""
    names = {vif.domain for vif in vifs}
    parts = tuple(part for part in session.config.forwards.values() if part["to"].guest in names)
    if not parts:
        return host
    bridges = bool(vifs) and session.kernel.filters_bridges()
    addresses = {name: _addresses(session, name, vifs) for name in names}
    found = Forwards(parts, addresses, _ways(session, parts), session.kernel.listeners(), bridges)
    return replace(host, forwards=found)


def _addresses(session: Session, name: str, vifs: Sequence[Vif]) -> list[str]:
    """The addresses of a guest: of its NICs as they are to be, else as they are recorded."""
    there = {nic.ifname: nic.addresses for nic in session.records.nics(domain=name) if not nic.is_left_over}
    there |= {vif.ifname: vif.addresses for vif in vifs if vif.domain == name}
    # vnet9 comes before vnet10.
    return [address for ifname in sorted(there, key=lambda ifname: (len(ifname), ifname)) for address in there[ifname]]


def _ways(session: Session, parts: Sequence[Declared]) -> dict[str, tuple[str, ...]]:
    """The links that forwarded packets come in by, as far as they exist, by the name of the part: those that are named, or that
    have the address. Guests' taps, which may have it too, are no way in."""
    declared: dict[str, list[str]] = {}
    for link in session.config.links.values():
        for own in link.options.get("addresses") or ():
            # A shared gateway's link has the addresses of its bridge.
            declared.setdefault(str(own.ip), []).append(link.kind.makes(link)[-1])
    asked = {part.name: str(endpoint(part.name).address) for part in parts}
    held = session.kernel.holders(dict.fromkeys(asked.values()))
    ways = {}
    for part in parts:
        address = asked[part.name]
        names = part["in"] or tuple(dict.fromkeys((*declared.get(address, ()), *filter(None, (held.get(address),)))))
        ways[part.name] = tuple(name for name in names if _is_way_in(session, name))
    return ways


def _is_way_in(session: Session, name: str) -> bool:
    there = name in session.config.links or session.kernel.link(name) is not None
    return there and name != "lo" and not session.records.nics(ifname=name)


def differences(session: Session, living: Sequence[Owner], domain: str = "") -> Iterator[Drift]:
    """Yield why ports that are declared are not forwarded to guests that run; of one guest only, if it is given."""
    guests: dict[str, list[Nic]] = {}
    for nic in nics(living):
        if not nic.is_left_over and domain in ("", nic.domain):
            guests.setdefault(nic.domain, []).append(nic)
    parts = [part for part in session.config.forwards.values() if part["to"].guest in guests]
    held = session.kernel.holders({str(endpoint(part.name).address) for part in parts}) if parts else {}
    for part in parts:
        there = guests[part["to"].guest]
        for what, remedy in _problems(session, part, there, str(endpoint(part.name).address) in held):
            yield Drift("hindered", f"{part.label}: {what}", remedy, there[0].label, there[0].id)


def _problems(session: Session, part: Declared, there: Sequence[Nic], is_held: bool) -> Iterator[tuple[str, str]]:
    """Yield what is wrong, and the remedy."""
    end, to = endpoint(part.name), part["to"]
    addresses = _addresses(session, to.guest, ())
    found = chosen(to, end.address.version, {to.guest: addresses})
    if not is_held:
        yield f"{end.address} is no address of the host", f"ip addr add {values.host(str(end.address))} dev …"
    for name in part["in"]:
        if session.kernel.link(name) is None:
            yield f"{name} does not exist", f"create {name}, or correct `in`; then vmnet-hook repair"
    if not found:
        what = f"not the address {to.address}" if to.address else f"no IPv{end.address.version} address"
        remedy = f"declare it (ips in domains.d, or vmnet-hook set --ip), or correct {part.label}.to"
        yield f"{to.guest} has {what} declared, and ports are not forwarded to leased ones", remedy
    for nic in there:
        network = session.config.networks.get(nic.network)
        if network and found in nic.addresses and (problem := unusable(network, gather(session, network.links()))):
            yield tuple(problem.split("; "))  # type: ignore[misc]
