"""Converts stanzas of interfaces(5) to drafts of parts in vmnet.toml.

Every line is either carried over, or becomes a comment with the reason why not. The options are those of bridge-utils and of
ifupdown2 for bridges, of ifupdown and the vlan package for VLAN devices, of ifenslave for bonds, and of our ifupdown front end
for routed networks.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from .. import values
from ..errors import ConfigError, one_line
from ..frontends import ifupdown
from ..kernel.adoption_obstacle import ifupdowns_bridge
from . import option_values
from .carried_commands import Commands, reaches
from .draft import Block, Draft, left, shown, toml_value
from .interfaces import Item, Line, Stanza, StanzaOption, Statement, base, by_family, names
from .option_values import brctl

Parser = Callable[[str], Any]

LINK: Mapping[str, tuple[str, Parser]] = {
    "mtu": ("mtu", option_values.number),
    "hwaddress": ("mac", option_values.mac),
    "hw-mac-address": ("mac", option_values.mac),
}
OPTIONS: Mapping[str, Mapping[str, tuple[str, Parser]]] = {
    "vlans": {
        "vlan-raw-device": ("parent", option_values.first),
        "vlan-id": ("id", option_values.number),
        "vlan-protocol": ("protocol", option_values.first),
    },
    "bonds": {
        "bond-slaves": ("ports", option_values.names),
        "bond-ports": ("ports", option_values.names),
        "slaves": ("ports", option_values.names),
        "bond-mode": ("mode", option_values.bond_mode),
        "bond-miimon": ("miimon", option_values.number),
        "bond-updelay": ("updelay", option_values.number),
        "bond-downdelay": ("downdelay", option_values.number),
        "bond-lacp-rate": ("lacp_rate", option_values.bond_rate),
        "bond-xmit-hash-policy": ("xmit_hash_policy", option_values.bond_hash),
        "bond-primary": ("primary", option_values.first),
    },
    "bridges": {
        "bridge-ports": ("ports", option_values.names),
        "bridge-stp": ("stp", brctl(option_values.switch)),
        "bridge-fd": ("forward_delay", brctl(option_values.seconds)),
        "bridge-hello": ("hello_time", brctl(option_values.seconds)),
        "bridge-maxage": ("max_age", brctl(option_values.seconds)),
        "bridge-ageing": ("ageing", brctl(option_values.seconds)),
        "bridge-bridgeprio": ("priority", brctl(option_values.number)),
        "bridge-vlan-aware": ("vlan_filtering", option_values.aware),
        "bridge-vids": ("vlans", option_values.vids),
        "bridge-pvid": ("pvid", option_values.number),
        "bridge-mcsnoop": ("mcast_snooping", option_values.switch),
        "bridge-hw": ("hw_port", option_values.first),
    },
    "dummies": {},
}
"""Options of interfaces(5), by the section that their link belongs to: the option in vmnet.toml, and the parser of the value."""

ROUTED = ("ip-routing-table", "ip-routes", "ip-gateway", "ip-forwarding", "ip-proxy-arp", "ip-proxy-ndp", "arp-ip")
COMMANDS = ("up", "down", "pre-up", "post-up", "pre-down", "post-down")
WAITS = ("bridge-maxwait", "bridge-waitport")
_VLAN = re.compile(r"(?P<parent>[^.:]+)\.0*(?P<id>[0-9]{1,5})", re.ASCII)
_NUMBERED = re.compile(r"vlan0*(?P<id>[0-9]{1,5})", re.ASCII)
_MAC = re.compile(r"..:..:..:..:..:..")
_IFNAME = re.compile(r"[A-Za-z0-9_.@+-]{1,15}", re.ASCII)
ADDRESS = ("address", "netmask", "gateway", "broadcast", "network", "scope", "pointopoint", "metric", "accept-ra", "autoconf")


def convert(items: Sequence[Item]) -> list[Block]:
    """Return the drafts, with what is not carried over, in the order of the files."""
    return _Converter(items).blocks()


class _Converter:
    def __init__(self, items: Sequence[Item]) -> None:
        stanzas = [item for item in items if isinstance(item, Stanza)]
        self.automatic = names(items, ("auto", "allow"))
        inherited = {id(stanza.template) for stanza in stanzas if stanza.template}
        # A stanza that others inherit from, and that is not brought up automatically, is only a template.
        self.templates = {id(s) for s in stanzas if id(s) in inherited and s.name not in self.automatic}
        self.items: list[Item] = []
        self.stanzas: dict[str, list[Stanza]] = {}
        for item in items:
            pieces = by_family(item) if isinstance(item, Stanza) and id(item) not in self.templates else [item]
            self.items += pieces
            for piece in pieces:
                if isinstance(piece, Stanza) and id(item) not in self.templates:
                    self.stanzas.setdefault(piece.base, []).append(piece)
        self.members: dict[str, list[str]] = {}
        for name, own in self.stanzas.items():
            if master := _option(own, "bond-master"):
                self.members.setdefault(master, []).append(name)
        self.sections = {name: section for name, own in self.stanzas.items() if (section := self._section(name, own))}
        self.drafts: dict[str, Draft] = {}
        self.networks: dict[tuple[str, int], Draft] = {}
        self.ports: set[str] = set()
        self.pvids: dict[str, str] = {}
        """By VLAN-aware bridge, and by port of one."""
        self.used: set[str] = set()
        self.waiting: dict[str, list[Line]] = {}
        """Lines such as `auto` that name nothing but links with a stanza of their own, by the first of these."""
        self.commands = Commands(self.drafts, self.sections, self.used)
        self.metrics: dict[tuple[str, str], StanzaOption] = {}
        """By link and gateway."""
        self.result: list[Block] = []

    def blocks(self) -> list[Block]:
        self._collect()
        for item in self.items:
            if isinstance(item, Statement):
                self._statement(item)
            elif id(item) not in self.templates:
                self._stanza(item)
        for draft in self.drafts.values():
            self._vlan_of_ports(draft)
            self._metrics(draft)
            self._on_link(draft)
        self.result += self.commands.convert()
        for line in (line for lines in self.waiting.values() for line in lines):
            # It comes after the stanzas.
            self._left(line, "not a link that vmnet-hooks makes")
        for draft in self.drafts.values():
            if len(draft.options.get("gateway", ())) == 1:
                draft.options["gateway"] = draft.options["gateway"][0]
        self._proposal()
        return self.result

    # --- what is what ----------------------------------------------------------------------------------------------

    def _section(self, name: str, stanzas: Sequence[Stanza]) -> str:
        """Return the section that a link is declared in; "" for a link that vmnet-hooks does not make."""
        if _option(stanzas, "bridge-ports"):
            return "bridges"
        own = ("bond-slaves", "bond-ports", "slaves", "bond-mode")
        if name in self.members or (any(_option(stanzas, key) for key in own) and not _option(stanzas, "bond-master")):
            return "bonds"
        if vlan_of(name) or (_option(stanzas, "vlan-raw-device") and (_option(stanzas, "vlan-id") or _NUMBERED.fullmatch(name))):
            return "vlans"
        return "dummies" if re.fullmatch("dummy[0-9]+", name, re.ASCII) else ""

    def _collect(self) -> None:
        """Collect the lower links of declared links: their stanzas may have no options to carry over."""
        for name, stanzas in self.stanzas.items():
            section = self.sections.get(name, "")
            if section in ("bridges", "bonds"):
                self.ports.update(_ports(stanzas, section))
            if section == "bonds":
                self.ports.update(self.members.get(name, ()))
            if section == "vlans":
                found = vlan_of(name)
                self.used.add(found[0] if found else option_values.first(_option(stanzas, "vlan-raw-device")))
            if _option(stanzas, "ip-routing-table"):
                self.used.add(name)
            if section == "bridges" and _option(stanzas, "bridge-vlan-aware") == "yes":
                self._ports_in_vlans(name, stanzas)
        self.used |= self.ports

    def _ports_in_vlans(self, name: str, stanzas: Sequence[Stanza]) -> None:
        """Note the untagged VLAN of a VLAN-aware bridge: that of its stanza or, if they agree, of its ports' (ifupdown2); else
        VLAN 1, as the kernel has it."""
        own = _option(stanzas, "bridge-pvid") or "1"
        ports = _ports(stanzas, "bridges")
        given = {_option(self.stanzas.get(port, ()), "bridge-pvid") or own for port in ports} or {own}
        self.pvids[name] = given.pop() if len(given) == 1 else own
        self.pvids |= dict.fromkeys(ports, self.pvids[name])

    # --- statements ------------------------------------------------------------------------------------------------

    def _statement(self, item: Statement) -> None:
        if item.keyword in ("auto", "allow-auto", "allow-hotplug", "allow-boot"):
            others = [n for n in item.names if base(n) not in self.sections and n not in self.used]
            if others and all(n in self.stanzas for n in others) and len(others) == len(item.names):
                self.waiting.setdefault(others[0], []).append(item.line)
            elif others:
                self._left(item.line, f"{', '.join(map(shown, others))}: not a link that vmnet-hooks makes")
            return
        why = {
            "source": "there is no such file",
            "mapping": "vmnet-hooks has no mappings; declare each link",
            "map": "it belongs to a mapping",
            "script": "it belongs to a mapping",
            "rename": "udev renames interfaces; see systemd.link(5)",
        }
        self._left(item.line, why.get(item.keyword, "it concerns only ifup and ifdown"))

    def _left(self, line: Line, why: str) -> None:
        self.result.append(Block(left=[left(line, why)]))

    # --- stanzas ---------------------------------------------------------------------------------------------------

    def _stanza(self, stanza: Stanza) -> None:
        name = stanza.base
        section = self.sections.get(name, "")
        block, network = Block(), None
        handled: set[int] = set()
        if section:
            self._link(stanza, name, section, block, handled)
        if any(option.name == "ip-routing-table" for option in stanza.options):
            network = self._routed(stanza, name, block, handled)
        self._membership(stanza, handled)
        if name in self.pvids and not section:
            handled.update(id(o) for o in stanza.options if (o.name, o.value) == ("bridge-pvid", self.pvids[name]))
        self._header(stanza, name, section, block)
        rest = [option for option in stanza.options if id(option) not in handled]
        given = _names(stanza)
        stays = not section and name not in self.used
        for option in rest:
            if option.name in COMMANDS:
                self.commands.add(stanza, option, block)
            elif stays and block.left:
                # The whole stanza is left alone, for one reason.
                block.left.append(left(option.line, block.left[0].why))
            else:
                block.left.append(left(option.line, _why(option, stanza, section, given)))
        self.result.append(block)
        if network and block.draft:
            self.result.append(Block(network))
        elif network:
            block.draft = network

    def _link(self, stanza: Stanza, name: str, section: str, block: Block, handled: set[int]) -> None:
        draft = self.drafts.get(name)
        if draft is None:
            draft = self.drafts[name] = block.draft = Draft(section, name)
            self._remark(name, block)
            self._defaults(stanza, draft)
        draft.headers.append((stanza.line.where, stanza.line.text))
        for option in stanza.options:
            key, parse = {**LINK, **OPTIONS[section]}.get(option.name, ("", None))
            if not parse:
                continue
            handled.add(id(option))
            try:
                self._set(draft, key, parse(option.value), option, block)
            except ValueError as error:
                block.left.append(left(option.line, str(error)))
        self._addresses(stanza, draft, block, handled)

    def _remark(self, name: str, block: Block) -> None:
        if name not in self.automatic and name not in self.ports:
            block.notes.append(f"{shown(name)} is not marked auto: `vmnet-hook up` would bring it up at boot too")

    def _set(self, draft: Draft, key: str, value: Any, option: StanzaOption, block: Block) -> None:
        """Set one option of a link. Raise ValueError if it can't be carried over."""
        if key == "ports":
            found, patterns = literal_ports(option.value)
            if patterns:
                block.left.append(left(option.line, f"patterns ({shown(patterns)}): list the interfaces in `ports`"))
            value = list(dict.fromkeys([*draft.options.get("ports", ()), *found]))
            if draft.section == "bridges":
                self._implied(found)
        elif key == "hw_port" and _MAC.fullmatch(value):
            key, value = "mac", value.lower()
        elif key == "parent" and draft.options.get("parent", value) != value:
            raise ValueError(f"by its name, {shown(draft.name)} is on {shown(draft.options['parent'])}")
        elif draft.options.get(key, value) != value and key in draft.sources:
            raise ValueError(f"{key} is given already, as {shown(draft.options[key])}")
        if key == "mtu" and draft.section == "bridges":
            block.notes.append("ifup gave the ports this MTU too; here, each has its own")
        if "#" in option.value:
            block.notes.append(f"ifup makes {key} = {toml_value(value)} of `{shown(option.value)}`: a # there begins no comment")
        draft.set(key, value, option.line.where, option.line.text)

    def _defaults(self, stanza: Stanza, draft: Draft) -> None:
        """Set the options that the name of the link implies, and those whose default in ifupdown is not ours."""
        own, where, text = self.stanzas[draft.name], stanza.line.where, stanza.line.text
        if draft.section == "vlans":
            if found := vlan_of(draft.name):
                draft.set("parent", found[0], where, text)
                draft.set("id", found[1], where, text)
            elif not _option(own, "vlan-id") and (numbered := _NUMBERED.fullmatch(draft.name)):
                draft.set("id", int(numbered["id"]), where, text)
        if draft.section == "bonds":
            members = self.members.get(draft.name, [])
            draft.options["ports"] = list(dict.fromkeys([*_ports(own, "bonds"), *members]))
            mode = option_values.bond_mode(_option(own, "bond-mode") or "balance-rr")
            if not _option(own, "bond-mode"):
                draft.options["mode"] = mode
            if not _option(own, "bond-miimon") and mode not in ("802.3ad", "balance-tlb", "balance-alb"):
                # The kernel's default: carriers are not monitored.
                draft.options["miimon"] = 0
            primary = _option([s for m in members for s in self.stanzas[m]], "bond-primary")
            if primary and not _option(own, "bond-primary"):
                draft.options["primary"] = option_values.first(primary)

    def _implied(self, ports: Iterable[str]) -> None:
        """Declare the VLAN devices among the ports that have no stanza: bridge-utils makes them."""
        for port in ports:
            if (found := vlan_of(port)) and port not in self.stanzas and port not in self.drafts:
                self.drafts[port] = Draft("vlans", port, {"parent": found[0], "id": found[1]})
                self.result.append(Block(self.drafts[port]))
                self.used.add(found[0])

    def _membership(self, stanza: Stanza, handled: set[int]) -> None:
        """Mark the options of a bond's port as handled that only repeat those of the bond."""
        given = {option.name: option for option in stanza.options}
        if "bond-master" in given and self.sections.get(given["bond-master"].value) == "bonds":
            handled.add(id(given["bond-master"]))
            master = self.stanzas[given["bond-master"].value]
            for name, option in given.items():
                if OPTIONS["bonds"].get(name) and _option(master, name) in (option.value, "" if name == "bond-primary" else None):
                    handled.add(id(option))

    def _addresses(self, stanza: Stanza, draft: Draft, block: Block, handled: set[int]) -> None:
        if stanza.method != "static":
            return
        for given in _each_address(stanza):
            try:
                own = _own(given, stanza.family)
                words = option_values.peer(own, given["pointopoint"].value) if "pointopoint" in given else str(own)
            except ValueError as error:
                block.left.append(left(given["address"].line, str(error)))
                handled.add(id(given["address"]))
                continue
            if words not in draft.options.setdefault("addresses", []):
                draft.options["addresses"].append(words)
            draft.sources.setdefault("addresses", []).append(given["address"].source)
            handled.update(_standard(given, own))
            if "pointopoint" in given:
                handled.add(id(given["pointopoint"]))
        given = {option.name: option for option in reversed(stanza.options)}
        if "address" not in given:
            return
        for option in stanza.options:
            if option.name == "gateway":
                handled.add(id(option))
                draft.options.setdefault("gateway", []).append(option.value)
                draft.sources.setdefault("gateway", []).append(option.source)
        metric = given.get("metric")
        if metric and "gateway" in given and re.fullmatch("[0-9]{1,9}", metric.value, re.ASCII):
            handled.add(id(metric))
            self.metrics[draft.name, given["gateway"].value] = metric

    def _metrics(self, draft: Draft) -> None:
        """Set the metric of the default routes. For ifup each stanza has its own: a gateway with another one becomes a route."""
        gateways = draft.options.get("gateway", [])
        found = {gateway: self.metrics.get((draft.name, gateway)) for gateway in gateways}
        metrics = {gateway: int(option.value) if option else 0 for gateway, option in found.items()}
        if not any(metrics.values()):
            return
        common = metrics[gateways[0]]
        if common and (option := found[gateways[0]]):
            draft.set("metric", common, *option.source)
        for gateway in [gateway for gateway in gateways if metrics[gateway] != common]:
            gateways.remove(gateway)
            route = {"to": "default", "via": gateway} | ({"metric": metrics[gateway]} if metrics[gateway] else {})
            draft.options.setdefault("routes", []).append(route)
            moved = [source for source in draft.sources["gateway"] if gateway in source[1].split()]
            draft.sources.setdefault("routes", []).extend(moved)
            draft.sources["gateway"] = [source for source in draft.sources["gateway"] if source not in moved]

    def _vlan_of_ports(self, draft: Draft) -> None:
        """Set the untagged VLAN of a VLAN-aware bridge."""
        pvid = self.pvids.get(draft.name, "0")
        if draft.section == "bridges" and draft.options.get("vlan_filtering") and pvid.isdecimal():
            draft.options["pvid"] = int(pvid[:9])
        if not draft.options.get("pvid", 1):
            del draft.options["pvid"]

    def _on_link(self, draft: Draft) -> None:
        """Give a gateway that is in no subnet a route of its own: for ifup, every gateway is on the link."""
        for gateway in draft.options.get("gateway", ()):
            try:
                reached = reaches(draft, values.address(gateway))
            except ValueError:
                continue
            if not reached:
                sources = [source for source in draft.sources["gateway"] if gateway in source[1].split()]
                draft.options.setdefault("routes", []).append({"to": gateway})
                draft.sources.setdefault("routes", []).extend(sources)

    def _proposal(self) -> None:
        """Propose a bridge for the interface that the host is reached by, if the file has none yet. Commented out: it changes how
        the host is connected."""
        if "bridges" in self.sections.values():
            return
        alone = self._alone("static")
        name = next((name for name in alone if _option(self.stanzas[name], "gateway")), "") or (alone[0] if alone else "")
        if name and _IFNAME.fullmatch(name):
            self.result.append(
                Block(
                    notes=[
                        f"To put guests on the network of {name}, let a bridge take over its addresses and routes; its stanza",
                        "stays. Take the # away from the three lines, then `vmnet-hook up`:",
                        "[bridges.br0]",
                        f'ports = ["{name}"]',
                        f'adopt = "{name}"',
                        *(
                            f'(and write out = "br0" in [nat.{nat.name}])'
                            for nat in self.commands.nats.values()
                            if nat.options["out"] == name
                        ),
                    ]
                )
            )
        elif (found := self._alone("dhcp")) and _IFNAME.fullmatch(found[0]):
            self.result.append(
                Block(
                    notes=[
                        f"To put guests on the network of {found[0]}, which DHCP configures, let ifupdown make the bridge",
                        f"(package bridge-utils). Copy the file, write in it, in place of what it has of {found[0]},",
                        *ifupdowns_bridge(found[0], "br0"),
                        f"and run, as one command, `ifdown -i COPY {found[0]}; ifup br0`. Networks may name br0 as their bridge.",
                    ]
                )
            )

    def _alone(self, method: str) -> list[str]:
        """Return the interfaces with IPv4 by this method that no declared link has as a port or parent."""
        return [
            name
            for name, own in self.stanzas.items()
            if name not in self.sections
            and name not in self.used
            and any((stanza.family, stanza.method) == ("inet", method) for stanza in own)
        ]

    def _routed(self, stanza: Stanza, name: str, block: Block, handled: set[int]) -> Draft | None:
        """Convert a stanza of our ifupdown front end to a routed network. The stanzas of both address families make one network;
        return the draft if it is new."""
        given = {option.name: option for option in reversed(stanza.options)}
        environ = {f"IF_{key.upper().replace('-', '_')}": option.value for key, option in given.items()}
        mine = [option for option in stanza.options if option.name in ROUTED and not _other_family(option.name, stanza.family)]
        handled.update(map(id, mine))
        side = "ipv4" if stanza.family == "inet" else "ipv6"
        why, new = "", None
        try:
            if "address" in given:
                # ifup sets these before it runs its scripts.
                own = _own(given, stanza.family)
                environ |= {"IF_ADDRESS": str(own.ip), "IF_NETMASK": str(own.network.prefixlen)}
            found = ifupdown.network(environ, name, stanza.family, "")
        except (ConfigError, ValueError) as error:
            block.left += [left(option.line, one_line(error).removeprefix(": ")) for option in mine]
            return None
        draft = self.networks.get((name, found["table"]))
        if draft and draft.options.get("role", "host") != found["role"]:
            why = f"its role is {found['role']}, so it can't be of one network with networks.{draft.name}"
        elif draft and side in draft.options:
            why = f"networks.{draft.name} has another subnet of that family"
        if why:
            block.left += [left(option.line, why) for option in mine]
            return None
        if draft is None:
            draft = new = Draft("networks", self._network_name(name, stanza.family))
            draft.options |= {"mode": "routed", "uplink": name, "table": found["table"]}
            if found["role"] != "host":
                draft.options["role"] = found["role"]
            self.networks[name, found["table"]] = draft
        if name not in self.drafts:
            if new:
                self._remark(name, block)
            draft.headers.append((stanza.line.where, stanza.line.text))
        draft.options[side] = {key: str(value) for key, value in found[side].items() if value is not None}
        draft.sources[side] = [option.source for option in mine]
        if found["role"] != "host" and name not in self.drafts:
            # The network itself sets the gateway's address.
            handled.update(_standard(given, _own(given, stanza.family)))
        return new

    def _network_name(self, uplink: str, family: str) -> str:
        taken = {draft.name for draft in self.networks.values()}
        return uplink if uplink not in taken else f"{uplink}-{family}"

    # --- what is left ----------------------------------------------------------------------------------------------

    def _header(self, stanza: Stanza, name: str, section: str, block: Block) -> None:
        why = ""
        if stanza.method == "loopback":
            why = "the loopback interface needs no declaration"
        elif stanza.family not in ("inet", "inet6"):
            why = f"vmnet-hooks does not support {stanza.family}"
        elif not section and name not in self.used:
            why = f"{shown(name)} is not a link that vmnet-hooks makes; leave it to ifupdown"
        elif stanza.method not in ("static", "manual"):
            why = f"method {stanza.method}: vmnet-hooks sets static addresses only"
        elif stanza.name != name:
            why = f"an address has no label here; it is on {shown(name)}"
        elif section and (stanza.family, stanza.method) == ("inet6", "manual") and "ip-routing-table" not in _names(stanza):
            why = "IPv6 is off on a link without an IPv6 address"
        if why:
            block.left[:0] = [left(line, why) for line in (*self.waiting.pop(stanza.name, ()), stanza.line)]


def vlan_of(name: str) -> tuple[str, int] | None:
    """Return the parent and ID that ifupdown derives from the name of a VLAN device; None if the name has none."""
    found = _VLAN.fullmatch(name)
    return (found["parent"], int(found["id"])) if found else None


def literal_ports(text: str) -> tuple[list[str], str]:
    """Return the ports that `bridge_ports` names, and its patterns (`regex …`, `all`)."""
    ports: list[str] = []
    patterns: list[str] = []
    inside = False
    for word in option_values.names(text):
        if word in ("regex", "noregex", "all"):
            inside = word == "regex"
            if word == "all":
                patterns.append(word)
        else:
            (patterns if inside else ports).append(word)
    return ports, " ".join(patterns)


def _why(option: StanzaOption, stanza: Stanza, section: str, given: Mapping[str, str]) -> str:
    """Return the reason why an option of a stanza was not carried over. `given` are all options of the stanza."""
    if option.name.startswith("dns-"):
        return "name servers are for resolvconf, or /etc/resolv.conf"
    if option.name in WAITS:
        return "nothing waits for ports; see `vmnet-hook up --wait`"
    if option.name == "bond-master":
        return f"no stanza declares {shown(option.value)} as a bond"
    if option.name in OPTIONS["bonds"] and "bond-master" in given:
        return f"it is for the stanza of {shown(given['bond-master'])}"
    if option.name in ("bridge-pvid", "bridge-vids", "bridge-access") and not section:
        return "the ports of a bridge have the same VLANs here; see its vlans and pvid"
    if option.name in ROUTED:
        if "ip-routing-table" in given:
            return f"it has no effect in a stanza of {stanza.family}"
        return "it needs ip-routing-table in the stanza"
    if option.name in ADDRESS and section:
        return "it differs from what the address implies" if "address" in given else "there is no address with it"
    if option.name in ADDRESS or option.name in LINK:
        return f"{shown(stanza.name)} is not a link that vmnet-hooks makes; leave it to ifupdown"
    return "vmnet-hooks has no such option"


def _ports(stanzas: Iterable[Stanza], section: str) -> list[str]:
    """Return the ports that the stanzas of a bridge or bond name."""
    keys = [name for name, (key, _) in OPTIONS[section].items() if key == "ports"]
    return [p for s in stanzas for option in s.options if option.name in keys for p in literal_ports(option.value)[0]]


def _own(given: Mapping[str, StanzaOption], family: str) -> Any:
    """Return the address of a static stanza. Raise ValueError."""
    return option_values.address(given["address"].value, given["netmask"].value if "netmask" in given else "", family)


def _standard(given: Mapping[str, StanzaOption], own: Any) -> Iterator[int]:
    """Yield the id() of each option that the address implies, or that has the default value."""
    same = {
        "address": None,
        "netmask": None,
        "broadcast": ("+", str(own.network.broadcast_address)),
        "network": (str(own.network.network_address),),
        "scope": ("global",),
        "accept-ra": ("0",),
        "autoconf": ("0",),
        "dad-attempts": ("0",),
    }
    for name, texts in same.items():
        if name in given and (texts is None or given[name].value in texts):
            yield id(given[name])


def _each_address(stanza: Stanza) -> Iterator[dict[str, StanzaOption]]:
    """Yield each address of a stanza, with the options that belong to it: for ifupdown2 a stanza may have several."""
    found: dict[str, StanzaOption] = {}
    for option in stanza.options:
        if option.name == "address" and "address" in found:
            yield found
            found = {}
        found.setdefault(option.name, option)
    if "address" in found:
        yield found


def _names(stanza: Stanza) -> dict[str, str]:
    return {option.name: option.value for option in stanza.options}


def _option(stanzas: Iterable[Stanza], name: str) -> str:
    return next((option.value for stanza in stanzas for option in stanza.options if option.name == name), "")


def _other_family(option: str, family: str) -> bool:
    return option in (("ip-proxy-ndp",) if family == "inet" else ("ip-proxy-arp", "arp-ip"))
