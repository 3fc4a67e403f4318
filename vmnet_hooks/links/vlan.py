"""VLAN devices: 802.1Q on a NIC, a bond, a VLAN-aware bridge; 802.1ad for the outer tag of QinQ."""

from collections.abc import Iterator, Sequence

from .. import values
from ..model.declaration import Config, Declared, Option, Required
from ..model.facts import Host
from ..model.objects import LinkAttribute
from ..model.resource import Resource
from . import link

OPTIONS = (
    Option("parent", values.ifname, Required, "the interface whose frames are tagged", '"eth1"'),
    Option("id", values.integer(1, 4094), Required, "the VLAN's ID, 1 to 4094", "100"),
    Option("protocol", values.one_of("802.1Q", "802.1ad"), "802.1Q", "802.1ad: the outer tag of QinQ", '"802.1ad"'),
    *link.OPTIONS,
)


class Vlan(link.LinkKind):
    options = OPTIONS

    def check(self, part: Declared) -> None:
        super().check(part)
        if part["parent"] == part.name:
            raise part.error("parent", f"{part.name} can't be its own parent; name the interface below")

    def check_together(self, parts: Sequence[Declared], declared: Config) -> None:
        """Raise ConfigError if two VLAN devices are the same one."""
        super().check_together(parts, declared)
        seen: dict[tuple[str, int, str], Declared] = {}
        for part in parts:
            first = seen.setdefault((part["parent"], part["id"], part["protocol"]), part)
            if first is not part:
                raise part.error("id", f"{part['id']} on {part['parent']} is already {first.label}; choose another")
            below = declared.links.get(part["parent"])
            if below and below.options.get("pvid") == part["id"]:
                problem = f"{part['id']} is the pvid of {below.label}: the host has it untagged; give {below.name} its addresses"
                raise part.error("id", problem)

    def resources(self, part: Declared, host: Host) -> Iterator[Resource]:
        parent = part["parent"]
        link.require(part, "parent", parent, host)
        taken = host.vlans.get((parent, part["id"]), part.name)
        if taken != part.name:
            raise part.error("id", f"VLAN {part['id']} of {parent} is taken by {taken}; remove it (ip link del {taken})")
        existing = host.links.get(part.name)
        if existing and not existing.ours and part.implied_by:
            if host.vlans.get((parent, part["id"])) != part.name:
                raise part.error(
                    "id", f"{part.name} exists already and is not VLAN {part['id']} of {parent}; rename or remove it"
                )
            return
        fixed = (("protocol", part["protocol"]), ("id", str(part["id"])))
        yield link.device(part, "vlan", host, parent=parent, fixed=fixed)
        below = host.parts.get(parent)
        if below is None:
            yield LinkAttribute(parent, "state", "up")
        elif below.options.get("vlan_filtering"):
            yield link.own_vlans(below, host)
        yield from link.attributes(part, host, part["mac"])
