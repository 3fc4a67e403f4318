"""What a hypervisor said: a domain, its virtual interfaces, and what happens to it. Plain data."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any


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
    paravirtual one: `metric` is for routes to this one). `bridge`, `mtu` (bytes) and `port_mac` (of the host's side) are what
    the hypervisor's own configuration says; `domain` is the guest's name, the rest what was claimed for it."""

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


@dataclass(frozen=True)
class Event:
    """What happened. With `ifname`, only that vif of the domain is meant. With `announce`, no ACTIVATE will follow the PLUG.
    `warning` is what a front end could not read of an event that must not fail for it.

    `owner` is an id in the records: UNPLUG removes what it claims; UP and DOWN, which have no domain, are about what it claims
    for `network`. `network` is a config.Network that no file declares. `rename` is what the host's side of the NIC is called
    until PLUG calls it `ifname`. `names` are parts of the host that UP brings up, once `declared` (TOML) is kept under `owner`
    in config.RUNTIME, and that DOWN takes down. `call` is the front end's own."""

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


@dataclass(frozen=True)
class Owner:
    """Who claims resources: a vif of a domain, or (with no domain) a part of the host that was brought up alone, whose name
    is in `network`. `phase` is plugged, incoming (by live migration, and not here yet), active, or leftover (a clean-up that
    could not do all)."""

    id: str
    domain: str
    domain_id: str
    ifname: str
    ifindex: int
    mac: str
    network: str
    frontend: str
    phase: str = "plugged"
    addresses: tuple[str, ...] = ()
    filter: bool = True
    since: float = 0.0
    vlan: int | None = None
    tagged: tuple[int, ...] | None = None
    mtu: int | None = None
    metric: int = 0
