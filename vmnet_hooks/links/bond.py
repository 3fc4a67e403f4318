"""Bonds: several NICs as one link."""

from collections.abc import Iterator

from .. import values
from ..model.declaration import Declared, Option, Required
from ..model.facts import Host
from ..model.objects import LinkAttribute
from ..model.resource import Resource
from . import link

# In the order of the kernel's numbers (uapi/linux/if_bonding.h).
POLICIES = ("balance-rr", "active-backup", "balance-xor", "broadcast", "802.3ad", "balance-tlb", "balance-alb")
HASHES = ("layer2", "layer3+4", "layer2+3", "encap2+3", "encap3+4", "vlan+srcmac")
RATES = ("slow", "fast")


OPTIONS = (
    Option("ports", link.ports, Required, "the NICs", '["eth1", "eth2"]'),
    Option("mode", values.one_of(*POLICIES), "active-backup", f"one of {', '.join(POLICIES)}", '"802.3ad"'),
    Option("miimon", values.integer(0, 60000), 100, "milliseconds between checks of the NICs' carrier", "50"),
    Option("updelay", values.integer(0, 600000), 0, "milliseconds before a recovered NIC is used; a multiple of miimon", "200"),
    Option(
        "downdelay", values.integer(0, 600000), 0, "milliseconds before a failed NIC is disabled; a multiple of miimon", "200"
    ),
    Option(
        "lacp_rate",
        values.one_of(*RATES),
        None,
        "802.3ad: how often the peer is asked to send LACPDUs, slow (30 s) or fast (1 s)",
        '"fast"',
    ),
    Option(
        "xmit_hash_policy",
        values.one_of(*HASHES),
        None,
        f"the hash that distributes traffic over the NICs: {', '.join(HASHES)}",
        '"layer3+4"',
    ),
    Option("primary", values.ifname, "", "the NIC that is used whenever it is up", '"eth1"'),
    link.ADOPT,
    *link.OPTIONS,
)


class Bond(link.LinkKind):
    options = OPTIONS

    spares_ports = True

    def check(self, part: Declared) -> None:
        super().check(part)
        if not part["ports"]:
            raise part.error("ports", "is empty; list the NICs")
        if part["primary"] and part["primary"] not in part["ports"]:
            raise part.error("primary", f"{part['primary']} is not one of its ports ({', '.join(part['ports'])})")
        if part["primary"] and part["mode"] not in ("active-backup", "balance-tlb", "balance-alb"):
            raise part.error("primary", f"is of no use with mode {part['mode']}; remove it")
        if part["lacp_rate"] and part["mode"] != "802.3ad":
            raise part.error("lacp_rate", f"is of no use with mode {part['mode']}; remove it, or set mode 802.3ad")
        if part["mode"] in ("802.3ad", "balance-tlb", "balance-alb") and not part["miimon"]:
            raise part.error("miimon", f"must not be 0 with mode {part['mode']}; set 100")
        for option in ("updelay", "downdelay"):
            if part[option] and (not part["miimon"] or part[option] % part["miimon"]):
                raise part.error(option, f"{part[option]} is no multiple of miimon ({part['miimon']}); the kernel would round it")

    def resources(self, part: Declared, host: Host) -> Iterator[Resource]:
        # Defaults are written too, where the kernel accepts them, so that an option removed from the configuration is reset.
        delays = ("updelay", "downdelay") if part["miimon"] else ()
        options = [(name, str(part[name])) for name in ("miimon", *delays)]
        if part["mode"] == "802.3ad":
            options.append(("lacp_rate", part["lacp_rate"] or "slow"))
        options.append(("xmit_hash_policy", part["xmit_hash_policy"] or "layer2"))
        yield link.device(part, "bond", host, fixed=(("mode", part["mode"]),), options=tuple(options))
        ports = link.present(part, host) or part["ports"]
        for name in ports:
            yield from link.port(part, name, host)
        if part["primary"] in ports:
            yield LinkAttribute(part.name, "primary", part["primary"])
        yield from link.adoption(part, host)
        # Otherwise the bond gets the MAC of the first port that joins.
        mac = link.mac_of(part.name, host) if host.adopters.keys() & set(ports) else part["mac"]
        yield from link.attributes(part, host, mac, host.adoptions.get(part.adopts))
