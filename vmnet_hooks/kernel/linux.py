"""The kernel of this process's network namespace, behind one face: netlink, nftables, sysctls and iproute2's table names."""

import errno
import os
from collections.abc import Iterable
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, Any

from ..errors import ConflictError, InTheWay, KernelError
from ..model.facts import Host, Link
from ..model.objects import FORWARDING_GATE, Adoption, Device, HostName, NftElement, NftTable, Route, Sysctl, TableName
from ..model.plan import Plan
from ..model.resource import Resource
from ..model.ruleset import TABLES
from . import sysctl, sysfs
from .framing import NetlinkError
from .netlink import Netlink
from .nft import Nft

if TYPE_CHECKING:
    from .monitor.table_cache import TableCache


class Kernel:
    """Reads and changes the network namespace of this process. With a `memory` (in a process that stays), our nft
    tables and the networks' routes are only read once somebody has touched them."""

    def __init__(self, memory: "TableCache | None" = None) -> None:
        try:
            self.netlink = Netlink(stays=memory is not None)
        except (NetlinkError, OSError) as error:
            raise KernelError(f"no rtnetlink socket: {error}") from None
        self.nft = Nft(memory)

    def close(self) -> None:
        self.netlink.close()
        self.nft.close()

    def link(self, ifname: str) -> Link | None:
        """What the kernel says of a link; None if there is none of that name."""
        return self.netlink.link(ifname)

    def has_sent(self, ifname: str) -> bool:
        """Whether a tap's guest is known to have sent anything."""
        return sysfs.has_sent(ifname)

    def rename(self, ifname: str, name: str) -> None:
        """Calls a link, which must be down, `name`. Raises ConflictError if another one is called so, or KernelError."""
        try:
            self.netlink.rename(ifname, name)
        except (NetlinkError, OSError) as error:
            if isinstance(error, NetlinkError) and error.code == errno.EEXIST:
                reason = "there is an interface of that name already; choose another vifname, or remove that one"
                raise ConflictError(f"{ifname} can't be called {name}: {reason}") from None
            raise KernelError(f"{ifname} can't be called {name}: {_reason(error)}") from None

    def ports(self, ifname: str) -> list[str]:
        """The links whose master is `ifname`."""
        return self.netlink.ports(ifname)

    def host(self, links: Iterable[str], ports: Iterable[str] = ()) -> Host:
        """The facts that a composition depends on. Links that do not exist are left out; of `ports`, the addresses are
        looked at too."""
        ipv6 = os.path.exists(f"{sysctl.ROOT}/net/ipv6/conf")
        found = {name: link for name in dict.fromkeys(links) if name and (link := self.netlink.link(name))}
        ra_links = self.netlink.ra_links() if ipv6 else ()
        rp_filter = int(sysctl.read("net/ipv4/conf/all/rp_filter") or 0)
        router6 = sysctl.read(FORWARDING_GATE) == "1"
        addresses = {name: self.netlink.addresses(name) for name in ports if name in found}
        return Host(found, ipv6, ra_links, rp_filter, router6, addresses, _vlans(), machine=_machine())

    def survey(self, port: str, bridge: str) -> Adoption:
        """What `bridge` has to take over if it adopts `port`. Raises KernelError."""
        return _rare("adoption").survey(port, bridge)

    def obstacle(self, port: str) -> str:
        """Why a bridge must not adopt `port`; "" if it may."""
        return _rare("adoption_obstacle").obstacle(port)

    def hazards(self, bridged: bool, anycast: bool, permanent: tuple[int, int]) -> list[str]:
        """What of other firewalls breaks what we set up, and what is nearly full: see other_firewalls and limits."""
        return [*_rare("other_firewalls").hazards(self.nft, bridged, anycast), *_rare("limits").ceilings(permanent)]

    def read(self, wanted: Iterable[Resource]) -> dict[str, Resource]:
        """What is there now under the keys of `wanted`. Raises KernelError."""
        found: dict[str, Resource] = {}
        elements, rest = [], []
        for resource in wanted:
            match resource:
                case NftTable():
                    have: Resource | None = self.nft.table(resource)
                case NftElement():
                    elements.append(resource)
                    continue
                case TableName():
                    have = resource if os.path.exists(resource.path) else None
                case HostName():
                    have = _read_host_name(resource)
                case _:
                    rest.append(resource)
                    continue
            if have is not None:
                found[resource.key] = have
        try:
            found.update(self.netlink.read(rest))
        except (NetlinkError, OSError) as error:
            raise KernelError(f"reading the kernel's state: {_reason(error)}") from None
        found.update(self.nft.elements(elements))
        return found

    def apply(self, step: Plan) -> None:
        """Does one step of `plan.batches`: one change, or several nft changes as one transaction. Raises KernelError that
        names the step."""
        first = step[0]
        try:
            match first.subject:
                case NftTable() | NftElement():
                    self.nft.apply(step)
                case Sysctl() as value:
                    if first.want:
                        sysctl.write(value)
                case TableName() as name:
                    _write(name, f"{name.table} {name.name}\n" if first.want else "")
                case HostName() as name:
                    _write(name, name.text if first.want else "")
                case _:
                    if first.want:
                        self.netlink.set(first.want, first.have)
                    else:
                        self.netlink.unset(first.subject)
        except (KernelError, NetlinkError, OSError) as error:
            label = str(first) if len(step) == 1 else f"nft transaction of {len(step)} changes on {first.subject.key}"
            reason = _reason(error)
            if isinstance(error, NetlinkError) and error.code == errno.EEXIST and isinstance(first.subject, Route):
                reason = "the host has another such route; remove that one, or `gateway` from the declaration"
            is_taken = isinstance(error, NetlinkError) and error.code == errno.EEXIST and isinstance(first.subject, Device)
            raise (InTheWay if is_taken else KernelError)(f"{label.splitlines()[0]}: {reason}") from None

    def finish(self) -> None:
        """Ends the one step that a process can be killed in the middle of. Needs the lock. Raises KernelError."""
        try:
            sysctl.finish()
        except OSError as error:
            raise KernelError(f"{sysctl.SAVED}: {_reason(error)}") from None

    def ours(self) -> dict[str, Resource]:
        """Everything in the kernel that shows by itself that it is ours: routes and rules by their protocol number, and
        the elements of our nft tables."""
        found: dict[str, Resource] = {}
        try:
            rules = (rule for rule in self.netlink.rules() if rule.ours)
            for resource in (*self.netlink.our_devices(), *self.netlink.our_routes(), *rules):
                found[resource.key] = resource
        except (NetlinkError, OSError) as error:
            raise KernelError(f"reading the kernel's state: {_reason(error)}") from None
        for family in dict.fromkeys(table.family for table in TABLES):
            found.update(self.nft.listing(family))
        for table in self.nft.port_tables():
            found[table.key] = table
        return found


def _rare(name: str) -> Any:
    """A module that few calls need, and that takes longer to load than a guest takes to plug in."""
    return import_module(f"vmnet_hooks.kernel.{name}")


def _vlans() -> dict[tuple[str, int], str]:
    """The VLAN devices of this namespace by (parent, ID). From proc: a dump of all links costs more with every guest."""
    try:
        with open("/proc/net/vlan/config") as file:
            rows = [[cell.strip() for cell in line.split("|")] for line in file if line.count("|") == 2]
    except FileNotFoundError:
        return {}
    return {(parent, int(vid)): name for name, vid, parent in rows if vid.isdecimal()}


def _machine() -> str:
    """What tells this machine from others, machine-id(5); "" if it has none, or none yet."""
    try:
        return _machine_id()
    except OSError:
        return ""


@cache
def _machine_id() -> str:
    with open("/etc/machine-id") as file:
        if not (text := file.read().strip()):
            raise FileNotFoundError
        return text


def _reason(error: Exception) -> str:
    if isinstance(error, NetlinkError):
        if error.code == errno.EEXIST:
            return "something is in the way there already; remove it, or see `vmnet-hook check`"
        return os.strerror(error.code) + ("; run as root" if error.code == errno.EPERM else "")
    if isinstance(error, FileNotFoundError):
        return "no such setting; is the link gone, or its MTU below 1280 (IPv6)?"
    if isinstance(error, PermissionError):
        return f"{error.strerror}; run as root"
    if isinstance(error, OSError):
        return error.strerror or str(error)
    return str(error)


def _read_host_name(want: HostName) -> HostName | None:
    try:
        with open(want.path) as file:
            rows = [line.split() for line in file]
    except FileNotFoundError:
        return None
    names = {row[1] for row in rows if len(row) == 2}
    return HostName(want.ifname, ",".join(sorted(names)), tuple(row[0] for row in rows if row))


def _write(file: TableName | HostName, text: str) -> None:
    """Writes a file, or removes it where there is nothing to write."""
    if not text:
        if os.path.exists(file.path):
            os.unlink(file.path)
        return
    os.makedirs(file.DIRECTORY, exist_ok=True)
    with open(file.path, "w") as opened:
        opened.write(text)
    # Others read them: iproute2 for everybody, dnsmasq. Our umask is our caller's.
    for path, bits in ((file.DIRECTORY, 0o755), (file.path, 0o644)):
        os.chmod(path, bits)
