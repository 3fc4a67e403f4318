"""A bridge takes over what the host has on one of its ports: read, moved and moved back by iproute2.

`ip route replace` takes the words that `ip route show` prints, with all attributes of a route, also those that we do not know.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ...model.objects.bridge import Adoption
from .. import iproute2, sysfs
from ..netlink import View
from . import Edge, sysctl

# Words that iproute2 prints for a route, and does not take.
_NOT_WORDS = frozenset({"linkdown", "dead", "offload", "trap", "notify", "rt_offload", "rt_trap"})
# -N prints types as numbers, which iproute2 does not take.
_TYPES: Mapping[str, str] = {"2": "local", "3": "broadcast", "4": "anycast", "5": "multicast", "10": "nat"}
# Those of the device itself, or chosen by the kernel for each device.
_OWN_SYSCTLS = frozenset({"disable_ipv6", "stable_secret", "addr_gen_mode", "mtu", "mc_forwarding"})


class Adoptions(Edge[Adoption]):
    def read(self, wanted: Sequence[Adoption], view: View) -> Iterator[Adoption]:
        yield from (have for want in wanted if (have := _read(want, view.netlink.master(want.ifname))))

    def set(self, want: Adoption, have: Adoption | None, view: View) -> None:
        _move(want, to_bridge=True)

    def unset(self, have: Adoption, view: View) -> None:
        _move(have, to_bridge=False)


def survey(port: str, bridge: str) -> Adoption:
    """What the host has on `port` now. Raises KernelError."""
    disabled = sysctl.read(f"net/ipv6/conf/{port}/disable_ipv6")
    return Adoption(
        port,
        bridge,
        tuple(addresses(port)),
        (*routes(port, "-4"), *routes(port, "-6")),
        tuple(_neighbours(port)),
        tuple(_sysctls(port)),
        disabled == "0",
    )


def addresses(dev: str) -> list[str]:
    """The addresses of `dev` that are not made by the kernel, in the words of `ip addr`. Raises KernelError."""
    items = []
    for link in iproute2.rows("ip", "-N", "addr", "show", "dev", dev):
        for entry in link.get("addr_info", ()):
            # The kernel makes link-local addresses from the MAC, and renews temporary ones.
            if entry["scope"] in ("link", "253") and entry["family"] == "inet6" or entry.get("temporary"):
                continue
            items.append(_address_words(entry, dev))
    # The kernel puts a new IPv6 address first and a new IPv4 address last; the first is the source that it prefers.
    ipv6 = [item for item in items if ":" in item.split()[0]]
    return [*(item for item in items if item not in ipv6), *reversed(ipv6)]


def _address_words(entry: dict[str, Any], dev: str) -> str:
    words = [f"{entry['local']}/{entry['prefixlen']}"]
    if peer := entry.get("address"):
        words = [entry["local"], "peer", f"{peer}/{entry['prefixlen']}"]
    if broadcast := entry.get("broadcast"):
        words += ["broadcast", broadcast]
    words += ["scope", entry["scope"]]
    if mark := entry.get("protocol"):
        words += ["proto", mark]
    if label := entry.get("label", dev).removeprefix(dev):
        words += ["label", f"{{dev}}{label}"]
    if metric := entry.get("metric"):
        words += ["metric", str(metric)]
    words += [flag for flag in ("home", "mngtmpaddr", "noprefixroute", "autojoin") if entry.get(flag)]
    if entry["family"] == "inet6":
        words.append("nodad")
    valid, preferred = (_lifetime(entry.get(key)) for key in ("valid_life_time", "preferred_life_time"))
    if (valid, preferred) != ("forever", "forever"):
        words += ["valid_lft", valid, "preferred_lft", preferred]
    return " ".join(words)


def _lifetime(seconds: int | None) -> str:
    return "forever" if seconds is None or seconds == (1 << 32) - 1 else str(seconds)


def routes(dev: str, family: str) -> list[str]:
    """The routes through `dev` that the kernel has not made itself, in the words of `ip route`. Raises KernelError."""
    items = []
    for line in iproute2.run("ip", "-N", "-o", family, "route", "show", "table", "all").splitlines():
        words = line.replace("\\", " ").split()
        if not any(pair == ("dev", dev) for pair in zip(words, words[1:], strict=False)):
            continue
        # The kernel's own come and go with the address.
        if _value(words, "proto") == "2":
            continue
        items.append(_route_words(words, dev, family))
    # Gateways are reached by routes without one: those first.
    return sorted(items, key=lambda item: " via " in item)


def add_addresses(items: list[str], dev: str) -> None:
    """Put those of the addresses on `dev` that are not there. Raises KernelError."""
    if items:
        iproute2.batch((f"addr add {item} dev {dev}".format(dev=dev) for item in items), force=True)


def add_routes(items: list[str], dev: str) -> None:
    """Make those of the routes that are not there. Raises KernelError."""
    if items:
        iproute2.batch((f"route add {item}".format(dev=dev) for item in items), force=True)


def _route_words(words: list[str], dev: str, family: str) -> str:
    if words[0] in _TYPES:
        words[0] = _TYPES[words[0]]
    at = 1 if words[0] in _TYPES.values() else 0
    if words[at] == "default":
        words[at] = "0.0.0.0/0" if family == "-4" else "::/0"
    result: list[str] = []
    for number, word in enumerate(words):
        if word in _NOT_WORDS:
            continue
        before = words[number - 1] if number else ""
        if word == "lock" and before == "rto_min":
            # rto_min is always locked; iproute2 does not take the word.
            continue
        if word == dev and before == "dev":
            word = "{dev}"
        result.append(word.removesuffix("sec") if before == "expires" else word)
    return " ".join(result)


def _value(words: list[str], key: str) -> str:
    return words[words.index(key) + 1] if key in words[:-1] else ""


def _neighbours(dev: str) -> list[str]:
    found = iproute2.rows("ip", "neigh", "show", "dev", dev, "nud", "permanent")
    items = [f"{entry['dst']} lladdr {entry['lladdr']} nud permanent" for entry in found if entry.get("lladdr")]
    proxies = iproute2.rows("ip", "neigh", "show", "proxy", "dev", dev)
    return items + [f"proxy {entry['dst']}" for entry in proxies]


def _sysctls(dev: str) -> list[str]:
    items = []
    for base in ("net/ipv4/conf", "net/ipv6/conf", "net/ipv4/neigh", "net/ipv6/neigh"):
        root = f"{sysctl.ROOT}/{base}"
        if not os.path.isdir(f"{root}/{dev}"):
            continue
        # Neighbour tables have no defaults outside of the initial namespace: there, lo has what a new link gets.
        default = "default" if os.path.isdir(f"{root}/default") else "lo"
        for name in sorted(set(os.listdir(f"{root}/{dev}")) - _OWN_SYSCTLS):
            mine, usual = (sysctl.read(f"{base}/{where}/{name}") for where in (dev, default))
            if mine is not None and mine != usual:
                items.append(f"{base}/{{dev}}/{name}={mine}")
    return items


def _read(want: Adoption, master: str) -> Adoption | None:
    """How much of an adoption there is; None if nothing. `master` is the port's current one."""
    there = survey(want.bridge, want.bridge) if sysfs.exists(want.bridge) else Adoption("", "")

    def found(wanted: tuple[str, ...], present: tuple[str, ...]) -> tuple[str, ...]:
        known = {_identity(item): item for item in wanted}
        # What was added later is the host's too, except for what we put there for guests.
        return tuple(
            known.get(_identity(item), item) for item in present if _identity(item) in known or not Adoption.is_ours(item)
        )

    have = Adoption(
        want.ifname,
        want.bridge,
        found(want.addresses, there.addresses),
        found(want.routes, there.routes),
        found(want.neighbours, there.neighbours),
        want.sysctls,
        want.ipv6,
        master,
        want.bond,
    )
    moved = (have.addresses, have.routes, have.neighbours)
    # A bond may have the port for another link that took over from it.
    return have if any(moved) or (master == want.joins and not want.bond) else None


def _identity(item: str) -> tuple[str, ...]:
    """What identifies an address, route or neighbour, without what changes with time."""
    words = item.split()
    keys = ("via", "table", "metric", "lladdr", "peer", "tos")
    return (*words[: 2 if words[0] in (*_TYPES.values(), "proxy") else 1], *(_value(words, key) for key in keys))


def _move(adoption: Adoption, to_bridge: bool) -> None:
    """Do the whole switch, or undo it. Raises KernelError."""
    for path, value in adoption.sysctl_writes(to_bridge):
        if sysctl.read(path) not in (None, value):
            sysctl.write_value(path, value)
    if not to_bridge:
        # Half of them are on the bridge. The others would stay first: take them off, so that all come back in order.
        left = [item for item in addresses(adoption.ifname) if item in adoption.addresses]
        if left and len(left) < len(adoption.addresses):
            iproute2.batch((f"addr del {item.split()[0]} dev {adoption.ifname}" for item in left), force=True)
    must, may = adoption.commands(to_bridge)
    iproute2.batch(must)
    if may:
        iproute2.batch(may, force=True)
    if to_bridge and adoption.ipv6:
        sysctl.write_value(f"net/ipv6/conf/{adoption.ifname}/disable_ipv6", "1")


EDGES: Mapping[str, Edge] = {Adoption.kind: Adoptions()}
