"""libvirt's own networks, as its network driver runs them, with guests on them: what each guest gets, and whom it reaches.

guests (namespaces behind veths) -- virbr4 … virbr9 -- host -- ext0 == world (203.0.113.2, 2001:db8:f::2), a name server, with
routes to all networks
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace

import lvhost
from lab.asker import __file__ as ASKER
from lab.dhcp_clients import Client, Dhcpcd, Lease, addressed, complete
from lab.domains import Interface, domain_toml
from lab.nodes import Node, ran, wire
from lab.routed import eventually

WORLD4, WORLD6, HOST4, HOST6 = "203.0.113.2", "2001:db8:f::2", "203.0.113.1", "2001:db8:f::1"
SERVER = "dnsmasq --keep-in-foreground --no-resolv --no-hosts --pid-file --host-record=outside.example,203.0.113.2"
DHCP4 = "<dhcp><range start='10.{n}.0.100' end='10.{n}.0.120'/>{more}</dhcp>"
NAMES = """
<domain name='lab.example' localOnly='yes'/>
<dns>
  <txt name='note.lab.example' value='a text'/>
  <srv service='sip' protocol='udp' domain='lab.example' target='pbx.lab.example' port='5060' priority='10' weight='5'/>
  <host ip='10.9.0.50'><hostname>www</hostname><hostname>pbx.lab.example</hostname><hostname>cdn.example.org</hostname></host>
</dns>
"""
STATIC = "<host mac='52:54:00:00:09:10' ip='10.9.0.10' name='web1'/>"


def network(name: str, number: int, forward: str, more: str = "", hosts: str = "", leases6: bool = True) -> str:
    """libvirt's definition of a network, whose bridge and subnets have that number."""
    dhcp6 = f"<dhcp><range start='fd00:{number}::100' end='fd00:{number}::1ff'/></dhcp>" if leases6 else ""
    return f"""<network><name>{name}</name>{forward}<bridge name='virbr{number}' stp='on' delay='0'/>{more}
        <ip address='10.{number}.0.1' netmask='255.255.255.0'>{DHCP4.format(n=number, more=hosts)}</ip>
        <ip family='ipv6' address='fd00:{number}::1' prefix='64'>{dhcp6}</ip></network>"""


NUMBERS = {"lab": 9, "out": 8, "six": 6, "open": 5, "inner": 4}
DEFINED = {
    "lab": network("lab", 9, "<forward mode='nat'/>", NAMES, STATIC),
    # Guests form their own IPv6 addresses there.
    "out": network("out", 8, "<forward mode='route' dev='ext0'/>", leases6=False),
    "six": network("six", 6, "<forward mode='nat'><nat ipv6='yes'/></forward>"),
    "open": network("open", 5, "<forward mode='open'/>"),
    "inner": network("inner", 4, ""),
}
GUESTS = {"web1": ("lab", 0x10), **{name: (name, 0x20) for name in NUMBERS}}
"""The network of each guest, and the last byte of its MAC. web1 has a static lease."""
QUERIES = (
    *("www.lab.example", "A", "www.lab.example", "AAAA", "cdn.example.org", "A", "note.lab.example", "TXT"),
    *("_sip._udp.lab.example", "SRV", "pbx.lab.example", "A", "web1.lab.example", "A", "nothing.lab.example", "A"),
    *("www", "A", "web1", "A"),
    *("outside.example", "A", "-x", "10.9.0.10", "-x", "10.9.0.50"),
)


@dataclass
class Guest:
    """A guest, and what it has: leases by IP version."""

    name: str
    network: str
    nic: Interface
    node: Node
    leases: dict[int, Lease] = field(default_factory=dict)

    def address(self, version: int) -> str:
        return self.leases[version].address.partition("/")[0]


@dataclass(frozen=True)
class Seen:
    """What was found: the leases of each guest, the answers to QUERIES, and who reaches whom: pairs of names, each with the
    IP version."""

    leases: Mapping[str, Mapping[int, Lease]]
    names: frozenset[tuple[str, ...]]
    reached: frozenset[tuple[str, str, int]]


class Networks:
    def __init__(self, guests: Iterable[str] = GUESTS) -> None:
        self.stack = ExitStack()
        try:
            self.host = host = lvhost.Host("lva")
            self.stack.callback(host.close)
            self.world = world = self.stack.enter_context(Node("world"))
            wire(world, "eth0", host, "ext0", "02:00:00:00:00:02", "02:00:00:00:00:01")
            for node, ifname, last in ((host, "ext0", 1), (world, "eth0", 2)):
                node.sh(f"""
                    ip link set {ifname} up
                    ip addr add 203.0.113.{last}/24 dev {ifname}; ip -6 addr add 2001:db8:f::{last}/64 dev {ifname} nodad
                """)
            host.sh(f"ip route add default via {WORLD4}; ip -6 route add default via {WORLD6}")
            host.write("/etc/resolv.conf", f"nameserver {WORLD4}\n")
            world.sh(f"ip route add 10.0.0.0/8 via {HOST4}; ip -6 route add fd00::/16 via {HOST6}")
            world.popen(SERVER)
            self.guests = {name: self._guest(name, *GUESTS[name]) for name in guests}
        except BaseException:
            self.stack.close()
            raise

    def __enter__(self) -> Networks:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.stack.close()

    def _guest(self, name: str, of: str, last: int) -> Guest:
        nic = Interface(f"52:54:00:00:{NUMBERS[of]:02}:{last:02x}", f"tap-{name}", bridge=f"virbr{NUMBERS[of]}")
        node = self.stack.enter_context(Node(name))
        wire(node, "eth0", self.host, nic.tap, nic.mac, f"fe{nic.mac[2:]}")
        self.host.run(f"ip link set {nic.tap} up")
        return Guest(name, of, nic, node)

    def define(self) -> None:
        for xml in DEFINED.values():
            self.host.virsh("net-define", "/dev/stdin", input=xml)

    def plug(self) -> None:
        """Plug the guests in, as libvirt does: nothing of ours sees them."""
        for guest in self.guests.values():
            self.host.run(f"ip link set {guest.nic.tap} master {guest.nic.bridge}")

    def start(self) -> None:
        """Plug the guests in by the script for plain QEMU. libvirt does not know them."""
        for guest in self.guests.values():
            nic = replace(guest.nic, network=guest.network)
            self.host.domain_toml(guest.name, domain_toml(nic))
            ran(["ifup", nic.tap], self.host.ifup(nic.tap))

    def look(self) -> Seen:
        """Boot the guests, and see what they have."""
        with ExitStack() as stack:
            clients = {name: stack.enter_context(self._client(guest)) for name, guest in self.guests.items()}
            for name, client in clients.items():
                whole = addressed if self.guests[name].network == "inner" else complete
                self.guests[name].leases = {version: client.lease(version, 30, whole) for version in (4, 6)}
            assert eventually(lambda: self._asked(("outside.example", "A")), 10)
            return Seen(
                {name: guest.leases for name, guest in self.guests.items()}, self._asked(QUERIES), frozenset(self.reached())
            )

    def _client(self, guest: Guest) -> Client:
        # Without noarp it waits 5 s before it takes an address.
        return Dhcpcd(guest.node, settings="noarp")

    def _asked(self, queries: tuple[str, ...]) -> frozenset[tuple[str, ...]]:
        words = ["dig", "@10.9.0.1", "+noall", "+answer", "+time=2", "+tries=1", *queries]
        lines = self.guests["lab"].node.run(words, check=False).stdout.splitlines()
        return frozenset((name, kind, *data) for name, _, _, kind, *data in map(str.split, lines) if not name.startswith(";"))

    def reached(self) -> set[tuple[str, str, int]]:
        """Who answers whom, now."""
        there = {(name, version): guest.address(version) for name, guest in self.guests.items() for version in (4, 6)}
        nodes = {name: guest.node for name, guest in self.guests.items()} | {"world": self.world}
        there |= {("world", 4): WORLD4, ("world", 6): WORLD6}
        found: set[tuple[str, str, int]] = set()
        for _ in range(2):  # A busy machine may be late once.
            for source, node in nodes.items():
                own = {to: address for to, address in there.items() if to[0] != source}
                if source != "world":
                    number = NUMBERS[self.guests[source].network]
                    own |= {("host", 4): f"10.{number}.0.1", ("host", 6): f"fd00:{number}::1"}
                left = {to: address for to, address in own.items() if (source, *to) not in found}
                asked = ["/usr/bin/python3", "-IS", ASKER, "ask", *(f"ping/{address}" for address in left.values())]
                answered = set(node.run(asked).stdout.split())
                found |= {(source, *to) for to, address in left.items() if f"ping/{address}" in answered}
        return found
