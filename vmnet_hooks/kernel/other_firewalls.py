"""Other firewalls that drop guests' packets whatever we set up. A packet has to pass the chains of every table at a hook, so that
`accept` in ours does not overrule `drop` in theirs."""

import json
import os
import subprocess

from .objects import sysctl
from .objects.nft import Nft

_FORWARD = {"ip": "IPv4", "ip6": "IPv6", "inet": "IPv4 and IPv6", "bridge": "bridged"}


def hazards(nft: Nft, bridged: bool, anycast: bool) -> list[str]:
    """Return one line for each problem: what breaks, and the remedy. `bridged`: there are bridges of ours. `anycast`: one of them
    has a gateway address that other nodes have too."""
    dropping = _dropping(nft) + _legacy()
    found = [
        f"{where}: policy drop: {what} packets that are forwarded are dropped unless a rule there accepts them; {remedy}"
        for where, what, remedy in dropping
    ]
    if anycast and sysctl.read("net/bridge/bridge-nf-call-iptables") == "1":
        found.append(
            "net.bridge.bridge-nf-call-iptables is 1: what guests send to a shared gateway leaves untranslated by NAT; "
            "run `sysctl -w net.bridge.bridge-nf-call-iptables=0` (and put it into /etc/sysctl.d)"
        )
    if bridged:
        for name, word, version in (
            ("iptables", "iptables", "IPv4"),
            ("ip6tables", "ip6tables", "IPv6"),
            ("arptables", "arptables", "ARP"),
        ):
            if sysctl.read(f"net/bridge/bridge-nf-call-{name}") == "1" and (dropping or name == "arptables"):
                if name == "arptables" and not _arptables():
                    continue
                found.append(
                    f"net.bridge.bridge-nf-call-{name} is 1: {version} between guests of one bridge passes {word} too; "
                    f"run `sysctl -w net.bridge.bridge-nf-call-{name}=0` (and put it into /etc/sysctl.d), or accept it there"
                )
    return found


def _dropping(nft: Nft) -> list[tuple[str, str, str]]:
    output, error = nft.run("list chains", 1 << 4)
    if error:
        return []
    found = []
    for item in json.loads(output)["nftables"]:
        chain = item.get("chain", {})
        ours = chain.get("table", "").startswith("vmnet")
        if chain.get("hook") == "forward" and chain.get("policy") == "drop" and not ours and chain["family"] in _FORWARD:
            family, table, name = chain["family"], chain["table"], chain["name"]
            found.append(
                (
                    f"nft chain {family} {table} {name}",
                    _FORWARD[family],
                    _remedy(family, table, name, _has(output, "DOCKER-USER")),
                )
            )
    return found


def _has(output: str, chain: str) -> bool:
    return f'"{chain}"' in output


def _remedy(family: str, table: str, name: str, docker: bool) -> str:
    if docker and (family, table, name) == ("ip", "filter", "FORWARD"):
        return "for Docker's: iptables -I DOCKER-USER -i BRIDGE-OR-TAP -j ACCEPT, and the same with -o"
    if "ufw" in table:
        return "for ufw's: ufw route allow in on BRIDGE-OR-TAP"
    return f"nft insert rule {family} {table} {name} iifname BRIDGE-OR-TAP accept, and the same with oifname"


def _legacy() -> list[tuple[str, str, str]]:
    found = []
    for program, names, what in (
        ("iptables-legacy", "/proc/net/ip_tables_names", "IPv4"),
        ("ip6tables-legacy", "/proc/net/ip6_tables_names", "IPv6"),
    ):
        # Running the program loads the kernel module, so it is run only where the table is in use.
        if _tables(names) and "-P FORWARD DROP" in _output(program, "-S", "FORWARD"):
            found.append((f"{program} FORWARD", what, f"{program} -I FORWARD -i BRIDGE-OR-TAP -j ACCEPT, and the same with -o"))
    return found


def _tables(path: str) -> bool:
    try:
        with open(path) as file:
            return "filter" in file.read().split()
    except OSError:
        return False


def _arptables() -> bool:
    return os.path.exists("/proc/net/arp_tables_names") and _tables("/proc/net/arp_tables_names")


def _output(*command: str) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=10).stdout
    except (OSError, subprocess.TimeoutExpired):
        return ""
