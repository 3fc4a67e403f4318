"""Names of guests at DNS servers, for commands: what the agent owes, and how it is asked to try again."""

import os
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from .. import STATE

if TYPE_CHECKING:
    from ..declared.compose import Bound
    from ..engine import Session
    from ..engine.drift import Drift

SETTLE_SECONDS = 2.0
"""How long a command waits for the agent to tell a server of what has just changed."""

RETRY_SECONDS = 6.0
"""The same, of what it was asked to try again. A server that does not answer costs 4 s."""

LOOK_SECONDS = 0.1


def concerns(session: "Session") -> bool:
    """Return whether names are registered here, or were."""
    # Not needed for completion.
    from ..records.registered import FILE

    return bool(session.config.ddns) or os.path.exists(f"{STATE}/{FILE}")


def owed(session: "Session", domain: str = "") -> "list[Drift]":
    """Return what is owed to DNS servers, and that the agent does not run, if it is needed. Raise VmnetError."""
    # Not needed for completion.
    from ..engine import registered
    from ..engine.drift import Drift
    from ..hook import client

    if not concerns(session):
        return []
    end = time.monotonic() + SETTLE_SECONDS
    agent = client.connected()
    while True:
        found = registered.owed(session, domain)
        fresh = [drift for drift in found if drift.what.endswith(registered.UNTRIED)]
        if not fresh or agent is None or time.monotonic() > end:
            break
        time.sleep(LOOK_SECONDS)
    if agent is not None:
        agent.close()
        return found
    if found or registered.asked_for(session, domain):
        what = "the agent does not run; it tells DNS servers the names of guests"
        found.insert(0, Drift("hindered", what, "systemctl restart vmnet-hookd"))
    return found


def retried(session: "Session", domain: str = "") -> "tuple[list[Drift], list[Drift]]":
    """Have the agent try again what is owed. Return what it has done, and what is left."""
    # Not needed for completion.
    from ..engine import registered
    from ..hook import client

    before = owed(session, domain)
    agent = client.connected() if before else None
    if agent is None:
        return [], before
    try:
        client.asked(agent, "agent/register")
    except OSError:
        return [], before
    finally:
        agent.close()
    end = time.monotonic() + RETRY_SECONDS
    while (left := registered.owed(session, domain)) and time.monotonic() < end:
        time.sleep(LOOK_SECONDS)
    places = [drift.what.partition(": ")[0] for drift in left]
    return [drift for drift in before if drift.what.partition(": ")[0] not in places], left


def shown(session: "Session") -> dict[str, list[str]]:
    """Return the names of guests as `status` shows them."""
    # Not needed for completion.
    from ..engine import registered

    return registered.shown(session) if concerns(session) else {}


def by_address(session: "Session") -> dict[str, list[str]]:
    """Return the names that are registered, by the guests' addresses."""
    # Not needed for completion.
    from ..engine import registered

    return registered.by_address() if concerns(session) else {}


def planned(session: "Session", bound: "Sequence[Bound]") -> Iterator[tuple[str, str]]:
    """Yield, as comments with their keys, what the agent will register once these NICs run."""
    # Not needed for completion.
    from ..engine import registered
    from ..model.guest import Domain
    from ..model.owner import Nic

    if not session.config.ddns:
        return
    new = [Nic.of(Domain(vif.domain), vif, network.name, "", 0, 0.0) for vif, network in bound]
    for place, registration in sorted(registered.once_active(session, new).items()):
        yield f"ddns {place.server} {place.name}", f"# the agent registers {registration} at {place.server}"


def withdrawn(session: "Session", guest: str) -> Iterator[tuple[str, str]]:
    """Yield, in the same way, what the agent will remove once a guest has stopped."""
    # Not needed for completion.
    from ..records.registered import Names

    if not concerns(session):
        return
    names = Names(read_only=True)
    try:
        for place, name in sorted(names.all().items()):
            if name.wanted.guest == guest and name.there:
                yield f"ddns {place.server} {place.name}", f"# the agent removes {name.wanted} at {place.server}"
    finally:
        names.close()
