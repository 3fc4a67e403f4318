"""What a hypervisor describes: a domain with its virtual interfaces, and what is claimed for them. What a front end reports: an
event of a guest, or of a part of the host. Plain data."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from enum import Enum

from .declaration import Network


@dataclass(frozen=True)
class Claim:
    """Somebody's word that a NIC (by MAC, or by tap name where a front end knows no MAC) is on a network.
    `source` is where it was said, for error messages. `vlan` and `tagged` are None where the network's hold."""

    network: str
    mac: str = ""
    ifname: str = ""
    addresses: Sequence[str] = ()
    filter: bool = True
    source: str = ""
    vlan: int | None = None
    tagged: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Vif:
    """A NIC of a guest. `ifname` is the host's side of it ("" where there is none yet); `id` tells it from the domain's other
    NICs where its MAC does not, `twin` is the id of the same NIC's other half (an HVM guest of Xen's has an emulated and a
    paravirtual one: `metric` is for routes to this one). `is_named` where the hypervisor takes the name of the host's side
    from the guest's settings, so that two guests may ask for one name. `bridge`, `mtu` (bytes) and `port_mac` (of the host's
    side) are what the hypervisor's own configuration says; `domain` is the guest's name, the rest what was claimed for it."""

    mac: str
    ifname: str = ""
    index: int = 0
    bridge: str = ""
    id: str = ""
    twin: str = ""
    mtu: int | None = None
    metric: int = 0
    port_mac: str = ""
    domain: str = ""
    network: str = ""
    addresses: tuple[str, ...] = ()
    filter: bool = True
    vlan: int | None = None
    tagged: tuple[int, ...] | None = None
    is_named: bool = False

    def claimed(self, claim: Claim) -> "Vif":
        return replace(
            self,
            network=claim.network,
            addresses=tuple(claim.addresses),
            filter=claim.filter,
            vlan=claim.vlan,
            tagged=claim.tagged,
        )


@dataclass(frozen=True)
class Domain:
    """A guest. `uuid` is what its hypervisor never calls another one (Xen: `xen:DOMID`), "" where the front end knows nothing
    of the kind. `vifs` is empty where the front end can't tell (UNPLUG), and
    `partial` where it sees only some of the guest's NICs. `changing` where NICs are attached and detached: what is claimed for
    one that is not there waits for it."""

    name: str
    uuid: str = ""
    vifs: tuple[Vif, ...] = ()
    claims: tuple[Claim, ...] = ()
    partial: bool = False
    changing: bool = False

    @property
    def id(self) -> str:
        return self.uuid or f"name:{self.name}"

    @property
    def marks(self) -> tuple[str, ...]:
        """Names of files that stand for the domain: by its UUID, and by its name for front ends that know no UUID."""
        name = self.name.encode(errors="surrogateescape").hex()[:200]
        return tuple(filter(None, (self.uuid, name and f"name-{name}")))


# --- events -------------------------------------------------------------------------------------------------------------


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
