"""What a hypervisor describes: a domain and its virtual interfaces, and what is claimed for them. Plain data."""

from collections.abc import Sequence
from dataclasses import dataclass, replace


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
