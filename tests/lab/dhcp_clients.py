"""The real DHCP clients of guests, each as a driver: `with Udhcpc(node, "eth0") as client: lease = client.lease(4)`.

A guest is a `Node` with an interface. Entering the block boots it: the interface loses its addresses and routes, and the client
starts as it would in the guest. What a client was told comes from its own script, hook or lease file; what it made of that
(address, gateway, routes) from the node's kernel.

| driver | families | package | quirks |
|---|---|---|---|
| `Udhcpc` | 4 | busybox-static | its script is ours; asks for its last address with DISCOVER (option 50) |
| `Dhclient` | 4, 6 | isc-dhcp-client | Debian's script and hooks; a known lease is asked for with INIT-REBOOT, CONFIRM |
| `Dhcpcd` | 4, 6 | dhcpcd-base | Debian's settings: RFC 5227 probes, rapid commit, router advertisements read by itself |
| `Networkd` | 4, 6 | systemd, dbus | forgets its lease with /run; reads router advertisements itself |
| `KernelRa` | 6 | none | stateless autoconfiguration (RFC 4862); knows no DNS |

Every client has a mount and a UTS namespace of its own inside its node, so that its lease files, its settings and the host name
are its own. They end with the block.
"""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from .bus import SystemBus
from .dhcp_driver import Client, Lease, Unsupported, addressed, complete, leased6, routed
from .nodes import Node


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


class Udhcpc(Client):
    """BusyBox's udhcpc. Its script does what Debian's default.script does, and RFC 3442: with option 121, not option 3.

    When a signal makes it renew, it sends before it listens: it can miss the answer of a fast server, and asks again after
    3 s."""

    name = "udhcpc"
    served = (4,)
    SCRIPT = """#!/bin/sh
told=4
case $1 in
deconfig)
    rm -f {state}/told.4; ip -4 addr flush dev $interface; ip link set $interface up ;;
bound|renew)
    export reason=$1
    [ -z "$mtu" ] || ip link set $interface mtu $mtu
    ip -4 addr replace $ip/$mask valid_lft $lease preferred_lft $lease dev $interface
    [ $mask != 32 ] || onlink=onlink
    if [ -n "$staticroutes" ]; then
        set -- $staticroutes
        while [ $# -ge 2 ]; do
            [ $2 = 0.0.0.0 ] && hop= || hop="via $2 $onlink"
            ip -4 route replace $1 $hop dev $interface
            shift 2
        done
    else
        for hop in $router; do ip -4 route replace default via $hop dev $interface $onlink; break; done
    fi
    echo $ip >{state}/last
    {record} ;;
esac
"""

    def prepare(self) -> None:
        self.script("script", self.SCRIPT)

    def commands(self) -> list[str]:
        options = " ".join(f"-O {option}" for option in ("staticroutes", "mtu", "ntpsrv", "search", "hostname"))
        last = self.path("last").read_text().strip() if self.path("last").exists() else ""
        known = f"-r {last}" if last else ""
        up = f"ip link set {self.ifname} up"
        return [f"sh -c '{up}; exec busybox udhcpc -f -R -i {self.ifname} -s {self.file('script')} {options} {known}'"]

    def told(self, family: int) -> dict | None:
        if not (said := self.record("4")):
            return None
        return {
            "address": said["ip"],
            "dns": _words(said.get("dns", "")),
            "domain": said.get("domain", ""),
            "search": _words(said.get("search", "")),
            "ntp": _words(said.get("ntpsrv", "")),
            "mtu": int(said.get("mtu", 0)),
            "hostname": said.get("hostname", ""),
            "server": said.get("serverid", ""),
            "lifetime": int(said["lease"]),
            "reason": said["reason"],
        }

    def stamp(self, family: int) -> object:
        return self.written("told.4")

    def request_renewal(self, family: int) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGUSR1)

    def request_release(self) -> None:
        assert self.process is not None
        self.process.terminate()  # it has -R


class Dhclient(Client):
    """ISC dhclient with Debian's script and its hook for option 121; one process a family. For IPv6 the kernel reads the router
    advertisements, so there may be an autoconfigured address beside the one of the lease."""

    name = "dhclient"
    served = (4, 6)
    binds = {"etc": "/etc/dhcp", "leases": "/var/lib/dhcp"}
    due = False
    """Whether the next start is for a renewal."""
    # Debian's, and (to renew) a renewal that is due at once.
    CONFIG = """
option rfc3442-classless-static-routes code 121 = array of unsigned integer 8;
send host-name = gethostname();
request subnet-mask, broadcast-address, time-offset, routers, domain-name, domain-name-servers, domain-search, host-name,
  dhcp6.name-servers, dhcp6.domain-search, dhcp6.fqdn, dhcp6.sntp-servers, netbios-name-servers, netbios-scope, interface-mtu,
  rfc3442-classless-static-routes, ntp-servers;
"""
    SOON = "supersede dhcp-renewal-time 1;\n"
    # The script's own writes beside /etc/resolv.conf.
    ENTER = "make_resolv_conf() { :; }\n"
    HOOK = """
case $reason in *6) told=6;; *) told=4;; esac
case $reason in
BOUND*|RENEW*|REBIND*|REBOOT*) {record} ;;
EXPIRE*|FAIL|RELEASE*|STOP*|TIMEOUT) rm -f {state}/told.$told ;;
esac
"""

    def prepare(self) -> None:
        for folder, name, text in (("enter", "resolv", self.ENTER), ("exit", "state", self.HOOK)):
            self.script(f"etc/dhclient-{folder}-hooks.d/{name}", text)
        hook = "dhclient-exit-hooks.d/rfc3442-classless-routes"
        self.script(f"etc/{hook}", Path(f"/etc/dhcp/{hook}").read_text())

    def files(self, family: int) -> str:
        """Where it keeps its lease and its number: as Debian's ifup has them."""
        known = f"dhclient{'6' if family == 6 else ''}.{self.ifname}"
        return f"-lf /var/lib/dhcp/{known}.leases -pf /run/{known}.pid"

    def commands(self) -> list[str]:
        self.node.write(self.file("etc/dhclient.conf"), self.CONFIG + (self.SOON if self.due else ""))
        self.due = False
        started = [f"dhclient -d -{family} {self.files(family)} {self.ifname}" for family in self.families]
        # It cannot bind to a link-local address that is not there yet; ifupdown waits for it too (settle-dad.sh).
        usable = f"ip -6 -o addr show dev {self.ifname} scope link -tentative | grep -q fe80"
        waits = f"ip link set {self.ifname} up; until {usable}; do sleep 0.01; done"
        return [f"sh -c '{waits}; exec {command}'" if " -6 " in command else command for command in started]

    def told(self, family: int) -> dict | None:
        if not (said := self.record(str(family))):
            return None
        if family == 4:
            return _isc4(said)
        return {
            "address": said.get("new_ip6_address", ""),
            "dns": _words(said.get("new_dhcp6_name_servers", "")),
            "search": tuple(word.rstrip(".") for word in _words(said.get("new_dhcp6_domain_search", ""))),
            "ntp": _words(said.get("new_dhcp6_sntp_servers", "")),
            "hostname": _fqdn(said.get("new_dhcp6_fqdn", "")),
            "server": _hex(said.get("new_dhcp6_server_id", "")),
            "lifetime": int(said.get("new_max_life", 0)),
            "reason": said["reason"],
        }

    def stamp(self, family: int) -> object:
        return self.written(f"told.{family}")

    def request_renewal(self, family: int) -> None:
        """Start it again on its lease, whose time for a renewal has come by its settings (IPv4) or in its file (IPv6): it has
        no command for that."""
        self.kill()
        self.due = True
        lease = self.path(f"leases/dhclient6.{self.ifname}.leases")
        if family == 6:
            lease.write_text(re.sub(r"(?m)^( +renew) \d+;", r"\1 1;", lease.read_text()))
        self.start()

    def renewed(self, family: int, before: object) -> bool:
        # Before it renews, it makes sure of its lease (REBOOT, BOUND6).
        return super().renewed(family, before) and self.record(str(family))["reason"] in ("RENEW", "RENEW6")

    def request_release(self) -> None:
        for family in self.families:
            self.inside(f"dhclient -{family} -r {self.files(family)} {self.ifname}")


def _isc4(said: Mapping[str, str]) -> dict:
    """The variables of dhclient-script(8), which dhcpcd has too."""

    def value(name: str) -> str:
        return said.get(f"new_{name}", "")

    return {
        "address": value("ip_address"),
        "dns": _words(value("domain_name_servers")),
        "domain": value("domain_name"),
        "search": tuple(word.rstrip(".") for word in _words(value("domain_search"))),
        "ntp": _words(value("ntp_servers")),
        "mtu": int(value("interface_mtu") or 0),
        "hostname": value("host_name"),
        "server": value("dhcp_server_identifier"),
        "lifetime": int(value("dhcp_lease_time") or 0),
        "reason": said["reason"],
    }


def _hex(text: str) -> str:
    """A DUID without colons; dhclient leaves the first 0 of a byte out."""
    return "".join(part.zfill(2) for part in text.split(":")) if ":" in text else text


def _fqdn(text: str) -> str:
    """The name in option 39 as dhclient has it: flags, then labels (RFC 4704, section 4)."""
    rest, labels = bytes.fromhex(_hex(text))[1:], []
    while rest and rest[0]:
        labels.append(rest[1 : 1 + rest[0]].decode())
        rest = rest[1 + rest[0] :]
    return ".".join(labels)


class Dhcpcd(Client):
    """dhcpcd with Debian's settings, and `settings` of dhcpcd.conf(5) besides. With `noarp` there it does not probe its IPv4
    address, which takes 5 seconds."""

    name = "dhcpcd"
    served = (4, 6)
    binds = {"lib": "/var/lib/dhcpcd"}
    reads_advertisements = True
    # Debian's, NTP servers, and no modules for udev, which does not run.
    CONFIG = """
duid
persistent
vendorclassid
option domain_name_servers, domain_name, domain_search, classless_static_routes, interface_mtu, host_name, ntp_servers
option rapid_commit
require dhcp_server_identifier
slaac private
nodev
"""
    HOOK = """#!/bin/sh
told=$protocol
case $reason in
BOUND*|RENEW*|REBIND*|REBOOT*|INFORM*|ROUTERADVERT) {record} ;;
EXPIRE*|NAK|RELEASE*|STOP*|FAIL|TIMEOUT|NOCARRIER*) rm -f {state}/told.$protocol ;;
esac
"""

    def __init__(self, node: Node, ifname: str = "eth0", families: Iterable[int] = (), settings: str = "") -> None:
        super().__init__(node, ifname, families)
        self.settings = settings

    def prepare(self) -> None:
        self.script("hook", self.HOOK)
        self.node.write(self.file("conf"), f"{self.CONFIG}{self.settings}\n")
        # Without this file it takes the machine's UUID, which all nodes share. Type 3 of RFC 8415, section 11.4.
        mac = self.node.run(f"cat /sys/class/net/{self.ifname}/address").stdout.strip()
        self.node.write(self.file("lib/duid"), f"00:03:00:01:{mac}\n")

    def commands(self) -> list[str]:
        only = "" if set(self.families) == {4, 6} else f"-{self.families[0]}"
        return [f"dhcpcd -B {only} -f {self.file('conf')} -c {self.file('hook')} {self.ifname}"]

    def told(self, family: int) -> dict | None:
        if family == 4:
            said = self.record("dhcp")
            return _isc4(said) if said else None
        advertised, leased = self.record("ra"), self.record("dhcp6")
        if not advertised and not leased:
            return None
        said = {**advertised, **leased}
        return {
            "address": leased.get("new_dhcp6_ia_na1_ia_addr1") or said.get("nd1_addr1", "").partition("/")[0],
            "dns": _words(leased.get("new_dhcp6_name_servers", "") or said.get("nd1_rdnss1_servers", "")),
            "search": _words(leased.get("new_dhcp6_domain_search", "") or said.get("nd1_dnssl1_search", "")),
            "ntp": _words(leased.get("new_dhcp6_sntp_servers", "")),
            "hostname": leased.get("new_dhcp6_fqdn", ""),
            "server": leased.get("new_dhcp6_server_id", ""),
            "reason": said["reason"],
            **({"lifetime": int(leased["new_dhcp6_ia_na1_ia_addr1_vltime"])} if "new_dhcp6_ia_na1_ia_addr1" in leased else {}),
        }

    def stamp(self, family: int) -> object:
        if family == 4:
            return self.written("told.dhcp")
        return (self.written("told.dhcp6"), self.written("told.ra")) if self.record("dhcp6") or self.record("ra") else None

    def request_renewal(self, family: int) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGUSR1)

    def renewed(self, family: int, before: object) -> bool:
        if family == 4:
            return super().renewed(family, before)
        # An advertisement that comes meanwhile renews nothing.
        return isinstance(before, tuple) and self.written("told.dhcp6") not in (before[0], None)

    def request_release(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGALRM)


class Networkd(Client):
    """systemd-networkd, on a D-Bus of the node's own. It manages this interface only."""

    name = "networkd"
    served = (4, 6)
    binds = {"etc": "/etc/systemd/network", "machine-id": "/etc/machine-id"}
    forgets = (*Client.forgets, "/run/systemd/netif")
    reads_advertisements = True

    def prepare(self) -> None:
        self.stack.enter_context(SystemBus(self.node))
        # It builds its DUID of this.
        self.node.write(self.file("machine-id"), f"{os.urandom(16).hex()}\n")
        dhcp = {(4,): "ipv4", (6,): "ipv6"}.get(self.families, "yes")
        advertised = "yes" if 6 in self.families else "no"
        options = "UseMTU=yes\nUseDomains=yes\nUseNTP=yes\n"
        self.node.write(
            "/run/systemd/network/00-guest.network",
            f"[Match]\nName={self.ifname}\n[Network]\nDHCP={dhcp}\nIPv6AcceptRA={advertised}\n"
            f"LinkLocalAddressing={'ipv6' if 6 in self.families else 'no'}\n"
            f"[DHCPv4]\n{options}[DHCPv6]\nUseDomains=yes\n[IPv6AcceptRA]\nUseDomains=yes\n",
        )

    def commands(self) -> list[str]:
        # Without udev a link is ready where /sys is read-only.
        return [
            "sh -ec 'mount -o remount,ro,bind /sys; mkdir -p /run/systemd/netif;"
            " chown systemd-network: /run/systemd/netif; exec /lib/systemd/systemd-networkd'"
        ]

    def _file(self, kind: str) -> dict[str, str]:
        """A state file of this interface: of its `leases` or `links`."""
        try:
            index = self.node.path(f"/sys/class/net/{self.ifname}/ifindex").read_text().strip()
            rows = self.node.path(f"/run/systemd/netif/{kind}/{index}").read_text().splitlines()
        except OSError:
            return {}
        return dict(row.split("=", 1) for row in rows if "=" in row)

    def told(self, family: int) -> dict | None:
        if family == 4:
            if not (said := self._file("leases")):
                return None
            return {
                "address": said["ADDRESS"],
                "dns": _words(said.get("DNS", "")),
                "domain": said.get("DOMAINNAME", ""),
                "search": _words(said.get("DOMAIN_SEARCH_LIST", "")),
                "ntp": _words(said.get("NTP", "")),
                "mtu": int(said.get("MTU", 0)),
                "hostname": said.get("HOSTNAME", ""),
                "server": said.get("SERVER_ADDRESS", ""),
            }
        # It keeps no file of its DHCPv6 lease: a /128 is of that, and anything else of an advertisement.
        addresses = sorted(self._kernel(6)[0], key=lambda row: row["prefixlen"], reverse=True)
        said = self._file("links")
        return {
            "address": addresses[0]["local"] if addresses else "",
            "dns": tuple(word for word in dict.fromkeys(_words(said.get("DNS", ""))) if ":" in word),
            # Of both families.
            "search": tuple(dict.fromkeys(_words(said.get("DOMAINS", "")))),
            "ntp": tuple(word for word in dict.fromkeys(_words(said.get("NTP", ""))) if ":" in word),
        }

    def stamp(self, family: int) -> object:
        said = self._file("leases" if family == 4 else "links")
        return (self.sightings(family, said.get("ADDRESS", "")), tuple(said.items())) if said else None

    def request_renewal(self, family: int) -> None:
        if family == 6:
            raise Unsupported("networkctl renews DHCPv4 only")
        self.node.run(["networkctl", "renew", self.ifname])

    def renewed(self, family: int, before: object) -> bool:
        """It gives the kernel's address its new lifetime then; the file is written anew for other reasons too."""
        now = self.stamp(family)
        return isinstance(before, tuple) and isinstance(now, tuple) and len(now[0]) > len(before[0])

    def request_release(self) -> None:
        assert self.process is not None
        self.process.terminate()


# A router solicitation (RFC 4861, section 4.1); the kernel adds the checksum. Hop limits of a multicast (18): 255.
SOLICIT = """
import socket, sys
asking = socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6)
asking.setsockopt(socket.IPPROTO_IPV6, 18, 255)
asking.sendto(bytes([133, 0, 0, 0, 0, 0, 0, 0]), ("ff02::2", 0, 0, socket.if_nametoindex(sys.argv[1])))
"""


class KernelRa(Client):
    """The kernel's own stateless autoconfiguration. The only process is one that sleeps."""

    name = "kernel"
    served = (6,)

    def commands(self) -> list[str]:
        return [f"sh -c 'ip link set {self.ifname} up; exec sleep infinity'"]

    def told(self, family: int) -> dict | None:
        addresses = self._kernel(6)[0]
        return {"address": addresses[0]["local"] if addresses else ""}

    def stamp(self, family: int) -> object:
        """How many router advertisements came to the node."""
        counters = Path(f"/proc/{self.node.pid}/net/snmp6").read_text()
        return int(re.search(r"(?m)^Icmp6InRouterAdvertisements\s+(\d+)", counters)[1]) or None

    def request_renewal(self, family: int) -> None:
        """Ask the routers, as the kernel does when the link comes up."""
        self.node.run(["/usr/bin/python3", "-ISc", SOLICIT, self.ifname])


CLIENTS: Sequence[type[Client]] = (Udhcpc, Dhclient, Dhcpcd, Networkd, KernelRa)

__all__ = [
    "CLIENTS",
    "Client",
    "Dhclient",
    "Dhcpcd",
    "KernelRa",
    "Lease",
    "Networkd",
    "Udhcpc",
    "Unsupported",
    "addressed",
    "complete",
    "leased6",
    "routed",
]
