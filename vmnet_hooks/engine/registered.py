"""Names of guests at DNS servers: what the agent has not registered, or not removed, by what it has written down."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from ..model.owner import Nic
from ..records.registered import Name, Names
from ..services.ddns import IN_USE, Place, Registration, wanted
from . import Session
from .drift import Drift

UNTRIED = "the agent has not told the server yet"


def owed(session: Session, domain: str = "") -> list[Drift]:
    """Return every name that is not as it shall be; of one guest, if it is given. Raise StoreError."""
    nics = session.records.nics()
    ids, known = {nic.domain: nic.id for nic in nics}, _known()
    asked = wanted(session.config.ddns.values(), nics)
    found = [
        Drift("unregistered", f"{part}: {problem}", remedy, nic.label, nic.id)
        for nic, part, problem, remedy in asked.refused
        if domain in ("", nic.domain)
    ]
    # What is not tried yet waits for a server that has failed.
    waits = {place.server: name.problem for place, name in known.items() if name.problem and name.problem != IN_USE}
    for place, registration in sorted(asked.names.items()):
        there = known.get(place)
        if domain in ("", registration.guest) and not (there and there.has(registration)):
            problem = there.problem if there and there.wanted == registration else ""
            problem = problem or waits.get(place.server, "")
            found.append(_drift(registration, "is not registered", problem, ids))
    for place, name in sorted(known.items()):
        # Of a table that can't be used it is not known what it asks for.
        if place not in asked.names and domain in ("", name.wanted.guest) and not _is_unclear(session, name.wanted):
            if name.there:
                found.append(_drift(name.wanted, "is still registered", name.problem or waits.get(place.server, ""), ids))
    return found


def _is_unclear(session: Session, registration: Registration) -> bool:
    return bool({registration.part, ""} & session.config.broken.keys())


def _drift(registration: Registration, state: str, problem: str, ids: Mapping[str, str]) -> Drift:
    what, _, remedy = (problem or UNTRIED).partition("; ")
    place, guest = registration.place, registration.guest
    text = f"{place.name} {state} at {place.server}: {what}"
    return Drift(
        "unregistered", text, f"{remedy}; then vmnet-hook repair" if remedy else "vmnet-hook repair", guest, ids.get(guest, "")
    )


def shown(session: Session) -> dict[str, list[str]]:
    """Return, by guest, the names that are asked for, where they are registered, or that they are not."""
    known, found = _known(), dict[str, list[str]]()
    for place, registration in asked_for(session).items():
        there = known.get(place)
        state = "registered" if there and there.has(registration) else "not yet"
        found.setdefault(registration.guest, []).append(f"{registration} at {place.server}: {state}")
    return found


def by_address() -> dict[str, list[str]]:
    """Return the names that are registered, by the addresses that they have."""
    found: dict[str, list[str]] = {}
    for place, name in sorted(_known().items()):
        for kind, value in name.wanted.records if name.since else ():
            if kind != "PTR" and place.name not in found.setdefault(value, []):
                found[value].append(place.name)
    return found


def asked_for(session: Session, domain: str = "") -> dict[Place, Registration]:
    """Return the names that are asked for; of one guest, if it is given."""
    asked = wanted(session.config.ddns.values(), session.records.nics()).names
    return {place: registration for place, registration in asked.items() if domain in ("", registration.guest)}


def once_active(session: Session, new: Sequence[Nic]) -> dict[Place, Registration]:
    """Return the names that will be asked for, for these NICs, once their guest runs here."""
    guests = {nic.domain for nic in new}
    there = [nic for nic in session.records.nics() if nic.domain not in guests]
    asked = wanted(session.config.ddns.values(), [*there, *(replace(nic, phase="active") for nic in new)]).names
    return {place: registration for place, registration in asked.items() if registration.guest in guests}


def _known() -> dict[Place, Name]:
    names = Names(read_only=True)
    try:
        return names.all()
    finally:
        names.close()
