"""NAT: guests' addresses are translated on the way out of one interface."""

from collections.abc import Iterator, Mapping, Sequence

from .. import values
from ..model.declaration import Config, Declared, Option, Required
from ..model.facts import Host
from ..model.kind import Kind
from ..model.objects import NftElement
from ..model.resource import Resource
from ..model.ruleset import NAT, forwarding, shares
from . import link

OPTIONS = (
    Option("subnet", values.subnet, Required, "the guests' subnet", '"10.0.0.0/24"'),
    Option("out", values.ifname, Required, "the interface to the outside", '"eth0"'),
    Option("snat", values.address, None, "the address to translate to, one of the host's own", '"198.51.100.2"'),
    Option("masquerade", values.boolean, False, "translate to the address that `out` has at the time", "true"),
    Option(
        "connections", values.integer(16, 2**20), None, "tracked connections that one guest may have; default: no limit", "4096"
    ),
)


class Translation(Kind):
    translates = True

    options = OPTIONS

    def check(self, part: Declared) -> None:
        if bool(part["snat"]) == part["masquerade"]:
            raise part.error("snat", "give either snat = ADDRESS or masquerade = true")
        if part["snat"] and part["snat"].version != part["subnet"].version:
            raise part.error("snat", f"{part['snat']} is not of the family of {part['subnet']}; correct one of them")
        if part["subnet"].prefixlen == 0:
            raise part.error("subnet", f"{part['subnet']} is every address there is; write the guests' own subnet")

    def check_together(self, parts: Sequence[Declared], declared: Config) -> None:
        """Raise ConfigError if two rules contradict each other about one packet."""
        for number, part in enumerate(parts):
            for other in parts[:number]:
                same = part["out"] == other["out"] and part["subnet"].version == other["subnet"].version
                if same and part["subnet"].overlaps(other["subnet"]):
                    problem = f"{part['subnet']} overlaps {other['subnet']} of {other.label} on the same interface; separate them"
                    raise part.error("subnet", problem)

    def hint(self, name: str, table: object, source: str) -> Iterator[Declared]:
        # A bridge forwards if its subnet is translated.
        if isinstance(table, Mapping):
            try:
                there = {"subnet": values.subnet(table.get("subnet")), "out": values.ifname(table.get("out"))}
            except ValueError:
                return
            yield self.declare(name, there, source)

    def links(self, part: Declared) -> tuple[str, ...]:
        return (part["out"],)

    def resources(self, part: Declared, host: Host) -> Iterator[Resource]:
        link.require(part, "out", part["out"], host)
        version = part["subnet"].version
        yield NAT
        key = (str(part["subnet"]), f'"{part["out"]}"')
        if part["snat"]:
            yield NftElement("inet", f"snat{version}", key, str(part["snat"]))
            # Before Linux 6.5, a rule can't ask only whether a map has a key.
            yield NftElement("inet", f"snatted{version}", key)
        else:
            yield NftElement("inet", f"masquerade{version}", key)
        if part["connections"]:
            yield shares(part.name, part["connections"], [part["subnet"]])
        # Replies arrive on `out`.
        yield from forwarding(version, (part["out"],), host)

    def node(self, part: Declared) -> str:
        # Only the graph uses it.
        from ..model.topology import Nat

        return Nat(str(part["subnet"]), part["out"]).name
