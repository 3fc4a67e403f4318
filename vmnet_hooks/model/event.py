"""Events, as front ends report them: of a guest, or of a part of the host. Plain data."""

from dataclasses import dataclass, field
from enum import Enum

from .declaration import Network
from .guest import Domain


class Action(Enum):
    """The kind of an event.

    PREPARE: the guest is about to start, and its tap does not exist yet.
    PLUG: the tap exists, and the guest does not run yet.
    ACTIVATE: the guest runs on this host.
    UNPLUG: the guest, or one NIC of it, is gone.
    RECONNECT: the hypervisor's daemon was restarted while the guest ran. The hook must not fail: libvirt would kill the guest.
    INCOMING: a live migration of the guest to this host begins.
    UP, DOWN: a part of the host is brought up or taken down.
    """

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
    """`frontend` is the name of the front end. `warning` describes the part of the input that could not be read, where the call
    is carried out all the same."""

    action: Action
    frontend: str
    warning: str = field(default="", kw_only=True)

    @property
    def subject(self) -> str:
        """The name of the event's guest or part in the log."""
        return ""


@dataclass(frozen=True)
class GuestEvent(Event):
    """An event of a domain or, if `ifname` is set, of that vif alone. If `announce` is set, no ACTIVATE follows the PLUG, and
    PLUG announces the guest."""

    domain: Domain
    ifname: str = ""
    announce: bool = False

    @property
    def subject(self) -> str:
        return self.domain.name


@dataclass(frozen=True, kw_only=True)
class NicEvent(GuestEvent):
    """An event of one NIC, from a front end with its own IDs of NICs. `owner` is the NIC's ID in the records, by which UNPLUG
    removes it. `network` is the NIC's network if no file declares it. `rename` is the present name of the host's side of the
    NIC, if PLUG has to rename it to `ifname`."""

    owner: str
    network: Network | None = None
    rename: str = ""

    @property
    def subject(self) -> str:
        return self.domain.name or self.owner


@dataclass(frozen=True)
class NetworkEvent(Event):
    """UP or DOWN of a network of the host that no file declares. `owner` is its ID in the records. DOWN needs no `network`."""

    owner: str
    network: Network | None = None

    @property
    def subject(self) -> str:
        return self.owner


@dataclass(frozen=True)
class PartsEvent(Event):
    """UP or DOWN of the parts of the host in `names` (KIND:NAME), which a command declares. UP stores `declared` (TOML) in the
    folder configuration.RUNTIME, in the file `owner`.toml."""

    owner: str
    names: tuple[str, ...]
    declared: str = ""

    @property
    def subject(self) -> str:
        return self.owner
