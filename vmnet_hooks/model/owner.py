"""The owners of resources, as the records have them. Plain data."""

from dataclasses import dataclass

from .guest import Domain, Vif

ASKED_FOR, NEEDED = "cli", "auto"
"""`frontend` of a part of the host: the admin asked for it, or only something on it needs it."""


@dataclass(frozen=True)
class Owner:
    """What claims resources: a NIC of a domain, or (with no domain) a part of the host, whose name is in `network`. `phase` is
    plugged, incoming (by live migration, and not here yet), active, preparing (a domain whose NICs do not exist yet), or
    leftover (a clean-up that could not remove everything)."""

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

    @classmethod
    def of_nic(cls, domain: Domain, vif: Vif, network: str, frontend: str, ifindex: int, since: float) -> "Owner":
        """The owner of what a NIC needs."""
        return cls(
            nic_id(domain, vif),
            domain.name,
            domain.id,
            vif.ifname,
            ifindex,
            vif.mac,
            network,
            frontend,
            addresses=vif.addresses,
            filter=vif.filter,
            since=since,
            vlan=vif.vlan,
            tagged=vif.tagged,
            mtu=vif.mtu,
            metric=vif.metric,
        )

    @classmethod
    def of_start(cls, domain: Domain, frontend: str, since: float) -> "Owner":
        """The owner that keeps the parts that a domain needs until its NICs are plugged."""
        return cls(f"{domain.id}/prepare", domain.name, domain.id, "", 0, "", "", frontend, "preparing", since=since)

    @classmethod
    def of_part(cls, part_id: str, name: str, frontend: str, since: float) -> "Owner":
        """The owner of what a part of the host is made of."""
        return cls(part_id, "", "", "", 0, "", name, frontend, "active", since=since)

    @property
    def is_described(self) -> bool:
        """Whether a front end described this part of the host: no file of the configuration declares it."""
        return not self.domain and self.frontend not in (ASKED_FOR, NEEDED)

    @property
    def label(self) -> str:
        """The name shown to the admin: the domain's, or `bridge br0`."""
        return self.domain or self.id.replace(":", " ", 1)

    @property
    def vif(self) -> Vif:
        """The NIC, as it was bound."""
        return Vif(
            self.mac,
            self.ifname,
            domain=self.domain,
            network=self.network,
            addresses=self.addresses,
            filter=self.filter,
            vlan=self.vlan,
            tagged=self.tagged,
            mtu=self.mtu,
            metric=self.metric,
        )


def nic_id(domain: Domain, vif: Vif) -> str:
    """The id of the owner of what a NIC needs."""
    return f"{domain.id}/{vif.id or vif.mac}"
