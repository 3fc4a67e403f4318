"""Who claims resources, as the records have it. Plain data."""

from dataclasses import dataclass

ASKED_FOR, NEEDED = "cli", "auto"
"""`frontend` of a part of the host: the admin asked for it, or only something on it needs it."""


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

    @property
    def is_described(self) -> bool:
        """Whether a front end described this part of the host: no file of the configuration declares it."""
        return not self.domain and self.frontend not in (ASKED_FOR, NEEDED)
