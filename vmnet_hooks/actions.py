"""What each action means: an event is matched with the configuration and the records, and handed to the engine if it matters.

The kernel edge (pyroute2) is imported only for a domain that has something of ours.
"""

import os
from collections.abc import Iterable
from importlib import import_module

from . import compose, config, store
from .domain import Action, Event, Owner
from .engine import activate
from .kernel import packet
from .modes import MODES


def act(event: Event) -> str:
    """Carries an event out. Returns what was done, for the log; "" if nothing was. Raises VmnetError."""
    domain = event.domain
    if event.action is Action.INCOMING:
        if domain.uuid:
            store.Store().expect(domain.uuid)
        return ""
    # Clean-up goes by the records alone: a broken configuration must not keep it from happening.
    declared = config.Config({}) if event.action is Action.UNPLUG else config.load(MODES)
    claimed = event.action in (Action.PLUG, Action.RECONNECT) and _claimed(event, declared)
    if not claimed and not _recorded(event):
        return ""
    if event.action is Action.ACTIVATE:
        return described(_activate(event, declared))
    engine = import_module("vmnet_hooks.host").engine(declared)
    try:
        if event.action is Action.UNPLUG:
            return described(engine.unplug(domain, event.ifname))
        owners = engine.plug(domain, event.frontend)
    finally:
        engine.close()
    if event.announce:
        _activate(event, declared)
    return described(owners)


def _activate(event: Event, declared: config.Config) -> list[Owner]:
    records = store.Store()
    try:
        return activate(declared, records, packet.announce, event.domain, event.ifname)
    finally:
        records.close()


def _claimed(event: Event, declared: config.Config) -> bool:
    return bool(compose.bind(event.domain, declared, declared.claims(event.domain.name)))


def _recorded(event: Event) -> list[Owner]:
    if not os.path.exists(f"{store.DIRECTORY}/state.db"):
        return []
    records = store.Store()
    try:
        if event.action is Action.UNPLUG:
            # A migration that failed before the guest came.
            records.expected(event.domain.uuid)
        return records.of_domain(event.domain.name, event.domain.uuid, event.ifname)
    finally:
        records.close()


def described(owners: Iterable[Owner]) -> str:
    """Each vif with its network and addresses."""
    return "; ".join(
        f"{o.ifname} on {o.network}" + (f" ({', '.join(o.addresses)})" if o.addresses else "") for o in owners
    )
