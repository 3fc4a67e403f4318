"""Domains, their virtual interfaces (vifs), and the claims that put vifs on networks. Plain data."""

from collections.abc import Sequence
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Claim:
    """A declaration that a NIC is on a network. The NIC is identified by its MAC, or by its tap's name where the front end does
    not know the MAC. `source` is the place of the declaration, for error messages. `vlan` and `tagged` are None if those of
    the network apply."""

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
    """A NIC of a guest.

    `ifname` is the link on the host ("" if it does not exist yet). `id` identifies the NIC within its domain where the MAC does
    not: a NIC of an HVM guest of Xen has an emulated and a paravirtual link with one MAC. `twin` is the `id` of the other one
    of the two, and `metric` the metric of routes to this one. `is_named` is set if the name of the link is a setting of the
    guest, so that two guests may ask for the same one. `bridge`, `mtu` (bytes) and `port_mac` (the MAC of the link on the host)
    are from the hypervisor's configuration. `domain` is the guest's name. The other fields are from the claim.
    """

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
        return self.uuid or f"name:{self.name}"

    @property
    def marks(self) -> tuple[str, ...]:
        """File names that identify the domain: one from its UUID and, for front ends that know no UUID, one from its name."""
        name = self.name.encode(errors="surrogateescape").hex()[:200]
        return tuple(filter(None, (self.uuid, name and f"name-{name}")))
