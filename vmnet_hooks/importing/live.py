"""Converts the kernel's links, addresses and routes to drafts of parts in vmnet.toml."""

from typing import Any

from ..declared import SECTIONS
from ..errors import one_line
from ..graph.build import BEHIND
from ..kernel.import_facts import LiveAddress, LiveHost, LiveRoute
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

    def blocks(self) -> list[Block]:
        for link in self.host.links:
            if link.kind != "loopback" and link.name != "lo":
                self.result[link.name] = self._link(link)
        for address in self.host.addresses:
            self._address(address)
        rest = Block()
        self._routes(rest)
        rest.left += [Left(KERNEL, rule, "vmnet-hooks leaves the rules of other programs alone") for rule in self.host.rules]
        return [*self.result.values(), rest]

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
        ports = [port for port in self.ports.get(link.name, ()) if not _guest(port)]
        self._set(draft, "ports", [port.name for port in ports])
        for port in self.ports.get(link.name, ()):
            if _guest(port):
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
        for port in ports:
            if port.untagged:
                text = f"bridge vlan add dev {port.name} vid {port.untagged} pvid untagged"
                block.left.append(Left(KERNEL, text, "ports of a declared bridge carry tagged VLANs only"))

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
        if block is None:
            return
        text = f"ip addr add {address.address} dev {address.ifname}" + (f" peer {address.peer}" if address.peer else "")
        if not address.permanent:
            block.left.append(Left(KERNEL, text, "it was learned and expires; vmnet-hooks sets static addresses only"))
        elif address.peer:
            block.left.append(Left(KERNEL, text, "vmnet-hooks gives no point-to-point addresses"))
        elif block.draft is None:
            block.left.append(Left(KERNEL, text, f"{address.ifname} is not a link that vmnet-hooks makes"))
        else:
            block.draft.options.setdefault("addresses", []).append(address.address)
            block.draft.sources.setdefault("addresses", []).append((KERNEL, text))

    def _routes(self, rest: Block) -> None:
        left = [left for route in self.host.routes if (left := self._route(route))]
        rest.left += left[:MOST]
        if len(left) > MOST:
            rest.left.append(
                Left(KERNEL, f"{len(left) - MOST} more routes", "vmnet-hooks leaves the routes of other programs alone")
            )
        for block in self.result.values():
            if block.draft and len(gateways := block.draft.options.get("gateway", ())) == 1:
                block.draft.options["gateway"] = gateways[0]

    def _route(self, route: LiveRoute) -> Left | None:
        text = f"ip route add {route.destination}" + (f" via {route.via}" if route.via else "")
        text += (f" dev {route.dev}" if route.dev else "") + (f" metric {route.metric}" if route.metric else "")
        text += f" table {route.table}" if route.table != MAIN_TABLE else ""
        if route.protocol:
            return Left(KERNEL, text, f"it was learned ({route.protocol})")
        block = self.result.get(route.dev)
        default = route.destination in ("0.0.0.0/0", "::/0") and route.table == MAIN_TABLE and route.via
        # The kernel gives an IPv6 route without a metric the metric 1024.
        plain = route.metric == (1024 if ":" in route.destination else 0)
        if not default or not plain or block is None or block.draft is None:
            return Left(KERNEL, text, "vmnet-hooks leaves the routes of other programs alone")
        block.draft.options.setdefault("gateway", []).append(route.via)
        block.draft.sources.setdefault("gateway", []).append((KERNEL, text))
        return None


def _guest(link: LinkDetails) -> bool:
    """Return whether a hypervisor or a container engine made a link."""
    return link.kind == "tun" or (link.kind in ("", "veth") and BEHIND.match(link.name) is not None)
