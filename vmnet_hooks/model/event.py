"""What a front end reports: an event of a domain, or of a part of the host. Plain data."""

from dataclasses import dataclass
from enum import Enum
from typing import Any

from .guest import Domain


class Action(Enum):
    """What a front end asks for. PREPARE: before the tap exists. PLUG: the tap exists, the guest does not run yet. ACTIVATE:
    the guest runs *here*. RECONNECT: the hypervisor's daemon restarted; must never fail. UP, DOWN: of a network of the
    host's own."""

    PREPARE = "prepare"
    PLUG = "plug"
    ACTIVATE = "activate"
    UNPLUG = "unplug"
    RECONNECT = "reconnect"
    INCOMING = "incoming"
    UP = "up"
    DOWN = "down"


@dataclass(frozen=True)
class Event:
    """What happened. With `ifname`, only that vif of the domain is meant. With `announce`, no ACTIVATE will follow the PLUG.
    `warning` is what a front end could not read of an event that must not fail for it.

    `owner` is an id in the records: UNPLUG removes what it claims; UP and DOWN, which have no domain, are about what it claims
    for `network`. `network` is a config.Network that no file declares. `rename` is what the host's side of the NIC is called
    until PLUG calls it `ifname`. `names` are parts of the host that UP brings up, once `declared` (TOML) is kept under `owner`
    in configuration.RUNTIME, and that DOWN takes down. `call` is the front end's own."""

    action: Action
    domain: Domain
    frontend: str
    ifname: str = ""
    warning: str = ""
    announce: bool = False
    owner: str = ""
    network: Any = None
    rename: str = ""
    names: tuple[str, ...] = ()
    declared: str = ""
    call: Any = None
