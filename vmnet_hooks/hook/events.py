"""Carries events out: matches an event with the configuration and the records, and calls the engine if it matters.

A session (and with it the kernel edge) is opened only for a domain with a claimed NIC or a record.
"""

import os
import signal
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from ..declared import SECTIONS, compose, configuration, implied
from ..engine import Session, guests
from ..errors import Abandoned, InputError, VmnetError
from ..model import declaration
from ..model.guest import Action, Event, GuestEvent, NicEvent, id_by_name, is_another
from ..model.owner import Nic, Owner
from ..records import store
from .call import Here, Place

if TYPE_CHECKING:
    from ..model.host_event import NetworkEvent, PartsEvent

RECORDS_ALONE = declaration.Config({})
"""The configuration for clean-up, which uses the records alone: an invalid configuration must not prevent it."""

STOPPED = "# stopped\n"
"""The first line of a declaration that is withdrawn as soon as nothing uses it any more."""

E = TypeVar("E", bound=Event)


def act(event: E, conclude: Callable[[E], None] | None = None, place: Place | None = None) -> str:
    """Carry an event out, then call its front end's `conclude`. If that fails, a NIC that a NicEvent set up is taken down again.
    Return a description of what was done, for the log; "" if nothing was. The default place is this process. Raise
    VmnetError."""
    place = place or Here()
    end = partial(conclude, event) if conclude else _nothing
    if isinstance(event, GuestEvent) and event.action is Action.PLUG:
        return described(_plug(event, end, place))
    done = _GUEST[event.action](event, place) if isinstance(event, GuestEvent) else _of_host(event, place)
    end()
    return done


def _of_host(event: Event, place: Place) -> str:
    # Most calls are about a guest.
    from ..model.host_event import NetworkEvent, PartsEvent

    match event:
        case NetworkEvent():
            return _network(event, place)
        case PartsEvent():
            return _parts(event, place)
    raise TypeError(f"{type(event).__name__} is no event of a guest or of the host")


def _nothing() -> None:
    """Do nothing: the caller is not a hook, so that no hypervisor waits for an answer."""


# --- guests --------------------------------------------------------------------------------------------------------------


def _plug(event: GuestEvent, conclude: Callable[[], None], place: Place) -> list[Nic]:
    nic = event if isinstance(event, NicEvent) else None
    declared = with_network(place.declared(), nic) if nic else place.declared()
    bound = guests.bind(event.domain, declared)
    if not bound and not _recorded(event, place):
        conclude()
        return []
    with place.session(declared) as session:
        is_new = nic is not None and not session.records.owners(id=nic.owner)
        with _renamed(session, nic):
            incoming = event.incoming or any(map(session.records.expects, event.domain.marks))
            owners = guests.plug(
                session, event.domain, event.frontend, incoming, bound, is_same=nic.is_same if nic else is_another
            )
            try:
                if event.announce:
                    _activate(event, declared, place)
                conclude()
            except BaseException:
                # The front end's time limit ends here: a NIC that is half taken down is worse than a late answer.
                signal.setitimer(signal.ITIMER_REAL, 0)
                if nic and is_new:
                    guests.remove_owner(session, nic.owner)
                    withdraw(session)
                raise
    return owners


def with_network(declared: declaration.Config, event: NicEvent) -> declaration.Config:
    """Return the configuration, extended by the network that the event describes."""
    network = event.network
    return declared.plus(network, implied(network)) if network else declared


@contextmanager
def _renamed(session: Session, event: NicEvent | None) -> Iterator[None]:
    """Rename the NIC; give it its old name again if the body of the context fails."""
    if event is None or not event.rename:
        yield
        return
    with session.records.lock():
        session.kernel.rename(event.rename, event.ifname)
    try:
        yield
    except Abandoned:
        # The hook serves this call in its own process now, and recognises the NIC by its new name.
        raise
    except BaseException:
        session.kernel.rename(event.ifname, event.rename)
        raise


def _expect(event: GuestEvent, place: Place) -> str:
    """Record that a live migration of the guest to this host begins."""
    with place.records() as records:
        for mark in event.domain.marks:
            records.expect(mark)
    return ""


def _prepare(event: GuestEvent, place: Place) -> str:
    """Bring up the bridges that the hypervisor will attach the guest's taps to. The taps do not exist yet."""
    declared = place.declared()
    if not declared.parts:
        return ""
    bound = guests.bind(event.domain, declared)
    networks = [network for _, network in bound if compose.needs(network, declared)]
    if not networks or _are_up({name for network in networks for name in compose.needs(network, declared)}, declared, place):
        return ""
    # Few calls bring up parts of the host.
    from ..engine import host

    with place.session(declared) as session:
        brought = host.prepare(session, event.domain, networks, event.frontend)
    return ", ".join(owner.label for owner in brought)


def _are_up(names: set[str], declared: declaration.Config, place: Place) -> bool:
    """Return whether these parts were brought up on request, so that they stay when the guests on them have gone, and are there.
    Uses the records and sysfs only: opening a session costs more."""
    if not _has_records():
        return False
    with place.records() as records:
        parts = {part.id: part for name in names for part in records.parts(id=name)}
    found = {name: part for name, part in parts.items() if part.is_asked_for and part.phase == "active"}
    links = [name for name in found if (part := declared.parts.get(name)) and part.kind.is_link]
    return found.keys() == names and all(os.path.exists(f"/sys/class/net/{found[name].name}") for name in links)


def _reconnect(event: GuestEvent, place: Place) -> str:
    return described(_reconnected(event, place))


def _reconnected(event: GuestEvent, place: Place) -> list[Nic]:
    """Set up a guest that runs. A NIC that is set up stays as it is, whatever claims it by now: a running guest keeps what it was
    started with. If its description is no longer valid, or claims nothing any more, restore the recorded objects, and above all
    the filter."""
    try:
        declared = place.declared()
        if bound := guests.bind(event.domain, declared):
            # Few calls concern a guest that may have been given something else.
            from ..engine.claims import kept

            with place.session(declared) as session:
                # An edit that `repair` is applying is not undone.
                settle = partial(kept, session, event.domain)
                owners = guests.plug(session, event.domain, event.frontend, bound=bound, is_running=True, settle=settle)
            return _seen(event, declared, place, owners)
    except InputError:
        if _recorded(event, place):
            with place.session(RECORDS_ALONE) as session:
                guests.reassert(session, event.domain)
        raise
    if not _recorded(event, place):
        return []
    with place.session(declared) as session:
        owners = guests.reassert(session, event.domain)
    return _seen(event, declared, place, owners)


def _seen(event: GuestEvent, declared: declaration.Config, place: Place, owners: list[Nic]) -> list[Nic]:
    """Activate a guest that runs without having been activated: libvirtd was killed before it called `started`, or the arrival of
    the guest was missed."""
    return _activate(event, declared, place) if any(owner.phase == "plugged" for owner in owners) else owners


def _activate_recorded(event: GuestEvent, place: Place) -> str:
    return described(_activate(event, place.declared(), place)) if _recorded(event, place) else ""


def _activate(event: GuestEvent, declared: declaration.Config, place: Place) -> list[Nic]:
    with place.records() as records:
        owners = guests.activate(declared, records, place.announce, event.domain, event.ifname)
    place.await_arrival([owner for owner in owners if owner.phase == "incoming"])
    return owners


def _unplug(event: GuestEvent, place: Place) -> str:
    if not _recorded(event, place):
        return ""
    with place.session(RECORDS_ALONE) as session:
        if isinstance(event, NicEvent):
            owners: Sequence[Owner] = guests.remove_owner(session, event.owner)
        else:
            owners = guests.unplug(session, event.domain, event.ifname)
        withdraw(session)
    return described(owners)


def _recorded(event: GuestEvent, place: Place) -> bool:
    """Return whether the event's guest, or its NIC, has a record."""
    if not _has_records():
        return False
    with place.records() as records:
        if event.action is Action.UNPLUG:
            # If a migration failed before the guest arrived, forget that it was expected.
            for mark in event.domain.marks:
                records.expected(mark)
        if isinstance(event, NicEvent):
            found = bool(records.owners(id=event.owner))
        else:
            found = bool(records.of_domain(event.domain.name, event.domain.uuid, event.ifname))
            if event.action is Action.UNPLUG and event.domain.uuid:
                found = found or bool(records.of_domain("", id_by_name(event.domain.name)))
        # A start that was killed left a journal and no record. Opening a session undoes it.
        return found or (event.action is Action.UNPLUG and bool(records.journal()[0]))


def _has_records() -> bool:
    return os.path.exists(f"{store.DIRECTORY}/state.db")


_GUEST: Mapping[Action, Callable[[GuestEvent, Place], str]] = {
    Action.INCOMING: _expect,
    Action.PREPARE: _prepare,
    Action.ACTIVATE: _activate_recorded,
    Action.RECONNECT: _reconnect,
    Action.UNPLUG: _unplug,
}


def described(owners: Iterable[Owner]) -> str:
    """Return what was set up or removed: each vif with its network and addresses."""
    return "; ".join([owner.summary for owner in owners])


# --- parts of the host ---------------------------------------------------------------------------------------------------


def mark_of(event: "NetworkEvent") -> str:
    """Return the file that tells the filter of hooks (hook.has_mark) that there is a record."""
    return f"{store.DIRECTORY}/{event.owner.replace('/', '-')}"


def _network(event: "NetworkEvent", place: Place) -> str:
    mark, network = mark_of(event), event.network
    if network is None:
        if not _has_records():
            return ""
        with place.session(RECORDS_ALONE) as session:
            gone = guests.remove_owner(session, event.owner)
            if os.path.exists(mark):
                os.unlink(mark)
        return "taken down" if gone else ""
    # Calls for guests do not need it.
    from ..engine import host

    with place.session(RECORDS_ALONE) as session:
        # The mark comes first: if this process is killed half-way, the call for `down` must not be filtered out.
        with open(mark, "w"):
            pass
        changed = host.up_network(session, network, event.owner, event.frontend)
    return f"{network['role']}, table {network['table']}" if changed else ""


def _parts(event: "PartsEvent", place: Place) -> str:
    """Bring parts up or take them down. Keep their declaration in a file for as long as the parts, or guests on them, exist."""
    # Calls for guests do not need them.
    from ..engine import host, takeover

    path = f"{configuration.RUNTIME}/{event.owner}.toml"
    before = _kept(path)
    if event.action is Action.DOWN:
        with place.session(RECORDS_ALONE) as session:
            there = [name for name in event.names if session.records.owners(id=name)]
            gone = host.down(session, there).down if there else []
            if before:
                _keep(path, STOPPED + before.removeprefix(STOPPED))
            withdraw(session)
            if _kept(path):
                print(f"{event.owner}: what guests use stays until they are gone", file=sys.stderr)
        return ", ".join(owner.label for owner in gone)
    _keep(path, event.declared)
    try:
        with place.session() as session:
            done = host.up(session, event.names, takeover.Watch())
            return ", ".join(owner.label for owner in (*done.up, *done.down))
    except BaseException:
        _keep(path, before)
        raise


def withdraw(session: Session) -> None:
    """Remove the stopped declarations that nothing uses any more."""
    if not os.path.isdir(configuration.RUNTIME):
        return
    for path in configuration.toml_files(configuration.RUNTIME):
        text = _kept(path)
        if not text.startswith(STOPPED):
            continue
        try:
            tables = configuration.read_toml(path)
        except VmnetError:
            tables = {}
        names = {f"{row.word}:{name}" for row in SECTIONS.rows.values() for name in tables.get(row.name, ())}
        used = any(session.records.owners(id=name) for name in names)
        if not used and not any(session.records.nics(network=name) for name in tables.get("networks", ())):
            _keep(path, "")


def _kept(path: str) -> str:
    try:
        with open(path) as file:
            return file.read()
    except FileNotFoundError:
        return ""


def _keep(path: str, text: str) -> None:
    """Replace a file atomically; remove it if `text` is "". Raise VmnetError."""
    try:
        if not text:
            if os.path.exists(path):
                os.unlink(path)
            return
        os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
        with open(f"{path}.new", "w") as file:
            file.write(text)
        os.replace(f"{path}.new", path)
    except OSError as error:
        raise VmnetError(f"{path}: {error.strerror}; it must be writable, run as root") from None
