"""Converts the kernel's links, addresses and routes to drafts of parts in vmnet.toml."""

import re
from typing import Any

from .. import values
from ..declared import SECTIONS
from ..errors import one_line
from ..graph.build import BEHIND
from ..kernel.import_facts import LiveAddress, LiveHost, LiveRoute
from ..links.link import interfaces, is_on_link
from ..model.resource import ALIAS, MAIN_TABLE
from ..model.topology import LinkDetails
from .draft import Block, Draft, Left

KERNEL = "kernel"
MOST = 100
"""Routes that are listed, at most: a router may have hundreds of thousands."""

# File in sysfs: (option, the kernel's default, kernel units per unit of the option).
_BRIDGE = {
    "forward_delay": ("forward_delay", "1500", 100),
    "hello_time": ("hello_time", "200", 100),
    "max_age": ("max_age", "2000", 100),
    "priority": ("priority", "32768", 1),
}
_BOND = {
    "updelay": ("updelay", "0"),
    "downdelay": ("downdelay", "0"),
    "lacp_rate": ("lacp_rate", "slow 0"),
    "xmit_hash_policy": ("xmit_hash_policy", "layer2 0"),
    "primary": ("primary", ""),
}


MADE = (
    (re.compile(r"virbr\d+(-nic)?"), "libvirtd"),
    (re.compile(r"docker0|docker_gwbridge|br-[0-9a-f]{12}"), "Docker"),
    (re.compile(r"lxcbr\d+"), "LXC"),
    (re.compile(r"lxdbr\d+"), "LXD"),
    (re.compile(r"incusbr\d+"), "Incus"),
    (re.compile(r"(cni-)?podman\d+"), "Podman"),
    (re.compile(r"(fwbr|fwpr|fwln|tap|veth)\d+[ip]\d+"), "Proxmox VE"),
    (re.compile(r"cni\d+|kube-bridge|flannel\.\d+|kube-ipvs0|nodelocaldns"), "Kubernetes"),
    (re.compile(r"mpqemubr\d+"), "Multipass"),
)
"""The names that programs give to the links that they make."""


def convert(host: LiveHost) -> list[Block]:
    """Return the drafts in the order in which the links were made, with what is not carried over."""
    return _Converter(host).blocks()


class _Converter:
    def __init__(self, host: LiveHost) -> None:
        self.host = host
        self.links = {link.name: link for link in host.links}
        self.ports: dict[str, list[LinkDetails]] = {}
        for link in host.links:
            if link.master:
                self.ports.setdefault(link.master, []).append(link)
        self.result: dict[str, Block] = {}
        self.made: set[str] = set()
        """The links that other programs made."""

    def blocks(self) -> list[Block]:
        for link in self.host.links:
            if link.kind == "loopback" or link.name == "lo":
                continue
            if maker := self._maker(link):
                self.result[link.name] = Block(left=[Left(KERNEL, f"{link.name} ({link.kind or 'NIC'})", f"{maker} made it")])
                self.made.add(link.name)
            else:
                self.result[link.name] = self._link(link)
        for address in self.host.addresses:
            self._address(address)
        rest = Block()
        self._routes(rest)
        rest.left += [Left(KERNEL, rule, "vmnet-hooks leaves the rules of other programs alone") for rule in self.host.rules]
        return [*self.result.values(), rest]

    def _maker(self, link: LinkDetails) -> str:
        """Return the program that made a link, and that makes it again when it is needed; "" for the admin or for us."""
        if link.alias == ALIAS:
            return ""
        by_name = next((program for name, program in MADE if name.fullmatch(link.name)), "")
        # A NIC that udev calls so would have a name like one of these, but no kind.
        return self.host.makers.get(link.name) or (by_name if link.kind else "")

    def _link(self, link: LinkDetails) -> Block:
        block = Block()
        section = next((row.name for row in SECTIONS.rows.values() if row.word == link.kind and SECTIONS[row.name].is_link), "")
        if not section:
            if link.alias == ALIAS:
                block.left.append(Left(KERNEL, f"{link.name} ({link.kind})", "vmnet-hooks made it"))
            elif link.kind and not _guest(link) and link.kind not in ("veth", "tun"):
                block.left.append(Left(KERNEL, f"ip link add {link.name} type {link.kind}", "vmnet-hooks makes no such links"))
            return block
        block.draft = draft = Draft(section, link.name)
        draft.headers.append((KERNEL, f"ip link add {link.name} type {link.kind}"))
        if link.alias == ALIAS:
            block.notes.append(f"{one_line(link.name)} was made by vmnet-hooks: it is declared already")
        if not link.up:
            block.notes.append(f"{one_line(link.name)} is down now; `vmnet-hook up` would bring it up")
        settings = self.host.settings.get(link.name, {})
        match link.kind:
            case "vlan":
                self._set(draft, "parent", link.parent)
                self._set(draft, "id", link.vid)
                if link.protocol == "802.1ad":
                    self._set(draft, "protocol", link.protocol)
            case "bond":
                self._bond(link, draft, settings)
            case "bridge":
                self._bridge(link, block, draft, settings)
        self._lower(link, draft)
        return block

    def _set(self, draft: Draft, option: str, value: Any) -> None:
        draft.set(option, value, KERNEL, f"{option} {value} of {draft.name}")

    def _bond(self, link: LinkDetails, draft: Draft, settings: dict[str, str]) -> None:
        self._set(draft, "ports", [port.name for port in self.ports.get(link.name, ())])
        self._set(draft, "mode", link.mode)
        if miimon := settings.get("miimon", ""):
            self._set(draft, "miimon", int(miimon))
        for file, (option, default) in _BOND.items():
            text = settings.get(file, default)
            if text and text != default:
                word = text.split()[0]
                if option != "lacp_rate" or draft.options["mode"] == "802.3ad":
                    self._set(draft, option, int(word) if word.isdecimal() else word)

    def _bridge(self, link: LinkDetails, block: Block, draft: Draft, settings: dict[str, str]) -> None:
        ports = [port for port in self.ports.get(link.name, ()) if not _guest(port) and port.name not in self.made]
        self._set(draft, "ports", [port.name for port in ports])
        for port in self.ports.get(link.name, ()):
            if _guest(port) and port.name not in self.made:
                text = f"ip link set {port.name} master {link.name}"
                block.left.append(Left(KERNEL, text, "taps of guests become ports when the guests start"))
        if link.stp:
            self._set(draft, "stp", True)
            for file, (option, default, units) in _BRIDGE.items():
                if (text := settings.get(file, default)) != default:
                    self._set(draft, option, int(text) // units)
        if link.stp and settings.get("topology_change", "0") != "0":
            # During a topology change, ageing_time is twice the forward delay, not the configured value.
            block.notes.append(f"{one_line(link.name)}: an STP topology change hides its `ageing`; import again afterwards")
        elif (text := settings.get("ageing_time", "30000")) != "30000":
            self._set(draft, "ageing", int(text) // 100)
        if mask := int(settings.get("group_fwd_mask", "0"), 0):
            self._set(draft, "group_fwd_mask", mask)
        if settings.get("multicast_snooping", "1") == "0":
            self._set(draft, "mcast_snooping", False)
        if link.vlan_aware:
            self._vlans(link, block, draft, ports)

    def _vlans(self, link: LinkDetails, block: Block, draft: Draft, ports: list[LinkDetails]) -> None:
        self._set(draft, "vlan_filtering", True)
        tagged = {port.tagged for port in ports}
        if len(tagged) == 1 and tagged != {""} and tagged != {"2-4094"}:
            self._set(draft, "vlans", [int(word) if word.isdecimal() else word for word in tagged.pop().split(",")])
        else:
            for port in ports:
                if len(tagged) > 1:
                    text = f"bridge vlan of {port.name}: {port.tagged or 'none'}"
                    block.left.append(Left(KERNEL, text, "all ports of a bridge carry the same VLANs"))
        pvid = next((port.untagged for port in ports if port.untagged), link.untagged)
        if pvid:
            self._set(draft, "pvid", pvid)
        for port in (*ports, link):
            if port.untagged != pvid:
                text = f"bridge vlan of {port.name}: untagged {port.untagged or 'none'}"
                block.left.append(Left(KERNEL, text, "the ports of a bridge and the host have the same untagged VLAN"))

    def _lower(self, link: LinkDetails, draft: Draft) -> None:
        """Set MTU and MAC where they differ from those that the lower links imply."""
        names = [*draft.options.get("ports", ()), *filter(None, (draft.options.get("parent"),))]
        below = [self.links[name] for name in names if name in self.links]
        if link.mtu != min((lower.mtu for lower in below), default=1500):
            self._set(draft, "mtu", link.mtu)
        if not below:
            self._set(draft, "mac", link.mac)
        elif link.mac != below[0].mac:
            twin = next((lower.name for lower in below if lower.mac == link.mac), "")
            if twin and link.kind == "bridge":
                self._set(draft, "hw_port", twin)
            else:
                self._set(draft, "mac", link.mac)

    def _address(self, address: LiveAddress) -> None:
        block = self.result.get(address.ifname)
        if block is None or address.ifname in self.made:
            return
        words = address.address
        if address.peer:
            own, _, length = address.address.partition("/")
            words = f"{own} peer {address.peer}/{length}"
        text = f"ip addr add {words} dev {address.ifname}"
        if not address.permanent:
            block.left.append(Left(KERNEL, text, "it was learned and expires; vmnet-hooks sets static addresses only"))
        elif block.draft is None:
            block.left.append(Left(KERNEL, text, f"{address.ifname} is not a link that vmnet-hooks makes"))
        else:
            block.draft.options.setdefault("addresses", []).append(words)
            block.draft.sources.setdefault("addresses", []).append((KERNEL, text))

    def _routes(self, rest: Block) -> None:
        left = [left for route in self.host.routes if (left := self._route(route))]
        rest.left += left[:MOST]
        if len(left) > MOST:
            rest.left.append(
                Left(KERNEL, f"{len(left) - MOST} more routes", "vmnet-hooks leaves the routes of other programs alone")
            )
        for block in self.result.values():
            if block.draft:
                for gateway in block.draft.options.get("gateway", ()):
                    if not _reaches(block.draft, gateway):
                        sources = [source for source in block.draft.sources["gateway"] if f" via {gateway} " in source[1]]
                        block.draft.options.setdefault("routes", []).append({"to": gateway})
                        block.draft.sources.setdefault("routes", []).extend(sources)
            if block.draft and len(gateways := block.draft.options.get("gateway", ())) == 1:
                block.draft.options["gateway"] = gateways[0]

    def _route(self, route: LiveRoute) -> Left | None:
        text = f"ip route add {route.destination}" + (f" via {route.via}" if route.via else "")
        text += (f" dev {route.dev}" if route.dev else "") + (f" metric {route.metric}" if route.metric else "")
        text += f" table {route.table}" if route.table != MAIN_TABLE else ""
        text += (f" src {route.src}" if route.src else "") + (f" mtu {route.mtu}" if route.mtu else "")
        if route.protocol:
            return Left(KERNEL, text, f"it was learned ({route.protocol})")
        if route.dev in self.made:
            return None
        block = self.result.get(route.dev)
        if block is None or block.draft is None or route.multipath:
            return Left(KERNEL, text, "vmnet-hooks leaves the routes of other programs alone")
        options, version = block.draft.options, 6 if ":" in route.destination else 4
        # The kernel gives an IPv6 route without a metric the metric 1024.
        metric = 0 if version == 6 and route.metric == 1024 else route.metric
        default = route.destination in ("0.0.0.0/0", "::/0") and route.table == MAIN_TABLE and bool(route.via)
        families = [6 if ":" in gateway else 4 for gateway in options.get("gateway", ())]
        if (
            default
            and not (metric or route.src or route.mtu)
            and version not in families
            and (":" in route.via) == (version == 6)
        ):
            options.setdefault("gateway", []).append(route.via)
            block.draft.sources.setdefault("gateway", []).append((KERNEL, text))
            return None
        found: dict[str, Any] = {"to": route.destination}
        for key, value in (("via", route.via), ("src", route.src), ("metric", metric), ("mtu", route.mtu)):
            if value:
                found[key] = value
        if route.table != MAIN_TABLE:
            found["table"] = route.table
        if route.via:
            found |= {} if _reaches(block.draft, route.via) else {"onlink": True}
        options.setdefault("routes", []).append(found)
        block.draft.sources.setdefault("routes", []).append((KERNEL, text))
        return None


def _reaches(draft: Draft, gateway: str) -> bool:
    """Return whether a gateway is in a subnet of the link's addresses, or needs none."""
    return is_on_link(values.address(gateway), interfaces(draft.options.get("addresses", [])), ())


def _guest(link: LinkDetails) -> bool:
    """Return whether a hypervisor or a container engine made a link."""
    return link.kind == "tun" or (link.kind in ("", "veth") and BEHIND.match(link.name) is not None)
