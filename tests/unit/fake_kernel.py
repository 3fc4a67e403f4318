"""A kernel that is a dictionary: engine.Kernel's protocol over `world`, with the side effects that matter, and faults.

Faithful where undo and clean-up could go wrong: nft transactions are atomic and take their table's elements along,
adding what is there already and deleting nft elements that are not fail, a link that goes takes everything bound to it,
one that goes down loses its routes, neighbours and IPv6 addresses, and `isolated` exists only for a bridge's port.
"""

import itertools
from collections.abc import Iterable
from dataclasses import replace

from vmnet_hooks import values
from vmnet_hooks.compose import Host, Link
from vmnet_hooks.errors import KernelError
from vmnet_hooks.plan import Change, Plan
from vmnet_hooks.state import (
    Address,
    LinkAttribute,
    Neighbour,
    NftElement,
    NftTable,
    ProxyNeighbour,
    Resource,
    Route,
    Rule,
    Sysctl,
    TableName,
)


class Killed(BaseException):
    """SIGKILL: from here on this kernel answers nothing, so that no undo can run."""


# Unlike what any mode wants, so that every value must be put back.
_DEVICE_SYSCTLS = {
    "net/ipv4/conf/{}/forwarding": "0",
    "net/ipv4/conf/{}/proxy_arp": "0",
    "net/ipv4/conf/{}/send_redirects": "1",
    "net/ipv4/conf/{}/rp_filter": "2",
    "net/ipv4/neigh/{}/proxy_delay": "80",
}
_DEVICE_SYSCTLS6 = {
    "net/ipv6/conf/{}/forwarding": "0",
    "net/ipv6/conf/{}/accept_ra": "1",
    "net/ipv6/conf/{}/addr_gen_mode": "0",
    "net/ipv6/conf/{}/disable_ipv6": "0",
    "net/ipv6/conf/{}/proxy_ndp": "0",
    "net/ipv6/neigh/{}/proxy_delay": "80",
}


class FakeKernel:
    """`fail_at` and `kill_at` count calls of `apply` from 0; `late` lets the step happen first. `stuck` keys can't be
    changed, `lost` keys are changed without effect, `vanish` = (call, link) takes a link away before that call."""

    def __init__(self, ipv6: bool = True, ra_links: tuple[str, ...] = (), rp_filter: int = 0) -> None:
        self.world: dict[str, Resource] = {}
        self.links: dict[str, Link] = {}
        self.ipv6, self.ra_links, self.rp_filter = ipv6, ra_links, rp_filter
        self._indexes = itertools.count(1)
        self.put(Sysctl("net/ipv4/conf/all/send_redirects", "1"))
        if ipv6:
            self.put(Sysctl("net/ipv6/conf/all/forwarding", "0"))
        self.clear_faults()

    def clear_faults(self) -> None:
        self.calls = 0
        self.steps: list[Plan] = []
        self.fail_at: int | None = None
        self.kill_at: int | None = None
        self.late = False
        self.stuck: set[str] = set()
        self.lost: set[str] = set()
        self.vanish: tuple[int, str] | None = None
        self.dead = False

    # --- building the world ------------------------------------------------------------------------------------------

    def put(self, *resources: Resource) -> None:
        for resource in resources:
            self.world[resource.key] = resource

    def add_link(self, name: str, kind: str = "", mtu: int = 1500, address: str = "", up: bool = False) -> Link:
        index = next(self._indexes)
        address = address or f"02:00:00:00:00:{index % 256:02x}"
        self.links[name] = Link(index, mtu, address, kind, up)
        self.put(
            LinkAttribute(name, "mtu", str(mtu)),
            LinkAttribute(name, "address", address),
            LinkAttribute(name, "master", ""),
            LinkAttribute(name, "lladdr", ""),
            LinkAttribute(name, "state", "down"),
        )
        for path, value in {**_DEVICE_SYSCTLS, **(_DEVICE_SYSCTLS6 if self.ipv6 else {})}.items():
            self.put(Sysctl(path.format(name), value))
        if up:
            self._set_link(LinkAttribute(name, "state", "up"))
        return self.links[name]

    def remove_link(self, name: str) -> None:
        self.links.pop(name, None)
        for key, resource in list(self.world.items()):
            if _device(resource) == name:
                del self.world[key]
            elif isinstance(resource, LinkAttribute) and resource.name == "master" and resource.value == name:
                self.put(replace(resource, value=""))

    def snapshot(self) -> dict[str, Resource]:
        # The protocol number of a route or rule counts too, though == leaves a rule's out.
        return {key: (resource, getattr(resource, "proto", None)) for key, resource in self.world.items()}

    # --- engine.Kernel -----------------------------------------------------------------------------------------------

    def close(self) -> None:
        pass

    def link(self, ifname: str) -> Link | None:
        self._alive()
        return self.links.get(ifname)

    def host(self, links: Iterable[str]) -> Host:
        self._alive()
        found = {name: self.links[name] for name in links if name in self.links}
        return Host(found, self.ipv6, self.ra_links, self.rp_filter)

    def read(self, wanted: Iterable[Resource]) -> dict[str, Resource]:
        self._alive()
        return {r.key: self.world[r.key] for r in wanted if r.key in self.world}

    def ours(self) -> dict[str, Resource]:
        self._alive()
        return {k: r for k, r in self.world.items() if isinstance(r, Route | Rule | NftElement) and r.ours}

    def finish(self) -> None:
        self._alive()

    def apply(self, step: Plan) -> None:
        self._alive()
        call, self.calls = self.calls, self.calls + 1
        self.steps.append(list(step))
        if self.vanish and self.vanish[0] == call:
            self.remove_link(self.vanish[1])
        if call == self.kill_at and not self.late:
            self.dead = True
            raise Killed
        if call == self.fail_at and not self.late:
            raise KernelError(f"{label(step)}: injected")
        for change in step:
            if change.subject.key in self.stuck:
                raise KernelError(f"{label(step)}: stuck")
        if any(isinstance(change.subject, NftElement | NftTable) for change in step):
            self._transaction(step)
        else:
            assert len(step) == 1, "only nft changes share a step"
            self._one(step)
        if call == self.kill_at:
            self.dead = True
            raise Killed
        if call == self.fail_at:
            raise KernelError(f"{label(step)}: injected")

    def _alive(self) -> None:
        if self.dead:
            raise Killed

    # --- nft ---------------------------------------------------------------------------------------------------------

    def _transaction(self, step: Plan) -> None:
        saved = dict(self.world)
        try:
            for change in step:
                self._nft(change, step)
        except KernelError:
            self.world = saved
            raise

    def _nft(self, change: Change, step: Plan) -> None:
        subject, want, have = change.subject, change.want, change.have
        if subject.key in self.lost:
            return
        if isinstance(subject, NftTable):
            if want is None and subject.key not in self.world:
                raise KernelError(f"{label(step)}: no such table")
            for key, resource in list(self.world.items()):
                if isinstance(resource, NftElement) and resource.family == subject.family:
                    del self.world[key]
            self.world.pop(subject.key, None)
            if want is not None:
                self.put(want)
            return
        assert isinstance(subject, NftElement)
        if f"nft {subject.family}" not in self.world:
            raise KernelError(f"{label(step)}: no such table")
        if have is not None:
            if subject.key not in self.world:
                raise KernelError(f"{label(step)}: no such element {subject.key}")
            del self.world[subject.key]
        if want is not None:
            if self.world.get(subject.key, want) != want:
                raise KernelError(f"{label(step)}: element exists with another value {subject.key}")
            self.put(want)

    # --- everything else ---------------------------------------------------------------------------------------------

    def _one(self, step: Plan) -> None:
        change = step[0]
        subject, want = change.subject, change.want
        dev = _device(subject)
        if want is None:
            if dev is None or dev in self.links:
                if isinstance(subject, LinkAttribute):
                    if subject.key in self.world and subject.key not in self.lost:
                        self.put(replace(subject, value="off"))
                elif isinstance(subject, Sysctl):
                    pass
                elif subject.key not in self.lost:
                    self.world.pop(subject.key, None)
            return
        if dev is not None and dev not in self.links and not dev.startswith("all"):
            raise KernelError(f"{label(step)}: {dev} does not exist (any more)")
        if isinstance(want, Sysctl) and want.key not in self.world:
            raise KernelError(f"{label(step)}: No such file or directory")
        if isinstance(want, Route) and change.have is None and want.key in self.world:
            raise KernelError(f"{label(step)}: File exists")
        if isinstance(want, Rule | Address) and want.key in self.world:
            raise KernelError(f"{label(step)}: File exists")
        if isinstance(want, Route) and self.world[f"link {want.dev} state"].value == "down":
            raise KernelError(f"{label(step)}: Network is down")
        if isinstance(want, LinkAttribute) and want.name == "master" and want.value and want.value not in self.links:
            raise KernelError(f"{label(step)}: {want.value} does not exist (any more)")
        if isinstance(want, LinkAttribute) and want.name == "isolated" and want.key not in self.world:
            raise KernelError(f"{label(step)}: Operation not supported")
        if want.key in self.lost:
            return
        if isinstance(want, LinkAttribute):
            self._set_link(want)
            return
        self.put(want)
        if isinstance(want, Sysctl) and want.path == f"net/ipv6/conf/{dev}/disable_ipv6":
            self._ipv6_switched(dev, off=want.value == "1")

    def _set_link(self, want: LinkAttribute) -> None:
        name, link = want.ifname, self.links[want.ifname]
        was = self.world.get(want.key)
        self.put(want)
        match want.name:
            case "mtu":
                self.links[name] = replace(link, mtu=int(want.value))
            case "address":
                self.links[name] = replace(link, address=want.value)
            case "master":
                if want.value:
                    self.world.setdefault(f"link {name} isolated", LinkAttribute(name, "isolated", "off"))
                else:
                    self.world.pop(f"link {name} isolated", None)
            case "state":
                self.links[name] = replace(link, up=want.value == "up")
                if want.value == "down":
                    self._down(name)
                elif was is None or was.value == "down":
                    self._make_link_local(name)

    def _down(self, dev: str) -> None:
        for key, resource in list(self.world.items()):
            gone = isinstance(resource, Route | Neighbour | ProxyNeighbour)
            gone = gone or (isinstance(resource, Address) and ":" in resource.address)
            if gone and _device(resource) == dev:
                del self.world[key]
        self.put(LinkAttribute(dev, "lladdr", ""))

    def _make_link_local(self, dev: str) -> None:
        disabled = self.world.get(f"sysctl net/ipv6/conf/{dev}/disable_ipv6")
        mode = self.world.get(f"sysctl net/ipv6/conf/{dev}/addr_gen_mode")
        up = self.world[f"link {dev} state"].value == "up"
        have = self.world[f"link {dev} lladdr"]
        if not up or not disabled or disabled.value != "0" or mode.value != "0" or have.value:
            return
        made = values.eui64(values.LINK_LOCAL, self.links[dev].address)
        self.put(LinkAttribute(dev, "lladdr", f"{made}/64"))

    def _ipv6_switched(self, dev: str, off: bool) -> None:
        if not off:
            self._make_link_local(dev)
            return
        for key, resource in list(self.world.items()):
            six = isinstance(resource, Route) and resource.family == 6
            six = six or isinstance(resource, ProxyNeighbour)
            six = six or (isinstance(resource, Address | Neighbour) and ":" in resource.address)
            if six and _device(resource) == dev:
                del self.world[key]
        self.put(LinkAttribute(dev, "lladdr", ""))


def label(step: Plan) -> str:
    """The step as kernel.Kernel.apply names it."""
    if len(step) == 1:
        return str(step[0]).splitlines()[0]
    return f"nft transaction of {len(step)} changes on {step[0].subject.key}"


def _device(resource: Resource) -> str | None:
    """The link that a resource dies with."""
    match resource:
        case LinkAttribute() | Address() | Neighbour() | ProxyNeighbour():
            return resource.ifname
        case Route():
            return resource.dev
        case Sysctl():
            dev = resource.path.split("/")[3]
            return None if dev == "all" else dev
        case NftTable() | NftElement() | TableName() | Rule():
            return None
    raise TypeError(resource)
