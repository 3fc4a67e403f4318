"""What a front end reports: an event of a guest, or of a part of the host. Plain data."""

from dataclasses import dataclass, field
from enum import Enum

from .declaration import Network
from .guest import Domain


class Action(Enum):
    """What a front end asks for. PREPARE: before the tap exists. PLUG: the tap exists, the guest does not run yet. ACTIVATE:
    the guest runs *here*. RECONNECT: the hypervisor's daemon restarted; must never fail. INCOMING: the guest will come by live
    migration. UP, DOWN: a part of the host."""

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
    """What happened, and by which front end's name. `warning` is what the front end could not read of a call that must be done
    all the same."""

    action: Action
    frontend: str
    warning: str = field(default="", kw_only=True)

    @property
    def subject(self) -> str:
        """What the log calls it."""
        return ""


@dataclass(frozen=True)
class GuestEvent(Event):
    """With `ifname`, only that vif of the domain is meant. With `announce`, no ACTIVATE will follow the PLUG."""

    domain: Domain
    ifname: str = ""
    announce: bool = False

    @property
    def subject(self) -> str:
        return self.domain.name


@dataclass(frozen=True, kw_only=True)
class NicEvent(GuestEvent):
    """About one NIC, by a front end that knows it by an id of its own: `owner`, in the records, is what UNPLUG removes. `network`
    is the NIC's where no file declares it. `rename` is what the host's side of the NIC is called until PLUG calls it `ifname`."""

    owner: str
    network: Network | None = None
    rename: str = ""

    @property
    def subject(self) -> str:
        return self.domain.name or self.owner


@dataclass(frozen=True)
class NetworkEvent(Event):
    """UP or DOWN of a network of the host's own that no file declares: `owner`, an id in the records, claims it. DOWN needs no
    `network`."""

    owner: str
    network: Network | None = None

    @property
    def subject(self) -> str:
        return self.owner


@dataclass(frozen=True)
class PartsEvent(Event):
    """UP or DOWN of the parts of the host `names`, which a command declares: UP keeps `declared`, which is TOML, as `owner` in
    configuration.RUNTIME."""

    owner: str
    names: tuple[str, ...]
    declared: str = ""

    @property
    def subject(self) -> str:
        return self.owner
