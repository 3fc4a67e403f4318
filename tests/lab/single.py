"""One hypervisor alone, for tests that compare its state before and after: no packets, but things of others that must
stay.

    up0   the uplink, on a segment          eth9  the host's own interface, with its addresses and default routes
    br0   a bridge with one port (lan0)     and, all over the place, what an admin may have put there
"""

from __future__ import annotations

from contextlib import ExitStack

from .domains import Interface
from .nodes import Node, Switch, changes, settled, wire
from .routed import PUBLIC, call, eventually
from .tap import __file__ as TAP

LAN = '\n[networks.lan]\nmode = "bridged"\nbridge = "br0"\n'
V4 = PUBLIC.replace("\nipv6 =", "\n# ipv6 =")
V6 = PUBLIC.replace("\nipv4 =", "\n# ipv4 =")
FOREIGN = """
nft add table inet filter
nft add chain inet filter input '{ type filter hook input priority 0; policy accept; }'
nft add rule inet filter input tcp dport 22 counter accept
nft add table arp filter
ip rule add from 10.9.0.0/16 lookup 100 pref 100
ip route add 198.18.0.0/15 dev eth9 table 100
ip route add 198.18.0.0/15 dev eth9 table 222
ip -6 route add 2001:db8:aaaa::/48 dev eth9 table 222
ip route add 203.0.113.0/24 dev up0
ip neigh add 10.0.1.77 lladdr 02:00:00:00:00:77 dev eth9 nud permanent
ip -6 neigh add proxy 2001:db8::99 dev up0
echo 1 > /proc/sys/net/ipv4/conf/up0/proxy_arp
echo 33 > /proc/sys/net/ipv4/neigh/up0/proxy_delay
echo 1 > /proc/sys/net/ipv4/conf/eth9/forwarding
echo 1 > /proc/sys/net/ipv6/conf/eth9/accept_redirects
echo '# of the admin' > /etc/iproute2/rt_tables.d/admin.conf
"""


class Single:
    """A host, and the means to plug domains into it. Use as a context manager."""

    def __init__(self, config: str = PUBLIC + LAN, foreign: bool = True, name: str = "host", node: type[Node] = Node):
        self.stack = ExitStack()
        try:
            self.segment = self.stack.enter_context(Switch("segment"))
            self.host = host = self.stack.enter_context(node(name))
            self.peer = self.stack.enter_context(Node("peer"))
            # Link-local addresses at once, so that two dumps need not wait for duplicate address detection.
            host.sh("for f in all default; do echo 0 > /proc/sys/net/ipv6/conf/$f/accept_dad; done")
            self.segment.plug(host, "up0", "02:00:00:00:00:aa")
            wire(host, "eth9", self.peer, "eth9", "02:00:00:00:09:01", "02:00:00:00:08:01")
            wire(host, "lan0", self.peer, "lan0", "02:00:00:00:07:01", "02:00:00:00:06:01")
            self.peer.sh("ip link set eth9 up; ip link set lan0 up")
            host.sh("""
                ip link set eth9 up; ip addr add 10.0.1.1/24 dev eth9; ip -6 addr add fd00:1::1/64 dev eth9 nodad
                ip route add default via 10.0.1.254; ip -6 route add default via fd00:1::254
                ip link add br0 type bridge; ip link set lan0 master br0 up; ip link set br0 up
            """)
            if foreign:
                host.sh(FOREIGN)
            host.config(config)
            # The kernel notices carriers late (linkwatch), and only then adds link-local addresses and their routes.
            for ifname in ("up0", "eth9", "lan0", "br0"):
                assert eventually(lambda name=ifname: "fe80::" in host.run(f"ip -6 addr show dev {name} -tentative").stdout), (
                    ifname
                )
        except BaseException:
            self.stack.close()
            raise

    def __enter__(self) -> Single:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.stack.close()

    def tap(self, name: str, mac: str = "", up: bool = True, bridge: str = "", held: bool = True) -> None:
        """A real, persistent tap as libvirt leaves it to the hook: up, fe: MAC, in its bridge if it has one, and held
        open by somebody (who plays QEMU, and reads nothing), so that it has a carrier."""
        self.host.sh(
            f"ip tuntap add {name} mode tap\n"
            + (f"ip link set {name} address fe{mac[2:]}\n" if mac else "")
            + (f"ip link set {name} master {bridge}\n" if bridge else "")
            + f"ip link set {name} up"
        )
        if held:
            self.host.popen(["/usr/bin/python3", "-IS", TAP, name], stdout=-1).stdout.readline()
            if not bridge:
                assert eventually(
                    lambda: (
                        "fe80::" in self.host.run(f"ip -6 addr show dev {name} -tentative").stdout
                        or self.host.sysctl(f"ipv6/conf/{name}/disable_ipv6") == "1"
                    )
                ), name
        if not up:
            # Having been up once is something that the kernel does not forget (qdisc, multicast): so it was, before us.
            self.host.run(f"ip link set {name} down")

    def untap(self, name: str) -> None:
        self.host.run(f"ip link del {name}")

    def state(self) -> str:
        return settled(self.host)

    def start(self, domain: str, *nics: Interface, **options: bool) -> None:
        call(self.host, domain, "start", *nics, **options)
        call(self.host, domain, "started", *nics, **options)

    def stop(self, domain: str, *nics: Interface, **options: bool) -> None:
        call(self.host, domain, "stopped", *nics, **options)
        call(self.host, domain, "release", *nics, **options)


def same(before: str, after: str) -> None:
    """Assert that two dumps are equal; the difference is the message."""
    assert before == after, "\n" + changes(before, after)


def routed(last: int, tap: str = "", *, v4: bool = True, v6: bool = True, filter: bool = True) -> Interface:
    """A NIC on network public."""
    ips = ([f"192.0.2.{last}"] if v4 else []) + ([f"2001:db8::{last}"] if v6 else [])
    return Interface(f"52:54:00:aa:00:{last:02x}", tap or f"tap{last}", "public", ips, filter=filter)


def bridged(last: int, tap: str = "") -> Interface:
    """A NIC on network lan, by its bridge alone."""
    return Interface(f"52:54:00:bb:00:{last:02x}", tap or f"lan-tap{last}", bridge="br0")
