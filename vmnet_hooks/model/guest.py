"""Domains, their virtual interfaces (vifs) and the claims that put vifs on networks; and the events of these, and of parts of the
host, as front ends report them. Plain data."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum

from .declaration import Network


@dataclass(frozen=True)
class Claim:
    """A declaration that a NIC is on a network. The NIC is identified by its MAC, or by its tap's name where the front end does
    not know the MAC. `source` is the place of the declaration, for error messages. `vlan`, `tagged` and `roles` are None if
    those of the network apply."""

    network: str
    mac: str = ""
    ifname: str = ""
    addresses: Sequence[str] = ()
    filter: bool = True
    source: str = ""
    vlan: int | None = None
    tagged: tuple[int, ...] | None = None
    roles: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Vif:
    """A NIC of a guest.

    `ifname` is the link on the host ("" if it does not exist yet). `index` is its number in the guest's description, from 0
    (-1 if that is not known). `id` identifies the NIC within its domain where the MAC does not: a NIC of an HVM guest of Xen
    has an emulated and a paravirtual link with one MAC. `twin` is the `id` of the other one of the two, and `metric` the
    metric of routes to this one. `shares_mac` is set if the guest may have another link with this MAC: a NIC that is passed
    through, or a twin. `is_named` is set if the name of the link is a setting of the guest, so that two guests may ask for
    the same one. `without_tap` is libvirt's type of a NIC that never has a link that we could set up: passed through, or a
    macvtap; `device` is the name of what it has instead. `bridge`, `mtu` (bytes) and `port_mac` (the MAC of the link on the
    host) are from the hypervisor's configuration. `domain` is the guest's name. The other fields are from the claim.
    """

    mac: str
    ifname: str = ""
    index: int = -1
    bridge: str = ""
    id: str = ""
    twin: str = ""
    shares_mac: bool = False
    mtu: int | None = None
    metric: int = 0
    port_mac: str = ""
    domain: str = ""
    network: str = ""
    addresses: tuple[str, ...] = ()
    filter: bool = True
    vlan: int | None = None
    tagged: tuple[int, ...] | None = None
    roles: tuple[str, ...] | None = None
    is_named: bool = False
    without_tap: str = ""
    device: str = ""

    @property
    def is_alone(self) -> bool:
        """Whether the guest has no other link with this MAC."""
        return not (self.shares_mac or self.twin)

    def claimed(self, claim: Claim) -> "Vif":
        return replace(
            self,
            network=claim.network,
            addresses=tuple(claim.addresses),
            filter=claim.filter,
            vlan=claim.vlan,
            tagged=claim.tagged,
            roles=claim.roles,
        )


@dataclass(frozen=True)
class Domain:
    """A guest.

    `uuid` is unique on its hypervisor (Xen: `xen:DOMID`); "" if the front end does not know it. `vifs` is empty if the front
    end does not know the NICs (UNPLUG). `partial` is set if it knows only some of them. `changing` is set if NICs are attached
    and detached while the guest runs: then a claim for a NIC that does not exist is no error.
    """

    name: str
    uuid: str = ""
    vifs: tuple[Vif, ...] = ()
    claims: tuple[Claim, ...] = ()
    partial: bool = False
    changing: bool = False

    @property
    def id(self) -> str:
        return self.uuid or id_by_name(self.name)

    @property
    def marks(self) -> tuple[str, ...]:
        """File names that identify the domain: one from its UUID and, for front ends that know no UUID, one from its name."""
        name = self.name.encode(errors="surrogateescape").hex()[:200]
        return tuple(filter(None, (self.uuid, name and f"name-{name}")))


def id_by_name(name: str) -> str:
    """Return the id of a domain of which only the name is known."""
    return f"name:{name}"


# --- events -------------------------------------------------------------------------------------------------------------


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
    PLUG announces the guest. If `incoming` is set, PLUG sets up a guest that migrates to this host, and runs elsewhere until
    then."""

    domain: Domain
    ifname: str = ""
    announce: bool = False
    incoming: bool = False

    @property
    def subject(self) -> str:
        return self.domain.name


def is_another(_domain_id: str) -> bool:
    """Return False: every domain is a guest of its own."""
    return False


@dataclass(frozen=True, kw_only=True)
class NicEvent(GuestEvent):
    """An event of one NIC, from a front end with its own IDs of NICs. `owner` is the NIC's ID in the records, by which UNPLUG
    removes it. `network` is the NIC's network if no file declares it. `rename` is the present name of the host's side of the
    NIC, if PLUG has to rename it to `ifname`. `is_same` returns whether the domain with an ID is this guest, too."""

    owner: str
    network: Network | None = None
    rename: str = ""
    is_same: Callable[[str], bool] = is_another

    @property
    def subject(self) -> str:
        return self.domain.name or self.owner
