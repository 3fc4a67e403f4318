"""The owners of resources, as the records have them, one class a kind: the NIC of a guest, the preparation of a guest's start, a
declared part of the host, a network that a front end describes. Plain data.
"""

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

from ..values import ROLES
from .declaration import Config, Network
from .facts import Tap
from .guest import Domain, Vif

ASKED_FOR, NEEDED = "cli", "auto"
"""`frontend` of a part of the host: the admin asked for it, or only something on it needs it."""

_SHARES_MAC = 1 << 16

PREPARE_SECONDS = 120.0
"""How long a domain may take from `prepare` to `start`; after that, its hypervisor's daemon was killed in between."""

BLANK: Mapping[str, Any] = {
    **{"domain": "", "domain_id": "", "ifname": "", "ifindex": 0, "mac": "", "network": "", "addresses": (), "filter": True},
    **{"vlan": None, "tagged": None, "mtu": None, "metric": 0},
}
"""The columns that not every kind of owner has, as they are where it does not."""

IndexOf = Callable[[str], int | None]
"""The number of the link of a name; None if there is none."""

NameNow = Callable[["Nic"], str]
"""The name that the tap of a NIC has got instead of its own; "" if it has its own, or is gone."""


# No object is of this class: methods that dataclasses make cost time at every call of a hook.
@dataclass(frozen=True, kw_only=True, init=False, eq=False, repr=False, match_args=False)
class Owner:
    """What claims resources. `phase` is plugged, incoming (by live migration, and not here yet), active, preparing, or leftover
    (a clean-up that could not remove everything); `since` is in seconds, by the clock of the records."""

    is_on_top: ClassVar[bool] = False
    """Whether no other owner needs one of this kind."""

    id: str
    frontend: str
    phase: str
    since: float = 0.0

    @classmethod
    def of_columns(cls, columns: Mapping[str, Any]) -> Self:
        """The owner of a row of the records."""
        raise NotImplementedError

    def columns(self) -> dict[str, Any]:
        """The row of the owner; it may have more than the table."""
        return {**BLANK, **vars(self)}

    @property
    def label(self) -> str:
        """The name shown to the admin."""
        return part_label(self.id)

    @property
    def user(self) -> str:
        """Who uses a network through this owner, for messages."""
        return "the node"

    @property
    def summary(self) -> str:
        """What was set up or removed for it, for messages."""
        return self.label

    @property
    def where(self) -> str:
        """What `check` calls the place of its resources."""
        return self.label

    @property
    def loss(self) -> str:
        """What has happened to one that has ended."""
        return f"{self.label} is gone"

    @property
    def is_left_over(self) -> bool:
        return self.phase == "leftover"

    def has_ended(self, gone: Collection[str], index_of: IndexOf, name_now: NameNow, now: float) -> bool:
        """Whether what the owner stands for is no more, and no hook will tell; `gone` are ids of domains that do not run."""
        return False

    def follows_files(self, config: Config, needing: Callable[[str], Iterable["Owner"]]) -> bool:
        """Whether the configuration's files have a say in what the owner shall have. `needing` has the owners that need the one
        with an id."""
        return False

    def network_in(self, config: Config) -> Network | None:
        """The declared network that the owner is on."""
        return None


@dataclass(frozen=True, kw_only=True)
class GuestOwner(Owner):
    """What ends with a guest. `domain` is the guest's name, `domain_id` its Domain.id."""

    is_on_top = True

    domain: str
    domain_id: str

    @classmethod
    def of_columns(cls, columns: Mapping[str, Any]) -> Self:
        return cls(**{name: columns[name] for name in ("id", "domain", "domain_id", "frontend", "phase", "since")})

    @property
    def label(self) -> str:
        return self.domain

    @property
    def user(self) -> str:
        return self.domain

    def is_here(self, index_of: IndexOf, name_now: NameNow) -> bool:
        """Whether the host's side of it still exists."""
        return False


@dataclass(frozen=True, kw_only=True)
class Nic(GuestOwner):
    """What a guest's NIC needs. `ifname` and `ifindex` are the host's side of it, the rest is as in Vif.

    Roles have no column of their own (see records/store.py: _kind): they are the bits of `filter` above the lowest, and
    `shares_mac` is the bit _SHARES_MAC."""

    ifname: str
    ifindex: int
    mac: str
    network: str
    phase: str = "plugged"
    addresses: tuple[str, ...] = ()
    filter: bool = True
    vlan: int | None = None
    tagged: tuple[int, ...] | None = None
    mtu: int | None = None
    metric: int = 0
    roles: tuple[str, ...] = ()
    shares_mac: bool = False

    @classmethod
    def of_columns(cls, columns: Mapping[str, Any]) -> Self:
        bits = columns["filter"]
        roles = tuple(role for number, role in enumerate(ROLES, 1) if bits >> number & 1)
        return cls(**{**columns, "filter": bool(bits & 1), "roles": roles, "shares_mac": bool(bits & _SHARES_MAC)})

    def columns(self) -> dict[str, Any]:
        bits = sum(1 << number for number, role in enumerate(ROLES, 1) if role in self.roles)
        bits |= _SHARES_MAC if self.shares_mac else 0
        columns = {**super().columns(), "filter": self.filter | bits}
        del columns["roles"], columns["shares_mac"]
        return columns

    @classmethod
    def of(cls, domain: Domain, vif: Vif, network: str, frontend: str, ifindex: int, since: float) -> Self:
        """The owner of what a NIC of a domain needs."""
        return cls(
            id=nic_id(domain, vif.id or vif.mac),
            domain=domain.name,
            domain_id=domain.id,
            ifname=vif.ifname,
            ifindex=ifindex,
            mac=vif.mac,
            network=network,
            frontend=frontend,
            addresses=vif.addresses,
            filter=vif.filter,
            since=since,
            vlan=vif.vlan,
            tagged=vif.tagged,
            mtu=vif.mtu,
            metric=vif.metric,
            roles=vif.roles or (),
            shares_mac=vif.filter and not vif.is_alone,
        )

    @property
    def summary(self) -> str:
        return f"{self.ifname} on {self.network}" + (f" ({', '.join(self.addresses)})" if self.addresses else "")

    @property
    def where(self) -> str:
        return self.network

    @property
    def loss(self) -> str:
        return f"{self.ifname} is gone"

    @property
    def described(self) -> tuple[str, str]:
        """The kind and the link of the NIC's network, if a front end described it: it is called KIND:LINK then. ("", "") for a
        network of the configuration."""
        kind, _, link = self.network.partition(":")
        return (kind, link) if link else ("", "")

    @property
    def at_wire(self) -> Tap:
        """Its link, as the end of a wire."""
        return Tap(self.domain, self.mac, self.ifname, self.ifindex)

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
            roles=self.roles,
            shares_mac=self.shares_mac,
        )

    def is_here(self, index_of: IndexOf, name_now: NameNow) -> bool:
        # A name can come back as another domain's, and a link can get another name while its guest runs.
        return index_of(self.ifname) == self.ifindex or bool(name_now(self))

    def has_ended(self, gone: Collection[str], index_of: IndexOf, name_now: NameNow, now: float) -> bool:
        return self.domain_id in gone or not self.is_here(index_of, name_now)

    def follows_files(self, config: Config, needing: Callable[[str], Iterable[Owner]]) -> bool:
        return not self.described[0]

    def network_in(self, config: Config) -> Network | None:
        return config.networks.get(self.network)


class Preparation(GuestOwner):
    """What keeps the parts up that a domain needs, until its NICs are plugged. It claims no resources."""

    @classmethod
    def of(cls, domain: Domain, frontend: str, since: float) -> Self:
        """The preparation of a domain's start."""
        owner_id = nic_id(domain, "prepare")
        return cls(id=owner_id, domain=domain.name, domain_id=domain.id, frontend=frontend, phase="preparing", since=since)

    @property
    def summary(self) -> str:
        return "what its start needed"

    @property
    def where(self) -> str:
        return "prepared"

    @property
    def loss(self) -> str:
        return "was not started"

    def has_ended(self, gone: Collection[str], index_of: IndexOf, name_now: NameNow, now: float) -> bool:
        # Before `start` a domain has no tap, and its hypervisor may not call it running.
        return now - self.since > PREPARE_SECONDS


@dataclass(frozen=True, kw_only=True)
class HostOwner(Owner):
    """What is the host's own, and has a name there."""

    name: str
    phase: str = "active"

    @classmethod
    def of_columns(cls, columns: Mapping[str, Any]) -> Self:
        return cls(name=columns["network"], **{name: columns[name] for name in ("id", "frontend", "phase", "since")})

    def columns(self) -> dict[str, Any]:
        return {**super().columns(), "network": self.name}

    @property
    def where(self) -> str:
        return self.name

    @property
    def loss(self) -> str:
        return f"{self.name} is gone"


class Part(HostOwner):
    """What a declared part of the host is made of. `id` is the part's, `frontend` ASKED_FOR or NEEDED."""

    @property
    def is_asked_for(self) -> bool:
        return self.frontend == ASKED_FOR

    def as_needed(self) -> Self:
        """The part, once the admin does not ask for it any more."""
        return replace(self, frontend=NEEDED)

    def follows_files(self, config: Config, needing: Callable[[str], Iterable[Owner]]) -> bool:
        # Guests of a network that a front end describes may have brought it up.
        if self.is_asked_for or config.part(self.id):
            return True
        return any(other.follows_files(config, needing) for other in needing(self.id))


class DescribedNetwork(HostOwner):
    """What a network of the host's own is made of that a front end describes, and no file declares."""


def nics(owners: Iterable[Owner]) -> list[Nic]:
    """Those of the owners that are NICs."""
    return [owner for owner in owners if isinstance(owner, Nic)]


def nic_id(domain: Domain, name: str) -> str:
    """The id of the owner of what a domain's NIC needs; `name` tells it from the domain's others."""
    return f"{domain.id}/{name}"


def part_label(part_id: str) -> str:
    """What messages call a part of the host: `bridge br0`."""
    return part_id.replace(":", " ", 1)
