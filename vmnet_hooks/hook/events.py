"""What each action means: an event is matched with the configuration and the records, and handed to the engine if it matters.

The kernel edge (pyroute2) is imported only for a domain that has something of ours.
"""

import os
import signal
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

from ..declared import compose, configuration
from ..declared.sections import SECTIONS
from ..engine.engine import activate, bind, label_of
from ..errors import Abandoned, InputError, VmnetError
from ..model import declaration
from ..model.event import Action, Event
from ..model.owner import Owner
from ..records import store
from .place import Here, Place

RECORDS_ALONE = declaration.Config({})
"""Clean-up needs no configuration: a broken one must not keep it from happening."""


STOPPED = "# stopped\n"
"""Begins a declaration that is to be taken back when nobody uses it any more."""


def act(event: Event, conclude: Callable[[Event], None] | None = None, place: Place | None = None) -> str:
    """Carries an event out, then lets its front end `conclude` it: what it brought is taken away again if that fails. Returns
    what was done, for the log; "" if nothing was. `place` is where: this process, if none is given. Raises VmnetError."""
    place = place or Here()
    if event.action is Action.PLUG:
        return described(_plug(event, conclude or (lambda _: None), place))
    done = _act(event, place)
    if conclude:
        conclude(event)
    return done


def _act(event: Event, place: Place) -> str:
    domain = event.domain
    if event.names:
        return _declare(event, place)
    if event.action in (Action.UP, Action.DOWN):
        return _network(event, place)
    if event.action is Action.INCOMING:
        with place.records() as records:
            for mark in domain.marks:
                records.expect(mark)
        return ""
    if event.action is Action.PREPARE:
        return _prepare(event, place)
    if event.action is Action.RECONNECT:
        return described(_reconnect(event, place))
    if not _recorded(event, place):
        return ""
    if event.action is Action.ACTIVATE:
        return described(_activate(event, place.declared(), place))
    with place.engine(RECORDS_ALONE) as engine:
        owners = engine.down_owner(event.owner) if event.owner else engine.unplug(domain, event.ifname)
        withdraw(engine)
    return described(owners)


def _plug(event: Event, conclude: Callable[[Event], None], place: Place) -> list[Owner]:
    declared = _with_network(place.declared(), event)
    bound = bind(event.domain, declared)
    if not bound and not _recorded(event, place):
        conclude(event)
        return []
    with place.engine(declared) as engine:
        was_there = not event.owner or bool(engine.store.owners(id=event.owner))
        with _renamed(engine, event):
            incoming = any(map(engine.store.expects, event.domain.marks))
            owners = engine.plug(event.domain, event.frontend, incoming, bound)
            try:
                if event.announce:
                    _activate(event, declared, place)
                conclude(event)
            except BaseException:
                # It may take longer than a front end gives itself: what is half-done is worse.
                signal.setitimer(signal.ITIMER_REAL, 0)
                if not was_there:
                    engine.down_owner(event.owner)
                    withdraw(engine)
                raise
    return owners


def _with_network(declared: declaration.Config, event: Event) -> declaration.Config:
    """What is declared, and what the event itself describes."""
    network = event.network
    return declared.plus(network, SECTIONS["networks"].implied(network)) if network else declared


@contextmanager
def _renamed(engine: Any, event: Event) -> Iterator[None]:
    """The NIC has its new name, and keeps it if nothing fails."""
    if event.rename:
        with engine.store.lock():
            engine.kernel.rename(event.rename, event.ifname)
    try:
        yield
    except Abandoned:
        # Whoever does it now finds it renamed.
        raise
    except BaseException:
        if event.rename:
            engine.kernel.rename(event.ifname, event.rename)
        raise


def _network(event: Event, place: Place) -> str:
    """A network of the host's own, which no configuration file declares. A mark tells hook.py that there is a record."""
    mark = f"{store.DIRECTORY}/{event.owner.replace('/', '-')}"
    if event.action is Action.DOWN and not os.path.exists(f"{store.DIRECTORY}/state.db"):
        return ""
    with place.engine(RECORDS_ALONE) as engine:
        if event.action is Action.DOWN:
            done = engine.down_owner(event.owner)
            if os.path.exists(mark):
                os.unlink(mark)
            return "taken down" if done else ""
        network = event.network
        # Before: a process that is killed half-way leaves something to take down.
        with open(mark, "w"):
            pass
        changed = engine.up_network(network, event.owner)
    return f"{network['role']}, table {network['table']}" if changed else ""


def _declare(event: Event, place: Place) -> str:
    """Parts that a command declares: kept in a file as long as they, or guests on them, are there."""
    path = f"{configuration.RUNTIME}/{event.owner}.toml"
    before = _kept(path)
    if event.action is Action.DOWN:
        with place.engine(RECORDS_ALONE) as engine:
            there = [name for name in event.names if engine.store.owners(id=name)]
            gone = engine.down(there) if there else []
            if before:
                _keep(path, STOPPED + before.removeprefix(STOPPED))
            withdraw(engine)
            if _kept(path):
                print(f"{event.owner}: what guests use stays until they are gone", file=sys.stderr)
        return ", ".join(label_of(owner) for owner in gone)
    _keep(path, event.declared)
    try:
        with place.engine() as engine:
            watch = import_module("vmnet_hooks.engine.takeover").Watch()
            return ", ".join(label_of(owner) for owner in engine.up(event.names, watch))
    except BaseException:
        _keep(path, before)
        raise


def withdraw(engine: Any) -> None:
    """Takes back the declarations that were stopped and that nobody uses any more."""
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
        names = {f"{declaration.KINDS.get(section)}:{name}" for section in tables for name in tables[section]}
        used = any(engine.store.owners(id=name) for name in names)
        if not used and not any(
            owner.domain for name in tables.get("networks", ()) for owner in engine.store.owners(network=name)
        ):
            _keep(path, "")


def _kept(path: str) -> str:
    try:
        with open(path) as file:
            return file.read()
    except FileNotFoundError:
        return ""


def _keep(path: str, text: str) -> None:
    """Writes a file in one go, or removes it. Raises VmnetError."""
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


def _prepare(event: Event, place: Place) -> str:
    """The taps do not exist yet, and the hypervisor may want a bridge for them."""
    declared = place.declared()
    if not declared.parts:
        return ""
    bound = bind(event.domain, declared)
    networks = [network for _, network in bound if compose.needs(network, declared)]
    if not networks or _are_up({name for network in networks for name in compose.needs(network, declared)}, place):
        return ""
    with place.engine(declared) as engine:
        return ", ".join(owner.id.replace(":", " ", 1) for owner in engine.prepare(event.domain, networks, event.frontend))


def _are_up(names: set[str], place: Place) -> bool:
    """Whether parts are up, and kept by more than a guest that may go meanwhile. Without the kernel edge, which costs."""
    if not os.path.exists(f"{store.DIRECTORY}/state.db"):
        return False
    with place.records() as records:
        found = {o.id: o for name in names for o in records.owners(id=name) if o.frontend == "cli" and o.phase == "active"}
    return found.keys() == names and all(os.path.exists(f"/sys/class/net/{owner.network}") for owner in found.values())


def _reconnect(event: Event, place: Place) -> list[Owner]:
    """The guest runs: it keeps what it was started with, above all its filter, whatever its description says by now."""
    try:
        declared = place.declared()
        if bound := bind(event.domain, declared):
            with place.engine(declared) as engine:
                owners = engine.plug(event.domain, event.frontend, bound=bound)
            return _seen(event, declared, place, owners)
    except InputError:
        if _recorded(event, place):
            with place.engine(RECORDS_ALONE) as engine:
                engine.reassert(event.domain)
        raise
    if not _recorded(event, place):
        return []
    with place.engine(declared) as engine:
        owners = engine.reassert(event.domain)
    return _seen(event, declared, place, owners)


def _seen(event: Event, declared: declaration.Config, place: Place, owners: list[Owner]) -> list[Owner]:
    """A guest that runs, and of which nobody was told: its daemon was killed before it called `started`, or nobody saw it
    arrive."""
    return _activate(event, declared, place) if any(owner.phase == "plugged" for owner in owners) else owners


def _activate(event: Event, declared: declaration.Config, place: Place) -> list[Owner]:
    with place.records() as records:
        owners = activate(declared, records, place.announce, event.domain, event.ifname)
    place.await_arrival([owner for owner in owners if owner.phase == "incoming"])
    return owners


def _recorded(event: Event, place: Place) -> bool:
    if not os.path.exists(f"{store.DIRECTORY}/state.db"):
        return False
    with place.records() as records:
        if event.action is Action.UNPLUG:
            # A migration that failed before the guest came.
            for mark in event.domain.marks:
                records.expected(mark)
        if event.owner:
            found = records.owners(id=event.owner)
        else:
            found = records.of_domain(event.domain.name, event.domain.uuid, event.ifname)
        if event.action is Action.UNPLUG and event.domain.uuid and not event.owner:
            found += records.of_domain("", f"name:{event.domain.name}")
        # A killed start left a journal and no record: this clean-up takes it back.
        return bool(found) or (event.action is Action.UNPLUG and bool(records.journal()[0]))


def described(owners: Iterable[Owner]) -> str:
    """Each vif with its network and addresses."""
    return "; ".join(f"{o.ifname} on {o.network}" + (f" ({', '.join(o.addresses)})" if o.addresses else "") for o in owners)
